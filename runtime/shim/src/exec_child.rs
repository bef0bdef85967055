//! The two stages of a process that an exec runs inside a container.
//!
//! In: a file with an OCI `Process`, three descriptors, the container's first process and cgroup. Out: [`Report`]s, then
//! either the program or the end of the stage. Stage one runs outside: it reads the file (so that the supervisor's heap
//! does not grow), joins the cgroups and enters every namespace in which the container's first process differs from us,
//! the user namespace with the others, by its pidfd. A process enters a pid namespace only by birth, so stage one then
//! forks stage two as its own sibling: it becomes the supervisor's child. Stage two becomes the user and the program.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use oci_spec::runtime::Process;

use crate::cgroup::{self, CgroupPath, Hierarchies};
use crate::executable::{self, Program};
use crate::helper::set_oom_score_adj;
use crate::id_mapping;
use crate::identity::{self, Filter, IdentityError};
use crate::journal::chain;
use crate::report::Report;
use crate::sys::{self, Fork};

/// The most bytes of a process file.
const MAX_PROCESS: u64 = 1024 * 1024;
/// Where [`sys::keep_only`] puts what we keep.
const REPORT: i32 = 3;
const STDIO: i32 = 4;
const INIT: i32 = 7;

/// Why the program was not reached.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("reading process file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parsing process file {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("joining the container's cgroup")]
    Cgroup { source: cgroup::CgroupError },
    #[error("looking at the container's namespaces")]
    Namespaces { source: io::Error },
    #[error("entering the container: {step}")]
    Enter { step: &'static str, source: Errno },
    #[error("forking")]
    Fork { source: io::Error },
    #[error("{step}")]
    Io { step: &'static str, source: io::Error },
    #[error(transparent)]
    Identity { source: IdentityError },
}

/// What to run, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) process: &'a Path,
    /// The container's seccomp filter.
    pub(crate) filter: Option<&'a Path>,
    pub(crate) cgroup: &'a CgroupPath,
    /// The group below `cgroup` that the exec's processes are tracked in.
    pub(crate) group: &'a str,
    pub(crate) init: i32,
    pub(crate) hierarchies: &'a Hierarchies,
}

/// Runs in the forked child, and ends it or becomes the program. `descriptors`: stdin, stdout, stderr, and the pidfd of
/// the container's first process.
pub(crate) fn run(job: Job<'_>, descriptors: [&OwnedFd; 4], report: &OwnedFd) -> ! {
    let attempt = std::panic::AssertUnwindSafe(|| {
        sys::default_signals();
        let [stdin, stdout, stderr, init] = descriptors.map(AsFd::as_fd);
        if sys::keep_only(&[report.as_fd(), stdin, stdout, stderr, init]).is_err() {
            return 126;
        }
        let report = sys::adopt(REPORT);
        let Err(error) = stage_one(job, &report);
        Report::Failed(chain(&error)).send(&report);
        126
    });
    sys::exit_now(std::panic::catch_unwind(attempt).unwrap_or(126))
}

fn stage_one(job: Job<'_>, report: &OwnedFd) -> Result<std::convert::Infallible, Error> {
    let process = read_process(job.process)?;
    let filter = job.filter.map(Filter::read).transpose().map_err(|source| Error::Identity { source })?;
    sys::leave_session_keyring().map_err(|source| Error::Io { step: "session keyring", source })?;
    let spaces = different_namespaces(job.init).map_err(|source| Error::Namespaces { source })?;
    // In the v2 hierarchy it was born in its group.
    job.hierarchies.enter_below(job.cgroup, job.group).map_err(|source| Error::Cgroup { source })?;
    let inherited =
        || fs::read_to_string(format!("/proc/{}/oom_score_adj", job.init)).ok()?.trim().parse().ok();
    if let Some(value) = process.oom_score_adj().or_else(inherited) {
        // Refused only when it would make the process safer than we may.
        set_oom_score_adj(value).unwrap_or_default();
    }
    let owner = id_mapping::of_process(job.init, (process.user().uid(), process.user().gid()));
    if let Some(owner) = owner.map_err(|source| Error::Namespaces { source })? {
        let give = |number| sys::give_pipe(number, owner);
        (STDIO..STDIO + 3)
            .try_for_each(give)
            .map_err(|source| Error::Io { step: "standard descriptors", source })?;
    }
    let root =
        File::open(format!("/proc/{}/root", job.init)).map_err(|source| Error::Namespaces { source })?;
    let init = sys::adopt(INIT);
    nix::sched::setns(&init, spaces).map_err(|source| Error::Enter { step: "setns", source })?;
    drop(init);
    if !spaces.contains(CloneFlags::CLONE_NEWNS) {
        let enter = || nix::unistd::fchdir(&root).and_then(|()| nix::unistd::chroot("."));
        enter().map_err(|source| Error::Enter { step: "chroot", source })?;
    }
    drop(root);
    match sys::fork_sibling().map_err(|source| Error::Fork { source })? {
        Fork::Parent(pid) => {
            Report::Process(pid).send(report);
            sys::exit_now(0)
        }
        Fork::Child => {}
    }
    take_place(&process)?;
    identity::assume(&process, filter.as_ref()).map_err(|source| Error::Identity { source })?;
    let Err(error) = executable::execute(&Program::of(&process, filter.as_ref()));
    Report::NotExecuted(chain(&error)).send(report);
    sys::exit_now(127)
}

fn read_process(path: &Path) -> Result<Process, Error> {
    let mut bytes = Vec::new();
    let mut read = || File::open(path)?.take(MAX_PROCESS).read_to_end(&mut bytes);
    read().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

/// The kinds of namespace in which the process is not where we are.
fn different_namespaces(pid: i32) -> io::Result<CloneFlags> {
    const CLONE_NEWTIME: i32 = 0x80;
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("time", CloneFlags::from_bits_retain(CLONE_NEWTIME)),
    ];
    let mut different = CloneFlags::empty();
    for (name, flag) in kinds {
        let identity = |whose: &str| {
            fs::metadata(format!("/proc/{whose}/ns/{name}")).map(|file| (file.dev(), file.ino()))
        };
        match (identity("self"), identity(&pid.to_string())) {
            (Ok(own), Ok(other)) if own != other => different |= flag,
            (Ok(_), Ok(_)) => {}
            // A kind this kernel does not have.
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
    Ok(different)
}

/// A session of its own, and the descriptors that came with the request.
fn take_place(process: &Process) -> Result<(), Error> {
    nix::unistd::setsid().map_err(|source| Error::Io { step: "setsid", source: source.into() })?;
    for number in 0..3 {
        let passed = sys::adopt(STDIO + number);
        sys::place(&passed, number).map_err(|source| Error::Io { step: "standard descriptors", source })?;
    }
    if process.terminal().unwrap_or(false) {
        sys::take_terminal().map_err(|source| Error::Io { step: "controlling terminal", source })?;
    }
    Ok(())
}
