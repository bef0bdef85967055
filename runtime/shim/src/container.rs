//! What the supervisor holds of one container.
//!
//! In: nothing by itself; `creation`, `lifecycle` and `removal` move it along. Out: its state as the protocol tells it.
//!
//! ```text
//!            helper ends well       Start              end of the report stream
//! Creating ──────────────────► Created ────► Starting ─────────────────────────► Running
//!    │ helper fails               │             │ NotExecuted, then end of init     │ end of init
//!    ▼                            └─────────────┴──────────► Exited ◄───────────────┘
//! forgotten                  Remove in any phase: killed, cgroup removed, forgotten
//! ```

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use pintle_shim_protocol::{ContainerState, ExitRecord};

use crate::cgroup::CgroupPath;
use crate::external::External;
use crate::logs::{LogFile, Stream};
use crate::supervisor::Waiter;

/// The most bytes of the library's log that a failure quotes.
const MAX_DETAIL: usize = 8 * 1024;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Created,
    Starting,
    Running,
    Exited,
}

/// A process, by its pid and by a descriptor that means this one for good.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// A removal under way.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) tries: u32,
    pub(crate) next_try: Instant,
    pub(crate) give_up: Instant,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) key: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) infra: bool,
    /// The program that makes it, if that is not us.
    pub(crate) external: Option<External>,
    /// Its seccomp filter.
    pub(crate) filter: Option<PathBuf>,
    pub(crate) kill_all_on_exit: bool,
    pub(crate) phase: Phase,
    pub(crate) cgroup: Option<CgroupPath>,
    /// The process that libcontainer runs in, during `Creating`.
    pub(crate) helper: Option<Running>,
    /// The container's first process, from `Created` on, until it is reaped.
    pub(crate) init: Option<Running>,
    /// The pid the helper told of, before the helper has ended.
    pub(crate) announced: Option<i32>,
    /// Where the helper and the waiting first process tell how it goes.
    pub(crate) report: Option<OwnedFd>,
    /// The library's log.
    pub(crate) detail: String,
    /// The failure the helper told of.
    pub(crate) failed: Option<String>,
    /// Why the program could not be executed.
    pub(crate) not_executed: Option<String>,
    pub(crate) log: Option<LogFile>,
    pub(crate) streams: [Option<Stream>; 2],
    /// The container's input: held open, and handed to those who attach; the supervisor writes nothing to it.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) memory: Option<OwnedFd>,
    /// When to look at the count of OOM kills again, and how often still.
    pub(crate) memory_check: Option<(Instant, u32)>,
    pub(crate) oom_kills: u64,
    /// Who waits for the present phase to end.
    pub(crate) waiters: Vec<Waiter>,
    /// When the present phase takes too long.
    pub(crate) deadline: Option<Instant>,
    pub(crate) started_at: Option<i64>,
    pub(crate) exit: Option<ExitRecord>,
    pub(crate) removal: Option<Removal>,
    /// The create failed: who is to know when the remains are gone, and why it failed.
    pub(crate) stillborn: Option<(Vec<Waiter>, String)>,
}

impl Container {
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let removal = self.removal.as_ref().map(|removal| removal.next_try);
        let memory = self.memory_check.map(|(at, _)| at);
        [self.deadline, removal, memory].into_iter().flatten().min()
    }

    /// Keeps a line of the library's log.
    pub(crate) fn push_detail(&mut self, line: &str) {
        if self.detail.len() + line.len() < MAX_DETAIL {
            if !self.detail.is_empty() {
                self.detail.push_str("; ");
            }
            self.detail.push_str(line);
        }
    }

    /// A failure with everything that is known of its cause.
    pub(crate) fn explain(&mut self, what: &str) -> String {
        let mut text = what.to_owned();
        let detail = Some(std::mem::take(&mut self.detail)).filter(|text| !text.is_empty());
        for more in self.failed.take().into_iter().chain(detail) {
            text.push_str(": ");
            text.push_str(&more);
        }
        text
    }

    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            container: self.id.clone(),
            infra: self.infra,
            pid: self.init.as_ref().map(|init| init.pid),
            started_at: self.started_at,
            exit: self.exit.clone(),
        }
    }
}
