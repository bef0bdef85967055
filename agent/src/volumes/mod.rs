//! A pod's directory and its volumes.
//!
//! In: the pod, and `<root>/pods`. Out: the path on the host of each of its volumes, made and mounted; and the opposite,
//! nothing left of it. Each step may be taken twice, also by the next agent after a crash half-way: what is there is
//! read from the kernel (what exists, what is a mount), never from a record.
//!
//! Mounting volumes into containers is the engine's business. Kinds: emptyDir (disk, memory) and hostPath.

mod empty_dir;
mod host_path;
mod removal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use pintle_core::ids::PodUid;

/// What can go wrong with a pod's volumes and directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A directory or file could not be made.
    #[error("make {}: {source}", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tmpfs could not be mounted.
    #[error("mount tmpfs on {}: {source}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A mount could not be taken away.
    #[error("unmount {}: {source}", path.display())]
    Unmount {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tree could not be removed.
    #[error("remove {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The mount table could not be read.
    #[error("read the mount table")]
    MountTable(#[source] procfs::ProcError),
    /// A host path is not what its type says; the kubelet's words.
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPathType {
        /// The path.
        path: String,
        /// `a directory` and so on.
        wanted: &'static str,
    },
    /// A host path's type is none that exists.
    #[error("{0} is an invalid volume type")]
    HostPathUnknownType(String),
    /// A kind of volume that is not supported.
    #[error("volume {0:?} is of a kind that is not supported (supported: emptyDir, hostPath)")]
    Unsupported(String),
    /// A name that would lead out of the directory it belongs in.
    #[error("{0:?} cannot be a directory's name")]
    Name(String),
    /// A size that is no size.
    #[error("volume {volume:?}: sizeLimit {limit:?} is not a size")]
    Size {
        /// The volume.
        volume: String,
        /// What it says.
        limit: String,
    },
}

/// The pods' directories: `<root>/pods`.
#[derive(Debug, Clone)]
pub(crate) struct PodDirs {
    pods: PathBuf,
}

impl PodDirs {
    /// The directories below `<root>/pods`.
    pub(crate) fn new(root: &Path) -> Self {
        Self { pods: root.join("pods") }
    }

    /// `<root>/pods/<uid>`.
    pub(crate) fn pod(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// The pod's managed hosts file.
    pub(crate) fn etc_hosts(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// The directory of one container of the pod.
    pub(crate) fn container(&self, uid: &PodUid, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }

    /// The directory of its volumes.
    pub(crate) fn volumes(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// The file that is mounted as an incarnation's termination message.
    pub(crate) fn message(&self, uid: &PodUid, container: &str, attempt: u32) -> PathBuf {
        self.container(uid, container).join(attempt.to_string())
    }

    /// Where the sub-paths of a container's volumes are pinned.
    pub(crate) fn sub_paths(&self, uid: &PodUid, container: &str) -> PathBuf {
        self.pod(uid).join("volume-subpaths").join(container)
    }

    fn volume(&self, uid: &PodUid, plugin: &str, name: &str) -> PathBuf {
        self.volumes(uid).join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// The pods that something is left of.
    pub(crate) fn left_over(&self) -> Vec<PodUid> {
        let Ok(entries) = std::fs::read_dir(&self.pods) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).map(PodUid::new).collect()
    }
}

/// Makes the pod's directory and every volume, and says where each volume is on the host.
pub(crate) fn ensure(
    dirs: &PodDirs,
    pod: &api::Pod,
    uid: &PodUid,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    check_name(uid.as_str())?;
    make_dir(&dirs.volumes(uid))?;
    make_dir(&dirs.pod(uid).join("containers"))?;
    let spec = pod.spec.as_ref();
    let fs_group = spec
        .and_then(|spec| spec.security_context.as_ref()?.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    let mut paths = BTreeMap::new();
    for volume in spec.and_then(|spec| spec.volumes.as_ref()).into_iter().flatten() {
        check_name(&volume.name)?;
        let path = match (&volume.empty_dir, &volume.host_path) {
            (Some(empty), _) => {
                let path = dirs.volume(uid, empty_dir::PLUGIN, &volume.name);
                empty_dir::ensure(&path, empty, &volume.name, fs_group)?;
                path
            }
            (None, Some(host)) => host_path::ensure(host)?,
            (None, None) => return Err(VolumeError::Unsupported(volume.name.clone())),
        };
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

/// Where each volume is on the host, if all that this agent makes is there.
pub(crate) fn paths_if_ready(
    dirs: &PodDirs,
    pod: &api::Pod,
    uid: &PodUid,
) -> Option<BTreeMap<String, PathBuf>> {
    if !dirs.volumes(uid).is_dir() || !dirs.pod(uid).join("containers").is_dir() {
        return None;
    }
    let mut paths = BTreeMap::new();
    for volume in pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten() {
        let path = match (&volume.empty_dir, &volume.host_path) {
            (Some(empty), _) => {
                let path = dirs.volume(uid, empty_dir::PLUGIN, &volume.name);
                if !empty_dir::is_ready(&path, empty) {
                    return None;
                }
                path
            }
            (None, Some(host)) => PathBuf::from(&host.path),
            (None, None) => return None,
        };
        paths.insert(volume.name.clone(), path);
    }
    Some(paths)
}

/// Unmounts and removes the volumes of a pod that is over; its record and its containers' messages stay.
pub(crate) fn give_back(dirs: &PodDirs, uid: &PodUid) -> Result<(), VolumeError> {
    check_name(uid.as_str())?;
    remove_dir(&dirs.pod(uid).join("volume-subpaths"))?;
    remove_dir(&dirs.volumes(uid))
}

/// Unmounts whatever is mounted below the pod's directory and removes it. Never follows a link, never crosses into a
/// mount that could not be taken away.
pub(crate) fn tear_down(dirs: &PodDirs, uid: &PodUid) -> Result<(), VolumeError> {
    check_name(uid.as_str())?;
    let dir = dirs.pod(uid);
    removal::unmount_below(&dir)?;
    removal::remove_tree(&dir)
}

/// Unmounts whatever is mounted below a directory that is about to go, and removes it.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), VolumeError> {
    removal::unmount_below(dir)?;
    removal::remove_tree(dir)
}

fn make_dir(path: &Path) -> Result<(), VolumeError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| VolumeError::Make { path: path.to_owned(), source })
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    let sound =
        !name.is_empty() && name.len() <= 253 && name != "." && name != ".." && !name.contains(['/', '\0']);
    if sound { Ok(()) } else { Err(VolumeError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(volumes: &str) -> api::Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"a"}},"spec":{{"containers":[],"volumes":{volumes}}}}}"#
        ))
        .expect("a pod")
    }

    fn fixture() -> (tempfile::TempDir, PodDirs, PodUid) {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = PodDirs::new(root.path());
        (root, dirs, PodUid::new("1234"))
    }

    #[test]
    fn an_empty_dir_is_open_to_every_user_and_survives_being_made_twice() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_root, dirs, uid) = fixture();
        let pod = pod(r#"[{"name":"v","emptyDir":{}}]"#);
        assert_eq!(paths_if_ready(&dirs, &pod, &uid), None);
        let paths = ensure(&dirs, &pod, &uid).expect("made");
        let path = &paths["v"];
        assert!(path.ends_with("1234/volumes/kubernetes.io~empty-dir/v"));
        assert_eq!(path.metadata().expect("exists").permissions().mode() & 0o7777, 0o777);
        std::fs::write(path.join("kept"), "x").expect("writable");
        assert_eq!(ensure(&dirs, &pod, &uid).expect("made again"), paths);
        assert!(path.join("kept").exists());
        assert_eq!(paths_if_ready(&dirs, &pod, &uid), Some(paths));
        tear_down(&dirs, &uid).expect("gone");
        tear_down(&dirs, &uid).expect("gone twice");
        assert!(!dirs.pod(&uid).exists());
    }

    #[test]
    fn an_empty_dir_of_a_pod_with_a_group_belongs_to_the_group_and_so_does_what_is_made_in_it() {
        use std::os::unix::fs::MetadataExt as _;
        let (_root, dirs, uid) = fixture();
        let mut pod = pod(r#"[{"name":"v","emptyDir":{}},{"name":"m","emptyDir":{"medium":"Memory"}}]"#);
        let context = api::PodSecurityContext { fs_group: Some(4321), ..Default::default() };
        pod.spec.as_mut().expect("a spec").security_context = Some(context);
        let paths = ensure(&dirs, &pod, &uid).expect("made");
        for path in [&paths["v"], &paths["m"]] {
            let made = path.metadata().expect("exists");
            assert_eq!((made.gid(), made.mode() & 0o7777), (4321, 0o2777), "{}", path.display());
            std::fs::write(path.join("file"), "x").expect("writable");
            assert_eq!(path.join("file").metadata().expect("exists").gid(), 4321);
        }
        tear_down(&dirs, &uid).expect("gone");
    }

    #[test]
    fn a_memory_empty_dir_is_a_tmpfs_of_its_size_and_leaves_no_mount() {
        let (_root, dirs, uid) = fixture();
        let pod = pod(r#"[{"name":"m","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]"#);
        let path = ensure(&dirs, &pod, &uid).expect("made")["m"].clone();
        ensure(&dirs, &pod, &uid).expect("made twice, mounted once");
        let stat = rustix::fs::statvfs(&path).expect("statvfs");
        assert_eq!(stat.f_blocks * stat.f_frsize, 1024 * 1024);
        std::fs::write(path.join("big"), vec![0; 2 << 20]).expect_err("larger than the limit");
        assert!(paths_if_ready(&dirs, &pod, &uid).is_some());
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).expect("as after a reboot");
        assert_eq!(paths_if_ready(&dirs, &pod, &uid), None, "the bare directory is not the volume");
        ensure(&dirs, &pod, &uid).expect("mounted again");
        tear_down(&dirs, &uid).expect("gone");
        assert!(!dirs.pod(&uid).exists());
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!table.contains(path.to_str().expect("utf-8")), "a mount is left");
    }

    #[test]
    fn teardown_does_not_follow_links_out_of_the_pod() {
        let (root, dirs, uid) = fixture();
        let outside = root.path().join("outside");
        std::fs::create_dir(&outside).expect("outside");
        std::fs::write(outside.join("precious"), "x").expect("file");
        let path = ensure(&dirs, &pod(r#"[{"name":"v","emptyDir":{}}]"#), &uid).expect("made")["v"].clone();
        std::os::unix::fs::symlink(&outside, path.join("link")).expect("link");
        tear_down(&dirs, &uid).expect("gone");
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn teardown_removes_a_tree_deeper_than_a_process_may_have_files_open() {
        let (_root, dirs, uid) = fixture();
        let path = ensure(&dirs, &pod(r#"[{"name":"v","emptyDir":{}}]"#), &uid).expect("made")["v"].clone();
        let mut at =
            rustix::fs::open(&path, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).expect("open");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).expect("mkdir");
            at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                .expect("open below");
        }
        drop(at);
        tear_down(&dirs, &uid).expect("gone");
        assert!(!dirs.pod(&uid).exists());
    }

    #[test]
    fn teardown_takes_away_mounts_that_a_crash_left() {
        let (_root, dirs, uid) = fixture();
        let path = ensure(&dirs, &pod(r#"[{"name":"v","emptyDir":{}}]"#), &uid).expect("made")["v"].clone();
        let sub = path.join("a b");
        std::fs::create_dir(&sub).expect("mkdir");
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", none, None::<&std::ffi::CStr>).expect("mount over");
        rustix::mount::mount("tmpfs", &path, "tmpfs", none, None::<&std::ffi::CStr>)
            .expect("mount over that");
        tear_down(&dirs, &uid).expect("gone");
        assert!(!dirs.pod(&uid).exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (_root, dirs, uid) = fixture();
        for name in ["..", "a/b", "", "."] {
            let error = ensure(&dirs, &pod(&format!(r#"[{{"name":"{name}","emptyDir":{{}}}}]"#)), &uid);
            assert!(matches!(error, Err(VolumeError::Name(_))), "{name}");
        }
        assert!(matches!(tear_down(&dirs, &PodUid::new("..")), Err(VolumeError::Name(_))));
    }

    #[test]
    fn a_kind_of_volume_that_is_not_supported_is_refused_by_name() {
        let (_root, dirs, uid) = fixture();
        let error = ensure(&dirs, &pod(r#"[{"name":"nfs1","nfs":{"server":"a","path":"/"}}]"#), &uid);
        assert!(matches!(error, Err(VolumeError::Unsupported(name)) if name == "nfs1"));
    }
}
