//! The place of the probe performers: `probe(target, timeout) -> Outcome` for exec, HTTP, TCP and gRPC.
//!
//! Nothing performs a probe yet. A manifest that asks for one is refused with an error that says so; see
//! `pintle_core::manifest`.
