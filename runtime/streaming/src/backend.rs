//! What this crate asks of a container engine.
//!
//! In: requests as the CRI knows them. Out: the ends of a process, as whatever can be read and written: pipes, a pty's
//! master, sockets. The engine hands them over and does not move bytes; each byte goes through one buffer here.

use std::fmt;
use std::io;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

/// Which of a process's streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    /// Not with `tty`: a terminal has one output.
    pub stderr: bool,
    pub tty: bool,
}

/// `Exec` of the CRI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    pub container: String,
    pub command: Vec<String>,
    pub streams: Streams,
}

/// `Attach` of the CRI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    pub container: String,
    pub streams: Streams,
}

/// `PortForward` of the CRI. The ports are needed by old WebSocket clients only; the others name them as they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    pub sandbox: String,
    pub ports: Vec<u16>,
}

/// Where bytes go: a pipe, a terminal, a socket. Shutting it down is the end of input.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Where bytes come from. An error is taken for the end, as a terminal that was hung up reports it (EIO).
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A process that was started for a client, or that it was attached to.
pub struct Session {
    /// Absent if the request did not ask for it, or if the container has none.
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Whose size the client may change.
    pub terminal: Option<Box<dyn Terminal>>,
    /// The exit code, once the process is gone; for `attach`, 0 once there is nothing more to see. When the client goes
    /// first, everything here is dropped: whether that ends the process is the engine's affair.
    pub exit: BoxFuture<'static, Result<i32, BackendError>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish_non_exhaustive()
    }
}

/// How large the client's window is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}

/// A terminal whose size can be set.
#[async_trait]
pub trait Terminal: Send {
    /// Sets the size. An error ends nothing; it is logged.
    async fn resize(&mut self, size: TerminalSize) -> io::Result<()>;
}

/// A connection into a pod.
pub struct Forward {
    pub from_pod: Output,
    pub to_pod: Input,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").finish_non_exhaustive()
    }
}

/// Why the engine cannot do it, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// The engine.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Starts a process in a container.
    async fn exec(&self, request: &ExecRequest) -> Result<Session, BackendError>;
    /// Joins a container's main process.
    async fn attach(&self, request: &AttachRequest) -> Result<Session, BackendError>;
    /// Connects to a port on the loopback address (IPv4, else IPv6) inside a pod's network namespace.
    async fn connect(&self, sandbox: &str, port: u16) -> Result<Forward, BackendError>;
}
