//! What the forked helpers do that call a runtime's program.
//!
//! In: what is to be done, the descriptors that come along. Out: for `create` the container's first process, which waits
//! and is in all of the container's cgroups; for the others [`Report`]s and the end of the helper.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use pintle_shim_protocol::OciRuntime;

use super::call::{Call, CallError};
use super::{External, group_of_exec};
use crate::cgroup::{self, CgroupPath, Hierarchies};
use crate::helper::set_oom_score_adj;
use crate::journal::chain;
use crate::report::Report;
use crate::sys;

/// Where [`sys::keep_only`] puts what we keep.
const REPORT: i32 = 3;
const STDIO: i32 = 4;

/// What a runtime is called for, beside `create`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task<'a> {
    Start,
    Exec(Exec<'a>),
    Delete,
}

/// An exec in a running container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exec<'a> {
    /// The file with the OCI process.
    pub(crate) process: &'a Path,
    pub(crate) id: &'a str,
    /// The container's cgroup.
    pub(crate) cgroup: &'a CgroupPath,
    /// The container's first process.
    pub(crate) init: i32,
}

/// What a helper is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) runtime: &'a OciRuntime,
    pub(crate) container: &'a str,
    pub(crate) bundle: &'a Path,
    /// Where it runs.
    pub(crate) group: &'a CgroupPath,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) task: Task<'a>,
}

/// Runs in the forked child, and ends it. `stdio` is what the task's process gets.
pub(crate) fn run(job: Job<'_>, stdio: Option<&[OwnedFd; 3]>, report: &OwnedFd) -> ! {
    let attempt = std::panic::AssertUnwindSafe(|| {
        sys::default_signals();
        let mut kept = vec![report.as_fd()];
        kept.extend(stdio.into_iter().flatten().map(AsFd::as_fd));
        if sys::keep_only(&kept).is_err() {
            return 126;
        }
        let report = sys::adopt(REPORT);
        let stdio = stdio.map_or_else(|| [(); 3].map(|()| Stdio::null()), |_| kept_stdio());
        match call(job, stdio, &report) {
            Ok(()) => 0,
            Err(error) => {
                failure(job.task, &error).send(&report);
                126
            }
        }
    });
    sys::exit_now(std::panic::catch_unwind(attempt).unwrap_or(126))
}

fn kept_stdio() -> [Stdio; 3] {
    [STDIO, STDIO + 1, STDIO + 2].map(|number| Stdio::from(sys::adopt(number)))
}

/// A runtime that ran and refused has most likely found no program to execute, and cannot be asked what else it was.
fn failure(task: Task<'_>, error: &CallError) -> Report {
    match (task, error) {
        (Task::Start | Task::Exec(_), CallError::Failed { .. }) => Report::NotExecuted(chain(error)),
        (Task::Start, _) => Report::NotExecuted(chain(error)),
        (Task::Exec(_) | Task::Delete, _) => Report::Failed(chain(error)),
    }
}

fn call(job: Job<'_>, stdio: [Stdio; 3], report: &OwnedFd) -> Result<(), CallError> {
    job.hierarchies.enter_tracking(job.group).map_err(|source| CallError::Cgroup { source })?;
    let call = |verb: &'static str| Call::new(job.runtime, job.bundle, verb, format!("runtime-{verb}"));
    match job.task {
        Task::Start => call("start").argument(job.container).run(stdio),
        Task::Delete => call("delete").argument("--force").argument(job.container).run(stdio),
        Task::Exec(exec) => {
            let pid = run_exec(job, exec, stdio)?;
            Report::Process(pid).send(report);
            Ok(())
        }
    }
}

fn run_exec(job: Job<'_>, exec: Exec<'_>, stdio: [Stdio; 3]) -> Result<i32, CallError> {
    let inherited =
        || fs::read_to_string(format!("/proc/{}/oom_score_adj", exec.init)).ok()?.trim().parse().ok();
    if let Some(value) = inherited() {
        // Refused only when it would make the process safer than we may.
        set_oom_score_adj(value).unwrap_or_default();
    }
    let tracking = group_of_exec(job.hierarchies, exec.cgroup, &format!("exec-{}", exec.id));
    let mut call = Call::new(job.runtime, job.bundle, "exec", format!("runtime-exec-{}", exec.id));
    call.argument("--detach").argument("--process").argument(exec.process).with_pid_file();
    if let Some((directory, name)) = tracking.as_ref().filter(|_| job.runtime.exec_cgroup) {
        cgroup::create(directory).map_err(|source| CallError::Cgroup { source })?;
        call.argument("--cgroup").argument(name);
    }
    call.argument(job.container).run(stdio)?;
    let pid = call.process()?;
    if let Some((directory, _)) = tracking.filter(|_| !job.runtime.exec_cgroup) {
        // What it has started by now is not found by a time-out, but goes with the container.
        cgroup::join_directory(&directory, pid).map_err(|source| CallError::Cgroup { source })?;
    }
    Ok(pid)
}

/// A container to be made.
#[derive(Debug)]
pub(crate) struct Create<'a> {
    pub(crate) container: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: &'a CgroupPath,
    /// Whether it gets a terminal, whose master is sent to the socket `console.sock` in the bundle.
    pub(crate) terminal: bool,
}

impl Create<'_> {
    /// Has it made, with the helper's descriptors as its own, and returns its first process.
    pub(crate) fn run(&self, external: &External, hierarchies: &Hierarchies) -> Result<i32, CallError> {
        let failed = |source| CallError::Cgroup { source };
        hierarchies.enter_tracking(&external.group).map_err(failed)?;
        let runtime = &external.runtime;
        let mut call = Call::new(runtime, self.bundle, "create", "runtime-create".to_owned());
        call.argument("--bundle").argument(self.bundle).with_pid_file();
        for argument in &runtime.create_args {
            call.argument(argument);
        }
        if self.terminal {
            // Relative to the bundle, in which the program runs: the whole path may be longer than a socket address.
            call.argument("--console-socket").argument("console.sock");
        }
        call.argument(self.container).run(kept_stdio())?;
        let pid = call.process()?;
        let complete = || {
            hierarchies.join(self.cgroup, pid)?;
            if let Some(directory) = hierarchies.unified(self.cgroup).filter(|_| hierarchies.is_v2()) {
                // As for all containers; missing where the memory controller is.
                cgroup::write_file(&directory.join("memory.oom.group"), "1").unwrap_or_default();
            }
            Ok(())
        };
        complete().map_err(failed).inspect_err(|_| {
            sys::open_process(pid)
                .and_then(|process| sys::signal(&process, libc::SIGKILL))
                .unwrap_or_default();
        })?;
        Ok(pid)
    }
}
