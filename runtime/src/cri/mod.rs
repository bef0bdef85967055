//! CRI v1 and Pintle's extension, as tonic services on [`Engine`](crate::Engine).
//!
//! In: gRPC calls. Out: answers of the engine. Thin: decode, call, map the error; one file per group of calls. The traits
//! are implemented on the engine itself, so that the agent calls in process what a kubelet calls over the socket.

mod attach;
mod containers;
mod debug;
mod doctor;
mod events;
mod exec;
mod extension;
mod image_service;
mod images;
mod node;
mod port_forward;
mod runtime_service;
mod sandboxes;
mod stats;
mod status;
mod stream;

pub use node::{API_VERSION, RUNTIME_NAME};
pub use status::{to_image_status, to_pull_status, to_status};

/// The answer to a call.
type Reply<T> = std::result::Result<tonic::Response<T>, tonic::Status>;

/// Turns the engine's outcome into the call's.
fn reply<T>(outcome: crate::Result<T>) -> Reply<T> {
    outcome.map(tonic::Response::new).map_err(|error| to_status(&error))
}

/// The same for a call that is about one image.
fn image_reply<T>(outcome: crate::Result<T>) -> Reply<T> {
    outcome.map(tonic::Response::new).map_err(|error| to_image_status(&error))
}

/// The same for a pull.
fn pull_reply<T>(outcome: crate::Result<T>) -> Reply<T> {
    outcome.map(tonic::Response::new).map_err(|error| to_pull_status(&error))
}
