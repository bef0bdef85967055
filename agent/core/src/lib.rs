//! The pure decisions of Pintle's node agent.
//!
//! In: manifests as text, the pod as wanted, the pod as observed, the time. Out: checked pods, plans, statuses. This
//! crate performs no IO, reads no clock, holds no lock, starts no task and logs nothing; its own `clippy.toml` says so.

pub mod decide;
pub mod ids;
pub mod model;
pub mod restart_backoff;
pub mod time;
