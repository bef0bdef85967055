//! What is mounted in a container, and what is hidden there.
//!
//! In: CRI's mounts, already checked and resolved on the node; the sandbox's files. Out: OCI's list: the kernel's file
//! systems first, the sandbox's files, then the mounts asked for, those nearer the root first.

use std::path::{Path, PathBuf};

use pintle_cri_api::v1::{Mount, MountPropagation};
use serde_json::{Value, json};

use super::{Error, user_namespace::IdMappings};

/// A mount of a CRI request, with its paths as they were found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// Where it comes from, links followed.
    pub source: PathBuf,
    /// Where it goes, links inside the container's root followed.
    pub destination: String,
    /// Whether nothing may be written through it.
    pub readonly: bool,
    /// Whether that also holds for the mounts below it.
    pub recursive_read_only: bool,
    /// How mounts travel through it.
    pub propagation: MountPropagation,
    /// What else is forbidden on it: some of [`OPTIONS`].
    pub options: Vec<String>,
    /// Whether its owners are shown as the pod's users.
    pub mapped: bool,
}

/// How the kernel's own file systems are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelMounts {
    /// Whether `/sys` may be written to.
    pub privileged: bool,
    /// Whether there is a cgroup v2 to show. On v1 the mount's `ro` is not honoured, so there is none.
    pub cgroup_v2: bool,
}

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 6] =
    ["/proc/bus", "/proc/dynamic_debug", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The paths hidden from a container that does not say otherwise.
#[must_use]
pub fn default_masked() -> Vec<String> {
    MASKED.iter().map(ToString::to_string).collect()
}

/// The paths that a container that does not say otherwise may only read.
#[must_use]
pub fn default_readonly() -> Vec<String> {
    READONLY.iter().map(ToString::to_string).collect()
}

/// The kernel's file systems: proc, dev, pts, mqueue, sys and, on v2, cgroup.
#[must_use]
pub fn kernel(how: KernelMounts) -> Vec<Value> {
    let access = if how.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if how.cgroup_v2 {
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    list
}

/// A file or directory of the sandbox, bound into a container.
#[must_use]
pub fn bind(source: &Path, destination: &str, readonly: bool) -> Value {
    let access = if readonly { "ro" } else { "rw" };
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}

/// The mounts asked for, those nearer the root first, so that none hides another.
#[must_use]
pub fn wanted(mounts: &[ResolvedMount], users: Option<&IdMappings>) -> Vec<Value> {
    let mut ordered: Vec<&ResolvedMount> = mounts.iter().collect();
    ordered.sort_by_key(|mount| depth(&mount.destination));
    let with_owners = |mount: &ResolvedMount| {
        let mut value = one(mount);
        if let Some(users) = users.filter(|_| mount.mapped) {
            (value["uidMappings"], value["gidMappings"]) = users.oci();
        }
        value
    };
    ordered.into_iter().map(with_owners).collect()
}

/// How mounts travel between the container's tree and the node, as the mounts need it. Where it is not "private", the
/// supervisor makes those private that do not need it.
#[must_use]
pub fn rootfs_propagation(mounts: &[ResolvedMount]) -> &'static str {
    let has = |kind| mounts.iter().any(|mount| mount.propagation == kind);
    if has(MountPropagation::PropagationBidirectional) {
        return "shared";
    }
    if has(MountPropagation::PropagationHostToContainer) { "slave" } else { "private" }
}

/// What a request may forbid on a mount. The others do nothing to a bind mount, or what another field is for.
pub const OPTIONS: [&str; 7] =
    ["noexec", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "strictatime"];
/// The most options of a mount.
const MAX_OPTIONS: usize = 16;

/// Checks a mount as far as that is possible without looking at the node.
///
/// # Errors
/// When it asks for something that cannot be or is not built yet.
pub fn check(mount: &Mount) -> Result<MountPropagation, Error> {
    let propagation = MountPropagation::try_from(mount.propagation)
        .map_err(|_| Error::invalid("mounts", format!("there is no propagation {}", mount.propagation)))?;
    check_options(&mount.mount_options)?;
    let is_image = check_image(mount, propagation)?;
    if (mount.host_path.is_empty() && !is_image) || !mount.container_path.starts_with('/') {
        let reason = format!("{:?} on {:?}: both paths are needed", mount.host_path, mount.container_path);
        return Err(Error::invalid("mounts", reason));
    }
    if mount.recursive_read_only && !mount.readonly {
        return Err(Error::invalid("mounts.recursive_read_only", "needs readonly as well"));
    }
    if mount.recursive_read_only && propagation != MountPropagation::PropagationPrivate {
        return Err(Error::invalid("mounts.recursive_read_only", "needs private propagation"));
    }
    Ok(propagation)
}

fn check_options(options: &[String]) -> Result<(), Error> {
    if options.len() > MAX_OPTIONS {
        return Err(Error::invalid("mounts.mount_options", format!("more than {MAX_OPTIONS}")));
    }
    match options.iter().find(|option| !OPTIONS.contains(&option.as_str())) {
        Some(other) => {
            let shown: String = other.chars().take(32).collect();
            let reason = format!("{shown:?} is none of {}", OPTIONS.join(", "));
            Err(Error::unsupported("mounts.mount_options", reason))
        }
        None => Ok(()),
    }
}

/// Whether it is an image volume, which is private and nothing else. It is read-only without being asked to.
fn check_image(mount: &Mount, propagation: MountPropagation) -> Result<bool, Error> {
    let invalid = |field, reason: &str| Err(Error::invalid(field, reason));
    if mount.image.as_ref().is_none_or(|image| image.image.is_empty()) {
        return match mount.image_sub_path.as_str() {
            "" => Ok(false),
            _ => invalid("mounts.image_sub_path", "is given without an image"),
        };
    }
    if !mount.host_path.is_empty() {
        return invalid("mounts.image", "an image and a host_path exclude each other");
    }
    if propagation != MountPropagation::PropagationPrivate {
        return invalid("mounts.propagation", "nothing is ever mounted in an image volume");
    }
    let sub_path = mount.image_sub_path.as_str();
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return invalid("mounts.image_sub_path", "has to be a path inside the image");
    }
    Ok(true)
}

/// Files of `/proc` that may be covered: what lxcfs shows in place of the node's own.
const PROC_FILES: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// Checks where a mount goes, links followed: not over `/proc`, which the supervisor and the paths that are hidden or
/// read-only rely on, nor over `/dev`, in which device nodes and links are made.
///
/// # Errors
/// When it goes there.
pub fn check_destination(destination: &str, from_procfs: bool) -> Result<(), Error> {
    let path = Path::new(destination);
    let refused = |reason: &str| {
        Err(Error::invalid(
            "mounts.container_path",
            format!("{destination:?} cannot be mounted on: {reason}"),
        ))
    };
    if path == Path::new("/dev") {
        return refused("it is the container's own; mount what is needed below it");
    }
    let covers_proc = path.starts_with("/proc") && !PROC_FILES.iter().any(|file| path == Path::new(file));
    if covers_proc && !(from_procfs && path == Path::new("/proc")) {
        return refused("/proc has to show the kernel's own files");
    }
    Ok(())
}

/// How many components a path has.
#[must_use]
pub fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn one(mount: &ResolvedMount) -> Value {
    let propagation = match mount.propagation {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(mount.options.iter().map(String::as_str));
    json!({
        "destination": mount.destination, "type": "bind", "source": mount.source, "options": options,
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(destination: &str) -> ResolvedMount {
        ResolvedMount {
            source: PathBuf::from("/srv"),
            destination: destination.to_owned(),
            readonly: false,
            recursive_read_only: false,
            propagation: MountPropagation::PropagationPrivate,
            options: Vec::new(),
            mapped: false,
        }
    }

    #[test]
    fn mounts_nearer_the_root_come_first_and_equals_keep_their_order() {
        let list = wanted(&[resolved("/a/b/c"), resolved("/z"), resolved("/a")], None);
        let order: Vec<_> = list.iter().map(|v| v["destination"].as_str().unwrap()).collect();
        assert_eq!(order, ["/z", "/a", "/a/b/c"]);
    }

    #[test]
    fn access_and_propagation_become_options() {
        let mut mount = resolved("/a");
        assert_eq!(one(&mount)["options"], json!(["rbind", "rprivate", "rw"]));
        mount.readonly = true;
        mount.propagation = MountPropagation::PropagationHostToContainer;
        assert_eq!(one(&mount)["options"], json!(["rbind", "rslave", "ro"]));
        assert_eq!(rootfs_propagation(&[resolved("/b"), mount.clone()]), "slave");
        mount.recursive_read_only = true;
        mount.options = vec!["noexec".to_owned()];
        assert_eq!(one(&mount)["options"], json!(["rbind", "rslave", "rro", "noexec"]));
        mount.propagation = MountPropagation::PropagationBidirectional;
        assert_eq!(rootfs_propagation(&[mount, resolved("/b")]), "shared");
        assert_eq!(rootfs_propagation(&[resolved("/a")]), "private");
    }

    #[test]
    fn only_a_mount_that_asks_for_it_is_shown_as_the_pods_users() {
        use crate::spec::user_namespace::IdRange;
        let range = IdRange { inside: 0, on_node: 70_000, length: 10 };
        let users = IdMappings { users: vec![range], groups: vec![range] };
        let mapped = ResolvedMount { mapped: true, ..resolved("/a") };
        let list = wanted(&[mapped, resolved("/b")], Some(&users));
        assert_eq!(list[0]["gidMappings"], users.oci().1);
        assert!(list[1].get("uidMappings").is_none());
    }

    #[test]
    fn on_v1_there_is_no_cgroup_mount_because_its_ro_is_ignored() {
        let v1 = kernel(KernelMounts { privileged: false, cgroup_v2: false });
        assert!(v1.iter().all(|mount| mount["type"] != "cgroup"));
        let v2 = kernel(KernelMounts { privileged: false, cgroup_v2: true });
        let cgroup = v2.iter().find(|mount| mount["type"] == "cgroup").unwrap();
        assert!(cgroup["options"].as_array().unwrap().contains(&json!("ro")));
    }

    #[test]
    fn nothing_is_mounted_over_proc_and_dev_but_below_dev_and_over_what_lxcfs_shows() {
        for bad in ["/proc", "/proc/", "/proc/sys/kernel", "/proc/self/attr", "/dev", "/dev/"] {
            assert!(check_destination(bad, false).is_err(), "{bad}");
        }
        for good in ["/data", "/dev/net/tun", "/proc/meminfo", "/process", "/sys/fs/bpf"] {
            check_destination(good, false).unwrap();
        }
        check_destination("/proc", true).unwrap();
        assert!(check_destination("/proc/sys", true).is_err());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_in_words() {
        let good =
            Mount { host_path: "/a".to_owned(), container_path: "/b".to_owned(), ..Default::default() };
        assert!(check(&good).is_ok());
        assert!(check(&Mount { propagation: 9, ..good.clone() }).is_err());
        assert!(check(&Mount { host_path: String::new(), ..good.clone() }).is_err());
        assert!(check(&Mount { container_path: "b".to_owned(), ..good.clone() }).is_err());
        assert!(check(&Mount { recursive_read_only: true, ..good.clone() }).is_err());
        let options = vec!["noexec".to_owned(), "nodev".to_owned()];
        assert!(check(&Mount { mount_options: options, ..good.clone() }).is_ok());
        for option in ["exec", "rshared", "remount", "size=1"] {
            let options = vec![option.to_owned()];
            let refused = check(&Mount { mount_options: options, ..good.clone() });
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{option}");
        }
    }

    #[test]
    fn an_image_volume_is_private_and_without_a_host_path() {
        let image = Some(pintle_cri_api::v1::ImageSpec { image: "x".to_owned(), ..Default::default() });
        let good = Mount {
            container_path: "/b".to_owned(),
            image,
            readonly: true,
            image_sub_path: "a/b".to_owned(),
            ..Default::default()
        };
        assert!(check(&good).is_ok());
        assert!(check(&Mount { readonly: false, ..good.clone() }).is_ok());
        let bad = [
            Mount { host_path: "/a".to_owned(), ..good.clone() },
            Mount { propagation: 1, ..good.clone() },
            Mount { image_sub_path: "/a".to_owned(), ..good.clone() },
            Mount { image_sub_path: "a/../b".to_owned(), ..good.clone() },
            Mount { image: None, ..good },
        ];
        for mount in bad {
            assert!(matches!(check(&mount), Err(Error::Invalid { .. })), "{mount:?}");
        }
    }
}
