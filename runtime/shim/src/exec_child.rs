//! The two stages of a process that an exec runs inside a container.
//!
//! In: a file with an OCI `Process`, three descriptors, the container's first process and cgroup. Out: [`Report`]s, then
//! either the program or the end of the stage. Stage one runs outside: it reads the file (so that the supervisor's heap
//! does not grow), joins the cgroups and enters every namespace in which the container's first process differs from us,
//! the user namespace with the others, by its pidfd. A process enters a pid namespace only by birth, so stage one then
//! forks stage two as its own sibling: it becomes the supervisor's child. Stage two becomes the user and the program.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};

use crate::cgroup::{self, CgroupPath, Hierarchies};
use crate::executable;
use crate::helper::set_oom_score_adj;
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
    #[error("capabilities: {step}")]
    Capabilities { step: &'static str, source: caps::errors::CapsError },
    #[error("working directory {}", path.display())]
    WorkingDirectory { path: PathBuf, source: Errno },
    #[error("working directory {}: is outside of the container", path.display())]
    Escaped { path: PathBuf },
}

/// What to run, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) process: &'a Path,
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
    become_user(&process)?;
    let arguments = process.args().clone().unwrap_or_default();
    let Err(error) = executable::execute(&arguments, &environment(&process));
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

fn become_user(process: &Process) -> Result<(), Error> {
    let step = |step| move |source: Errno| Error::Io { step, source: source.into() };
    nix::unistd::setsid().map_err(step("setsid"))?;
    for number in 0..3 {
        let passed = sys::adopt(STDIO + number);
        sys::place(&passed, number).map_err(|source| Error::Io { step: "standard descriptors", source })?;
    }
    if process.terminal().unwrap_or(false) {
        sys::take_terminal().map_err(|source| Error::Io { step: "controlling terminal", source })?;
    }
    let user = process.user();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    for limit in process.rlimits().iter().flatten() {
        let number = resource_number(limit.typ());
        sys::set_resource_limit(number, limit.soft(), limit.hard())
            .map_err(|source| Error::Io { step: "resource limits", source })?;
    }
    if let Some(profile) = process.apparmor_profile() {
        cgroup::write_file(Path::new("/proc/self/attr/exec"), &format!("exec {profile}"))
            .map_err(|source| Error::Io { step: "AppArmor profile", source })?;
    }
    if process.no_new_privileges().unwrap_or(false) {
        nix::sys::prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    }
    // Entered as root and once more as the user: either may be the only one allowed to.
    let entered = nix::unistd::chdir(process.cwd());
    let none = no_capabilities();
    let wanted = process.capabilities().as_ref().unwrap_or(&none);
    drop_bounding(&capabilities(wanted.bounding().as_ref()))?;
    nix::sys::prctl::set_keepcaps(true).map_err(step("keeping capabilities"))?;
    let groups = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect::<Vec<_>>();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    nix::unistd::setgroups(&groups).map_err(step("supplementary groups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(step("group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("user"))?;
    limit_capabilities(wanted)?;
    if entered.is_err() {
        nix::unistd::chdir(process.cwd())
            .map_err(|source| Error::WorkingDirectory { path: process.cwd().clone(), source })?;
    }
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(_) => Err(Error::Escaped { path: process.cwd().clone() }),
    }
}

/// The crate's default is a set of three; a process without the field gets none.
fn no_capabilities() -> LinuxCapabilities {
    let mut some = LinuxCapabilities::default();
    some.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
    some
}

fn capabilities(names: Option<&Capabilities>) -> CapsHashSet {
    // What the crate does not know, the kernel's headers did not know either.
    names.into_iter().flatten().filter_map(|name| Capability::from_str(&format!("CAP_{name}")).ok()).collect()
}

fn drop_bounding(wanted: &CapsHashSet) -> Result<(), Error> {
    for capability in caps::all() {
        let has = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
        if has && !wanted.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(|source| Error::Capabilities { step: "bounding set", source })?;
        }
    }
    Ok(())
}

/// "All capabilities" means all that we have.
fn limit_capabilities(wanted: &LinuxCapabilities) -> Result<(), Error> {
    let failed = |step| move |source| Error::Capabilities { step, source };
    let had = caps::read(None, CapSet::Permitted).map_err(failed("reading"))?;
    let limited = |names: &Option<Capabilities>| -> CapsHashSet {
        capabilities(names.as_ref()).intersection(&had).copied().collect::<HashSet<_>>()
    };
    let permitted = limited(wanted.permitted());
    let effective = limited(wanted.effective()).intersection(&permitted).copied().collect();
    let inheritable = limited(wanted.inheritable());
    let ambient = limited(wanted.ambient());
    caps::set(None, CapSet::Effective, &effective).map_err(failed("effective set"))?;
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(failed("inheritable set"))?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(failed("permitted set"))?;
    caps::clear(None, CapSet::Ambient).map_err(failed("ambient set"))?;
    for capability in ambient.intersection(&permitted).filter(|capability| inheritable.contains(capability)) {
        caps::raise(None, CapSet::Ambient, *capability).map_err(failed("ambient set"))?;
    }
    Ok(())
}

fn environment(process: &Process) -> Vec<String> {
    let mut environment = process.env().clone().unwrap_or_default();
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", home(process.user().uid()).unwrap_or_else(|| "/".to_owned())));
    }
    environment
}

fn home(uid: u32) -> Option<String> {
    let mut text = String::new();
    File::open("/etc/passwd").ok()?.take(MAX_PROCESS).read_to_string(&mut text).ok()?;
    let entry = |line: &str| {
        let fields = line.split(':').collect::<Vec<_>>();
        let is_it = fields.get(2).and_then(|field| field.parse::<u32>().ok()) == Some(uid);
        fields.get(5).filter(|home| is_it && !home.is_empty()).map(|home| (*home).to_owned())
    };
    text.lines().find_map(entry)
}

fn resource_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
