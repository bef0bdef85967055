//! The infra process of a pod, embedded: the engine writes [`PAUSE`] into the infra container's root directory and runs
//! it there.
//!
//! In: nothing. Out: a static ELF image for the architecture this crate was built for. The process itself is in
//! `pause.rs`, which `build.rs` compiles on its own.

/// A static, position-dependent ELF executable that needs no file, no library and no argument. It ends with status 0 on
/// SIGTERM or SIGINT and reaps every process that is reparented to it.
pub const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
