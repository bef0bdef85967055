//! The loop: everything the supervisor waits for comes through one epoll descriptor.
//!
//! In: readiness of descriptors, the passing of time. Out: calls of the handlers in `requests`, `creation`, `lifecycle`,
//! `removal` and `execs`, which all work on the one [`Supervisor`]. Nothing here waits for anything else. Each descriptor
//! carries a token (what it is, whose it is); a token whose owner is gone means nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use pintle_shim_protocol::{Answer, ErrorCode, Event, Failure, MAX_MESSAGE, Message, Outcome};
use rustix::event::epoll;

use crate::cgroup::Hierarchies;
use crate::connection::{Connection, Incoming};
use crate::container::Container;
use crate::execs::Exec;
use crate::journal;
use crate::logs::Buffers;
use crate::sys;

/// A supervisor that was never asked for a container ends after this long.
const IDLE: Duration = Duration::from_secs(60);

/// An engine needs one, the next one another while the first is dying.
const MAX_CONNECTIONS: usize = 32;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Listener = 1,
    Signals,
    Connection,
    Helper,
    Report,
    Init,
    Output,
    Errors,
    Memory,
    ExecReport,
    ExecProcess,
}

const KINDS: [Kind; 11] = [
    Kind::Listener,
    Kind::Signals,
    Kind::Connection,
    Kind::Helper,
    Kind::Report,
    Kind::Init,
    Kind::Output,
    Kind::Errors,
    Kind::Memory,
    Kind::ExecReport,
    Kind::ExecProcess,
];

/// A request whose answer has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) connection: u32,
    pub(crate) seq: u64,
}

/// What the supervisor is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) sandbox: String,
    /// Our own.
    pub(crate) cgroup: crate::cgroup::CgroupPath,
    pub(crate) listener: OwnedFd,
    /// Of the engine that started us.
    pub(crate) connection: Option<OwnedFd>,
    pub(crate) hierarchies: Hierarchies,
    /// How long a forked helper may take.
    pub(crate) helper_timeout: Duration,
}

/// The one owner of all state.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) settings: Settings,
    epoll: OwnedFd,
    signals: SignalFd,
    connections: Vec<Connection>,
    pub(crate) containers: Vec<Container>,
    pub(crate) execs: Vec<Exec>,
    /// Tracking groups of execs that have ended, in which something was left: by container.
    pub(crate) lingering: Vec<(u32, std::path::PathBuf)>,
    pub(crate) buffers: Buffers,
    packet: Box<[u8]>,
    scratch: Vec<u8>,
    next_key: u32,
    /// A child that ended was left unreaped, because it may be one that is about to be known.
    unreaped: bool,
    /// Until the first create.
    pub(crate) idle_until: Option<Instant>,
    /// Who asked for the end.
    pub(crate) shutdown: Option<Vec<Waiter>>,
}

impl Supervisor {
    pub(crate) fn new(mut settings: Settings) -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let first = settings.connection.take();
        let mut supervisor = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            signals: descriptor,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            lingering: Vec::new(),
            buffers: Buffers::new(),
            packet: vec![0; MAX_MESSAGE].into_boxed_slice(),
            scratch: Vec::with_capacity(4096),
            next_key: 0,
            unreaped: false,
            idle_until: Some(Instant::now() + IDLE),
            shutdown: None,
            settings,
        };
        supervisor.watch(&supervisor.settings.listener, Kind::Listener, 0)?;
        supervisor.watch(&supervisor.signals, Kind::Signals, 0)?;
        if let Some(socket) = first {
            let key = supervisor.new_key();
            supervisor.watch(&socket, Kind::Connection, key)?;
            supervisor.connections.push(Connection::new(socket, key));
        }
        Ok(supervisor)
    }

    /// Runs until there is nothing left to supervise; returns why it ended.
    pub(crate) fn run(mut self) -> String {
        let mut ready =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 32];
        loop {
            let timeout = self.next_wake().map(|at| at.saturating_duration_since(Instant::now()));
            // Rounded up, lest the loop spins through the last fraction of a millisecond.
            let timeout = timeout.map(|left| rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let count = match epoll::wait(&self.epoll, &mut ready[..], timeout.as_ref()) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return format!("epoll: {error}"),
            };
            for event in &ready[..count] {
                let data = event.data.u64();
                let key = u32::try_from(data & u64::from(u32::MAX)).unwrap_or(0);
                if let Some(kind) = KINDS.into_iter().find(|kind| u64::from(*kind as u32) == data >> 32) {
                    self.dispatch(kind, key);
                }
            }
            if self.unreaped && !self.is_forking() {
                self.on_children();
            }
            self.on_time(Instant::now());
            if let Some(reason) = self.finished() {
                return reason;
            }
        }
    }

    fn dispatch(&mut self, kind: Kind, key: u32) {
        match kind {
            Kind::Listener => self.on_connect(),
            Kind::Signals => self.on_signals(),
            Kind::Connection => self.on_packet(key),
            Kind::Helper => self.on_helper_end(key),
            Kind::Report => self.on_report(key),
            Kind::Init => self.on_init_end(key),
            Kind::Output => self.on_output(key, 0),
            Kind::Errors => self.on_output(key, 1),
            Kind::Memory => self.on_memory(key),
            Kind::ExecReport => self.on_exec_report(key),
            Kind::ExecProcess => self.on_exec_end(key),
        }
    }

    /// Has the loop call the handler for `kind` and `key` when the descriptor is readable.
    pub(crate) fn watch(&self, descriptor: impl AsFd, kind: Kind, key: u32) -> io::Result<()> {
        let token = epoll::EventData::new_u64(u64::from(kind as u32) << 32 | u64::from(key));
        Ok(epoll::add(&self.epoll, descriptor, token, epoll::EventFlags::IN)?)
    }

    /// Has the loop forget a descriptor. Closing one does so as well, but only once no forked process holds it either: till
    /// then the loop would spin on what is ready and belongs to nobody.
    pub(crate) fn unwatch(&self, descriptor: impl AsFd) {
        // Forgetting what is not watched changes nothing.
        epoll::delete(&self.epoll, descriptor).unwrap_or_default();
    }

    /// A number that names a connection, container or exec for good.
    pub(crate) fn new_key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    fn next_wake(&self) -> Option<Instant> {
        let containers = self.containers.iter().filter_map(Container::wake_at);
        let execs = self.execs.iter().filter_map(Exec::wake_at);
        containers.chain(execs).chain(self.idle_until).min()
    }

    fn on_time(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let execs = self.execs.iter().filter(|exec| due(exec.wake_at())).map(|exec| exec.key);
        for key in execs.collect::<Vec<_>>() {
            self.on_exec_time(key, now);
        }
        let containers = self.containers.iter().filter(|container| due(container.wake_at()));
        for key in containers.map(|container| container.key).collect::<Vec<_>>() {
            self.on_container_time(key, now);
        }
    }

    fn finished(&mut self) -> Option<String> {
        if self.idle_until.is_some_and(|at| at <= Instant::now()) {
            return Some("no container was asked for".to_owned());
        }
        if !self.containers.is_empty() {
            return None;
        }
        let waiters = self.shutdown.take()?;
        for waiter in waiters {
            self.reply(waiter, Ok(Answer::Done));
        }
        Some("asked to".to_owned())
    }

    fn on_connect(&mut self) {
        let key = self.new_key();
        let Some(connection) = Connection::accept(&self.settings.listener, key) else { return };
        if self.connections.len() >= MAX_CONNECTIONS {
            return journal::note("a connection is refused: there are too many");
        }
        match self.watch(connection.fd(), Kind::Connection, key) {
            Ok(()) => self.connections.push(connection),
            Err(error) => journal::note(&format!("a connection is refused: {error}")),
        }
    }

    fn on_packet(&mut self, key: u32) {
        let Some(at) = self.connections.iter().position(|connection| connection.key == key) else { return };
        match self.connections[at].receive(&mut self.packet) {
            Incoming::Request(envelope, descriptors) => {
                let waiter = Waiter { connection: key, seq: envelope.seq };
                self.on_request(waiter, envelope.request, descriptors);
            }
            Incoming::Malformed(seq, reason) => {
                self.reply(Waiter { connection: key, seq }, failure(ErrorCode::BadRequest, reason));
            }
            Incoming::Nothing => {}
            Incoming::Closed => {
                self.connections.swap_remove(at);
            }
        }
    }

    pub(crate) fn connection(&mut self, key: u32) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.key == key)
    }

    /// Answers a request, if who asked is still there.
    pub(crate) fn reply(&mut self, waiter: Waiter, result: Result<Answer, Failure>) {
        let outcome = match result {
            Ok(answer) => Outcome::Answer(answer),
            Err(failure) => Outcome::Error(failure),
        };
        let message = Message::Reply { seq: waiter.seq, outcome };
        self.send_where(&message, None, |connection| connection.key == waiter.connection);
    }

    /// Answers that it is done, with a descriptor.
    pub(crate) fn reply_with(&mut self, waiter: Waiter, descriptor: Option<&OwnedFd>) {
        let message = Message::Reply { seq: waiter.seq, outcome: Outcome::Answer(Answer::Done) };
        self.send_where(&message, descriptor, |connection| connection.key == waiter.connection);
    }

    /// Answers all of them alike.
    pub(crate) fn reply_all(&mut self, waiters: Vec<Waiter>, result: &Result<Answer, Failure>) {
        for waiter in waiters {
            self.reply(waiter, result.clone());
        }
    }

    /// Tells every subscriber.
    pub(crate) fn tell(&mut self, event: Event) {
        self.send_where(&Message::Event { event }, None, |connection| connection.subscribed);
    }

    fn send_where(
        &mut self,
        message: &Message,
        descriptor: Option<&OwnedFd>,
        wanted: impl Fn(&Connection) -> bool,
    ) {
        let scratch = &mut self.scratch;
        self.connections.retain(|connection| {
            !wanted(connection)
                || match connection.send(message, descriptor.map(AsFd::as_fd), scratch) {
                    Ok(()) => true,
                    Err(error) => {
                        journal::note(&format!("a connection is given up: {error}"));
                        false
                    }
                }
        });
    }

    fn on_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                journal::note("SIGTERM: shutting down");
                self.begin_shutdown(None);
            }
        }
        self.on_children();
    }

    /// Reaps what has ended. Processes that nobody here started (reparented orphans) are reaped and forgotten, unless a
    /// helper or an exec is under way, whose process may not be known yet.
    pub(crate) fn on_children(&mut self) {
        self.unreaped = false;
        while let Ok(Some(pid)) = sys::peek_ended_child() {
            let (helper, init, exec) = (self.helper_of(pid), self.init_of(pid), self.exec_of(pid));
            if let Some(key) = helper {
                self.on_helper_end(key);
            } else if let Some(key) = init {
                self.on_init_end(key);
            } else if let Some(key) = exec {
                self.on_exec_end(key);
            } else if self.is_forking() {
                self.unreaped = true;
                return;
            } else if let Err(error) = sys::reap(pid) {
                journal::note(&format!("reaping {pid}: {error}"));
                return;
            }
        }
        self.sweep_lingering();
    }
}

/// An answer that something was not done.
pub(crate) fn failure(code: ErrorCode, message: impl Into<String>) -> Result<Answer, Failure> {
    Err(Failure { code, message: message.into() })
}
