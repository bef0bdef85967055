//! What the verbs that list or inspect have in common: the flags, which rows are kept, how they are printed.
//!
//! In: flags and what the runtime answered. Out: a table, ids, details, JSON or YAML, newest first. Which rows a verb asks
//! the runtime for, and what its columns are, is the verb's.

use std::io::Write as _;

use jiff::Timestamp;
use prost::Message;
use regex::Regex;
use serde_json::Value;

use crate::{
    error::CliError,
    filter::{self, Latest},
    io::Io,
    output::{self, Ids, ListFormat, TreeFormat},
    table::Table,
};

/// The flags of every listing.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only what has an id that begins so
    #[arg(long)]
    id: Option<String>,
    /// Only what has a name that matches this regular expression
    #[arg(long)]
    name: Option<Regex>,
    /// Only pods, or containers of pods, whose namespace matches this regular expression
    #[arg(long)]
    namespace: Option<Regex>,
    /// Only what has this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::label)]
    pub(crate) label: Vec<(String, String)>,
    /// Only the newest, in any state
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Only the newest N, in any state
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<usize>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Labels and annotations too
    #[arg(short, long)]
    verbose: bool,
    #[arg(short, long, default_value = "table")]
    output: ListFormat,
}

/// What can be listed.
pub(crate) trait Row: Sized {
    /// CRI's message that holds the rows, and its name.
    type List: Message;
    const LIST: &str;
    const HEADER: &[&str];

    fn id(&self) -> &str;
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn created_at(&self) -> i64;
    fn columns(&self, ids: Ids, now: Timestamp) -> Vec<String>;
    fn verbose(&self, io: &mut Io<'_>) -> Result<(), CliError>;
    fn list(rows: Vec<Self>) -> Self::List;
}

/// The rows that were asked for, the newest first.
pub(crate) fn select<T: Row>(mut rows: Vec<T>, args: &ListArgs) -> Vec<T> {
    rows.retain(|row| {
        row.id().starts_with(args.id.as_deref().unwrap_or_default())
            && filter::matches(args.name.as_ref(), row.name())
            && filter::matches(args.namespace.as_ref(), row.namespace())
    });
    rows.sort_by_key(|row| std::cmp::Reverse(row.created_at()));
    if let Some(count) = filter::newest(Latest::from(args.latest), args.last) {
        rows.truncate(count);
    }
    rows
}

/// Prints them as asked.
pub(crate) fn print<T: Row>(rows: Vec<T>, args: &ListArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    match args.output {
        ListFormat::Table if args.quiet => {
            rows.iter().try_for_each(|row| Ok(writeln!(io.out, "{}", row.id())?))
        }
        ListFormat::Table if args.verbose => rows.iter().try_for_each(|row| row.verbose(io)),
        ListFormat::Table => Ok(io.out.write_all(table(&rows, args).as_bytes())?),
        ListFormat::Json => tree(rows, TreeFormat::Json, io),
        ListFormat::Yaml => tree(rows, TreeFormat::Yaml, io),
    }
}

fn table<T: Row>(rows: &[T], args: &ListArgs) -> String {
    let (ids, now) = (Ids::from_no_trunc(args.no_trunc), Timestamp::now());
    let mut table = Table::crictl(T::HEADER);
    rows.iter().for_each(|row| table.row(row.columns(ids, now)));
    table.render()
}

fn tree<T: Row>(rows: Vec<T>, format: TreeFormat, io: &mut Io<'_>) -> Result<(), CliError> {
    output::tree(io, format, &output::value(T::LIST, &T::list(rows))?)
}

/// The flags of every inspection.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectionArgs {
    /// Without the runtime's extra information
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[arg(short, long, default_value = "json")]
    output: TreeFormat,
}

/// Prints what was inspected: one object, or a list of several.
pub(crate) fn print_inspected(
    values: Vec<Value>,
    args: &InspectionArgs,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    output::tree(io, args.output, &output::one_or_list(values))
}
