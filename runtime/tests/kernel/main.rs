//! The engine on the real kernel, with the real supervisor: what a pod is, what survives what, and that nothing is left.
//!
//! Every test has a network namespace, a root and a state directory of its own, and asserts at its end that no mount,
//! cgroup, process, interface, table or file is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod image;
mod raw_call;
mod support;

mod adoption;
mod attach;
mod containers;
mod crash;
mod doctor;
mod events;
mod exec;
mod external;
mod forward;
mod host_ports;
mod hostile_requests;
mod isolation;
mod mounts;
mod pods;
mod resources;
mod security;
mod socket;
mod stats;
mod streaming;
mod user_namespaces;
