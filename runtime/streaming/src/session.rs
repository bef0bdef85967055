//! One client after its upgrade: from what was asked for and agreed upon to the end.
//!
//! A client is served until it has all, goes, or is idle for too long; whatever of the engine it held is then dropped.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::Role as SocketRole;
use tracing::debug;

use crate::backend::{
    AttachRequest, Backend, BackendError, ExecRequest, PortForwardRequest, Session, Streams,
};
use crate::server::Config;
use crate::spdy::{Connection, Role};
use crate::upgrade::{Spoken, Transport};
use crate::websocket::{self, Channels, Tunnel};
use crate::{portforward, remotecommand};

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Wish {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Wish::Exec(_) => "exec",
            Wish::Attach(_) => "attach",
            Wish::PortForward(_) => "portforward",
        }
    }
}

/// What is to be done for a client.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) wish: Wish,
    pub(crate) transport: Transport,
    pub(crate) protocol: &'static str,
}

const REMOTE_COMMAND: Spoken = Spoken {
    spdy: remotecommand::SPDY_PROTOCOLS,
    websocket: remotecommand::WEBSOCKET_PROTOCOLS,
    unnamed: Some("channel.k8s.io"),
};
const PORT_FORWARD: Spoken = Spoken {
    spdy: portforward::SPDY_PROTOCOLS,
    websocket: portforward::WEBSOCKET_PROTOCOLS,
    unnamed: Some("v4.channel.k8s.io"),
};

/// What is spoken at `path`, its kind and its token.
pub(crate) fn route(path: &str) -> Option<(Spoken, &str, &str)> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    match kind {
        "exec" | "attach" => Some((REMOTE_COMMAND, kind, token)),
        "portforward" => Some((PORT_FORWARD, kind, token)),
        _other => None,
    }
}

/// Serves one client.
pub(crate) async fn serve<I>(io: I, plan: Plan, backend: Arc<dyn Backend>, config: Config)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Plan { wish, transport, protocol } = plan;
    match (transport, wish) {
        (Transport::Spdy, Wish::PortForward(request)) => spdy_forward(io, &request, backend, config).await,
        (Transport::WebSocket, Wish::PortForward(request)) => {
            let socket = websocket::start(io, SocketRole::Server).await;
            if protocol == portforward::TUNNEL_PROTOCOL {
                return spdy_forward(Tunnel::new(socket), &request, backend, config).await;
            }
            let (running, channels) =
                portforward::websocket_forwards(&backend, &request.sandbox, &request.ports, protocol);
            let running = async move {
                let mut running = running;
                while running.join_next().await.is_some() {}
            };
            drive(socket, channels, running, config.idle).await;
        }
        (Transport::Spdy, wish) => spdy_command(io, (wish, protocol), backend, config).await,
        (Transport::WebSocket, wish) => {
            let socket = websocket::start(io, SocketRole::Server).await;
            let (mut wires, channels) = remotecommand::websocket_wires(streams(&wish), protocol);
            let command = async move {
                if wires.greet().await.is_err() {
                    return;
                }
                let session = begin(&*backend, &wish).await;
                log_end(remotecommand::serve(session, wires, config.drain).await);
            };
            drive(socket, channels, command, config.idle).await;
        }
    }
}

async fn drive<I>(
    socket: tokio_tungstenite::WebSocketStream<I>,
    channels: Channels,
    work: impl Future<Output = ()>,
    idle: Duration,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let moved = channels.moved();
    // When the work is done its channels close, and the client is told goodbye. When the client goes first, or is idle
    // for too long, the work is dropped, and what it held of the engine with it.
    tokio::select! {
        ended = channels.drive(socket) => if let Err(error) = ended {
            debug!(%error, "a WebSocket client is gone");
        },
        () = async { work.await; pending().await } => {}
        () = websocket::idle(&moved, idle) => debug!("an idle WebSocket client is hung up on"),
    }
}

async fn spdy_command<I>(io: I, (wish, protocol): (Wish, &str), backend: Arc<dyn Backend>, config: Config)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let Some(connection) = start(io) else { return };
    let deadline = Instant::now() + config.creation;
    let wires = remotecommand::await_streams(&connection, streams(&wish), protocol, deadline).await;
    let Some(wires) = wires else {
        debug!("a client did not open its streams");
        return connection.close().await;
    };
    let command = async {
        let session = begin(&*backend, &wish).await;
        log_end(remotecommand::serve(session, wires, config.drain).await);
    };
    // As in `drive`: whatever ends first, the command is over or is dropped.
    let is_done = tokio::select! {
        () = command => true,
        () = refuse_streams(&connection) => false,
        () = connection.lost() => false,
        () = connection.idle(config.idle) => false,
    };
    if is_done {
        hang_up(connection, config.idle).await;
    }
}

async fn spdy_forward<I>(io: I, request: &PortForwardRequest, backend: Arc<dyn Backend>, config: Config)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let Some(connection) = start(io) else { return };
    let is_done = tokio::select! {
        () = portforward::serve_spdy(&connection, backend, &request.sandbox, config.creation) => true,
        () = connection.lost() => false,
        () = connection.idle(config.idle) => false,
    };
    if is_done {
        hang_up(connection, config.idle).await;
    }
}

fn start<I>(io: I) -> Option<Connection>
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    Connection::start(io, Role::Server).inspect_err(|error| debug!(%error, "no SPDY connection")).ok()
}

/// A client that takes nothing of what is left for it is cut off as an idle one.
async fn hang_up(connection: Connection, idle: Duration) {
    if timeout(idle, connection.close()).await.is_err() {
        debug!("a client did not take the end of its stream");
    }
}

/// More streams than were asked for are refused, not kept. Never returns.
async fn refuse_streams(connection: &Connection) {
    while connection.accept().await.is_some() {}
    pending().await
}

async fn begin(backend: &dyn Backend, wish: &Wish) -> Result<Session, BackendError> {
    match wish {
        Wish::Exec(request) => backend.exec(request).await,
        Wish::Attach(request) => backend.attach(request).await,
        Wish::PortForward(_) => Err(BackendError("port-forward has no process".to_owned())),
    }
}

fn streams(wish: &Wish) -> Streams {
    match wish {
        Wish::Exec(request) => request.streams,
        Wish::Attach(request) => request.streams,
        Wish::PortForward(_) => Streams::default(),
    }
}

fn log_end(ended: std::io::Result<()>) {
    if let Err(error) = ended {
        debug!(%error, "a client left before the end");
    }
}
