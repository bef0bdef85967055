//! emptyDir: a directory of the pod, on disk or as a tmpfs.
//!
//! In: where it is to be, `EmptyDirVolumeSource`, `fsGroup`. Out: it is there, mode 0777; with a group, it belongs to the
//! group and so does what is made in it (setgid). `sizeLimit` bounds the memory kind by the file system's size; on disk
//! it is for eviction to enforce, which is not done here.

use std::ffi::CString;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use pintle_core::quantity::Quantity;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::mount::MountFlags;

use super::VolumeError;

/// Its directory's name below `volumes`, after `kubernetes.io~`.
pub(super) const PLUGIN: &str = "empty-dir";

/// Makes it; nothing happens if it is there.
pub(super) fn ensure(
    path: &Path,
    source: &EmptyDirVolumeSource,
    volume: &str,
    fs_group: Option<u32>,
) -> Result<(), VolumeError> {
    super::make_dir(path)?;
    if is_memory(source) && !is_mount(path) {
        mount_tmpfs(path, source, volume)?;
    }
    let set_gid = if fs_group.is_some() { 0o2000 } else { 0 };
    // The owner first: chown takes the setgid bit away.
    chown(path, None, fs_group)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777 | set_gid)))
        .map_err(|source| VolumeError::Make { path: path.to_owned(), source })
}

/// Whether it is there, mounted if it is of the memory kind.
pub(super) fn is_ready(path: &Path, source: &EmptyDirVolumeSource) -> bool {
    path.is_dir() && (!is_memory(source) || is_mount(path))
}

fn mount_tmpfs(path: &Path, source: &EmptyDirVolumeSource, volume: &str) -> Result<(), VolumeError> {
    let mut options = "mode=0777".to_owned();
    if let Some(limit) = source.size_limit.as_ref() {
        let size = Quantity::parse(&limit.0)
            .map_err(|_| VolumeError::Size { volume: volume.to_owned(), limit: limit.0.clone() })?;
        options.push_str(&format!(",size={}", size.value()));
    }
    let options = CString::new(options).expect("digits and ASCII words have no NUL");
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|e| VolumeError::Mount { path: path.to_owned(), source: e.into() })
}

fn is_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

fn is_mount(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE)
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
