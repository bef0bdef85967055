//! What each request means.
//!
//! In: a request and who sent it. Out: an answer now, or a waiter left with the container or exec it is about. Every request
//! may come twice; the second one joins the first or finds its result.

use std::os::fd::OwnedFd;

use pintle_shim_protocol::{Answer, ErrorCode, KillScope, OLDEST_VERSION, Request, VERSION};

use crate::container::{Container, Phase};
use crate::journal;
use crate::supervisor::{Supervisor, Waiter, failure};
use crate::sys;

impl Supervisor {
    pub(crate) fn on_request(&mut self, waiter: Waiter, request: Request, descriptors: Vec<OwnedFd>) {
        let greeted = self.connection(waiter.connection).is_some_and(|connection| connection.greeted);
        match request {
            Request::Hello { oldest, newest } => self.on_hello(waiter, oldest, newest),
            _ if !greeted => {
                self.reply(waiter, failure(ErrorCode::BadRequest, "a connection starts with hello"));
            }
            Request::Subscribe => {
                if let Some(connection) = self.connection(waiter.connection) {
                    connection.subscribed = true;
                }
                self.on_list(waiter);
            }
            Request::List => self.on_list(waiter),
            Request::Create(create) => self.on_create(waiter, &create),
            Request::Start { container } => self.on_start(waiter, &container),
            Request::Kill { container, signal, scope } => self.on_kill(waiter, &container, (signal, scope)),
            Request::Exec { container, exec, process, timeout_ms } => {
                let wanted = crate::execs::Wanted { container, exec, process, timeout_ms };
                self.on_exec(waiter, &wanted, descriptors);
            }
            Request::KillExec { container, exec } => self.on_kill_exec(waiter, &container, &exec),
            Request::Attach { container } => self.on_attach(waiter, &container, descriptors),
            Request::CloseStdin { container } => self.on_close_stdin(waiter, &container),
            Request::ReopenLog { container } => self.on_reopen(waiter, &container),
            Request::Remove { container } => self.on_remove(waiter, &container),
            Request::Shutdown => self.begin_shutdown(Some(waiter)),
        }
    }

    fn on_hello(&mut self, waiter: Waiter, oldest: u32, newest: u32) {
        if newest < OLDEST_VERSION || oldest > VERSION || oldest > newest {
            let reason =
                format!("versions {oldest} to {newest} are asked for, {OLDEST_VERSION} to {VERSION} spoken");
            return self.reply(waiter, failure(ErrorCode::Version, reason));
        }
        if let Some(connection) = self.connection(waiter.connection) {
            connection.greeted = true;
        }
        let sandbox = self.settings.sandbox.clone();
        let pid = std::process::id().cast_signed();
        self.reply(waiter, Ok(Answer::Hello { version: newest.min(VERSION), pid, sandbox }));
    }

    fn on_list(&mut self, waiter: Waiter) {
        let containers = self.containers.iter().map(Container::state).collect();
        self.reply(waiter, Ok(Answer::List { containers }));
    }

    fn on_kill(&mut self, waiter: Waiter, id: &str, (signal, scope): (i32, KillScope)) {
        let Some(container) = self.containers.iter().find(|container| container.id == id) else {
            return self.reply(waiter, no_container(id));
        };
        if !(1..=64).contains(&signal) {
            return self
                .reply(waiter, failure(ErrorCode::BadRequest, format!("there is no signal {signal}")));
        }
        match (scope, &container.init, &container.cgroup) {
            (KillScope::Init, Some(init), _) => {
                if let Err(error) = sys::signal(&init.pidfd, signal) {
                    journal::note(&format!("container {id}: signal {signal}: {error}"));
                }
            }
            (KillScope::All, _, Some(cgroup)) if signal == libc::SIGKILL => {
                self.settings.hierarchies.kill(cgroup)
            }
            (KillScope::All, _, Some(cgroup)) => self.settings.hierarchies.signal(cgroup, signal),
            (KillScope::Init, None, _) | (KillScope::All, _, None) => {}
        }
        self.reply(waiter, Ok(Answer::Done));
    }

    fn on_attach(&mut self, waiter: Waiter, id: &str, descriptors: Vec<OwnedFd>) {
        let Ok(outputs) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return self
                .reply(waiter, failure(ErrorCode::BadRequest, "attach: two descriptors have to come along"));
        };
        let container = match self.in_phase(id, &[Phase::Created, Phase::Starting, Phase::Running]) {
            Ok(container) => container,
            Err(failure) => return self.reply(waiter, Err(failure)),
        };
        if container.streams.iter().all(Option::is_none) {
            let reason = format!("container {id} has no output to attach to");
            return self.reply(waiter, failure(ErrorCode::WrongState, reason));
        }
        let input = container.stdin.as_ref().map(OwnedFd::try_clone).transpose();
        for (stream, output) in container.streams.iter_mut().zip(outputs) {
            // Where there is no stream, the descriptor is closed: its reader finds the end.
            if let Some(stream) = stream {
                stream.follow(output);
            }
        }
        match input {
            Ok(input) => self.reply_with(waiter, input.as_ref()),
            Err(error) => self.reply(waiter, failure(ErrorCode::Internal, format!("attach: {error}"))),
        }
    }

    fn on_close_stdin(&mut self, waiter: Waiter, id: &str) {
        let Some(container) = self.containers.iter_mut().find(|container| container.id == id) else {
            return self.reply(waiter, no_container(id));
        };
        container.stdin = None;
        self.reply(waiter, Ok(Answer::Done));
    }

    fn on_reopen(&mut self, waiter: Waiter, id: &str) {
        let Some(container) = self.containers.iter_mut().find(|container| container.id == id) else {
            return self.reply(waiter, no_container(id));
        };
        let result = match container.log.as_mut().map(crate::logs::LogFile::reopen) {
            None | Some(Ok(())) => Ok(Answer::Done),
            Some(Err(error)) => failure(ErrorCode::Internal, journal::chain(&error)),
        };
        self.reply(waiter, result);
    }

    /// Removes every container; the loop ends with the last one.
    pub(crate) fn begin_shutdown(&mut self, waiter: Option<Waiter>) {
        self.idle_until = None;
        self.shutdown.get_or_insert_default().extend(waiter);
        for id in self.containers.iter().map(|container| container.id.clone()).collect::<Vec<_>>() {
            self.begin_removal(&id, None);
        }
    }

    /// The container, if it is in one of the phases in which something can be done.
    pub(crate) fn in_phase(
        &mut self,
        id: &str,
        phases: &[Phase],
    ) -> Result<&mut Container, pintle_shim_protocol::Failure> {
        let refuse = |code, message: String| pintle_shim_protocol::Failure { code, message };
        let found = self.containers.iter_mut().find(|container| container.id == id);
        let Some(container) = found else {
            return Err(refuse(ErrorCode::NotFound, format!("container {id} is not known")));
        };
        if container.removal.is_some() {
            return Err(refuse(ErrorCode::WrongState, format!("container {id} is being removed")));
        }
        if phases.contains(&container.phase) {
            Ok(container)
        } else {
            Err(refuse(ErrorCode::WrongState, format!("container {id} is {:?}", container.phase)))
        }
    }
}

fn no_container(id: &str) -> Result<Answer, pintle_shim_protocol::Failure> {
    failure(ErrorCode::NotFound, format!("container {id} is not known"))
}

/// Whether a text can be a part of file and cgroup names.
pub(crate) fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(fine)
}
