//! `events`: what happens to containers and pods, as it happens.
//!
//! In: filters. Out: each event as JSON, YAML or a line, until the runtime ends the stream or the user has seen enough.

use std::io::Write as _;

use pintle_cri_api::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    output::{self, Ids, ListFormat, TreeFormat},
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    #[arg(short, long, default_value = "json")]
    output: ListFormat,
    /// Only events of the container or pod whose id begins so
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only events of this pod and its containers
    #[arg(short, long, value_name = "POD")]
    pod: Option<String>,
    /// Only events of this kind; may be given several times
    #[arg(long = "type", value_name = "KIND")]
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Created,
    Started,
    Stopped,
    Deleted,
}

pub(crate) async fn run(args: EventsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let pod = match &args.pod {
        Some(wanted) => Some(resolve::pod(wanted, &resolve::pods(session).await?)?.id.clone()),
        None => None,
    };
    let mut client = session.runtime().await?;
    let call = Call::quick("follow the events");
    let mut events = session.call(call.clone(), client.get_container_events(GetEventsRequest {})).await?;
    loop {
        let next = events.message().await.map_err(|status| call.error(&status))?;
        let Some(event) = next else { return Ok(()) };
        if is_wanted(&event, &args, pod.as_deref()) {
            print(&event, args.output, io)?;
            io.flush()?;
        }
    }
}

fn is_wanted(event: &ContainerEventResponse, args: &EventsArgs, pod: Option<&str>) -> bool {
    let of_pod = || event.pod_sandbox_status.as_ref().map(|status| status.id.as_str());
    event.container_id.starts_with(args.id.as_deref().unwrap_or_default())
        && (pod.is_none() || of_pod() == pod || Some(event.container_id.as_str()) == pod)
        && (args.kinds.is_empty() || args.kinds.contains(&kind(event)))
}

fn kind(event: &ContainerEventResponse) -> Kind {
    match event.container_event_type() {
        ContainerEventType::ContainerCreatedEvent => Kind::Created,
        ContainerEventType::ContainerStartedEvent => Kind::Started,
        ContainerEventType::ContainerStoppedEvent => Kind::Stopped,
        ContainerEventType::ContainerDeletedEvent => Kind::Deleted,
    }
}

fn print(event: &ContainerEventResponse, format: ListFormat, io: &mut Io<'_>) -> Result<(), CliError> {
    let tree = match format {
        ListFormat::Json => TreeFormat::Json,
        ListFormat::Yaml => TreeFormat::Yaml,
        ListFormat::Table => {
            let (noun, name) = subject(event);
            let id = Ids::Short.show(&event.container_id);
            let (at, kind) = (output::rfc3339(event.created_at), format!("{:?}", kind(event)).to_lowercase());
            writeln!(io.out, "{at}  {kind:<7}  {noun:<9}  {id}  {name}")?;
            return Ok(());
        }
    };
    output::tree(io, tree, &output::value("runtime.v1.ContainerEventResponse", event)?)?;
    if tree == TreeFormat::Yaml {
        writeln!(io.out, "---")?;
    }
    Ok(())
}

/// Whether it is about a pod or a container, and its name where the event tells.
fn subject(event: &ContainerEventResponse) -> (Noun, String) {
    let pod = event.pod_sandbox_status.as_ref();
    let pod_name = pod.and_then(|status| status.metadata.as_ref()).map_or("", |metadata| &metadata.name);
    if pod.is_some_and(|status| status.id == event.container_id) {
        return (Noun::Pod, pod_name.to_owned());
    }
    let own = event.containers_statuses.iter().find(|status| status.id == event.container_id);
    let name = own.and_then(|status| status.metadata.as_ref()).map_or("", |metadata| &metadata.name);
    (Noun::Container, format!("{pod_name}/{name}").trim_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use pintle_cri_api::v1::{PodSandboxMetadata, PodSandboxStatus};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: EventsArgs,
    }

    fn args(words: &[&str]) -> EventsArgs {
        Only::parse_from(std::iter::once(&"events").chain(words)).args
    }

    #[test]
    fn events_are_selected_by_id_pod_and_kind_and_told_in_a_line() {
        let metadata = PodSandboxMetadata { name: "web".to_owned(), ..Default::default() };
        let status = PodSandboxStatus { id: "p1".to_owned(), metadata: Some(metadata), ..Default::default() };
        let event = ContainerEventResponse {
            container_id: "c1".to_owned(),
            container_event_type: ContainerEventType::ContainerStoppedEvent.into(),
            pod_sandbox_status: Some(status),
            ..Default::default()
        };
        assert!(is_wanted(&event, &args(&[]), None));
        assert!(is_wanted(&event, &args(&["--id", "c", "--type", "stopped"]), Some("p1")));
        assert!(!is_wanted(&event, &args(&["--id", "d"]), None));
        assert!(!is_wanted(&event, &args(&["--type", "started", "--type", "created"]), None));
        assert!(!is_wanted(&event, &args(&[]), Some("p2")));
        let mut out = Vec::new();
        let mut io = Io { out: Box::new(&mut out), err: Box::new(Vec::new()), terminal: false };
        print(&event, ListFormat::Table, &mut io).unwrap();
        drop(io);
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, "1970-01-01T00:00:00Z  stopped  container  c1  web\n");
    }
}
