//! What the forked helpers do that call a runtime's program.
//!
//! In: what is to be done, the descriptors that come along. Out: for `create` the container's first process, which waits
//! and is in all of the container's cgroups; for the others [`Report`]s and the end of the helper.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pintle_shim_protocol::OciRuntime;
use serde::Deserialize;

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
/// The most bytes of a process file.
const MAX_PROCESS: u64 = 1024 * 1024;

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
        if let Task::Exec(exec) = job.task
            && has_terminal(exec.process)
        {
            return run_in_terminal(job, exec, report);
        }
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

/// What has to be known of an OCI process.
#[derive(Deserialize)]
struct Process {
    #[serde(default)]
    terminal: bool,
}

/// What cannot be read is left to the runtime to complain of.
fn has_terminal(process: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(process).and_then(|file| file.take(MAX_PROCESS).read_to_end(&mut text));
    read.is_ok() && serde_json::from_slice::<Process>(&text).is_ok_and(|process| process.terminal)
}

/// With a terminal the runtime stays in the foreground: it makes one in the container, copies between that and the one it
/// was given, whose size it follows, and ends as the process does. The helper waits for it and counts as the process. That
/// there is no program to execute is told on the terminal.
fn run_in_terminal(job: Job<'_>, exec: Exec<'_>, report: OwnedFd) -> i32 {
    let stdio = [STDIO, STDIO + 1, STDIO + 2].map(sys::adopt);
    let own = || -> io::Result<()> {
        nix::unistd::setsid()?;
        for (descriptor, number) in stdio.iter().zip(0..) {
            sys::place(descriptor, number)?;
        }
        sys::take_terminal()
    };
    if let Err(error) = own() {
        Report::Failed(format!("controlling terminal: {error}")).send(&report);
        return 126;
    }
    if let Err(source) = job.hierarchies.enter_tracking(job.group) {
        Report::Failed(chain(&CallError::Cgroup { source })).send(&report);
        return 126;
    }
    Report::Process(std::process::id().cast_signed()).send(&report);
    // From here on it is the exec's own time-out that counts.
    drop((report, stdio));
    let ended = exec_call(job, exec).and_then(|(mut call, _)| {
        let ended = call.argument(job.container).run([0; 3].map(|_| Stdio::inherit()));
        call.forget_process();
        ended
    });
    match ended {
        Ok(()) => 0,
        Err(CallError::Failed { status, .. }) => {
            status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(126)
        }
        Err(_) => 126,
    }
}

/// The call for an exec, but for the container's name, and the group that its process gets.
fn exec_call<'a>(job: Job<'a>, exec: Exec<'_>) -> Result<(Call<'a>, Option<PathBuf>), CallError> {
    let inherited =
        || fs::read_to_string(format!("/proc/{}/oom_score_adj", exec.init)).ok()?.trim().parse().ok();
    if let Some(value) = inherited() {
        // Refused only when it would make the process safer than we may.
        set_oom_score_adj(value).unwrap_or_default();
    }
    let tracking = group_of_exec(job.hierarchies, exec.cgroup, &format!("exec-{}", exec.id));
    let mut call = Call::new(job.runtime, job.bundle, "exec", format!("runtime-exec-{}", exec.id));
    call.argument("--process").argument(exec.process).with_pid_file();
    if let Some((directory, name)) = tracking.as_ref().filter(|_| job.runtime.exec_cgroup) {
        cgroup::create(directory).map_err(|source| CallError::Cgroup { source })?;
        call.argument("--cgroup").argument(name);
    }
    Ok((call, tracking.map(|(directory, _)| directory)))
}

fn run_exec(job: Job<'_>, exec: Exec<'_>, stdio: [Stdio; 3]) -> Result<i32, CallError> {
    let (mut call, tracking) = exec_call(job, exec)?;
    call.argument("--detach").argument(job.container).run(stdio)?;
    let pid = call.process()?;
    if let Some(directory) = tracking.filter(|_| !job.runtime.exec_cgroup) {
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
