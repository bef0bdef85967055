//! Drives the real `pintle-shim` over its socket: real containers from a static busybox, on whatever cgroup mode the host
//! has. Every test has its own supervisor, directory and cgroups, and asserts that nothing is left of them.

mod execs;
mod guards;
mod harness;
mod lifecycle;
mod output;
