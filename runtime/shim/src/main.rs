//! `pintle-shim`: the supervisor of one pod. It is the parent of every container process, pumps their output into log
//! files, runs execs, and writes down how each container ended before it tells anybody.
//!
//! In: requests on `<dir>/shim.sock` (crate `pintle-shim-protocol`). Out: containers, log files, exit records, events. It
//! outlives the engine that started it, decides nothing by itself and restarts nothing.
//!
//! ```text
//! main ─► supervisor (the one loop) ─► requests ─► creation ─► helper (forked: libcontainer, infra, external)
//!                                   │            └► execs ────► exec_child (forked: setns), external
//!                                   └► logs · exit_record · oom · cgroup · device_filter
//! ```
//! One thread, one epoll loop, no async runtime. `sys` holds all `unsafe`.

mod cgroup;
mod clock;
mod connection;
mod container;
mod creation;
mod device_filter;
mod exec_child;
mod execs;
mod executable;
mod exit_record;
mod external;
mod helper;
mod id_mapping;
mod identity;
mod infra;
mod journal;
mod lifecycle;
mod logs;
mod oom;
mod passing;
mod propagation;
mod removal;
mod report;
mod requests;
mod stage;
mod start;
mod supervisor;
mod sys;
mod sysctl;

use std::process::ExitCode;

fn main() -> ExitCode {
    match start::prepare() {
        Ok(Some(prepared)) => {
            // The original process ends here; the supervisor goes on as its grandchild.
            start::supervise(prepared)
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {}", journal::chain(&error));
            ExitCode::FAILURE
        }
    }
}
