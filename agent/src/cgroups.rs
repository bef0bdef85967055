//! The cgroup tree of pods: `kubepods`, its QoS classes, one group per pod.
//!
//! In: the cgroup that everything hangs below, a pod's uid, class and values. Out: the groups exist with these values in
//! every hierarchy that carries a controller, or are gone from every hierarchy. Works on v1, hybrid and v2 alike.
//!
//! The tree is made and its values are written with the crate `cgroups-rs` (docs/adr/0001). Removing is ours: the crate
//! removes single groups, and on hybrid hosts knows neither the unified nor the systemd hierarchy. Containers' own groups
//! are the engine's.

use std::path::{Path, PathBuf};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::{V1, V2, is_cgroup2_unified_mode};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::{Cgroup, Hierarchy};
use pintle_core::ids::PodUid;
use pintle_core::qos::QosClass;
use pintle_core::resources::{self, CPU_PERIOD_US, CgroupValues, MIN_CPU_SHARES};

const SHIMS: &str = "pintle-shims";

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// No hierarchy with a cpu and a memory controller was found.
    #[error("no cgroup hierarchy is mounted on /sys/fs/cgroup")]
    NoHierarchy,
    /// The mount table could not be read.
    #[error("read the mount table")]
    MountTable(#[source] procfs::ProcError),
    /// A group could not be made.
    #[error("make cgroup {path}: {source}")]
    Make {
        /// Which.
        path: String,
        /// Why.
        source: cgroups_rs::fs::error::Error,
    },
    /// A value could not be set.
    #[error("set {what} of cgroup {path}: {source}")]
    Set {
        /// Which.
        path: String,
        /// What.
        what: &'static str,
        /// Why.
        source: cgroups_rs::fs::error::Error,
    },
    /// A group could not be removed.
    #[error("remove cgroup {}: {source}", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The tree of one instance of Pintle.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    root: String,
    hierarchy: Mounted,
    /// Where every hierarchy is mounted, with or without a controller.
    mounts: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
enum Mounted {
    V1(V1),
    V2(V2),
}

impl Cgroups {
    /// Finds the hierarchies. Nothing is made yet.
    pub(crate) fn open(root: &str) -> Result<Self, CgroupError> {
        let mounts = hierarchies()?;
        let hierarchy =
            if is_cgroup2_unified_mode() { Mounted::V2(V2::new()) } else { Mounted::V1(V1::new()) };
        if mounts.is_empty() {
            return Err(CgroupError::NoHierarchy);
        }
        Ok(Self { root: root.trim_matches('/').to_owned(), hierarchy, mounts })
    }

    /// Makes `kubepods` and the classes below it.
    pub(crate) fn ensure_classes(&self) -> Result<(), CgroupError> {
        self.make(&self.below_root("kubepods"))?;
        self.make(&self.class(QosClass::Burstable))?;
        self.ensure(&self.class(QosClass::BestEffort), only_shares(MIN_CPU_SHARES))
    }

    /// What the burstable class as a whole gets: the sum of what its pods ask for.
    pub(crate) fn set_burstable_shares(&self, shares: u64) -> Result<(), CgroupError> {
        self.ensure(&self.class(QosClass::Burstable), only_shares(shares.max(MIN_CPU_SHARES)))
    }

    /// The absolute path of a pod's group, as the CRI's `cgroup_parent` wants it.
    pub(crate) fn pod_path(&self, class: QosClass, uid: &PodUid) -> String {
        self.rooted(&resources::cgroup_parent(class, uid))
    }

    /// Makes a pod's group with its values.
    pub(crate) fn ensure_pod(
        &self,
        class: QosClass,
        uid: &PodUid,
        values: CgroupValues,
    ) -> Result<(), CgroupError> {
        self.ensure(self.pod_path(class, uid).trim_start_matches('/'), values)
    }

    /// Whether a group of the pod, in whatever class, is there: in each hierarchy with controllers, as far as one can see.
    pub(crate) fn pod_exists(&self, uid: &PodUid) -> bool {
        self.every_class(uid).iter().any(|path| self.mounts.iter().any(|mount| mount.join(path).is_dir()))
    }

    /// Removes the pod's groups with everything below them. Fails while a process is in one.
    pub(crate) fn remove_pod(&self, uid: &PodUid) -> Result<(), CgroupError> {
        self.every_class(uid).iter().try_for_each(|path| self.remove(path))
    }

    /// The uids of the pods that have a group.
    pub(crate) fn pods(&self) -> Vec<PodUid> {
        let mut found = Vec::new();
        for class in CLASSES.map(|class| self.class(class)) {
            for dir in self.mounts.iter().filter_map(|mount| std::fs::read_dir(mount.join(&class)).ok()) {
                let names = dir.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                found.extend(names.filter_map(|name| name.strip_prefix("pod").map(PodUid::new)));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Removes the whole tree, supervisors' group included. Fails while a process is in it.
    pub(crate) fn remove_all(&self) -> Result<(), CgroupError> {
        self.remove(&self.below_root("kubepods"))?;
        self.remove(&self.below_root(SHIMS))?;
        if self.root.is_empty() { Ok(()) } else { self.remove(&self.root) }
    }

    fn every_class(&self, uid: &PodUid) -> [String; 3] {
        CLASSES.map(|class| self.pod_path(class, uid).trim_matches('/').to_owned())
    }

    fn class(&self, class: QosClass) -> String {
        self.below_root(match class {
            QosClass::Guaranteed => "kubepods",
            QosClass::Burstable => "kubepods/burstable",
            QosClass::BestEffort => "kubepods/besteffort",
        })
    }

    fn rooted(&self, path: &str) -> String {
        if self.root.is_empty() { path.to_owned() } else { format!("/{}{path}", self.root) }
    }

    fn below_root(&self, path: &str) -> String {
        if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) }
    }

    fn make(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let hierarchy: Box<dyn Hierarchy> = match &self.hierarchy {
            Mounted::V1(v1) => Box::new(v1.clone()),
            Mounted::V2(v2) => Box::new(v2.clone()),
        };
        Cgroup::new(hierarchy, path).map_err(|source| CgroupError::Make { path: path.to_owned(), source })
    }

    fn ensure(&self, path: &str, values: CgroupValues) -> Result<(), CgroupError> {
        let group = self.make(path)?;
        let set = |what| move |source| CgroupError::Set { path: path.to_owned(), what, source };
        if let Some(cpu) = group.controller_of::<CpuController>() {
            let share = if group.v2() { values.cpu_weight } else { values.cpu_shares };
            cpu.set_shares(share).map_err(set("cpu shares"))?;
            if let Some(quota) = values.cpu_quota_us {
                let quota = i64::try_from(quota).unwrap_or(i64::MAX);
                cpu.set_cfs_quota_and_period(Some(quota), Some(CPU_PERIOD_US)).map_err(set("cpu quota"))?;
            }
        }
        if let (Some(memory), Some(limit)) = (group.controller_of::<MemController>(), values.memory_limit) {
            memory.set_limit(i64::try_from(limit.0).unwrap_or(i64::MAX)).map_err(set("memory limit"))?;
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        self.mounts.iter().try_for_each(|mount| remove_tree(&mount.join(path)))
    }
}

const CLASSES: [QosClass; 3] = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];

fn only_shares(shares: u64) -> CgroupValues {
    CgroupValues {
        cpu_shares: shares,
        cpu_weight: resources::cpu_weight(shares),
        cpu_quota_us: None,
        memory_limit: None,
    }
}

/// Removes a group and those below it, the lowest first. Nothing happens if it is not there.
fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Remove { path: dir.to_owned(), source };
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                remove_tree(&entry.path())?;
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The mount points of all cgroup hierarchies below `/sys/fs/cgroup`.
fn hierarchies() -> Result<Vec<PathBuf>, CgroupError> {
    let table =
        procfs::process::Process::myself().and_then(|me| me.mountinfo()).map_err(CgroupError::MountTable)?;
    let is_cgroup = |kind: &str| kind == "cgroup" || kind == "cgroup2";
    let mut mounts: Vec<PathBuf> = table
        .0
        .into_iter()
        .filter(|mount| is_cgroup(&mount.fs_type) && mount.mount_point.starts_with("/sys/fs/cgroup"))
        .map(|mount| mount.mount_point)
        .collect();
    mounts.sort();
    mounts.dedup();
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        groups: Cgroups,
        root: String,
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let root = format!("/pintle-test-{name}-{}", std::process::id());
            let groups = Cgroups::open(&root).expect("hierarchies");
            Self { groups, root }
        }

        /// A value of a group under v1's and v2's name of the controller and file.
        fn value(&self, path: &str, v1: (&str, &str), v2: &str) -> String {
            let dir = if is_cgroup2_unified_mode() { String::new() } else { format!("/{}", v1.0) };
            let file = if is_cgroup2_unified_mode() { v2 } else { v1.1 };
            let path = format!("/sys/fs/cgroup{dir}{path}/{file}");
            std::fs::read_to_string(&path).expect(&path).trim().to_owned()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.groups.remove_all().expect("removed");
            for mount in hierarchies().expect("mounts") {
                assert!(!mount.join(self.root.trim_matches('/')).exists(), "{} is left", mount.display());
            }
        }
    }

    #[test]
    fn a_pods_group_carries_its_values_and_is_removed_from_every_hierarchy() {
        let fixture = Fixture::new("values");
        let groups = &fixture.groups;
        let uid = PodUid::new("77-aa");
        groups.ensure_classes().expect("classes");
        let values = CgroupValues {
            cpu_quota_us: Some(50_000),
            memory_limit: Some(resources::Bytes(64 << 20)),
            ..only_shares(512)
        };
        for _ in 0..2 {
            groups.ensure_pod(QosClass::Burstable, &uid, values).expect("made");
        }
        let path = groups.pod_path(QosClass::Burstable, &uid);
        assert_eq!(path, format!("{}/kubepods/burstable/pod77-aa", fixture.root));
        assert_eq!(fixture.value(&path, ("memory", "memory.limit_in_bytes"), "memory.max"), "67108864");
        let v2 = is_cgroup2_unified_mode();
        let quota = fixture.value(&path, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
        assert_eq!(quota, if v2 { "50000 100000" } else { "50000" });
        let shares = fixture.value(&path, ("cpu", "cpu.shares"), "cpu.weight");
        assert_eq!(shares, if v2 { "59" } else { "512" });
        assert!(groups.pod_exists(&uid));
        assert_eq!(groups.pods(), std::slice::from_ref(&uid));
        groups.remove_pod(&uid).expect("removed");
        groups.remove_pod(&uid).expect("removed twice");
        assert!(!groups.pod_exists(&uid));
    }

    #[test]
    fn best_effort_gets_the_least_and_burstable_what_its_pods_ask_for() {
        let fixture = Fixture::new("classes");
        fixture.groups.ensure_classes().expect("classes");
        fixture.groups.set_burstable_shares(2048).expect("set");
        let shares = |class: &str| {
            let path = format!("{}/kubepods/{class}", fixture.root);
            fixture.value(&path, ("cpu", "cpu.shares"), "cpu.weight")
        };
        let v2 = is_cgroup2_unified_mode();
        assert_eq!(shares("besteffort"), if v2 { "1" } else { "2" });
        assert_eq!(shares("burstable"), if v2 { "174" } else { "2048" });
    }

    #[test]
    fn a_group_below_a_pods_group_goes_with_it() {
        let fixture = Fixture::new("below");
        let uid = PodUid::new("1");
        fixture.groups.ensure_pod(QosClass::Guaranteed, &uid, only_shares(2)).expect("made");
        let path = fixture.groups.pod_path(QosClass::Guaranteed, &uid);
        for mount in &fixture.groups.mounts {
            std::fs::create_dir_all(mount.join(path.trim_start_matches('/')).join("c/d")).expect("below");
        }
        fixture.groups.remove_pod(&uid).expect("removed");
        assert!(!fixture.groups.pod_exists(&uid));
    }
}
