//! `pods`: lists pod sandboxes.
//!
//! In: filters. Out: a table, ids, details, JSON or YAML, newest first; or their starts as waterfalls, oldest first.

use std::io::Write;

use jiff::Timestamp;
use pintle_cri_api::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxState,
    PodSandboxStateValue,
};

use crate::{
    age,
    error::CliError,
    filter,
    io::Io,
    output::{self, Ids},
    session::{Call, Session},
    verbs::{
        list::{self, ListArgs, Row},
        waterfall::{self, Record},
    },
};

#[derive(Debug, clap::Args)]
pub struct PodsArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Only pods in this state
    #[arg(short, long)]
    state: Option<State>,
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
    let mut items = list::select(answer.items, &args.list);
    if args.waterfall {
        items.reverse();
        items.retain(|pod| is_named(pod, args.pod.as_deref()));
        return waterfall::run(args.record, &items, session, io).await;
    }
    list::print(items, &args.list, io)
}

fn request_filter(args: &PodsArgs) -> PodSandboxFilter {
    let state = args.state.map(|state| match state {
        State::Ready => PodSandboxState::SandboxReady,
        State::NotReady => PodSandboxState::SandboxNotready,
    });
    PodSandboxFilter {
        id: String::new(),
        state: state.map(|state| PodSandboxStateValue { state: state.into() }),
        label_selector: filter::selector(args.list.label.clone()),
    }
}

fn is_named(pod: &PodSandbox, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| pod.id.starts_with(wanted) || pod.name() == wanted)
}

fn state_word(pod: &PodSandbox) -> &'static str {
    match pod.state() {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

impl Row for PodSandbox {
    type List = ListPodSandboxResponse;
    const LIST: &str = "runtime.v1.ListPodSandboxResponse";
    const HEADER: &[&str] = &["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"];

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }

    fn namespace(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.namespace)
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn columns(&self, ids: Ids, now: Timestamp) -> Vec<String> {
        let handler = if self.runtime_handler.is_empty() { "(default)" } else { &self.runtime_handler };
        vec![
            ids.show(&self.id),
            age::crictl(self.created_at, now),
            state_word(self).to_owned(),
            self.name().to_owned(),
            self.namespace().to_owned(),
            attempt(self).to_string(),
            handler.to_owned(),
        ]
    }

    fn verbose(&self, io: &mut Io<'_>) -> Result<(), CliError> {
        let uid = self.metadata.as_ref().map_or("", |metadata| &metadata.uid);
        writeln!(io.out, "ID: {}\nName: {}\nUID: {uid}", self.id, self.name())?;
        writeln!(io.out, "Namespace: {}\nAttempt: {}", self.namespace(), attempt(self))?;
        writeln!(io.out, "Status: {}\nCreated: {}", state_word(self), output::rfc3339(self.created_at))?;
        output::details(io, "Labels", &self.labels)?;
        output::details(io, "Annotations", &self.annotations)?;
        writeln!(io.out, "Runtime: {}\n", self.runtime_handler)?;
        Ok(())
    }

    fn list(items: Vec<Self>) -> Self::List {
        ListPodSandboxResponse { items }
    }
}

fn attempt(pod: &PodSandbox) -> u32 {
    pod.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}
