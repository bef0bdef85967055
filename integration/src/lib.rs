//! A node of its own for each test: the real `pintle agent` in a private directory, network namespace and cgroup
//! parent, and the proof at the end that nothing of it is left on the host.
//!
//! In: what a test wants on the node (manifests, commands). Out: what the command line and the kernel say. No part of
//! Pintle is replaced or called in process: tests see what an operator sees. Only the questions of a wait are asked
//! without the program, by the same calls over the same socket.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test harness fails by panicking")]

mod api_server;
pub mod ask;
mod disk;
mod host;
mod hostile_image;
mod manifest;
mod memory;
mod node;
mod residue;

pub use api_server::ApiServer;
pub use ask::{heap_in_use, pods, sandboxes};
pub use disk::Disk;
pub use host::{Mode, cgroup_mode, cgroup_path_of, read_cgroup_file, time_out};
pub use hostile_image::{hostile_image, write_attacker};
pub use manifest::Manifest;
pub use memory::{Memory, slope};
pub use node::{
    Container, IMAGE, NODE, Node, condition, container_status, image_archive, program, wait_until,
};
pub use residue::Residue;
