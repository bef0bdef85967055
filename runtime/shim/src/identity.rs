//! Who a process of a container is, and what it may do: the last steps before it becomes the program.
//!
//! In: an OCI `Process` and a filter, inside the container's namespaces, as the node's root with all capabilities. Out: the
//! calling process with the user, groups, capabilities and filter asked for. The first process of a container and every
//! exec go this way. A filter is loaded when everything else that can be is done, so that a strict profile need not allow
//! what this code calls: without no_new_privs only a process with CAP_SYS_ADMIN may load one, which is then given up under
//! the filter; with no_new_privs the caller loads it, right before the program ([`Filter::is_last`]).

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};

use crate::cgroup;
use crate::sys;

/// The most bytes of a passwd file.
const MAX_PASSWD: u64 = 1024 * 1024;
/// Flags and as many instructions as the kernel takes.
const MAX_FILTER: usize = 4 + 8 * 4096;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{step}")]
    Step { step: &'static str, source: io::Error },
    #[error("capabilities: {step}")]
    Capabilities { step: &'static str, source: caps::errors::CapsError },
    #[error("working directory {}", path.display())]
    WorkingDirectory { path: PathBuf, source: Errno },
    #[error("working directory {}: is outside of the container", path.display())]
    Escaped { path: PathBuf },
    #[error("reading seccomp filter {}", path.display())]
    ReadFilter { path: PathBuf, source: io::Error },
    #[error("seccomp filter {}: is none", path.display())]
    NoFilter { path: PathBuf },
    #[error("loading the seccomp filter")]
    LoadFilter { source: io::Error },
}

fn step(step: &'static str) -> impl Fn(Errno) -> IdentityError {
    move |source| IdentityError::Step { step, source: source.into() }
}

/// A compiled seccomp profile.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    flags: u32,
    instructions: Vec<sys::Instruction>,
}

impl Filter {
    /// Reads what the engine has written: the flags, then eight bytes an instruction.
    pub(crate) fn read(path: &Path) -> Result<Self, IdentityError> {
        let mut bytes = Vec::with_capacity(8 * 1024);
        let most = u64::try_from(MAX_FILTER + 1).unwrap_or(u64::MAX);
        let mut read = || File::open(path)?.take(most).read_to_end(&mut bytes);
        read().map_err(|source| IdentityError::ReadFilter { path: path.to_owned(), source })?;
        Self::parse(&bytes).ok_or_else(|| IdentityError::NoFilter { path: path.to_owned() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first_chunk::<4>()?;
        let (instructions, surplus) = rest.as_chunks::<8>();
        let fits = !instructions.is_empty() && surplus.is_empty() && bytes.len() <= MAX_FILTER;
        let instruction = |bytes: &[u8; 8]| {
            let [code, code_high, jt, jf, k @ ..] = *bytes;
            (u16::from_ne_bytes([code, code_high]), jt, jf, u32::from_ne_bytes(k))
        };
        fits.then(|| Self {
            flags: u32::from_ne_bytes(*flags),
            instructions: instructions.iter().map(instruction).map(sys::Instruction::from).collect(),
        })
    }

    /// Whether the filter is to be loaded after [`assume`].
    pub(crate) fn is_last(process: &Process) -> bool {
        process.no_new_privileges().unwrap_or(false)
    }

    /// From here on the process is bound by it.
    pub(crate) fn load(&self) -> Result<(), IdentityError> {
        sys::load_seccomp_filter(self.flags, &self.instructions)
            .map_err(|source| IdentityError::LoadFilter { source })
    }
}

/// Becomes the user. The filter is loaded on the way, unless it comes last.
pub(crate) fn assume(process: &Process, filter: Option<&Filter>) -> Result<(), IdentityError> {
    let user = process.user();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    for limit in process.rlimits().iter().flatten() {
        let number = resource_number(limit.typ());
        sys::set_resource_limit(number, limit.soft(), limit.hard())
            .map_err(|source| IdentityError::Step { step: "resource limits", source })?;
    }
    if let Some(profile) = process.apparmor_profile() {
        cgroup::write_file(Path::new("/proc/self/attr/exec"), &format!("exec {profile}"))
            .map_err(|source| IdentityError::Step { step: "AppArmor profile", source })?;
    }
    if process.no_new_privileges().unwrap_or(false) {
        nix::sys::prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    }
    give_standard_descriptors(user.uid());
    // Entered as root and once more as the user: either may be the only one allowed to.
    let entered = enter_directory(process);
    let none = no_capabilities();
    let wanted = process.capabilities().as_ref().unwrap_or(&none);
    let had = caps::read(None, CapSet::Permitted)
        .map_err(|source| IdentityError::Capabilities { step: "reading", source })?;
    drop_bounding(&capabilities(wanted.bounding().as_ref()))?;
    nix::sys::prctl::set_keepcaps(true).map_err(step("keeping capabilities"))?;
    let groups = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect::<Vec<_>>();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    nix::unistd::setgroups(&groups).map_err(step("supplementary groups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(step("group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("user"))?;
    if let Some(filter) = filter.filter(|_| !Filter::is_last(process)) {
        // Another user's process keeps the capabilities, but not as effective ones.
        caps::set(None, CapSet::Effective, &had)
            .map_err(|source| IdentityError::Capabilities { step: "effective set", source })?;
        filter.load()?;
    }
    limit_capabilities(wanted, &had)?;
    entered.or_else(|_| enter_directory(process))
}

/// Makes the user the owner of its pipes and its terminal, so that it may open them by name (`/dev/stdout`). Where that is not
/// ours to do (in a user namespace), whoever made them has done it.
fn give_standard_descriptors(uid: u32) {
    for number in 0..3 {
        let path = format!("/proc/self/fd/{number}");
        let is_own = |kind: std::fs::FileType| kind.is_fifo() || sys::is_terminal(number);
        if uid != 0 && std::fs::metadata(&path).is_ok_and(|found| is_own(found.file_type())) {
            std::os::unix::fs::chown(&path, Some(uid), None).unwrap_or_default();
        }
    }
}

/// Enters the working directory, which has to be inside the container.
fn enter_directory(process: &Process) -> Result<(), IdentityError> {
    let path = process.cwd();
    nix::unistd::chdir(path)
        .map_err(|source| IdentityError::WorkingDirectory { path: path.clone(), source })?;
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(_) => Err(IdentityError::Escaped { path: path.clone() }),
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

fn drop_bounding(wanted: &CapsHashSet) -> Result<(), IdentityError> {
    for capability in caps::all() {
        let has = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
        if has && !wanted.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(|source| IdentityError::Capabilities { step: "bounding set", source })?;
        }
    }
    Ok(())
}

/// "All capabilities" means all that we have.
fn limit_capabilities(wanted: &LinuxCapabilities, had: &CapsHashSet) -> Result<(), IdentityError> {
    let failed = |step| move |source| IdentityError::Capabilities { step, source };
    let limited = |names: &Option<Capabilities>| -> CapsHashSet {
        capabilities(names.as_ref()).intersection(had).copied().collect::<HashSet<_>>()
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

/// The environment: as asked for, and HOME, which every program expects.
pub(crate) fn environment(process: &Process) -> Vec<String> {
    let mut environment = process.env().clone().unwrap_or_default();
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", home(process.user().uid()).unwrap_or_else(|| "/".to_owned())));
    }
    environment
}

fn home(uid: u32) -> Option<String> {
    let mut text = String::new();
    File::open("/etc/passwd").ok()?.take(MAX_PASSWD).read_to_string(&mut text).ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_its_flags_and_whole_instructions() {
        let bytes = |count: usize| {
            let mut bytes = 4_u32.to_ne_bytes().to_vec();
            bytes.extend([6, 0, 1, 2, 9, 0, 0, 0].repeat(count));
            bytes
        };
        let filter = Filter::parse(&bytes(2)).unwrap();
        assert_eq!((filter.flags, filter.instructions.len()), (4, 2));
        assert!(Filter::parse(&bytes(4096)).is_some());
        for bad in [vec![], bytes(0), bytes(4097), bytes(1)[..11].to_vec(), vec![0; 3]] {
            assert!(Filter::parse(&bad).is_none(), "{} bytes", bad.len());
        }
    }
}
