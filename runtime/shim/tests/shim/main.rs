//! Drives the real `pintle-shim` over its socket: real containers from a static busybox, on whatever cgroup mode the host
//! has. Every test has its own supervisor, directory and cgroups, and asserts that nothing is left of them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test's functions may fail it"
)]

mod execs;
mod external;
mod guards;
mod harness;
mod lifecycle;
mod output;
