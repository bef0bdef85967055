//! A container's way from Create to Remove.
//!
//! In: requests, reports of forked processes, ends, time. Out: forked helpers, answers, exit records, events. Every step
//! that can hang has a deadline; what it leaves behind is killed by cgroup and reaped.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pintle_shim_protocol::{Answer, CreateContainer, ErrorCode, Event, ExitRecord};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::CgroupPath;
use crate::clock;
use crate::container::{Container, Phase, Running};
use crate::exit_record;
use crate::helper::{self, STATE};
use crate::journal;
use crate::logs::{self, LogFile, Pumped, Stream};
use crate::oom;
use crate::report::{self, Received, Report};
use crate::requests::is_name;
use crate::supervisor::{Kind, Supervisor, Waiter, failure};
use crate::sys::{self, Fork};

/// How much is pumped per stream before others have their turn.
const READS_PER_TURN: usize = 8;
/// What is surely more than a pipe holds.
pub(crate) const READS_AT_END: usize = 64;
/// cgroup v1 tells of memory running out before it kills.
const MEMORY_CHECKS: u32 = 20;
const MEMORY_CHECK_PAUSE: Duration = Duration::from_millis(10);

/// Why a container could not be made or started.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the container's log")]
    Log { source: logs::LogError },
    #[error("{step}")]
    Io { step: &'static str, source: io::Error },
}

fn io_error(step: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { step, source }
}

/// The container's ends of its standard descriptors, and ours.
struct Stdio {
    theirs: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    log: Option<LogFile>,
    streams: [Option<Stream>; 2],
}

impl Stdio {
    fn open(create: &CreateContainer) -> Result<Self, Error> {
        let null = || -> io::Result<OwnedFd> {
            Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
        };
        let log = create.log_path.as_deref().map(Path::new).map(LogFile::open).transpose();
        let log = log.map_err(|source| Error::Log { source })?;
        let step = io_error("making pipes");
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| io_error("making pipes")(error.into()));
        let output = |name| -> Result<(OwnedFd, Option<Stream>), Error> {
            if log.is_none() {
                return Ok((null().map_err(io_error("opening /dev/null"))?, None));
            }
            let (ours, theirs) = pipe()?;
            rustix::io::ioctl_fionbio(&ours, true).map_err(|error| step(error.into()))?;
            Ok((theirs, Some(Stream::new(name, ours))))
        };
        let (stdout, from_stdout) = output("stdout")?;
        let (stderr, from_stderr) = output("stderr")?;
        let (stdin, to_stdin) = if create.stdin {
            let (theirs, ours) = pipe()?;
            (theirs, Some(ours))
        } else {
            (null().map_err(io_error("opening /dev/null"))?, None)
        };
        Ok(Self {
            theirs: [stdin, stdout, stderr],
            stdin: to_stdin,
            log,
            streams: [from_stdout, from_stderr],
        })
    }
}

impl Supervisor {
    pub(crate) fn position(&self, key: u32) -> Option<usize> {
        self.containers.iter().position(|container| container.key == key)
    }

    pub(crate) fn helper_of(&self, pid: i32) -> Option<u32> {
        let is_it =
            |container: &&Container| container.helper.as_ref().is_some_and(|helper| helper.pid == pid);
        self.containers.iter().find(is_it).map(|container| container.key)
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

    pub(crate) fn on_create(&mut self, waiter: Waiter, create: &CreateContainer) {
        let bundle = PathBuf::from(&create.bundle);
        if !is_name(&create.container) || !bundle.is_absolute() || self.shutdown.is_some() {
            let reason =
                "create: the container's id or bundle is not acceptable, or the supervisor is ending";
            return self.reply(waiter, failure(ErrorCode::BadRequest, reason));
        }
        if let Some(container) = self.containers.iter_mut().find(|container| container.id == create.container)
        {
            if container.phase == Phase::Creating && container.removal.is_none() {
                return container.waiters.push(waiter);
            }
            let pid = container.init.as_ref().filter(|_| container.removal.is_none()).map(|init| init.pid);
            let ended =
                || failure(ErrorCode::WrongState, format!("container {} has ended", create.container));
            return self.reply(waiter, pid.map_or_else(ended, |pid| Ok(Answer::Created { pid })));
        }
        self.idle_until = None;
        match self.fork_helper(create, bundle) {
            Ok(mut container) => {
                container.waiters.push(waiter);
                self.containers.push(container);
            }
            Err(error) => self
                .reply(waiter, failure(ErrorCode::Internal, format!("create: {}", journal::chain(&error)))),
        }
    }

    fn fork_helper(&mut self, create: &CreateContainer, bundle: PathBuf) -> Result<Container, Error> {
        let stdio = Stdio::open(create)?;
        let (report, theirs) = report::channel().map_err(io_error("making a report channel"))?;
        let job = helper::Job {
            container: &create.container,
            bundle: &bundle,
            oom_score_adj: create.oom_score_adj.unwrap_or(0),
            hierarchies: &self.settings.hierarchies,
        };
        let pid = match sys::fork().map_err(io_error("forking"))? {
            Fork::Child => helper::run(job, &stdio.theirs, &theirs),
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        let Stdio { theirs, stdin, log, streams } = stdio;
        drop(theirs);
        let key = self.new_key();
        let pidfd = sys::open_process(pid).map_err(io_error("opening the helper"))?;
        let watch = || {
            self.watch(&pidfd, Kind::Helper, key)?;
            self.watch(&report, Kind::Report, key)?;
            for (stream, kind) in streams.iter().zip([Kind::Output, Kind::Errors]) {
                if let Some(stream) = stream {
                    self.watch(stream.fd(), kind, key)?;
                }
            }
            Ok(())
        };
        watch().map_err(io_error("watching the helper"))?;
        Ok(Container {
            key,
            id: create.container.clone(),
            bundle,
            infra: create.infra,
            kill_all_on_exit: create.kill_all_on_exit,
            phase: Phase::Creating,
            cgroup: None,
            helper: Some(Running { pid, pidfd }),
            init: None,
            announced: None,
            report: Some(report),
            detail: String::new(),
            failed: None,
            not_executed: None,
            log,
            streams,
            stdin,
            memory: None,
            memory_check: None,
            oom_kills: 0,
            waiters: Vec::new(),
            deadline: Some(Instant::now() + self.settings.helper_timeout),
            started_at: None,
            exit: None,
            removal: None,
            stillborn: None,
        })
    }

    /// Takes what the helper or the waiting first process has to tell.
    pub(crate) fn on_report(&mut self, key: u32) {
        let Some(at) = self.position(key) else { return };
        loop {
            let container = &mut self.containers[at];
            let Some(report) = &container.report else { return };
            match report::receive(report) {
                Received::Report(Report::Cgroup(path)) => container.cgroup = CgroupPath::parse(&path).ok(),
                Received::Report(Report::Detail(line)) => container.push_detail(&line),
                Received::Report(Report::Process(pid)) => container.announced = Some(pid),
                Received::Report(Report::Failed(text)) => container.failed = Some(text),
                Received::Report(Report::NotExecuted(text)) => container.not_executed = Some(text),
                Received::WithDescriptor(Report::Terminal, master) => self.take_terminal(at, master),
                Received::WithDescriptor(_, _) | Received::Report(Report::Terminal) => {}
                Received::Nothing => return,
                Received::End => {
                    let ended = container.report.take();
                    let is_start = container.phase == Phase::Starting;
                    if let Some(report) = ended {
                        self.unwatch(report);
                    }
                    if is_start {
                        self.finish_start(at);
                    }
                    return;
                }
            }
        }
    }

    /// The container has a terminal: its master is both the container's output and its input.
    fn take_terminal(&mut self, at: usize, master: OwnedFd) {
        let key = self.containers[at].key;
        for stream in self.containers[at].streams.iter_mut().filter_map(Option::take).collect::<Vec<_>>() {
            self.unwatch(stream.fd());
        }
        let prepare = || -> io::Result<Stream> {
            rustix::io::ioctl_fionbio(&master, true)?;
            let stream = Stream::new("stdout", master.try_clone()?);
            self.watch(stream.fd(), Kind::Output, key)?;
            Ok(stream)
        };
        match prepare() {
            Ok(stream) => {
                self.containers[at].streams[0] = Some(stream);
                self.containers[at].stdin = Some(master);
            }
            Err(error) => {
                journal::note(&format!("container {}: its terminal: {error}", self.containers[at].id))
            }
        }
    }

    pub(crate) fn on_helper_end(&mut self, key: u32) {
        let Some(at) = self.position(key) else { return };
        let Some(helper) = self.containers[at].helper.take() else { return };
        match sys::reap(helper.pid) {
            Ok(None) => {
                self.containers[at].helper = Some(helper);
                return;
            }
            Ok(Some(_)) => {}
            Err(error) => journal::note(&format!("reaping helper {}: {error}", helper.pid)),
        }
        self.on_report(key);
        let container = &mut self.containers[at];
        let adopted = match container.announced {
            Some(pid) => {
                sys::open_process(pid).map(|pidfd| Running { pid, pidfd }).map_err(|error| error.to_string())
            }
            None => Err("the helper ended without a container".to_owned()),
        };
        match adopted {
            Ok(init) if container.removal.is_none() => self.finish_create(at, init),
            Ok(init) => container.init = Some(init),
            Err(_) if container.removal.is_some() => self.retry_removal(key, Instant::now()),
            Err(reason) => self.fail_create(at, &reason),
        }
    }

    fn finish_create(&mut self, at: usize, init: Running) {
        let key = self.containers[at].key;
        if let Err(error) = self.watch(&init.pidfd, Kind::Init, key) {
            journal::note(&format!("watching process {}: {error}", init.pid));
        }
        let noticed =
            self.containers[at].cgroup.as_ref().map(|cgroup| oom::watch(&self.settings.hierarchies, cgroup));
        let memory = match noticed {
            Some(Ok(notices)) => Some(notices),
            Some(Err(error)) => {
                journal::note(&format!("container {}: {}", self.containers[at].id, journal::chain(&error)));
                None
            }
            None => None,
        };
        if let Some(Err(error)) = memory.as_ref().map(|notices| self.watch(notices, Kind::Memory, key)) {
            journal::note(&format!("watching for memory: {error}"));
        }
        let container = &mut self.containers[at];
        container.memory = memory;
        container.phase = Phase::Created;
        container.deadline = None;
        container.detail = String::new();
        let answer = Ok(Answer::Created { pid: init.pid });
        container.init = Some(init);
        let waiters = std::mem::take(&mut container.waiters);
        self.reply_all(waiters, &answer);
    }

    /// Clears away a container that did not come to be, and says why.
    fn fail_create(&mut self, at: usize, reason: &str) {
        let container = &mut self.containers[at];
        let text = container.explain(&format!("create: {reason}"));
        let waiters = std::mem::take(&mut container.waiters);
        let id = container.id.clone();
        container.deadline = None;
        container.stillborn = Some((waiters, text));
        self.begin_removal(&id, None);
    }

    pub(crate) fn on_start(&mut self, waiter: Waiter, id: &str) {
        let deadline = Instant::now() + self.settings.helper_timeout;
        let known = self.containers.iter().find(|container| container.id == id);
        if let Some(started_at) = known.and_then(|container| container.started_at) {
            return self.reply(waiter, Ok(Answer::Started { started_at }));
        }
        let container = match self.in_phase(id, &[Phase::Created, Phase::Starting]) {
            Ok(container) => container,
            Err(failure) => return self.reply(waiter, Err(failure)),
        };
        if container.phase == Phase::Created {
            if let Err(error) = let_go(&container.bundle.join(STATE).join(id)) {
                return self.reply(waiter, failure(ErrorCode::Internal, format!("start: {error}")));
            }
            container.phase = Phase::Starting;
            container.deadline = Some(deadline);
        }
        container.waiters.push(waiter);
    }

    /// Nobody holds the report channel any more: the program runs, or the first process has ended.
    fn finish_start(&mut self, at: usize) {
        let container = &mut self.containers[at];
        container.deadline = None;
        container.phase = Phase::Running;
        let waiters = std::mem::take(&mut container.waiters);
        let result = match container.not_executed.take() {
            Some(reason) => failure(ErrorCode::ExecFailed, reason),
            None if !container.detail.is_empty() => {
                failure(ErrorCode::Internal, container.explain("start: the container's first process failed"))
            }
            None => {
                let started_at = clock::now();
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
        let (Some(stream), Some(log)) = (&mut container.streams[which], &mut container.log) else { return };
        if stream.pump(log, &mut self.buffers, reads) == Pumped::End {
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
        let finished_at = clock::now();
        self.on_report(key);
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
