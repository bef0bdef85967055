//! Exits and starts of containers, as the runtime announces them.
//!
//! In: a connection. Out: ids of containers that have ended, of sandboxes in which one was started. Pintle announces by CRI's GetContainerEvents. Debian's
//! containerd (1.6) has no such call; its own event service is what CRI's is made from, so it is asked instead, which is
//! to its advantage if anything.

use anyhow::{Context as _, Result};
use pintle_cri_api::{runtime_client, v1};
use tokio::sync::mpsc;
use tonic::Request;

use crate::client::{Client, limited};
use crate::daemon::Kind;

/// Exits that may wait to be looked at.
const QUEUE: usize = 64;
/// How long an event may be missing before the run is given up.
const EVENT_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(message, optional, tag = "4")]
    event: Option<AnyEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyEvent {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `containerd.events.TaskExit`: the exit of a container, or of an exec in it, which has another `id`.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// A subscription.
#[derive(Debug)]
pub(crate) struct Exits {
    ids: mpsc::Receiver<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Exits {
    /// Subscribes.
    pub(crate) async fn subscribe(kind: Kind, client: &Client) -> Result<Self> {
        let (sender, ids) = mpsc::channel(QUEUE);
        let task = match kind {
            Kind::Containerd => from_containerd(client, sender).await?,
            Kind::Runtime | Kind::Agent => from_cri(client, sender).await?,
        };
        Ok(Self { ids, task })
    }

    /// Waits until the container's exit is announced.
    pub(crate) async fn of(&mut self, container: &str) -> Result<()> {
        loop {
            let next = tokio::time::timeout(EVENT_LIMIT, self.ids.recv()).await;
            let id = next
                .with_context(|| format!("no event for the exit of {container}"))?
                .context("the event stream ended")?;
            if id == container {
                return Ok(());
            }
        }
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A subscription to starts; of a runtime with CRI's events.
#[derive(Debug)]
pub(crate) struct Starts(tonic::Streaming<v1::ContainerEventResponse>);

impl Starts {
    /// Subscribes.
    pub(crate) async fn subscribe(client: &Client) -> Result<Self> {
        let mut runtime = runtime_client(client.channel());
        let events = runtime.get_container_events(v1::GetEventsRequest {});
        Ok(Self(limited("GetContainerEvents", events).await?))
    }

    /// Waits until a container of the sandbox has been started.
    pub(crate) async fn in_sandbox(&mut self, sandbox: &str) -> Result<()> {
        let started = v1::ContainerEventType::ContainerStartedEvent as i32;
        loop {
            let next = tokio::time::timeout(EVENT_LIMIT, self.0.message()).await;
            let event = next.with_context(|| format!("no event for a start in {sandbox}"))?;
            let event = event.context("reading the event stream")?.context("the event stream ended")?;
            let of = event.pod_sandbox_status.map(|status| status.id).unwrap_or_default();
            if event.container_event_type == started && of == sandbox {
                return Ok(());
            }
        }
    }
}

async fn from_cri(client: &Client, sender: mpsc::Sender<String>) -> Result<tokio::task::JoinHandle<()>> {
    let mut runtime = runtime_client(client.channel());
    let mut events =
        limited("GetContainerEvents", runtime.get_container_events(v1::GetEventsRequest {})).await?;
    Ok(tokio::spawn(async move {
        while let Ok(Some(event)) = events.message().await {
            let stopped = v1::ContainerEventType::ContainerStoppedEvent as i32;
            if event.container_event_type == stopped && sender.send(event.container_id).await.is_err() {
                return;
            }
        }
    }))
}

async fn from_containerd(
    client: &Client,
    sender: mpsc::Sender<String>,
) -> Result<tokio::task::JoinHandle<()>> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.context("waiting for containerd")?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(
        "/containerd.services.events.v1.Events/Subscribe",
    );
    let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
    let filters = vec![r#"topic=="/tasks/exit""#.to_owned()];
    // containerd answers with headers only when there is an event: the call itself goes to the task.
    let request = Request::new(SubscribeRequest { filters });
    Ok(tokio::spawn(async move {
        let Ok(answer) = grpc.server_streaming(request, path, codec).await else { return };
        let mut events = answer.into_inner();
        while let Ok(Some(envelope)) = events.message().await {
            let value = envelope.event.map(|event| event.value).unwrap_or_default();
            let exit: Result<TaskExit, _> = prost::Message::decode(value.as_slice());
            let Ok(exit) = exit else { continue };
            if exit.container_id == exit.id && sender.send(exit.id).await.is_err() {
                return;
            }
        }
    }))
}
