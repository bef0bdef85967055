//! A place from which libcontainer can make a container whose root is nobody on the node.
//!
//! In: the configuration of a container that joins a user namespace, in the helper. Out: the same with other paths, and
//! the calling process in a mount namespace whose root holds these and nothing else:
//!
//! ```text
//! /bundle  the bundle      /m/0 /m/1 …  what is to be mounted, with its owners shown as the mount asks for
//! /rootfs  the container's /proc /sys   the kernel's      /dev  the devices the container gets
//! ```
//!
//! The library mounts as the namespace's root, to whom the node's directories (a volume's, say) need not be open, cannot show
//! owners otherwise, and cannot make devices there: it binds those that it finds under the same names. What it needs is
//! therefore opened and made here, as the node's root. That the node's other mounts are not copied is a gain besides.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, makedev};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::sys;

/// Where the bundle is.
pub(crate) const BUNDLE: &str = "/bundle";
const ROOTFS: &str = "/rootfs";
const NONE: Option<&str> = None;

/// The devices of every container, which the library adds by itself.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("{step} {}", path.display())]
    Step { step: &'static str, path: PathBuf, source: io::Error },
    #[error("the owners of {} cannot be shown as a user namespace's: its file system or kernel does not support that", path.display())]
    IdMap { path: PathBuf, source: io::Error },
    #[error("config.json: {field}: not as expected for a user namespace")]
    Refused { field: &'static str },
}

fn failed<E: Into<io::Error>>(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> StageError {
    move |source| StageError::Step { step, path: path.into(), source: source.into() }
}

/// Whether a container needs it: the user namespace that it joins.
pub(crate) fn user_namespace(spec: &Spec) -> Option<PathBuf> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User)?.path().clone()
}

/// Goes there. The process stays in it for good.
pub(crate) fn enter(mut spec: Spec, bundle: &Path, user_namespace: &Path) -> Result<Spec, StageError> {
    let users = File::open(user_namespace).map_err(failed("opening", user_namespace))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(failed("leaving the mounts at", "/"))?;
    // Nothing made here reaches the node; what is mounted there later still reaches volumes that ask for it.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).map_err(failed("separating", "/"))?;
    let root = spec.root().clone().ok_or(StageError::Refused { field: "root" })?;
    let rootfs = clone(root.path(), Depth::WithSubmounts)?;
    let sources = sources(&mut spec, &users)?;
    let own = clone(bundle, Depth::Alone)?;
    let cgroups = clone(Path::new("/sys/fs/cgroup"), Depth::WithSubmounts)?;
    let options = Some("mode=755,size=1m");
    mount(Some("tmpfs"), bundle, Some("tmpfs"), MsFlags::MS_NOSUID, options)
        .map_err(failed("mounting", bundle))?;
    std::env::set_current_dir(bundle).map_err(failed("entering", bundle))?;
    kernel_mounts(&cgroups)?;
    attach_directory(&own, "bundle")?;
    attach_directory(&rootfs, "rootfs")?;
    make_directory("m")?;
    for (number, source) in sources.iter().enumerate() {
        source.attach(&format!("m/{number}"))?;
    }
    make_devices(spec.linux().as_ref())?;
    switch_root()?;
    Ok(renamed(spec))
}

/// A mount's source, taken out of the node's directories.
struct Source {
    tree: OwnedFd,
    is_directory: bool,
}

impl Source {
    fn attach(&self, path: &str) -> Result<(), StageError> {
        if self.is_directory {
            return attach_directory(&self.tree, path);
        }
        File::create_new(path).map_err(failed("making", path))?;
        attach(&self.tree, path)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Alone,
    WithSubmounts,
}

/// Takes the sources of all bound mounts, and gives the mounts the names they will have.
fn sources(spec: &mut Spec, users: &File) -> Result<Vec<Source>, StageError> {
    let mut sources = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten().filter(|mount| is_bind(mount)) {
        let path = mount.source().clone().ok_or(StageError::Refused { field: "mounts" })?;
        let has = |option: &str| mount.options().iter().flatten().any(|given| given == option);
        let tree = clone(&path, if has("rbind") { Depth::WithSubmounts } else { Depth::Alone })?;
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            // They are those of the namespace: the engine has compared them.
            sys::map_mount_ids(tree.as_fd(), users.as_fd())
                .map_err(|source| StageError::IdMap { path: path.clone(), source })?;
        }
        let found = rustix::fs::fstat(&tree).map_err(failed("looking at", &path))?;
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        mount.set_source(Some(PathBuf::from(format!("/m/{}", sources.len()))));
        mount.set_uid_mappings(None).set_gid_mappings(None);
        sources.push(Source { tree, is_directory });
    }
    Ok(sources)
}

fn is_bind(mount: &Mount) -> bool {
    let by_option = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    mount.typ().as_deref() == Some("bind") || by_option
}

/// The kernel's own file systems, whole: the container may have its own only where it could see the node's.
fn kernel_mounts(cgroups: &OwnedFd) -> Result<(), StageError> {
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (path, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        make_directory(path)?;
        mount(Some(kind), path, Some(kind), locked, NONE).map_err(failed("mounting", path))?;
    }
    attach(cgroups, "sys/fs/cgroup")
}

/// Device nodes, for the library to bind.
fn make_devices(linux: Option<&Linux>) -> Result<(), StageError> {
    make_directory("dev")?;
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let made = linux
        .and_then(|linux| linux.devices().as_ref())
        .into_iter()
        .flatten()
        .try_for_each(make_asked_device);
    let made = made.and_then(|()| {
        DEVICES.iter().try_for_each(|(name, major, minor)| {
            let path = Path::new("dev").join(name);
            if path.exists() {
                Ok(())
            } else {
                make_device(&path, (FileType::CharacterDevice, 0o666), (*major, *minor))
            }
        })
    });
    nix::sys::stat::umask(before);
    made
}

fn make_asked_device(device: &LinuxDevice) -> Result<(), StageError> {
    let refused = StageError::Refused { field: "linux.devices" };
    let Ok(path) = device.path().strip_prefix("/") else { return Err(refused) };
    let is_plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P | LinuxDeviceType::A => return Err(refused),
    };
    let numbers = (u32::try_from(device.major()), u32::try_from(device.minor()));
    let (Ok(major), Ok(minor), true, true) = (numbers.0, numbers.1, is_plain, path.starts_with("dev")) else {
        return Err(refused);
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("making", parent))?;
    }
    make_device(path, (kind, device.file_mode().unwrap_or(0o666)), (major, minor))?;
    let (user, group) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    rustix::fs::chown(path, user, group).map_err(failed("changing the owner of", path))
}

fn make_device(
    path: &Path,
    (kind, mode): (FileType, u32),
    (major, minor): (u32, u32),
) -> Result<(), StageError> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    rustix::fs::mknodat(CWD, path, kind, mode, makedev(major, minor)).map_err(failed("making", path))
}

/// What is at a path, as a mount of its own that is nowhere yet.
fn clone(path: &Path, depth: Depth) -> Result<OwnedFd, StageError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if depth == Depth::WithSubmounts {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(failed("taking", path))
}

fn make_directory(path: &str) -> Result<(), StageError> {
    fs::create_dir(path).map_err(failed("making", path))
}

fn attach_directory(tree: &OwnedFd, path: &str) -> Result<(), StageError> {
    make_directory(path)?;
    attach(tree, path)
}

fn attach(tree: &OwnedFd, path: &str) -> Result<(), StageError> {
    move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed("mounting", path))
}

/// The working directory becomes the root, and all else is out of sight.
fn switch_root() -> Result<(), StageError> {
    nix::unistd::pivot_root(".", ".").map_err(failed("switching to", "."))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leaving", "/"))?;
    nix::unistd::chdir("/").map_err(failed("entering", "/"))
}

/// The configuration, as the library finds things here.
fn renamed(mut spec: Spec) -> Spec {
    if let Some(root) = spec.root_mut() {
        root.set_path(PathBuf::from(ROOTFS));
    }
    if let Some(linux) = spec.linux_mut() {
        // It joins a namespace that has them.
        linux.set_uid_mappings(None).set_gid_mappings(None);
    }
    spec
}
