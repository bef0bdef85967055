//! Making a container: from Create to a first process that waits to be started.
//!
//! In: Create, reports of the forked helper, its end. Out: a container in phase Created and its pid; or the reason why
//! there is none, told when everything of it has been cleared away. The helper's deadline is looked after in `lifecycle`.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pintle_shim_protocol::{Answer, CreateContainer, ErrorCode, SECCOMP_FILE};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::{self, Birthplace, CgroupPath};
use crate::container::{Container, Phase, Running};
use crate::exit_record;
use crate::external::External;
use crate::helper;
use crate::journal;
use crate::logs::{self, LogFile, Stream};
use crate::oom;
use crate::report::{self, Received, Report};
use crate::requests::is_name;
use crate::supervisor::{Kind, Supervisor, Waiter, failure};
use crate::sys::{self, Fork};

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the container's log")]
    Log { source: logs::LogError },
    #[error("room for the container's end")]
    ExitRecord { source: exit_record::RecordError },
    #[error("the cgroup of the runtime's program")]
    Cgroup { source: cgroup::CgroupError },
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
            // Without a log there may yet be those who attach; to the infra container nobody does.
            if create.infra {
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
    pub(crate) fn helper_of(&self, pid: i32) -> Option<u32> {
        let is_it =
            |container: &&Container| container.helper.as_ref().is_some_and(|helper| helper.pid == pid);
        self.containers.iter().find(is_it).map(|container| container.key)
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
        exit_record::reserve(&bundle).map_err(|source| Error::ExitRecord { source })?;
        let stdio = Stdio::open(create)?;
        let (report, theirs) = report::channel().map_err(io_error("making a report channel"))?;
        let filter = create.seccomp.then(|| bundle.join(SECCOMP_FILE));
        let external = External::of(create, &self.settings.cgroup);
        let place = external.as_ref().map(|external| external.birthplace(&self.settings.hierarchies));
        let place = place.transpose().map_err(|source| Error::Cgroup { source })?.flatten();
        let job = helper::Job {
            way: match &external {
                _ if create.infra => helper::Way::Infra,
                Some(external) => helper::Way::External(external),
                None => helper::Way::Library,
            },
            container: &create.container,
            bundle: &bundle,
            filter: filter.as_deref(),
            oom_score_adj: create.oom_score_adj.unwrap_or(0),
            hierarchies: &self.settings.hierarchies,
        };
        let pid = match Birthplace::fork(place.as_ref()).map_err(io_error("forking"))? {
            Fork::Child => helper::run(job, &stdio.theirs, &theirs),
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        let Stdio { theirs, stdin, log, streams } = stdio;
        drop(theirs);
        let key = self.new_key();
        let watch = || {
            let pidfd = sys::open_process(pid)?;
            self.watch(&pidfd, Kind::Helper, key)?;
            self.watch(&report, Kind::Report, key)?;
            for (stream, kind) in streams.iter().zip([Kind::Output, Kind::Errors]) {
                if let Some(stream) = stream {
                    self.watch(stream.fd(), kind, key)?;
                }
            }
            Ok(pidfd)
        };
        // Nobody would know of what it makes.
        let pidfd = watch().inspect_err(|_| sys::kill_child(pid)).map_err(io_error("watching the helper"))?;
        Ok(Container {
            key,
            id: create.container.clone(),
            bundle,
            infra: create.infra,
            external,
            filter,
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
                    if self.finish_deletion(at) {
                        return self.retry_removal(key, Instant::now());
                    }
                    if is_start {
                        self.finish_start(at);
                        self.finish_held_end(at);
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
            let stream = Stream::of_terminal(master.try_clone()?);
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
        self.unwatch(&helper.pidfd);
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
        // The infra container's memory is the pod's.
        let noticed = self.containers[at].cgroup.as_ref().filter(|_| !self.containers[at].infra);
        let noticed = noticed.map(|cgroup| oom::watch(&self.settings.hierarchies, cgroup));
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
        let is_infra = container.infra;
        let waiters = std::mem::take(&mut container.waiters);
        self.reply_all(waiters, &answer);
        if is_infra {
            self.warm_up();
        }
    }

    /// The library moves a container's process between cgroups in the way for which the kernel first waits, 8 to 16 ms,
    /// holding up all that concerns cgroups; what follows shortly need not wait. Those who asked for an infra container ask
    /// for an app container next: a process that is good for nothing else waits for it meanwhile. It is reaped as any orphan.
    fn warm_up(&self) {
        match sys::fork() {
            Ok(Fork::Child) => {
                if sys::keep_only(&[]).is_ok() {
                    self.settings.hierarchies.move_slowly(&self.settings.cgroup);
                }
                sys::exit_now(0)
            }
            Ok(Fork::Parent(_)) => {}
            Err(error) => journal::note(&format!("forking: {error}")),
        }
    }

    /// Clears away a container that did not come to be, and says why.
    fn fail_create(&mut self, at: usize, reason: &str) {
        let container = &mut self.containers[at];
        let text = container.explain(&format!("create: {reason}"));
        let waiters = std::mem::take(&mut container.waiters);
        let id = container.id.clone();
        container.deadline = None;
        // Not Creating any more: should its remains resist removal, a repeated Create must not wait for a helper.
        container.phase = Phase::Exited;
        container.stillborn = Some((waiters, text));
        self.begin_removal(&id, None);
    }
}
