//! The files of a sandbox: the pause program's root, `resolv.conf`, `hostname`, shared memory, the infra's bundle.
//!
//! In: the sandbox's directory and configuration. Out: files, one tmpfs mount, and both undone. Everything blocks; callers
//! use a blocking thread.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{
    error::{Error, Result},
    records::{self, NamespaceMode, SandboxConfig},
};

/// The infra container's bundle in the sandbox's directory.
pub const INFRA: &str = "infra";
/// The pods' name servers, in the sandbox's directory.
pub const RESOLV_CONF: &str = "resolv.conf";
/// The pod's host name, in the sandbox's directory.
pub const HOSTNAME: &str = "hostname";
/// The mount point of the pod's shared memory, in the sandbox's directory.
pub const SHM: &str = "shm";
/// The OCI configuration in a bundle.
pub const OCI_CONFIG: &str = "config.json";

const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=67108864";
const NODE_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Writes the pause program's root, once for all pods.
///
/// # Errors
/// When a file cannot be written.
pub fn write_pause(rootfs: &Path) -> Result<()> {
    for dir in ["proc", "dev", "sys"] {
        let path = rootfs.join(dir);
        fs::create_dir_all(&path).map_err(Error::io("making", path))?;
    }
    let path = rootfs.join("pause");
    if fs::read(&path).is_ok_and(|present| present == pintle_pause::PAUSE) {
        return Ok(());
    }
    let temporary = rootfs.join(".pause.new");
    fs::write(&temporary, pintle_pause::PAUSE).map_err(Error::io("writing", &temporary))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("changing the mode of", &temporary))?;
    // Renamed, not overwritten: running infra containers keep the old program.
    fs::rename(&temporary, &path).map_err(Error::io("renaming to", path))
}

/// Makes a directory that only root can look into; one that is there becomes so. What is in it may hold secrets, such
/// as a container's environment.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(Error::io("making", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .map_err(Error::io("changing the mode of", dir))
}

/// The text of the node's `resolv.conf`; empty when there is none.
#[must_use]
pub fn node_resolv_conf() -> String {
    fs::read_to_string(NODE_RESOLV_CONF).unwrap_or_default()
}

/// Writes the sandbox's files and mounts its shared memory.
///
/// # Errors
/// When one of them cannot be made.
pub fn prepare(dir: &Path, config: &SandboxConfig, resolv_conf: &str) -> Result<()> {
    let hostname = match (config.network, config.hostname.as_str()) {
        (NamespaceMode::Node, _) | (_, "") => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        (NamespaceMode::Pod | NamespaceMode::Container, name) => name.to_owned(),
    };
    write_public(&dir.join(RESOLV_CONF), resolv_conf)?;
    write_public(&dir.join(HOSTNAME), &format!("{hostname}\n"))?;
    match config.ipc {
        NamespaceMode::Node => {}
        NamespaceMode::Pod | NamespaceMode::Container => mount_shm(&dir.join(SHM))?,
    }
    config.users.as_ref().map_or(Ok(()), |users| give(dir, users.root()))
}

/// Makes the pod's root the owner of the sandbox's files. Their file systems need not be ones that can be mapped.
fn give(dir: &Path, (user, group): (u32, u32)) -> Result<()> {
    for path in [RESOLV_CONF, HOSTNAME, SHM].map(|name| dir.join(name)) {
        std::os::unix::fs::chown(&path, Some(user), Some(group))
            .map_err(Error::io("changing the owner of", path))?;
    }
    Ok(())
}

/// Writes a bundle's OCI configuration.
///
/// # Errors
/// When it cannot be written.
pub fn write_bundle(bundle: &Path, spec: &Spec) -> Result<()> {
    make_dir(bundle)?;
    let path = bundle.join(OCI_CONFIG);
    let text =
        serde_json::to_vec(spec).map_err(|e| Error::Record { path: path.clone(), reason: e.to_string() })?;
    records::write_private(&path, &text)
}

/// Where a container of the sandbox finds its shared memory.
#[must_use]
pub fn shm_source(dir: &Path, config: &SandboxConfig) -> PathBuf {
    match config.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        NamespaceMode::Pod | NamespaceMode::Container => dir.join(SHM),
    }
}

/// Takes the shared memory's mount away, as often as it is mounted.
///
/// # Errors
/// When it cannot be.
pub fn unmount_shm(dir: &Path) -> Result<()> {
    let path = dir.join(SHM);
    loop {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io("unmounting", path)(e)),
        }
    }
}

/// Removes a directory of the engine's own with everything in it; nothing when it is gone.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", dir)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_public(path: &Path, text: &str) -> Result<()> {
    // Not synchronised: after a power cut the whole sandbox is dead.
    fs::write(path, text).map_err(Error::io("writing", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .map_err(Error::io("changing the mode of", path))
}

fn mount_shm(path: &Path) -> Result<()> {
    make_dir(path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", path, "tmpfs", flags, SHM_OPTIONS).map_err(Error::io("mounting", path))
}
