//! The supervisor's birth: from a process that an engine launched to one that nobody's end takes along.
//!
//! In: the command line, and perhaps the engine's connection as standard input. Out: `ready` or `error: …` as a line on
//! standard output; then a session of its own with standard error in `shim.log`, no controlling terminal, no inherited
//! descriptors, its own cgroup, spared by the OOM killer as far as the privileges go, not traceable, the reaper of its
//! descendants.
//!
//! Nothing here waits for the kernel's grace period that moving a process between cgroups takes: in the v1 hierarchies the
//! process moves itself by its one thread, in the v2 hierarchy the supervisor is born where it belongs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::cgroup::{self, Birthplace, CgroupPath, Hierarchies};
use crate::helper::set_oom_score_adj;
use crate::journal;
use crate::supervisor::{Settings, Supervisor};
use crate::sys::{self, Fork};

const USAGE: &str =
    "pintle-shim --sandbox ID --dir DIRECTORY --cgroup PATH [--connection stdin] [--helper-timeout-ms N]";
const OOM_SCORE_ADJ: i32 = -999;
/// For an engine that ends while a container is made or entered: one that is there decides earlier itself.
const HELPER_TIMEOUT: Duration = Duration::from_secs(110);

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("usage: {USAGE}")]
    Usage,
    #[error("{step}")]
    Step { step: &'static str, source: io::Error },
    #[error("opening {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("listening on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("the supervisor's cgroup")]
    Cgroup { source: cgroup::CgroupError },
    #[error("forking")]
    Fork { source: io::Error },
}

/// What the command line says.
struct Arguments {
    sandbox: String,
    directory: PathBuf,
    cgroup: CgroupPath,
    connection: Connects,
    helper_timeout: Duration,
}

/// Where the first engine's connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connects {
    /// It will connect to the socket.
    Later,
    /// Standard input is its connection.
    Already,
}

/// Everything that can fail has been done.
pub(crate) struct Prepared {
    settings: Settings,
    log: File,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, StartError> {
        let (mut sandbox, mut directory, mut cgroup) = (None, None, None);
        let (mut connection, mut helper_timeout) = (Connects::Later, HELPER_TIMEOUT);
        while let Some(name) = words.next() {
            let value = words.next().ok_or(StartError::Usage)?;
            match name.as_str() {
                "--sandbox" => sandbox = Some(value),
                "--dir" => directory = Some(PathBuf::from(value)),
                "--cgroup" => {
                    cgroup = Some(CgroupPath::parse(&value).map_err(|source| StartError::Cgroup { source })?)
                }
                "--connection" if value == "stdin" => connection = Connects::Already,
                "--helper-timeout-ms" => {
                    helper_timeout = Duration::from_millis(value.parse().map_err(|_| StartError::Usage)?);
                }
                _ => return Err(StartError::Usage),
            }
        }
        match (sandbox, directory, cgroup) {
            (Some(sandbox), Some(directory), Some(cgroup)) if directory.is_absolute() => {
                Ok(Self { sandbox, directory, cgroup, connection, helper_timeout })
            }
            _ => Err(StartError::Usage),
        }
    }
}

/// Returns in two processes: with nothing in the one that was launched, with the rest in the supervisor.
pub(crate) fn prepare() -> Result<Option<Prepared>, StartError> {
    let step = |step| move |source: io::Error| StartError::Step { step, source };
    sys::close_from(3).map_err(step("closing inherited descriptors"))?;
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    std::env::set_current_dir("/").map_err(step("changing to /"))?;
    let log_path = arguments.directory.join("shim.log");
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let log = options.open(&log_path).map_err(|source| StartError::Log { path: log_path, source })?;
    let connection = match arguments.connection {
        Connects::Later => None,
        Connects::Already => Some(take_connection().map_err(step("taking the connection"))?),
    };
    let hierarchies = Hierarchies::detect().map_err(|source| StartError::Cgroup { source })?;
    let place = || {
        hierarchies.enter_sparsely(&arguments.cgroup, &[])?;
        hierarchies.birthplace(&arguments.cgroup)
    };
    let place = place().map_err(|source| StartError::Cgroup { source })?;
    let listener = open_socket(&arguments.directory)?;
    match Birthplace::fork(place.as_ref()).map_err(|source| StartError::Fork { source })? {
        Fork::Parent(_) => return Ok(None),
        Fork::Child => {}
    }
    nix::unistd::setsid().map_err(|source| StartError::Step { step: "setsid", source: source.into() })?;
    let Arguments { sandbox, cgroup, helper_timeout, .. } = arguments;
    let settings = Settings { sandbox, cgroup, listener, connection, hierarchies, helper_timeout };
    Ok(Some(Prepared { settings, log }))
}

/// The engine's connection, out of the way of the standard descriptors.
fn take_connection() -> io::Result<OwnedFd> {
    let connection = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::io::ioctl_fionbio(&connection, true)?;
    Ok(connection)
}

fn open_socket(directory: &Path) -> Result<OwnedFd, StartError> {
    let path = directory.join("shim.sock");
    let open = || -> io::Result<OwnedFd> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // The whole path may be longer than a socket address.
        std::env::set_current_dir(directory)?;
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = bind(&socket, &SocketAddrUnix::new("shim.sock")?);
        nix::sys::stat::umask(before);
        std::env::set_current_dir("/")?;
        bound?;
        listen(&socket, 16)?;
        Ok(socket)
    };
    open().map_err(|source| StartError::Listen { path: path.clone(), source })
}

/// The supervisor's life, from the word `ready` on.
pub(crate) fn supervise(prepared: Prepared) -> ExitCode {
    let Prepared { settings, log } = prepared;
    let sandbox = settings.sandbox.clone();
    let outcome = detach(&log).and_then(|()| {
        let supervisor = Supervisor::new(settings)
            .map_err(|source| StartError::Step { step: "setting up the event loop", source })?;
        let mut out = io::stdout();
        // An engine that does not listen has given up waiting, and has taken the sandbox back.
        let told = out.write_all(b"ready\n").and_then(|()| out.flush());
        told.map_err(|source| StartError::Step { step: "telling the engine", source })?;
        silence(&log)?;
        Ok(supervisor)
    });
    match outcome {
        Ok(supervisor) => {
            journal::note(&format!("sandbox {sandbox}: supervisor {} starts", std::process::id()));
            let end = supervisor.run();
            journal::note(&format!("sandbox {sandbox}: supervisor ends: {end}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = journal::chain(&error);
            journal::note(&format!("sandbox {sandbox}: no supervisor: {text}"));
            // Whoever waits reads it; nobody may be there.
            writeln!(io::stdout(), "error: {text}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn detach(log: &File) -> Result<(), StartError> {
    let failed = |step| move |source: Errno| StartError::Step { step, source: source.into() };
    sys::place(log, 2).map_err(|source| StartError::Step { step: "standard error", source })?;
    if let Err(error) = set_oom_score_adj(OOM_SCORE_ADJ) {
        let present = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        journal::note(&format!("oom_score_adj stays {} instead of {OOM_SCORE_ADJ}: {error}", present.trim()));
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_child_subreaper(true).map_err(failed("becoming a reaper"))?;
    nix::sys::prctl::set_dumpable(false).map_err(failed("forbidding traces"))
}

/// Lets go of the launching process's standard descriptors.
fn silence(log: &File) -> Result<(), StartError> {
    let step = |source| StartError::Step { step: "standard descriptors", source };
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(step)?;
    sys::place(&null, 0).map_err(step)?;
    sys::place(log, 1).map_err(step)
}
