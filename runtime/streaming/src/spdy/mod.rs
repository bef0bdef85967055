//! SPDY/3.1 as far as Kubernetes' clients use it, both ends, over any byte stream.
//!
//! `frame` and `headers` are the wire format, `state` what is known of a connection, all three without IO;
//! `connection` moves bytes between them and a socket, `stream` is what a user holds.

mod connection;
mod dictionary;
pub mod frame;
pub mod headers;
mod sending;
mod slot;
mod state;
mod stream;

pub use connection::{Connection, Incoming, Role};
pub use headers::Headers;
pub use state::ProtocolError;
pub use stream::{Receiver, Sender, Stream};
