//! The Pintle container engine: sandboxes, containers, exec, logs, images and statistics behind CRI v1.
//!
//! In: CRI calls, over a unix socket ([`Engine::serve`]) or in process (the agent calls the same tonic traits on
//! [`Engine`]). Out: pods on this node, and events about them. Below it are `pintle-image` (images and snapshots),
//! `pintle-shim` (a supervisor per pod, spoken to over its socket) and `pintle-cni` (the pod network).
//!
//! `cri` decodes, calls and maps errors; `engine` does; `spec` decides, purely; `doctor` looks for what is left over.
//! Long-lived tasks: one per supervisor connection (in: packets; out: answers and events), one while a lost connection is
//! looked into, one that gives memory back when there is nothing to do, those of streaming clients. Its only `unsafe` is in `sys`.
//!
//! It does not restart containers, pull what is missing or decide anything about pods: that is the agent's.

pub mod cri;
pub mod doctor;
pub mod engine;
pub mod memory;
pub mod spec;
mod sys;
pub mod waterfall;

pub use engine::{
    Engine,
    error::{Error, Result},
    handlers::{RuntimeHandler, check as check_runtime_handlers},
    image_settings::ImageSettings,
    layout::{DEFAULT_STREAMING, EngineConfig, Layout, default_shim},
    serve::bind,
    view::EventStream,
};
pub use pintle_image::resolve;
