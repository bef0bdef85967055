//! The server side of Kubernetes' streaming protocols: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! In: requests as the CRI knows them, for which `Server` gives URLs, and the clients that come with these. Out: calls of
//! a `Backend`, the engine, of which nothing more is known here. `client` is the other end, for our command line.
//!
//! Long-lived tasks: `Server::run` accepts (out: one task per client, which ends with its client, with its process, or
//! after the idle time); each SPDY connection has a task that reads and writes its socket.

mod backend;
mod channel;
pub mod client;
pub mod limits;
mod portforward;
mod pump;
mod remotecommand;
mod server;
mod session;
pub mod spdy;
mod status;
mod tokens;
mod upgrade;
mod websocket;

pub use backend::{
    AttachRequest, Backend, BackendError, ExecRequest, Forward, Input, Output, PortForwardRequest, Session,
    Streams, Terminal, TerminalSize,
};
pub use server::{Config, RequestError, Server};
pub use tokens::TokenError;
