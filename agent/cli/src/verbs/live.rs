//! What the verbs that show use of resources have in common: the flags, the loop, the share of a processor.
//!
//! In: flags, a way to list. Out: one answer, or one after another until the user has seen enough.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use crate::{
    error::CliError,
    filter,
    io::Io,
    output::{self, ListFormat, TreeFormat},
};

/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The flags of every listing of statistics.
#[derive(Debug, clap::Args)]
pub(crate) struct LiveArgs {
    /// Only what has this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::label)]
    label: Vec<(String, String)>,
    #[arg(short, long, default_value = "table")]
    pub(crate) output: ListFormat,
    /// How long to look at the use of processors
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Again and again
    #[arg(short, long)]
    watch: bool,
}

impl LiveArgs {
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        filter::selector(self.label.clone())
    }
}

/// Lists once or again and again, and prints. A table tells what was used between two lists.
pub(crate) async fn run<T>(
    args: &LiveArgs,
    io: &mut Io<'_>,
    list: impl AsyncFn() -> Result<T, CliError>,
    value: impl Fn(&T) -> Result<serde_json::Value, CliError>,
    table: impl Fn(&T, &T) -> String,
) -> Result<(), CliError> {
    let sample = Duration::from_secs(args.seconds);
    let mut before = list().await?;
    loop {
        let format = match args.output {
            ListFormat::Table => None,
            ListFormat::Json => Some(TreeFormat::Json),
            ListFormat::Yaml => Some(TreeFormat::Yaml),
        };
        if let Some(format) = format {
            output::tree(io, format, &value(&before)?)?;
        } else {
            tokio::time::sleep(sample).await;
            let now = list().await?;
            let clear = if args.watch && io.terminal { CLEAR } else { "" };
            write!(io.out, "{clear}{}", table(&before, &now))?;
            before = now;
        }
        if !args.watch {
            return Ok(());
        }
        io.flush()?;
        if format.is_some() {
            tokio::time::sleep(sample).await;
            before = list().await?;
        }
    }
}

/// Per cent of one processor between two moments, each with a time and the nanoseconds used until then.
pub(crate) fn processor_share(before: Option<(i64, u64)>, now: Option<(i64, u64)>) -> String {
    let share = before.zip(now).and_then(|((began, used), (ended, later))| {
        let time = u64::try_from(ended - began).ok().filter(|time| *time > 0)?;
        // Hundredths of a per cent.
        Some(u128::from(later.checked_sub(used)?) * 10_000 / u128::from(time))
    });
    share.map_or_else(|| "-".to_owned(), |share| format!("{}.{:02}", share / 100, share % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_processor_is_in_per_cent_and_unknown_without_two_samples() {
        let second = 1_000_000_000;
        assert_eq!(processor_share(Some((0, 0)), Some((second, 500_000_000))), "50.00");
        assert_eq!(processor_share(Some((0, 0)), Some((2 * second, 3_000_150_000))), "150.00");
        assert_eq!(processor_share(Some((0, 10)), Some((second, 10))), "0.00");
        assert_eq!(processor_share(None, Some((second, 10))), "-");
        assert_eq!(processor_share(Some((second, 10)), Some((second, 20))), "-");
        assert_eq!(processor_share(Some((0, 10)), Some((second, 5))), "-");
    }
}
