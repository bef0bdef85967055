//! Exec, attach and port-forward for clients that come with a URL: CRI's `Exec`, `Attach` and `PortForward`.
//!
//! In: CRI's requests; later the clients, by way of `pintle-streaming`, which knows no containers. Out: URLs; ends of
//! processes and sockets inside pods. A request is checked when it is made and again when its client comes, for much may have
//! happened between. Tasks: the server's; one per command until it has ended; all end with the engine but for the commands.

mod attach;
mod exec;
mod forward;
mod terminal;

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use pintle_streaming::{
    AttachRequest, Backend, BackendError, Config, ExecRequest, Forward, PortForwardRequest, RequestError,
    Server, Session, Streams,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Engine,
    error::{Error, Result},
    lifecycle::check_runs,
    state::Sandbox,
};
use crate::spec::bounds;

/// The most commands of streaming clients that run at once, in all containers, also those whose client has gone.
pub const MAX_COMMANDS: usize = 512;

/// The server; without it no client is served.
#[derive(Debug)]
pub(crate) struct Streaming {
    server: Server,
    _running: DropGuard,
}

/// Listens for clients where the configuration says.
pub(crate) async fn listen(engine: &Arc<Engine>) -> Result<Streaming> {
    let address = engine.config.streaming;
    let backend = Arc::new(OfEngine { engine: Arc::downgrade(engine) });
    let bound = Server::bind(address, backend, Config::default()).await;
    let (server, listener) =
        bound.map_err(Error::io("listening for streaming clients on", address.to_string()))?;
    let stop = CancellationToken::new();
    tokio::spawn(server.clone().run(listener, stop.clone()));
    Ok(Streaming { server, _running: stop.drop_guard() })
}

impl Engine {
    /// The URL at which a client gets a command in a container, once and for a minute.
    ///
    /// # Errors
    /// When the container does not run, or the streams asked for do not go together.
    pub fn exec_url(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<String> {
        let container = self.container(id)?;
        bounds::to_run("cmd", &command)?;
        check_runs(&container)?;
        let request = ExecRequest { container: container.id.clone(), command, streams };
        Ok(self.streaming()?.exec(request)?)
    }

    /// The URL at which a client gets at a container's own process, once and for a minute.
    ///
    /// # Errors
    /// As [`Self::exec_url`].
    pub fn attach_url(&self, id: &str, streams: Streams) -> Result<String> {
        let container = self.container(id)?;
        check_runs(&container)?;
        let request = AttachRequest { container: container.id.clone(), streams };
        Ok(self.streaming()?.attach(request)?)
    }

    /// The URL at which a client gets at ports in a pod, once and for a minute.
    ///
    /// # Errors
    /// When the pod is not ready, or a number is no port.
    pub fn port_forward_url(&self, id: &str, ports: &[i32]) -> Result<String> {
        let sandbox = self.sandbox(id)?;
        let ports = ports.iter().map(|port| {
            let port = u16::try_from(*port).ok().filter(|port| *port > 0);
            port.ok_or_else(|| Error::InvalidArgument(format!("port: {ports:?} are not all from 1 to 65535")))
        });
        let ports = ports.collect::<Result<_>>()?;
        check_ready(&sandbox)?;
        let request = PortForwardRequest { sandbox: sandbox.id.clone(), ports };
        Ok(self.streaming()?.port_forward(request)?)
    }

    fn streaming(&self) -> Result<&Server> {
        let streaming = self.streaming.get().map(|streaming| &streaming.server);
        streaming.ok_or_else(|| Error::Unavailable("the engine is only just starting".to_owned()))
    }
}

fn check_ready(sandbox: &Sandbox) -> Result<()> {
    if sandbox.is_awaited() {
        return Err(super::lifecycle::awaited(sandbox));
    }
    if sandbox.is_ready() {
        return Ok(());
    }
    Err(Error::FailedPrecondition(format!("sandbox {} is not ready", sandbox.id)))
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoStream | RequestError::TerminalWithStderr | RequestError::TooManyPorts(_) => {
                Self::InvalidArgument(error.to_string())
            }
            RequestError::Token(_) => Self::ResourceExhausted(error.to_string()),
        }
    }
}

/// The engine as the server knows it. It must not keep the engine alive.
#[derive(Debug)]
struct OfEngine {
    engine: Weak<Engine>,
}

impl OfEngine {
    fn engine(&self) -> std::result::Result<Arc<Engine>, BackendError> {
        self.engine.upgrade().ok_or_else(|| BackendError("the engine is going away".to_owned()))
    }
}

#[async_trait]
impl Backend for OfEngine {
    async fn exec(&self, request: &ExecRequest) -> std::result::Result<Session, BackendError> {
        exec::begin(&*self.engine()?, request).await.map_err(|error| told(&error))
    }

    async fn attach(&self, request: &AttachRequest) -> std::result::Result<Session, BackendError> {
        attach::begin(&*self.engine()?, request).await.map_err(|error| told(&error))
    }

    async fn connect(&self, sandbox: &str, port: u16) -> std::result::Result<Forward, BackendError> {
        forward::connect(&*self.engine()?, sandbox, port).await.map_err(|error| told(&error))
    }
}

fn told(error: &Error) -> BackendError {
    BackendError(error.chain())
}
