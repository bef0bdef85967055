//! Execs, as the supervisor sees them.
//!
//! In: a request with three descriptors, reports of the forked stages, ends of processes, time. Out: a process in the
//! container, tracked by a cgroup of its own so that a time-out reaches everything it started, also what made itself
//! independent. At a normal end such leftovers stay, as they do with other engines; the tracking group goes with the last
//! of them or with the container.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pintle_shim_protocol::{Answer, ErrorCode};

use crate::cgroup::{self, Birthplace};
use crate::container::{Phase, Running};
use crate::exec_child;
use crate::external::{self, Task};
use crate::journal;
use crate::report::{self, Received, Report};
use crate::requests::is_name;
use crate::supervisor::{Kind, Supervisor, Waiter, failure};
use crate::sys::{self, Ended, Fork};

/// How often a killed tree is killed again if it does not end.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) container: String,
    pub(crate) exec: String,
    pub(crate) process: String,
    pub(crate) timeout_ms: Option<u64>,
}

/// An exec under way.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) key: u32,
    container: u32,
    id: String,
    /// Where the stages tell how it goes; gone once the program runs.
    report: Option<OwnedFd>,
    process: Option<Running>,
    first_stage: Running,
    tracking: Option<PathBuf>,
    /// The group of the helper that calls an external runtime.
    helper_group: Option<PathBuf>,
    /// It was killed before that helper could name the process, which may have run already.
    killed_unnamed: bool,
    /// When setting up takes too long.
    setup_deadline: Option<Instant>,
    /// When the program takes too long.
    deadline: Option<Instant>,
    timed_out: bool,
    not_executed: Option<String>,
    failed: Option<String>,
    ended: Option<Ended>,
    waiters: Vec<Waiter>,
}

impl Exec {
    pub(crate) fn is_setting_up(&self) -> bool {
        self.report.is_some()
    }

    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.setup_deadline.into_iter().chain(self.deadline).min()
    }
}

impl Supervisor {
    fn exec_position(&self, key: u32) -> Option<usize> {
        self.execs.iter().position(|exec| exec.key == key)
    }

    pub(crate) fn exec_of(&self, pid: i32) -> Option<u32> {
        let is_it = |exec: &&Exec| exec.process.as_ref().is_some_and(|process| process.pid == pid);
        self.execs.iter().find(is_it).map(|exec| exec.key)
    }

    pub(crate) fn has_execs(&self, container: u32) -> bool {
        self.execs.iter().any(|exec| exec.container == container)
    }

    pub(crate) fn on_exec(&mut self, waiter: Waiter, wanted: &Wanted, descriptors: Vec<OwnedFd>) {
        let Ok(stdio) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return self
                .reply(waiter, failure(ErrorCode::BadRequest, "exec: three descriptors have to come along"));
        };
        if !is_name(&wanted.exec) || !Path::new(&wanted.process).is_absolute() {
            return self.reply(
                waiter,
                failure(ErrorCode::BadRequest, "exec: the id or the process file is not acceptable"),
            );
        }
        let container = match self.in_phase(&wanted.container, &[Phase::Running]) {
            Ok(container) => container.key,
            Err(failure) => return self.reply(waiter, Err(failure)),
        };
        let same = |exec: &&mut Exec| exec.container == container && exec.id == wanted.exec;
        if let Some(exec) = self.execs.iter_mut().find(same) {
            return exec.waiters.push(waiter);
        }
        match self.fork_exec(container, wanted, &stdio) {
            Ok(mut exec) => {
                exec.waiters.push(waiter);
                self.execs.push(exec);
            }
            Err(error) => self.reply(waiter, failure(ErrorCode::Internal, format!("exec: {error}"))),
        }
    }

    /// Its time is over now; the loop does the rest.
    pub(crate) fn on_kill_exec(&mut self, waiter: Waiter, container: &str, id: &str) {
        let key = self.containers.iter().find(|found| found.id == container).map(|found| found.key);
        let exec = self.execs.iter_mut().find(|exec| Some(exec.container) == key && exec.id == id);
        if let Some(exec) = exec {
            exec.deadline = Some(Instant::now());
        }
        self.reply(waiter, Ok(Answer::Done));
    }

    fn fork_exec(&mut self, container: u32, wanted: &Wanted, stdio: &[OwnedFd; 3]) -> std::io::Result<Exec> {
        let key = self.new_key();
        let gone = || std::io::Error::other("the container is gone");
        let owner = self.containers.iter().find(|found| found.key == container).ok_or_else(gone)?;
        let (Some(init), Some(cgroup)) = (&owner.init, &owner.cgroup) else { return Err(gone()) };
        let group = format!("exec-{}", wanted.exec);
        let hierarchies = &self.settings.hierarchies;
        let own = self.settings.cgroup.child(&group);
        let (tracking, helper_group, place) = match &owner.external {
            None => {
                let tracking = hierarchies.tracking(cgroup).map(|directory| directory.join(&group));
                (tracking, None, hierarchies.birthplace_below(cgroup, &group))
            }
            Some(_) => {
                let tracking =
                    external::group_of_exec(hierarchies, cgroup, &group).map(|(directory, _)| directory);
                (tracking, hierarchies.tracking(&own), hierarchies.birthplace(&own))
            }
        };
        let place = place.map_err(std::io::Error::other)?;
        let (report, theirs) = report::channel()?;
        let job = exec_child::Job {
            process: Path::new(&wanted.process),
            filter: owner.filter.as_deref(),
            cgroup,
            group: &group,
            init: init.pid,
            hierarchies: &self.settings.hierarchies,
        };
        let pid = match Birthplace::fork(place.as_ref())? {
            Fork::Child => match &owner.external {
                None => exec_child::run(job, [&stdio[0], &stdio[1], &stdio[2], &init.pidfd], &theirs),
                Some(external) => {
                    let exec =
                        external::Exec { process: job.process, id: &wanted.exec, cgroup, init: init.pid };
                    external::run(
                        external.job(owner, (&own, hierarchies), Task::Exec(exec)),
                        Some(stdio),
                        &theirs,
                    )
                }
            },
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        let watch = || {
            let pidfd = sys::open_process(pid)?;
            self.watch(&report, Kind::ExecReport, key)?;
            Ok(Running { pid, pidfd })
        };
        // Nobody would know of what it starts.
        let first_stage = watch().inspect_err(|_: &std::io::Error| sys::kill_child(pid))?;
        let now = Instant::now();
        Ok(Exec {
            key,
            container,
            id: wanted.exec.clone(),
            report: Some(report),
            process: None,
            first_stage,
            tracking,
            helper_group,
            killed_unnamed: false,
            setup_deadline: Some(now + self.settings.helper_timeout),
            deadline: wanted.timeout_ms.map(|timeout| now + Duration::from_millis(timeout)),
            timed_out: false,
            not_executed: None,
            failed: None,
            ended: None,
            waiters: Vec::new(),
        })
    }

    /// Takes what the stages have to tell.
    pub(crate) fn on_exec_report(&mut self, key: u32) {
        let Some(at) = self.exec_position(key) else { return };
        loop {
            let exec = &mut self.execs[at];
            let Some(report) = &exec.report else { return };
            match report::receive(report) {
                Received::Report(Report::Process(pid)) => {
                    exec.process = sys::open_process(pid).ok().map(|pidfd| Running { pid, pidfd });
                    if let Some(process) = &self.execs[at].process
                        && let Err(error) = self.watch(&process.pidfd, Kind::ExecProcess, key)
                    {
                        journal::note(&format!("watching exec process {pid}: {error}"));
                    }
                }
                Received::Report(Report::NotExecuted(text)) => exec.not_executed = Some(text),
                Received::Report(Report::Failed(text)) => exec.failed = Some(text),
                Received::Report(Report::Detail(_) | Report::Cgroup(_) | Report::Terminal)
                | Received::WithDescriptor(_, _) => {}
                Received::Nothing => return,
                Received::End => {
                    let ended = exec.report.take();
                    exec.setup_deadline = None;
                    let first_stage = exec.process.is_none().then_some(exec.first_stage.pid);
                    if let Some(report) = ended {
                        self.unwatch(report);
                    }
                    if let Some(pid) = first_stage {
                        // Failed before there was a process; reaped here if it is fast enough, else with the orphans.
                        sys::reap(pid).map(drop).unwrap_or_default();
                    }
                    return self.finish_exec(at);
                }
            }
        }
    }

    pub(crate) fn on_exec_end(&mut self, key: u32) {
        let Some(at) = self.exec_position(key) else { return };
        let Some(process) = self.execs[at].process.take() else { return };
        match sys::reap(process.pid) {
            Ok(None) => {
                self.execs[at].process = Some(process);
                return;
            }
            Ok(ended) => self.execs[at].ended = ended,
            Err(error) => {
                journal::note(&format!("reaping exec process {}: {error}", process.pid));
                self.execs[at].ended = Some(Ended { code: 255, signal: None });
            }
        }
        self.on_exec_report(key);
        if let Some(at) = self.exec_position(key) {
            self.finish_exec(at);
        }
    }

    /// Answers, once the stages have nothing more to tell and the process, if there was one, is reaped.
    fn finish_exec(&mut self, at: usize) {
        let exec = &self.execs[at];
        if exec.report.is_some() || exec.process.is_some() {
            return;
        }
        let exec = self.execs.swap_remove(at);
        let result = match (exec.not_executed, exec.failed, exec.ended) {
            (_, _, ended) if exec.timed_out => {
                let exit_code = ended.map_or(128 + libc::SIGKILL, |ended| ended.code);
                Ok(Answer::ExecDone { exit_code, timed_out: true })
            }
            (Some(reason), _, _) => failure(ErrorCode::ExecFailed, reason),
            (None, Some(reason), _) => failure(ErrorCode::Internal, format!("exec: {reason}")),
            (None, None, Some(ended)) => Ok(Answer::ExecDone { exit_code: ended.code, timed_out: false }),
            (None, None, None) if exec.killed_unnamed => {
                Ok(Answer::ExecDone { exit_code: 128 + libc::SIGKILL, timed_out: false })
            }
            (None, None, None) => failure(ErrorCode::Internal, "exec: ended before there was a process"),
        };
        let groups = exec.tracking.into_iter().chain(exec.helper_group);
        self.lingering.extend(groups.map(|directory| (exec.container, directory)));
        // Who waits for the command need not wait for its group to go.
        self.reply_all(exec.waiters, &result);
        self.sweep_lingering();
    }

    /// Removes the tracking groups that have become empty. What stays busy goes with its container.
    pub(crate) fn sweep_lingering(&mut self) {
        const MOST: usize = 256;
        self.lingering.retain(|(_, directory)| !matches!(cgroup::remove_tree(directory), Ok(true)));
        let excess = self.lingering.len().saturating_sub(MOST);
        self.lingering.drain(..excess);
    }

    pub(crate) fn on_exec_time(&mut self, key: u32, now: Instant) {
        let Some(at) = self.exec_position(key) else { return };
        let exec = &mut self.execs[at];
        let hangs = exec.setup_deadline.is_some_and(|deadline| deadline <= now);
        if hangs {
            exec.failed = Some("entering the container took too long and was ended".to_owned());
        }
        exec.timed_out |= exec.deadline.is_some_and(|deadline| deadline <= now);
        let again = Some(now + KILL_AGAIN);
        (exec.deadline, exec.setup_deadline) =
            if hangs { (exec.deadline, again) } else { (again, exec.setup_deadline) };
        self.kill_exec(at);
    }

    pub(crate) fn kill_execs_of(&mut self, container: u32) {
        for at in 0..self.execs.len() {
            if self.execs[at].container == container {
                self.kill_exec(at);
            }
        }
    }

    fn kill_exec(&mut self, at: usize) {
        let exec = &mut self.execs[at];
        exec.killed_unnamed |= exec.helper_group.is_some() && exec.process.is_none();
        for directory in exec.tracking.iter().chain(&exec.helper_group) {
            cgroup::kill_tree(directory);
        }
        let stage = exec.report.is_some().then_some(&exec.first_stage);
        for process in stage.into_iter().chain(&exec.process) {
            // A failure means that it has ended by itself.
            sys::signal(&process.pidfd, libc::SIGKILL).unwrap_or_default();
        }
    }
}
