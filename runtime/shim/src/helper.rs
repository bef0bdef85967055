//! The short-lived process in which libcontainer makes a container, or `infra` the pod's infra container.
//!
//! In: a bundle and the container's standard descriptors. Out: [`Report`]s, then the end of the process; the container's
//! first process is left waiting and falls to the supervisor. It exists because the library changes its process for good
//! (working directory, dumpable, oom_score_adj), leaves zombies and sockets behind when it fails, is not thread-safe and
//! tells the cause of an error only to `tracing`; all of that ends with the helper. What the library leaves out is added
//! here: hierarchies it does not join, `memory.oom.group`, the propagation of mounts, device rules on cgroup v2, our own search for the program. User,
//! capabilities and seccomp filter are ours as well (`identity`), because a filter has to be loaded in the midst of them: the
//! library is asked for a process of root with all capabilities, which becomes who it shall be before it waits to be started.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{LinuxDeviceCgroup, Process, Spec, User};

use crate::cgroup::{self, CgroupPath, Hierarchies};
use crate::device_filter;
use crate::executable;
use crate::external::{self, External};
use crate::id_mapping::Mappings;
use crate::identity::{self, Filter, IdentityError};
use crate::infra;
use crate::journal::chain;
use crate::passing;
use crate::propagation::Wishes;
use crate::report::Report;
use crate::stage;
use crate::sys;

/// The library's state directory in a bundle.
pub(crate) const STATE: &str = "state";
/// The file that says whether all of a group's processes are killed when one takes too much memory.
const OOM_GROUP: &str = "memory.oom.group";
/// The most bytes of a `config.json`.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// Why the helper failed before or after the library's part.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("reading {}", path.display())]
    Config { path: PathBuf, source: io::Error },
    #[error("parsing {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("config.json: {field}: {reason}")]
    Refused { field: &'static str, reason: &'static str },
    #[error("setting up descriptors")]
    Descriptors { source: io::Error },
    #[error("making a session keyring")]
    Keyring { source: io::Error },
    #[error("removing the state of an earlier try in {}", path.display())]
    Stale { path: PathBuf, source: io::Error },
    #[error("the infra container")]
    Infra { source: infra::InfraError },
    #[error(transparent)]
    External { source: external::CallError },
    #[error("preparing the user namespace's mounts")]
    Stage { source: stage::StageError },
    #[error("libcontainer")]
    Library { source: libcontainer::error::LibcontainerError },
    #[error("the process")]
    Identity { source: IdentityError },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the container's terminal")]
    Terminal { source: io::Error },
    #[error("libcontainer named no process")]
    NoProcess,
    #[error("the container's cgroup")]
    Cgroup { source: cgroup::CgroupError },
    #[error("the container's devices")]
    Devices { source: device_filter::DeviceError },
}

/// How it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// By libcontainer.
    Library,
    /// As the pod's infra container.
    Infra,
    /// By another program.
    External(&'a External),
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) way: Way<'a>,
    pub(crate) container: &'a str,
    pub(crate) bundle: &'a Path,
    /// The file with its seccomp filter.
    pub(crate) filter: Option<&'a Path>,
    pub(crate) oom_score_adj: i32,
    pub(crate) hierarchies: &'a Hierarchies,
}

/// Runs in the forked child, and ends it. `stdio` must not block; `report` gets the outcome.
pub(crate) fn run(job: Job<'_>, stdio: &[OwnedFd; 3], report: &OwnedFd) -> ! {
    let attempt = std::panic::AssertUnwindSafe(|| {
        sys::default_signals();
        let kept = [report.as_fd(), stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()];
        if sys::keep_only(&kept).is_err() {
            return 1;
        }
        let report: &'static OwnedFd = Box::leak(Box::new(sys::adopt(3)));
        match make(job, report) {
            Ok(pid) => {
                Report::Process(pid).send(report);
                0
            }
            Err(error) => {
                Report::Failed(chain(&error)).send(report);
                1
            }
        }
    });
    sys::exit_now(std::panic::catch_unwind(attempt).unwrap_or(101))
}

fn make(job: Job<'_>, report: &'static OwnedFd) -> Result<i32, Error> {
    let spec = read_spec(job.bundle)?;
    let plan = Plan::check(&spec, job)?;
    Report::Cgroup(plan.cgroup_text.clone()).send(report);
    if let Err(error) = set_oom_score_adj(job.oom_score_adj) {
        Report::Detail(format!("oom_score_adj {}: {error}", job.oom_score_adj)).send(report);
    }
    sys::leave_session_keyring().map_err(|source| Error::Keyring { source })?;
    match job.way {
        Way::Library => make_by_library(job, spec, &plan, report),
        Way::Infra => infra::make(&spec, &plan.cgroup, job.hierarchies, report)
            .map_err(|source| Error::Infra { source }),
        Way::External(_) if stage::user_namespace(&spec).is_some() => Err(Error::Refused {
            field: "linux.namespaces",
            reason: "a user namespace is for containers that are not made by an external runtime",
        }),
        Way::External(external) => make_externally(job, external, &plan, report),
    }
}

fn make_externally(
    job: Job<'_>,
    external: &External,
    plan: &Plan,
    report: &'static OwnedFd,
) -> Result<i32, Error> {
    // Not in the runtime's own directory.
    let console = plan.terminal.then(|| Console::listen(job.bundle)).transpose()?;
    let create = external::Create {
        container: job.container,
        bundle: job.bundle,
        cgroup: &plan.cgroup,
        terminal: plan.terminal,
    };
    let pid = create.run(external, job.hierarchies).map_err(|source| Error::External { source })?;
    if let Some(console) = console {
        console.forward(report)?;
        fs::remove_file(&console.path).map_err(|source| Error::Terminal { source })?;
    }
    Ok(pid)
}

fn make_by_library(job: Job<'_>, spec: Spec, plan: &Plan, report: &'static OwnedFd) -> Result<i32, Error> {
    let becoming = Becoming::of(&spec, job.filter)?;
    give_output(&spec, [4, 5, 6]).map_err(|source| Error::Descriptors { source })?;
    let (spec, job) = match stage::user_namespace(&spec) {
        Some(users) => {
            let staged = stage::enter(spec, job.bundle, &users).map_err(|source| Error::Stage { source })?;
            (staged, Job { bundle: Path::new(stage::BUNDLE), ..job })
        }
        None => (spec, job),
    };
    let spec = for_the_library(spec);
    tracing::subscriber::set_global_default(Collector { report }).unwrap_or_default();
    let join = || {
        job.hierarchies.create_parents(&plan.cgroup)?;
        job.hierarchies.enter_uncontrolled(&plan.cgroup)
    };
    join().map_err(|source| Error::Cgroup { source })?;
    let program = Program { report, becoming: Box::leak(Box::new(becoming)) };
    let pid = call_library(job, (&spec, plan.terminal), program)?;
    finish(job, plan, pid).inspect_err(|_| {
        sys::open_process(pid).and_then(|process| sys::signal(&process, libc::SIGKILL)).unwrap_or_default();
    })?;
    Ok(pid)
}

fn read_spec(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(8 * 1024);
        fs::File::open(&path)?.take(MAX_CONFIG).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| Error::Config { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Parse { path, source })
}

/// Gives pipes to the user that the process will be, so that it can open them once more: by `/dev/stdout`, say.
fn give_output(spec: &Spec, descriptors: [i32; 3]) -> io::Result<()> {
    let Some(process) = spec.process() else { return Ok(()) };
    let inside = (process.user().uid(), process.user().gid());
    let mappings = spec.linux().as_ref().and_then(Mappings::of);
    let owner = mappings.map_or(Some(inside), |mappings| mappings.on_the_node(inside));
    // Not mapped: becoming that user fails and says so.
    owner.map_or(Ok(()), |owner| descriptors.into_iter().try_for_each(|number| sys::give_pipe(number, owner)))
}

/// What the helper itself has to know of the configuration.
struct Plan {
    cgroup: CgroupPath,
    cgroup_text: String,
    terminal: bool,
    devices: Vec<LinuxDeviceCgroup>,
    /// Whether the configuration says itself if all of a container's processes are killed when one takes too much memory.
    oom_group_given: bool,
}

impl Plan {
    /// Refuses what the library would silently not enforce.
    fn check(spec: &Spec, job: Job<'_>) -> Result<Self, Error> {
        let refused = |field, reason| Err(Error::Refused { field, reason });
        let Some(linux) = spec.linux() else { return refused("linux", "missing") };
        if linux.seccomp().is_some() && !matches!(job.way, Way::External(_)) {
            return refused("linux.seccomp", "not supported by this build, and would not be enforced");
        }
        let is_cgroup = |mount: &oci_spec::runtime::Mount| mount.typ().as_deref() == Some("cgroup");
        if !job.hierarchies.is_v2() && spec.mounts().iter().flatten().any(is_cgroup) {
            return refused("mounts", "a cgroup mount on a cgroup v1 host would be writable");
        }
        let Some(devices) = linux.resources().as_ref().and_then(|resources| resources.devices().clone())
        else {
            return refused("linux.resources.devices", "missing: every device would be allowed");
        };
        let Some(cgroup_text) = linux.cgroups_path().as_ref().and_then(|path| path.to_str()) else {
            return refused("linux.cgroupsPath", "missing");
        };
        let cgroup = CgroupPath::parse(cgroup_text).map_err(|source| Error::Cgroup { source })?;
        let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        let unified = linux.resources().as_ref().and_then(|resources| resources.unified().as_ref());
        let oom_group_given = unified.is_some_and(|unified| unified.contains_key(OOM_GROUP));
        Ok(Self { cgroup, cgroup_text: cgroup_text.to_owned(), terminal, devices, oom_group_given })
    }
}

/// The configuration with a process that may still do everything.
fn for_the_library(mut spec: Spec) -> Spec {
    if let Some(process) = spec.process_mut() {
        process.set_user(User::default());
        process.set_capabilities(None);
        process.set_no_new_privileges(None);
        process.set_apparmor_profile(None);
    }
    spec
}

fn call_library(job: Job<'_>, (spec, terminal): (&Spec, bool), program: Program) -> Result<i32, Error> {
    let report = program.report;
    let state = job.bundle.join(STATE);
    let stale = state.join(job.container);
    match fs::remove_dir_all(&stale) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Stale { path: stale, source: error });
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&state).map_err(|source| Error::Descriptors { source })?;
    write_spec(&state, spec)?;
    let failed = |source| Error::Library { source };
    let console = terminal.then(|| Console::listen(&state)).transpose()?;
    let container = ContainerBuilder::new(job.container.to_owned(), SyscallType::default())
        .with_executor(program)
        .with_root_path(state.clone())
        .map_err(failed)?
        .with_console_socket(console.as_ref().map(|console| console.path.clone()))
        .with_stdin(sys::adopt(4))
        .with_stdout(sys::adopt(5))
        .with_stderr(sys::adopt(6))
        .validate_id()
        .map_err(failed)?
        .as_init(&state)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(failed)?;
    if let Some(console) = console {
        console.forward(report)?;
    }
    container.pid().map(|pid| pid.as_raw()).ok_or(Error::NoProcess)
}

fn write_spec(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    let path = bundle.join("config.json");
    let written = serde_json::to_vec(spec).map_err(io::Error::from).and_then(|text| fs::write(&path, text));
    written.map_err(|source| Error::Write { path, source })
}

/// The socket on which the library hands over the master of a container's terminal.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn listen(state: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Terminal { source };
        let path = state.join("console.sock");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        // The whole path may be longer than a socket address.
        std::env::set_current_dir(state).map_err(failed)?;
        let listener = UnixListener::bind("console.sock").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        std::env::set_current_dir("/").map_err(failed)?;
        Ok(Self { path, listener })
    }

    /// Passes the master on to the supervisor. The library has sent it before it says that the container is made.
    fn forward(&self, report: &OwnedFd) -> Result<(), Error> {
        let forward = || -> io::Result<()> {
            let (socket, _) = self.listener.accept()?;
            let packet = passing::receive(&socket, &mut [0; 256])?;
            let master = packet.descriptors.first().ok_or(io::ErrorKind::InvalidData)?;
            Report::Terminal.send_with(report, master.as_fd())
        };
        forward().map_err(|source| Error::Terminal { source })
    }
}

/// Adds what the library leaves out. The container's process waits meanwhile.
fn finish(job: Job<'_>, plan: &Plan, pid: i32) -> Result<(), Error> {
    let (path, devices) = (&plan.cgroup, &plan.devices);
    job.hierarchies.join(path, pid).map_err(|source| Error::Cgroup { source })?;
    let failed = |source| Error::Devices { source };
    let Some(directory) = job.hierarchies.unified(path).filter(|_| job.hierarchies.is_v2()) else {
        return job
            .hierarchies
            .legacy("devices", path)
            .map_or(Ok(()), |directory| device_filter::deny_console(&directory, devices).map_err(failed));
    };
    if !plan.oom_group_given {
        // Missing where the memory controller is: then there is nothing to group.
        cgroup::write_file(&directory.join(OOM_GROUP), "1").unwrap_or_default();
    }
    device_filter::attach(&directory, devices).map_err(failed)
}

/// Sets the calling process's value; lowering it below what it was started with needs CAP_SYS_RESOURCE.
pub(crate) fn set_oom_score_adj(value: i32) -> io::Result<()> {
    cgroup::write_file(Path::new("/proc/self/oom_score_adj"), &value.to_string())
}

/// The library replaces the host's `/dev/null` by the container's, but opened only for reading.
fn make_null_writable() -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let device = null.metadata()?.rdev();
    for number in 1..3 {
        if fs::metadata(format!("/proc/self/fd/{number}")).is_ok_and(|found| found.rdev() == device) {
            sys::place(&null, number)?;
        }
    }
    Ok(())
}

/// Who the container's first process is to be.
struct Becoming {
    process: Process,
    filter: Option<Filter>,
    /// Which way its mounts travel, unless none does.
    travel: Option<Wishes>,
}

impl Becoming {
    fn of(spec: &Spec, filter: Option<&Path>) -> Result<Self, Error> {
        let process = spec.process().clone();
        let process = process.ok_or(Error::Refused { field: "process", reason: "missing" })?;
        let filter = filter.map(Filter::read).transpose().map_err(|source| Error::Identity { source })?;
        Ok(Self { process, filter, travel: Wishes::of(spec) })
    }
}

/// Runs the program in the container's first process.
#[derive(Clone)]
struct Program {
    report: &'static OwnedFd,
    becoming: &'static Becoming,
}

impl Executor for Program {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let Becoming { process, filter, .. } = self.becoming;
        let Err(error) = executable::execute(&executable::Program::of(process, filter.as_ref()));
        Report::NotExecuted(chain(&error)).send(self.report);
        sys::exit_now(127)
    }

    /// Says nothing: the search happens once, in `exec`, where it can name its reason.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The last thing the library asks for before the process waits to be started: neighbours in its pid namespace must not
    /// find one there that may do everything.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let Becoming { process, filter, travel } = self.becoming;
        if let Some(Err(error)) = travel.as_ref().map(Wishes::fulfil) {
            return Err(ExecutorSetEnvsError::Other(format!("which way mounts travel: {error}")));
        }
        if let Err(error) = make_null_writable() {
            Report::Failed(format!("/dev/null: {error}")).send(self.report);
        }
        identity::assume(process, filter.as_ref()).map_err(|error| ExecutorSetEnvsError::Other(chain(&error)))
    }
}

/// Passes the library's error log on: its errors themselves do not say why.
struct Collector {
    report: &'static OwnedFd,
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        Report::Detail(line.0).send(self.report);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        let text = match field.name() {
            "message" => format!("{separator}{value:?}"),
            name => format!("{separator}{name}: {value:?}"),
        };
        self.0.push_str(&text);
    }
}
