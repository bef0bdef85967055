//! The end of a container's stay: everything that is left of it is killed, its cgroup removed, its state deleted.
//!
//! In: Remove, Shutdown, a create that failed. Out: an answer when nothing is left. Killing and emptying a cgroup take the
//! kernel a moment, so a removal is tried again on every end of a process and by time, never by waiting, and is given up
//! after [`REMOVAL`]; asking again starts it anew.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use pintle_shim_protocol::{Answer, ErrorCode};

use crate::container::Removal;
use crate::helper::STATE;
use crate::journal;
use crate::lifecycle::READS_AT_END;
use crate::supervisor::{Supervisor, Waiter, failure};
use crate::sys;

/// How long a removal tries.
const REMOVAL: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(crate) fn kill_everything(&mut self, at: usize) {
        let container = &self.containers[at];
        if let Some(cgroup) = &container.cgroup {
            self.settings.hierarchies.kill(cgroup);
        }
        for process in container.helper.iter().chain(&container.init) {
            // A failure means that it has ended by itself.
            sys::signal(&process.pidfd, libc::SIGKILL).unwrap_or_default();
        }
        if let Some(external) = &container.external {
            external.kill(&self.settings.hierarchies);
        }
    }

    /// Kills what a helper that was ended left in our own cgroup, before it got into the container's. Left alone while another
    /// helper or exec is under way, whose processes are there too.
    fn kill_strays(&self) {
        if self.is_forking() {
            return;
        }
        let own = std::process::id().cast_signed();
        let external = self.processes_of_runtimes();
        let is_known = |pid| {
            pid == own
                || self.init_of(pid).is_some()
                || self.exec_of(pid).is_some()
                || external.contains(&pid)
        };
        for pid in self.settings.hierarchies.processes(&self.settings.cgroup) {
            if !is_known(pid) {
                journal::note(&format!("killing {pid}, left by a helper"));
                // A failure means that it has ended by itself.
                sys::open_process(pid)
                    .and_then(|stray| sys::signal(&stray, libc::SIGKILL))
                    .unwrap_or_default();
            }
        }
    }

    pub(crate) fn on_remove(&mut self, waiter: Waiter, id: &str) {
        if self.containers.iter().any(|container| container.id == id) {
            self.begin_removal(id, Some(waiter));
        } else {
            self.reply(waiter, Ok(Answer::Done));
        }
    }

    /// Starts to kill what is left and to remove every trace; tried again until it is done.
    pub(crate) fn begin_removal(&mut self, id: &str, waiter: Option<Waiter>) {
        let Some(container) = self.containers.iter_mut().find(|container| container.id == id) else { return };
        let now = Instant::now();
        let new = || Removal { waiters: Vec::new(), tries: 0, next_try: now, give_up: now + REMOVAL };
        container.removal.get_or_insert_with(new).waiters.extend(waiter);
        container.deadline = None;
        let key = container.key;
        let cut_off = std::mem::take(&mut container.waiters);
        self.reply_all(cut_off, &failure(ErrorCode::WrongState, "the container is being removed"));
        self.retry_removal(key, now);
    }

    pub(crate) fn retry_removal(&mut self, key: u32, now: Instant) {
        let Some(at) = self.position(key) else { return };
        if self.containers[at].removal.is_none() {
            return;
        }
        self.kill_everything(at);
        self.kill_execs_of(key);
        let alive =
            self.containers[at].helper.is_some() || self.containers[at].init.is_some() || self.has_execs(key);
        let busy = alive || self.is_deleting(at, now);
        let container = &self.containers[at];
        let outcome = match (&container.cgroup, &container.external) {
            _ if busy => Ok(false),
            (None, None) => Ok(true),
            (Some(cgroup), None) => self.settings.hierarchies.remove(cgroup),
            (cgroup, Some(external)) => external.remove(&self.settings.hierarchies, cgroup.as_ref()),
        };
        let left = match outcome {
            Ok(true) => return self.finish_removal(at),
            Ok(false) => "processes of the container are left".to_owned(),
            Err(error) => journal::chain(&error),
        };
        let Some(removal) = &mut self.containers[at].removal else { return };
        removal.tries += 1;
        removal.next_try = now + Duration::from_millis(u64::from(removal.tries.min(50)));
        if removal.give_up <= now {
            // Whoever asks again makes it be tried again.
            let waiters = std::mem::take(&mut removal.waiters);
            let id = self.containers[at].id.clone();
            journal::note(&format!("container {id}: removal: {left}"));
            self.containers[at].removal = None;
            let stillborn = self.containers[at].stillborn.take();
            self.reply_all(waiters, &failure(ErrorCode::Internal, format!("remove: {left}")));
            self.tell_stillborn(stillborn);
        }
    }

    fn finish_removal(&mut self, at: usize) {
        for which in 0..2 {
            self.pump(at, which, READS_AT_END);
        }
        let container = self.containers.remove(at);
        self.lingering.retain(|(owner, _)| *owner != container.key);
        let state = container.bundle.join(STATE);
        let result = match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failure(ErrorCode::Internal, format!("remove: {}: {error}", state.display()))
            }
            Ok(()) | Err(_) => Ok(Answer::Done),
        };
        let waiters = container.removal.map(|removal| removal.waiters).unwrap_or_default();
        self.reply_all(waiters, &result);
        if container.stillborn.is_some() {
            self.kill_strays();
        }
        self.tell_stillborn(container.stillborn);
    }

    /// Answers a failed create only when everything is cleared away, so that it can be tried again at once.
    fn tell_stillborn(&mut self, stillborn: Option<(Vec<Waiter>, String)>) {
        if let Some((waiters, text)) = stillborn {
            self.reply_all(waiters, &failure(ErrorCode::Internal, text));
        }
    }
}
