//! The container runtime interface (CRI) v1 as Rust types, client and server, and Pintle's small extension to it.
//!
//! In: `proto/`, compiled at build time. Out: messages and services in [`v1`] (CRI) and [`ext`] (Pintle's own),
//! their descriptors for reflection, clients and servers with the message limits all sides agree on, and
//! [`connect`]. No behaviour of an engine, no policy of an agent.

mod connect;
mod redact;

use std::sync::Arc;

use tonic::transport::Channel;

pub use connect::{ConnectError, connect, socket_path};

/// CRI v1: package `runtime.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Pintle's extension: package `pintle.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub
)]
pub mod ext {
    tonic::include_proto!("pintle.v1");
}

/// Both packages as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message, in bytes, that a client or server takes or sends.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer, in bytes, that a client takes: ExecSync may return two streams of [`MAX_MESSAGE_BYTES`] each.
pub const MAX_RESPONSE_BYTES: usize = 2 * MAX_MESSAGE_BYTES + 64 * 1024;

macro_rules! client {
    ($(#[$doc:meta])* $name:ident, $module:ident, $client:ident, $package:ident) => {
        $(#[$doc])*
        pub fn $name(channel: Channel) -> $package::$module::$client<Channel> {
            $package::$module::$client::new(channel)
                .max_decoding_message_size(MAX_RESPONSE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        }
    };
}

macro_rules! server {
    ($(#[$doc:meta])* $name:ident, $module:ident, $server:ident, $service:ident, $package:ident) => {
        $(#[$doc])*
        pub fn $name<T>(service: Arc<T>) -> $package::$module::$server<T>
        where
            T: $package::$module::$service,
        {
            $package::$module::$server::from_arc(service)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES)
        }
    };
}

client!(
    /// A client of `runtime.v1.RuntimeService` with our message limits.
    runtime_client, runtime_service_client, RuntimeServiceClient, v1
);
client!(
    /// A client of `runtime.v1.ImageService` with our message limits.
    image_client, image_service_client, ImageServiceClient, v1
);
client!(
    /// A client of `pintle.v1.Images` with our message limits.
    ext_images_client, images_client, ImagesClient, ext
);
client!(
    /// A client of `pintle.v1.Agent` with our message limits.
    ext_agent_client, agent_client, AgentClient, ext
);
client!(
    /// A client of `pintle.v1.Doctor` with our message limits.
    ext_doctor_client, doctor_client, DoctorClient, ext
);
client!(
    /// A client of `pintle.v1.Debug` with our message limits.
    ext_debug_client, debug_client, DebugClient, ext
);
server!(
    /// A server of `runtime.v1.RuntimeService` with our message limits.
    runtime_server, runtime_service_server, RuntimeServiceServer, RuntimeService, v1
);
server!(
    /// A server of `runtime.v1.ImageService` with our message limits.
    image_server, image_service_server, ImageServiceServer, ImageService, v1
);
server!(
    /// A server of `pintle.v1.Images` with our message limits.
    ext_images_server, images_server, ImagesServer, Images, ext
);
server!(
    /// A server of `pintle.v1.Agent` with our message limits.
    ext_agent_server, agent_server, AgentServer, Agent, ext
);
server!(
    /// A server of `pintle.v1.Doctor` with our message limits.
    ext_doctor_server, doctor_server, DoctorServer, Doctor, ext
);
server!(
    /// A server of `pintle.v1.Debug` with our message limits.
    ext_debug_server, debug_server, DebugServer, Debug, ext
);
