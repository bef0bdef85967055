//! The pod's infra container: namespaces, held open by the pause program, without libcontainer.
//!
//! In: an OCI configuration of the one shape the engine writes for it, in a forked helper. Out: a process of the
//! supervisor's that waits in its namespaces, alone in a root of its own with no capability and no device, until it is
//! told to go on; [`Report`]s. Every pod needs it before anything else, and the library would take longer for it than for
//! all the rest of a pod's start: it reads the mounts of the host again for each cgroup controller.
//!
//! In a user namespace of its own, which then owns the others, it is root of that one. Its mounts it does not own: they are
//! made by the node's root, to whom the directories are open that lead there. Kernel parameters are set when it is told
//! to go on: by then the pod's network is there.
//!
//! What does not belong to that shape (mounts, capabilities, namespaces to join, a terminal, seccomp) is refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::cgroup::{self, Birthplace, CgroupPath, Hierarchies};
use crate::device_filter;
use crate::executable::{self, Program};
use crate::id_mapping::{self, Mappings, ProcDirectory};
use crate::journal::chain;
use crate::report::Report;
use crate::sys::{self, Fork};
use crate::sysctl::{SysctlError, Sysctls};

/// The controllers that limit it; what it uses of the others counts as the pod's.
const CONTROLLERS: [&str; 2] = ["cpu", "devices"];
/// Where [`sys::keep_only`] puts its standard descriptors.
const STDIO: i32 = 4;
const GO: &[u8] = b"go";

/// Why there is no infra container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InfraError {
    #[error("config.json of an infra container: {field}: not as expected")]
    Refused { field: &'static str },
    #[error("the infra container's cgroup")]
    Cgroup { source: cgroup::CgroupError },
    #[error("limiting the infra container by {}", path.display())]
    Limit { path: PathBuf, source: io::Error },
    #[error("the infra container's devices")]
    Devices { source: device_filter::DeviceError },
    #[error("making the infra container's process")]
    Fork { source: io::Error },
    #[error("the infra container's {what}")]
    Prepare { what: &'static str, source: io::Error },
    #[error(transparent)]
    Root { source: InsideError },
}

/// Why its process does not get to its program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InsideError {
    #[error("infra container: {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("infra container: capabilities")]
    Capabilities { source: caps::errors::CapsError },
    #[error(transparent)]
    Sysctl { source: SysctlError },
}

/// What is made.
struct Plan<'a> {
    root: &'a Path,
    hostname: Option<&'a str>,
    namespaces: u64,
    process: &'a Process,
    shares: Option<u64>,
    /// Of its user namespace.
    mappings: Option<Mappings>,
}

/// What the process has to do, and with what.
struct Birth<'a> {
    plan: &'a Plan<'a>,
    sysctls: Option<Sysctls>,
    /// Where it is told that the mappings of its user namespace are written.
    mapped: Option<OwnedFd>,
}

/// Tells the process that waits at the other end to execute its program.
pub(crate) fn let_go(report: &OwnedFd) -> io::Result<()> {
    Ok(send(report, GO, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)?)
}

/// Makes the process and returns its pid. The caller is the helper, with [`sys::keep_only`]'s descriptors.
pub(crate) fn make(
    spec: &Spec,
    path: &CgroupPath,
    hierarchies: &Hierarchies,
    report: &OwnedFd,
) -> Result<i32, InfraError> {
    let plan = Plan::of(spec)?;
    let place = enter(path, hierarchies, &plan)?;
    let prepare = |what| move |source| InfraError::Prepare { what, source };
    let linux = spec.linux().as_ref().ok_or(InfraError::Refused { field: "linux" })?;
    let sysctls = Sysctls::of(linux).map_err(prepare("kernel parameters"))?;
    let birth = Birth { plan: &plan, sysctls, mapped: None };
    let Some(mappings) = &plan.mappings else {
        return fork(place.as_ref(), plan.namespaces, birth, report);
    };
    let proc = ProcDirectory::open_now().map_err(prepare("/proc"))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|errno| prepare("mounts")(errno.into()))?;
    switch_root(plan.root).map_err(|source| InfraError::Root { source })?;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (mapped, tell) = pipe.map_err(|errno| prepare("pipe")(errno.into()))?;
    let rest = plan.namespaces & !(libc::CLONE_NEWNS as u64);
    let pid = fork(place.as_ref(), rest, Birth { mapped: Some(mapped), ..birth }, report)?;
    // Without a word the process ends.
    mappings.write(&proc, pid).map_err(prepare("user namespace"))?;
    rustix::io::write(&tell, &[1]).map_err(|errno| prepare("user namespace")(errno.into()))?;
    Ok(pid)
}

fn fork(
    place: Option<&Birthplace>,
    namespaces: u64,
    birth: Birth<'_>,
    report: &OwnedFd,
) -> Result<i32, InfraError> {
    let forked = Birthplace::fork_sibling_apart(place, namespaces);
    match forked.map_err(|source| InfraError::Fork { source })? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let attempt = std::panic::AssertUnwindSafe(|| run(birth, report));
            sys::exit_now(std::panic::catch_unwind(attempt).unwrap_or(101))
        }
    }
}

impl<'a> Plan<'a> {
    fn of(spec: &'a Spec) -> Result<Self, InfraError> {
        let refused = |field| InfraError::Refused { field };
        if spec.mounts().as_ref().is_some_and(|mounts| !mounts.is_empty()) {
            return Err(refused("mounts"));
        }
        let root = spec.root().as_ref().filter(|root| root.readonly() == Some(true));
        let process = spec.process().as_ref().filter(|process| is_plain(process));
        let linux = spec.linux().as_ref().filter(|linux| linux.seccomp().is_none());
        let linux = linux.ok_or(refused("linux"))?;
        let mut namespaces = 0;
        for namespace in linux.namespaces().iter().flatten() {
            if namespace.path().is_some() {
                return Err(refused("linux.namespaces"));
            }
            namespaces |= flag(namespace.typ()).ok_or(refused("linux.namespaces"))?;
        }
        if namespaces & libc::CLONE_NEWNS as u64 == 0 {
            return Err(refused("linux.namespaces"));
        }
        let mappings = Mappings::of(linux);
        if mappings.is_some() != (namespaces & libc::CLONE_NEWUSER as u64 != 0) {
            return Err(refused("linux.uidMappings"));
        }
        let resources = linux.resources().as_ref().ok_or(refused("linux.resources"))?;
        if !resources.devices().iter().flatten().all(|rule| !rule.allow()) {
            return Err(refused("linux.resources.devices"));
        }
        let named = spec.hostname().as_deref().filter(|_| namespaces & libc::CLONE_NEWUTS as u64 != 0);
        Ok(Self {
            root: root.ok_or(refused("root"))?.path(),
            hostname: named,
            namespaces,
            process: process.ok_or(refused("process"))?,
            shares: resources.cpu().as_ref().and_then(|cpu| cpu.shares()),
            mappings,
        })
    }
}

/// A root process without a terminal and without a capability.
fn is_plain(process: &Process) -> bool {
    let none = |set: &Option<oci_spec::runtime::Capabilities>| set.as_ref().is_none_or(|set| set.is_empty());
    let bare = process.capabilities().as_ref().is_some_and(|sets| {
        [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]
            .into_iter()
            .all(none)
    });
    bare && !process.terminal().unwrap_or(false)
        && (process.user().uid(), process.user().gid()) == (0, 0)
        && process.no_new_privileges() == Some(true)
}

fn flag(kind: LinuxNamespaceType) -> Option<u64> {
    let flag = match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time => return None,
    };
    Some(flag.cast_unsigned().into())
}

/// Puts the caller where its child is to be, and limits it. The v2 group is for the child to be born in.
fn enter(
    path: &CgroupPath,
    hierarchies: &Hierarchies,
    plan: &Plan<'_>,
) -> Result<Option<Birthplace>, InfraError> {
    let join = || {
        hierarchies.enter_sparsely(path, &CONTROLLERS)?;
        hierarchies.birthplace(path)
    };
    let place = join().map_err(|source| InfraError::Cgroup { source })?;
    if let Some(directory) = hierarchies.legacy("devices", path) {
        limit(directory.join("devices.deny"), "a")?;
    }
    if let (Some(directory), Some(shares)) = (hierarchies.legacy("cpu", path), plan.shares) {
        limit(directory.join("cpu.shares"), &shares.to_string())?;
    }
    if let Some(directory) = hierarchies.unified(path).filter(|_| hierarchies.is_v2()) {
        let weight = directory.join("cpu.weight");
        if let Some(shares) = plan.shares.filter(|_| weight.exists()) {
            limit(weight, &weight_of(shares).to_string())?;
        }
        device_filter::attach(&directory, &[]).map_err(|source| InfraError::Devices { source })?;
    }
    Ok(place)
}

fn limit(path: PathBuf, value: &str) -> Result<(), InfraError> {
    cgroup::write_file(&path, value).map_err(|source| InfraError::Limit { path, source })
}

/// cgroup v1's 2 to 262,144 shares as v2's weight of 1 to 10,000.
fn weight_of(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn run(mut birth: Birth<'_>, report: &OwnedFd) -> i32 {
    if let Err(error) = settle(&mut birth) {
        Report::NotExecuted(chain(&error)).send(report);
        return 126;
    }
    // Nothing comes when the supervisor dies.
    let mut word = [0; GO.len()];
    match recv(report, &mut word[..], RecvFlags::empty()) {
        Ok((_, length)) if length > 0 => {}
        Ok(_) | Err(_) => return 126,
    }
    if birth.sysctls.is_some()
        && let Err(error) = finish(&mut birth)
    {
        Report::NotExecuted(chain(&error)).send(report);
        return 126;
    }
    let Err(error) = executable::execute(&Program::of(birth.plan.process, None));
    Report::NotExecuted(chain(&error)).send(report);
    127
}

/// Everything between birth and the word to go on.
fn settle(birth: &mut Birth<'_>) -> Result<(), InsideError> {
    let step = |step| move |source: nix::Error| InsideError::Step { step, source: source.into() };
    let plan = birth.plan;
    nix::unistd::setsid().map_err(step("setsid"))?;
    for number in 0..3 {
        let passed = sys::adopt(STDIO + number);
        sys::place(&passed, number)
            .map_err(|source| InsideError::Step { step: "standard descriptors", source })?;
    }
    if let Some(mapped) = &birth.mapped {
        id_mapping::await_mappings(mapped.as_fd())
            .map_err(|source| InsideError::Step { step: "user namespace", source })?;
    }
    if let Some(name) = plan.hostname {
        nix::unistd::sethostname(name).map_err(step("host name"))?;
    }
    if birth.mapped.is_none() {
        switch_root(plan.root)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    if birth.sysctls.is_none() { finish(birth) } else { Ok(()) }
}

/// The kernel's parameters, and whatever power is left.
fn finish(birth: &mut Birth<'_>) -> Result<(), InsideError> {
    let sysctl = |source| InsideError::Sysctl { source };
    if birth.mapped.take().is_some() {
        // Before Linux 6.11 the IPC namespace's may be set by the node's root, which the process still is by its number, since
        // then by the namespace's.
        birth.sysctls.as_mut().map_or(Ok(()), Sysctls::set_permitted).map_err(sysctl)?;
        id_mapping::become_root()
            .map_err(|source| InsideError::Step { step: "becoming root", source: source.into() })?;
    }
    birth.sysctls.as_ref().map_or(Ok(()), Sysctls::set).map_err(sysctl)?;
    drop_capabilities().map_err(|source| InsideError::Capabilities { source })
}

/// Makes the directory, read-only, the root, and takes every other mount out of sight.
fn switch_root(root: &Path) -> Result<(), InsideError> {
    let step = |step| move |source: nix::Error| InsideError::Step { step, source: source.into() };
    const NONE: Option<&str> = None;
    let here = Path::new(".");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(step("private mounts"))?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE).map_err(step("binding the root"))?;
    let locked = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, root, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | locked, NONE)
        .map_err(step("a read-only root"))?;
    nix::unistd::chdir(root).map_err(step("entering the root"))?;
    nix::unistd::pivot_root(here, here).map_err(step("switching the root"))?;
    umount2(here, MntFlags::MNT_DETACH).map_err(step("leaving the old root"))?;
    nix::unistd::chdir("/").map_err(step("entering the new root"))
}

/// The bounding set too: a root process would get back at exec what is in there.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    for capability in caps::all() {
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let none = std::collections::HashSet::<Capability>::new();
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::set(None, set, &none)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["/pause"], "cwd": "/", "noNewPrivileges": true,
                "capabilities": {
                    "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [],
                },
            },
            "root": {"path": "/root-of-pause", "readonly": true},
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "pid"}],
                "resources": {"cpu": {"shares": 2}, "devices": [{"allow": false, "access": "rwm"}]},
            },
        })
    }

    fn field(change: impl FnOnce(&mut serde_json::Value)) -> Option<&'static str> {
        let mut value = config();
        change(&mut value);
        match Plan::of(&serde_json::from_value(value).unwrap()) {
            Err(InfraError::Refused { field }) => Some(field),
            Ok(_) | Err(_) => None,
        }
    }

    #[test]
    fn the_shape_that_the_engine_writes_is_taken_and_everything_beyond_it_refused() {
        use serde_json::json;
        assert_eq!(field(|_| {}), None);
        assert_eq!(field(|c| c["mounts"] = json!([{"destination": "/x"}])), Some("mounts"));
        assert_eq!(field(|c| c["root"]["readonly"] = json!(false)), Some("root"));
        assert_eq!(field(|c| c["process"]["terminal"] = json!(true)), Some("process"));
        assert_eq!(field(|c| c["process"]["user"]["uid"] = json!(5)), Some("process"));
        assert_eq!(field(|c| c["process"]["noNewPrivileges"] = json!(false)), Some("process"));
        let bounding =
            |c: &mut serde_json::Value| c["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]);
        assert_eq!(field(bounding), Some("process"));
        assert_eq!(field(|c| c["linux"]["namespaces"] = json!([{"type": "pid"}])), Some("linux.namespaces"));
        let joined = json!([{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
        assert_eq!(field(|c| c["linux"]["namespaces"] = joined), Some("linux.namespaces"));
        let apart = json!([{"type": "mount"}, {"type": "user"}]);
        let mapping = json!([{"containerID": 0, "hostID": 70_000, "size": 10}]);
        assert_eq!(field(|c| c["linux"]["namespaces"] = apart.clone()), Some("linux.uidMappings"));
        assert_eq!(field(|c| c["linux"]["uidMappings"] = mapping.clone()), None);
        let mapped = |c: &mut serde_json::Value| {
            c["linux"]["uidMappings"] = mapping.clone();
            c["linux"]["gidMappings"] = mapping.clone();
        };
        assert_eq!(field(mapped), Some("linux.uidMappings"));
        let both = |c: &mut serde_json::Value| {
            mapped(c);
            c["linux"]["namespaces"] = apart.clone();
        };
        assert_eq!(field(both), None);
        let device = json!([{"allow": true, "access": "rwm"}]);
        assert_eq!(field(|c| c["linux"]["resources"]["devices"] = device), Some("linux.resources.devices"));
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert_eq!(field(|c| c["linux"]["seccomp"] = seccomp), Some("linux"));
    }

    #[test]
    fn shares_become_weights_from_one_end_of_the_scale_to_the_other() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight_of), [1, 1, 39, 10_000, 10_000]);
    }
}
