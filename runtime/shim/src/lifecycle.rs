//! A container's way from Start to its end.
//!
//! In: Start, the end of the report channel, output, ends, notices of memory, time. Out: answers, log lines, exit records,
//! events. Every step that can hang has a deadline; what it leaves behind is killed by cgroup and reaped. Before it comes
//! `creation`, after it `removal`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use pintle_shim_protocol::{Answer, ErrorCode, Event, ExitRecord};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::clock;
use crate::container::{Container, Phase};
use crate::exit_record;
use crate::external::{End, Task};
use crate::helper::STATE;
use crate::infra;
use crate::journal;
use crate::logs::Pumped;
use crate::oom;
use crate::supervisor::{Supervisor, Waiter, failure};
use crate::sys;

/// How much is pumped per stream before others have their turn.
const READS_PER_TURN: usize = 8;
/// What is surely more than a pipe holds.
pub(crate) const READS_AT_END: usize = 64;
/// cgroup v1 tells of memory running out before it kills.
const MEMORY_CHECKS: u32 = 20;
const MEMORY_CHECK_PAUSE: Duration = Duration::from_millis(10);

impl Supervisor {
    pub(crate) fn position(&self, key: u32) -> Option<usize> {
        self.containers.iter().position(|container| container.key == key)
    }

    pub(crate) fn init_of(&self, pid: i32) -> Option<u32> {
        let is_it = |container: &&Container| container.init.as_ref().is_some_and(|init| init.pid == pid);
        self.containers.iter().find(is_it).map(|container| container.key)
    }

    /// Whether a forked process may yet tell of a child that is not known.
    pub(crate) fn is_forking(&self) -> bool {
        self.containers.iter().any(|container| container.helper.is_some())
            || self.execs.iter().any(|exec| exec.is_setting_up())
    }

    pub(crate) fn on_start(&mut self, waiter: Waiter, id: &str) {
        let deadline = Instant::now() + self.settings.helper_timeout;
        let known = self.containers.iter().find(|container| container.id == id);
        if let Some(started_at) = known.and_then(|container| container.started_at) {
            return self.reply(waiter, Ok(Answer::Started { started_at }));
        }
        let key = match self.in_phase(id, &[Phase::Created, Phase::Starting]) {
            Ok(container) => container.key,
            Err(failure) => return self.reply(waiter, Err(failure)),
        };
        let Some(at) = self.position(key) else { return };
        if self.containers[at].phase == Phase::Created {
            if let Err(error) = self.let_go(at) {
                return self.reply(waiter, failure(ErrorCode::Internal, format!("start: {error}")));
            }
            self.containers[at].phase = Phase::Starting;
            self.containers[at].deadline = Some(deadline);
        }
        self.containers[at].waiters.push(waiter);
    }

    /// Tells the waiting first process to go on, or has it told.
    fn let_go(&mut self, at: usize) -> io::Result<()> {
        let container = &self.containers[at];
        match (&container.external, container.infra, &container.report) {
            (Some(_), _, _) => self.call_runtime(at, Task::Start),
            (None, false, _) => let_go(&container.bundle.join(STATE).join(&container.id)),
            (None, true, Some(report)) => infra::let_go(report),
            (None, true, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Nobody holds the report channel any more: the program runs, or the first process has ended.
    pub(crate) fn finish_start(&mut self, at: usize) {
        let container = &mut self.containers[at];
        container.deadline = None;
        container.phase = Phase::Running;
        let waiters = std::mem::take(&mut container.waiters);
        let result = match container.not_executed.take() {
            Some(reason) => {
                if container.external.is_some() {
                    // Nobody else ends its first process, which waits still.
                    self.kill_everything(at);
                }
                failure(ErrorCode::ExecFailed, reason)
            }
            None if !container.detail.is_empty() => {
                let text = container.explain("start: the container's first process failed");
                // If it goes on all the same, nobody knows that it runs.
                self.kill_everything(at);
                failure(ErrorCode::Internal, text)
            }
            None => {
                // One that has ended already was started before.
                let ended = container.external.as_ref().and_then(|external| external.held_end);
                let started_at = ended.map_or_else(clock::now, |end| end.finished_at);
                container.started_at = Some(started_at);
                Ok(Answer::Started { started_at })
            }
        };
        self.reply_all(waiters, &result);
    }

    pub(crate) fn on_output(&mut self, key: u32, which: usize) {
        let Some(at) = self.position(key) else { return };
        self.pump(at, which, READS_PER_TURN);
    }

    pub(crate) fn pump(&mut self, at: usize, which: usize, reads: usize) {
        let container = &mut self.containers[at];
        let Some(stream) = &mut container.streams[which] else { return };
        if stream.pump(container.log.as_mut(), &mut self.buffers, reads) == Pumped::End {
            let ended = container.streams[which].take();
            if let Some(stream) = ended {
                self.unwatch(stream.fd());
            }
        }
    }

    /// The container's first process has ended: empties its pipes, writes the record, then tells.
    pub(crate) fn on_init_end(&mut self, key: u32) {
        let Some(at) = self.position(key) else { return };
        let Some(init) = self.containers[at].init.take() else { return };
        let ended = match sys::reap(init.pid) {
            Ok(None) => {
                self.containers[at].init = Some(init);
                return;
            }
            Ok(Some(ended)) => ended,
            Err(error) => {
                journal::note(&format!("reaping process {}: {error}", init.pid));
                sys::Ended { code: 255, signal: None }
            }
        };
        self.unwatch(&init.pidfd);
        let end = End { ended, finished_at: clock::now() };
        self.on_report(key);
        if let Some(external) = self.containers[at].external_that_starts() {
            // Told when it is known whether it was started.
            external.held_end = Some(end);
            return;
        }
        self.finish_end(at, end);
    }

    /// Everything that follows the end of the container's first process, which is reaped.
    pub(crate) fn finish_end(&mut self, at: usize, End { ended, finished_at }: End) {
        let key = self.containers[at].key;
        if self.containers[at].kill_all_on_exit
            && let Some(cgroup) = &self.containers[at].cgroup
        {
            self.settings.hierarchies.kill(cgroup);
        }
        for which in 0..2 {
            self.pump(at, which, READS_AT_END);
        }
        self.check_memory(at);
        let container = &mut self.containers[at];
        for stream in container.streams.iter_mut().flatten() {
            if let Some(log) = &mut container.log {
                stream.finish(log, &mut self.buffers);
            }
        }
        let exit = ExitRecord {
            v: ExitRecord::VERSION,
            code: ended.code,
            signal: ended.signal,
            oom_killed: container.oom_kills > 0,
            started_at: container.started_at.unwrap_or(0),
            finished_at,
        };
        if let Err(error) = exit_record::write(&container.bundle, &exit) {
            journal::note(&journal::chain(&error));
        }
        container.phase = Phase::Exited;
        container.exit = Some(exit.clone());
        container.stdin = None;
        container.memory = None;
        container.memory_check = None;
        let event = Event::Exited { container: container.id.clone(), exit };
        self.tell(event);
        self.retry_removal(key, Instant::now());
    }

    pub(crate) fn on_memory(&mut self, key: u32) {
        let Some(at) = self.position(key) else { return };
        if let Some(notices) = &self.containers[at].memory {
            oom::acknowledge(notices.as_fd());
        }
        self.containers[at].memory_check = Some((Instant::now() + MEMORY_CHECK_PAUSE, MEMORY_CHECKS));
        self.check_memory(at);
    }

    fn check_memory(&mut self, at: usize) {
        let Some(cgroup) = &self.containers[at].cgroup else { return };
        let kills = self.settings.hierarchies.oom_kills(cgroup);
        let container = &mut self.containers[at];
        if kills > container.oom_kills {
            container.oom_kills = kills;
            container.memory_check = None;
            let event = Event::Oom { container: container.id.clone() };
            self.tell(event);
        }
    }

    pub(crate) fn on_container_time(&mut self, key: u32, now: Instant) {
        let Some(at) = self.position(key) else { return };
        if let Some((due, left)) = self.containers[at].memory_check
            && due <= now
        {
            let again = (left > 1).then(|| (now + MEMORY_CHECK_PAUSE, left - 1));
            self.containers[at].memory_check = again;
            self.check_memory(at);
        }
        if self.containers[at].deadline.is_some_and(|deadline| deadline <= now) {
            self.on_hang(at);
        }
        self.retry_removal(key, now);
    }

    /// The helper or the start takes too long.
    fn on_hang(&mut self, at: usize) {
        let seconds = self.settings.helper_timeout.as_secs_f32();
        let container = &mut self.containers[at];
        container.deadline = None;
        let text =
            container.explain(&format!("{:?} took longer than {seconds} s and was ended", container.phase));
        let id = container.id.clone();
        journal::note(&format!("container {id}: {text}"));
        let waiters = std::mem::take(&mut container.waiters);
        if container.phase == Phase::Creating {
            container.stillborn = Some((waiters, text));
            self.begin_removal(&id, None);
        } else {
            self.reply_all(waiters, &failure(ErrorCode::Internal, text));
            self.kill_everything(at);
        }
    }
}

/// Tells libcontainer's waiting first process to go on: a word on the socket it listens on. The library's own call would
/// change our working directory and its state file; this is all that matters of it.
fn let_go(state: &Path) -> io::Result<()> {
    let directory = File::open(state)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The whole path may be longer than a socket address.
    let path = format!("/proc/self/fd/{}/notify.sock", directory.as_raw_fd());
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    File::from(socket).write_all(b"start container")
}
