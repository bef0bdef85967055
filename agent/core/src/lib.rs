//! The pure decisions of Pintle's node agent.
//!
//! In: manifests as text, the pod as wanted, the pod as observed, the time. Out: checked pods, plans, statuses. This
//! crate performs no IO, reads no clock, holds no lock, starts no task and logs nothing; its own `clippy.toml` says so.

pub mod container_spec;
pub mod decide;
pub mod env;
pub mod explain;
pub mod ids;
pub mod manifest;
pub mod model;
pub mod pod_sources;
pub mod pod_status;
pub mod pod_workers;
pub mod qos;
pub mod quantity;
pub mod resources;
pub mod restart_backoff;
pub mod termination;
pub mod time;
