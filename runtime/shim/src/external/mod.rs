//! Containers that another program makes: an OCI runtime with runc's command line.
//!
//! In: an [`OciRuntime`] that came with Create. Out: the same containers as libcontainer's: their first process is the
//! supervisor's child, held by pidfd; output, exit records, kills and cgroups are the supervisor's own business. The
//! runtime is asked four things only, each by a forked helper that runs its program and reports how it went: `create` (in
//! place of libcontainer), `start` (of the waiting first process), `exec`, and, when nothing of the container lives any
//! more, `delete`.
//!
//! ```text
//! creation ──► helper ──► create ┐
//! lifecycle ─► run ─────► start  ├─► call: the runtime's program, in a cgroup of its own below the supervisor's
//! execs ─────► run ─────► exec   │
//! removal ───► run ─────► delete ┘
//! ```
//! A program that hangs is bounded by the deadline of what it was called for, and killed with everything it started by the
//! cgroup. What it says is believed only as far as it can be checked: the process it names has to be the supervisor's child.

mod call;
mod helper;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pintle_shim_protocol::{CreateContainer, OciRuntime};

pub(crate) use call::CallError;
pub(crate) use helper::{Create, Exec, Job, Task, run};

use crate::cgroup::{self, Birthplace, CgroupError, CgroupPath, Hierarchies};
use crate::container::{Container, Phase};
use crate::helper::STATE;
use crate::journal;
use crate::report;
use crate::supervisor::{Kind, Supervisor};
use crate::sys::{self, Ended, Fork};

/// How long `delete` may take. Nothing of the container lives then; what is left is the runtime's own bookkeeping.
const DELETION: Duration = Duration::from_secs(5);

/// How a container's first process ended, and when (nanoseconds since 1970).
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) ended: Ended,
    pub(crate) finished_at: i64,
}

/// How far the runtime is with deleting its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletion {
    NotAsked,
    Until(Instant),
    Over,
}

/// What is particular about a container that another program makes.
#[derive(Debug)]
pub(crate) struct External {
    pub(crate) runtime: OciRuntime,
    /// Where its programs run.
    group: CgroupPath,
    deletion: Deletion,
    /// The end of the first process, while it is not known yet whether it was started.
    pub(crate) held_end: Option<End>,
}

impl External {
    /// `supervisor` is our own cgroup.
    pub(crate) fn of(create: &CreateContainer, supervisor: &CgroupPath) -> Option<Self> {
        let runtime = create.runtime.clone().filter(|_| !create.infra)?;
        let group = supervisor.child(&format!("runtime-{}", create.container));
        Some(Self { runtime, group, deletion: Deletion::NotAsked, held_end: None })
    }

    /// Where a helper that is to run the runtime's program has to be born.
    pub(crate) fn birthplace(&self, hierarchies: &Hierarchies) -> Result<Option<Birthplace>, CgroupError> {
        hierarchies.birthplace(&self.group)
    }

    /// What a helper in the cgroup `group` is to do.
    pub(crate) fn job<'a>(
        &'a self,
        container: &'a Container,
        (group, hierarchies): (&'a CgroupPath, &'a Hierarchies),
        task: Task<'a>,
    ) -> Job<'a> {
        let Container { id, bundle, .. } = container;
        Job { runtime: &self.runtime, container: id, bundle, group, hierarchies, task }
    }

    /// Kills the runtime's programs, but not one that deletes the container.
    pub(crate) fn kill(&self, hierarchies: &Hierarchies) {
        if !matches!(self.deletion, Deletion::Until(_)) {
            self.kill_all(hierarchies);
        }
    }

    fn kill_all(&self, hierarchies: &Hierarchies) {
        if let Some(directory) = hierarchies.tracking(&self.group).filter(|directory| directory.is_dir()) {
            cgroup::kill_tree(&directory);
        }
    }

    /// Removes the group of the runtime's programs. False: something still lives there.
    fn leave_group(&self, hierarchies: &Hierarchies) -> bool {
        let directory = hierarchies.tracking(&self.group);
        directory.is_none_or(|directory| matches!(cgroup::remove_tree(&directory), Ok(true)))
    }

    /// Removes the container's cgroup and that of the runtime's programs. False: something still lives there.
    pub(crate) fn remove(
        &self,
        hierarchies: &Hierarchies,
        container: Option<&CgroupPath>,
    ) -> Result<bool, CgroupError> {
        let gone = container.map_or(Ok(true), |path| hierarchies.remove(path))?;
        match hierarchies.tracking(&self.group) {
            Some(directory) => Ok(cgroup::remove_tree(&directory)? && gone),
            None => Ok(gone),
        }
    }
}

/// The group `name` below a container's in which a runtime starts an exec's process, and how its `exec` is told of it. On v1
/// and hybrid hosts that is the freezer's, because there no such runtime can be told of the v2 one.
pub(crate) fn group_of_exec(
    hierarchies: &Hierarchies,
    container: &CgroupPath,
    name: &str,
) -> Option<(PathBuf, String)> {
    if hierarchies.is_v2() {
        return hierarchies.unified(container).map(|directory| (directory.join(name), name.to_owned()));
    }
    let freezer = hierarchies.legacy("freezer", container);
    freezer.map(|directory| (directory.join(name), format!("freezer:{name}")))
}

impl Container {
    /// If its runtime has been told to start it and has not said yet how that went.
    pub(crate) fn external_that_starts(&mut self) -> Option<&mut External> {
        let starts = self.phase == Phase::Starting && self.report.is_some();
        self.external.as_mut().filter(|_| starts)
    }

    /// Whether the runtime has anything of the container on disk.
    fn has_state(&self) -> bool {
        fs::read_dir(self.bundle.join(STATE)).is_ok_and(|mut entries| entries.next().is_some())
    }
}

impl Supervisor {
    /// Has the container's runtime do something. How it went comes by the container's report channel.
    pub(crate) fn call_runtime(&mut self, at: usize, task: Task<'_>) -> io::Result<()> {
        let container = &self.containers[at];
        let Some(external) = &container.external else { return Ok(()) };
        let hierarchies = &self.settings.hierarchies;
        let place = external.birthplace(hierarchies).map_err(io::Error::other)?;
        let (report, theirs) = report::channel()?;
        let job = external.job(container, (&external.group, hierarchies), task);
        let pid = match Birthplace::fork(place.as_ref())? {
            Fork::Child => run(job, None, &theirs),
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        self.watch(&report, Kind::Report, container.key).inspect_err(|_| sys::kill_child(pid))?;
        self.containers[at].report = Some(report);
        Ok(())
    }

    /// Tells the end that was held back while the runtime was starting the container.
    pub(crate) fn finish_held_end(&mut self, at: usize) {
        let held = self.containers[at].external.as_mut().and_then(|external| external.held_end.take());
        if let Some(end) = held {
            self.finish_end(at, end);
        }
    }

    /// Whether the removal of a container of which nothing lives has to wait for its runtime.
    pub(crate) fn is_deleting(&mut self, at: usize, now: Instant) -> bool {
        let container = &self.containers[at];
        let Some(external) = &container.external else { return false };
        let (has_state, is_told) = (container.has_state(), container.report.is_some());
        let next = match external.deletion {
            Deletion::Over => return false,
            Deletion::Until(until) if now < until => return true,
            Deletion::Until(_) => {
                journal::note(&format!("container {}: its runtime does not delete it in time", container.id));
                external.kill_all(&self.settings.hierarchies);
                Deletion::Over
            }
            // Whoever was called before is being killed, and has not let go of the channel yet.
            Deletion::NotAsked if is_told => return true,
            Deletion::NotAsked if !has_state => Deletion::Over,
            // Whatever is born in a group that was killed once is killed too, so it has to be a new one.
            Deletion::NotAsked if !external.leave_group(&self.settings.hierarchies) => return true,
            Deletion::NotAsked => match self.call_runtime(at, Task::Delete) {
                Ok(()) => Deletion::Until(now + DELETION),
                Err(error) => {
                    let id = &self.containers[at].id;
                    journal::note(&format!("container {id}: calling its runtime: {error}"));
                    Deletion::Over
                }
            },
        };
        if let Some(external) = &mut self.containers[at].external {
            external.deletion = next;
        }
        next != Deletion::Over
    }

    /// The end of a report channel: whether it was that of a deletion, which is over then.
    pub(crate) fn finish_deletion(&mut self, at: usize) -> bool {
        let container = &mut self.containers[at];
        let Some(external) = container.external.as_mut() else { return false };
        if !matches!(external.deletion, Deletion::Until(_)) {
            return false;
        }
        external.deletion = Deletion::Over;
        if let Some(reason) = container.failed.take() {
            journal::note(&format!("container {}: {reason}", container.id));
        }
        true
    }

    /// The processes of all runtimes, also those that stay with their containers.
    pub(crate) fn processes_of_runtimes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let groups = self.containers.iter().filter_map(|container| container.external.as_ref());
        for directory in groups.filter_map(|external| self.settings.hierarchies.tracking(&external.group)) {
            cgroup::collect_processes(&directory, &mut found);
        }
        found
    }
}
