//! `pods`: lists pod sandboxes.
//!
//! In: filters. Out: a table, ids, details, JSON or YAML, newest first; or their starts as waterfalls, oldest first.

use std::io::Write;

use jiff::Timestamp;
use pintle_cri_api::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxMetadata,
    PodSandboxState, PodSandboxStateValue,
};
use regex::Regex;

use crate::{
    age,
    error::CliError,
    filter::{self, Latest},
    io::Io,
    output::{self, Ids, ListFormat, TreeFormat},
    session::{Call, Session},
    table::Table,
    verbs::waterfall::{self, Record},
};

#[derive(Debug, clap::Args)]
pub struct PodsArgs {
    /// Only the pod whose id begins so
    #[arg(long)]
    id: Option<String>,
    /// Only pods whose name matches this regular expression
    #[arg(long)]
    name: Option<Regex>,
    /// Only pods whose namespace matches this regular expression
    #[arg(long)]
    namespace: Option<Regex>,
    /// Only pods in this state
    #[arg(short, long)]
    state: Option<State>,
    /// Only pods with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::label)]
    label: Vec<(String, String)>,
    /// Only the newest pod
    #[arg(short, long)]
    latest: bool,
    /// Only the newest N pods
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
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
    /// How long each stage of their starts took, as far as it is recorded
    #[arg(long)]
    waterfall: bool,
    /// Record starts from now on, or no more
    #[arg(long, value_name = "WHEN", requires = "waterfall")]
    record: Option<Record>,
    /// Only the pod of this name, or whose id begins so
    #[arg(requires = "waterfall")]
    pod: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    Ready,
    #[value(name = "notready")]
    NotReady,
}

pub(crate) async fn run(args: PodsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let request = ListPodSandboxRequest { filter: Some(request_filter(&args)) };
    let answer = session.call(Call::quick("list pods"), client.list_pod_sandbox(request)).await?;
    let mut items = select(answer.items, &args);
    if args.waterfall {
        items.reverse();
        items.retain(|pod| is_named(pod, args.pod.as_deref()));
        return waterfall::run(args.record, &items, session, io).await;
    }
    match args.output {
        ListFormat::Table if args.quiet => {
            for pod in &items {
                writeln!(io.out, "{}", pod.id)?;
            }
            Ok(())
        }
        ListFormat::Table if args.verbose => items.iter().try_for_each(|pod| verbose(io, pod)),
        ListFormat::Table => Ok(io.out.write_all(table(&items, &args, Timestamp::now()).as_bytes())?),
        ListFormat::Json => tree(io, TreeFormat::Json, items),
        ListFormat::Yaml => tree(io, TreeFormat::Yaml, items),
    }
}

fn request_filter(args: &PodsArgs) -> PodSandboxFilter {
    let state = args.state.map(|state| match state {
        State::Ready => PodSandboxState::SandboxReady,
        State::NotReady => PodSandboxState::SandboxNotready,
    });
    PodSandboxFilter {
        id: String::new(),
        state: state.map(|state| PodSandboxStateValue { state: state.into() }),
        label_selector: filter::selector(args.label.clone()),
    }
}

fn select(mut pods: Vec<PodSandbox>, args: &PodsArgs) -> Vec<PodSandbox> {
    pods.retain(|pod| {
        let metadata = metadata(pod);
        pod.id.starts_with(args.id.as_deref().unwrap_or_default())
            && filter::matches(args.name.as_ref(), &metadata.name)
            && filter::matches(args.namespace.as_ref(), &metadata.namespace)
    });
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    if let Some(count) = filter::newest(Latest::from(args.latest), args.last) {
        pods.truncate(count);
    }
    pods
}

fn is_named(pod: &PodSandbox, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| pod.id.starts_with(wanted) || metadata(pod).name == wanted)
}

fn metadata(pod: &PodSandbox) -> PodSandboxMetadata {
    pod.metadata.clone().unwrap_or_default()
}

fn state_word(pod: &PodSandbox) -> &'static str {
    match pod.state() {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

fn table(pods: &[PodSandbox], args: &PodsArgs, now: Timestamp) -> String {
    let ids = Ids::from_no_trunc(args.no_trunc);
    let mut table = Table::crictl(&["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"]);
    for pod in pods {
        let metadata = metadata(pod);
        let handler = if pod.runtime_handler.is_empty() { "(default)" } else { &pod.runtime_handler };
        table.row(vec![
            ids.show(&pod.id),
            age::crictl(pod.created_at, now),
            state_word(pod).to_owned(),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            handler.to_owned(),
        ]);
    }
    table.render()
}

fn verbose(io: &mut Io<'_>, pod: &PodSandbox) -> Result<(), CliError> {
    let metadata = metadata(pod);
    writeln!(io.out, "ID: {}\nName: {}\nUID: {}", pod.id, metadata.name, metadata.uid)?;
    writeln!(io.out, "Namespace: {}\nAttempt: {}", metadata.namespace, metadata.attempt)?;
    writeln!(io.out, "Status: {}\nCreated: {}", state_word(pod), output::rfc3339(pod.created_at))?;
    output::details(io, "Labels", &pod.labels)?;
    output::details(io, "Annotations", &pod.annotations)?;
    writeln!(io.out, "Runtime: {}\n", pod.runtime_handler)?;
    Ok(())
}

fn tree(io: &mut Io<'_>, format: TreeFormat, items: Vec<PodSandbox>) -> Result<(), CliError> {
    let list = ListPodSandboxResponse { items };
    output::tree(io, format, &output::value("runtime.v1.ListPodSandboxResponse", &list)?)
}
