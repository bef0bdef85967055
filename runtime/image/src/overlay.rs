//! Mounts overlays with any number of lower directories.
//!
//! In: lower directories (top first), upper, work and target directory. Out: a mount, or none. Uses the mount API with one
//! `lowerdir+` call per layer (Linux 6.8); before that `mount(2)`, whose options must fit one page, with the layers named by
//! descriptor number relative to `/proc/thread-self/fd` so that 127 of them do. It makes no directories.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};

use crate::Error;

/// `fsconfig` refuses strings of 256 bytes and more.
const FSCONFIG_MAX: usize = 255;

/// The parts of an overlay.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Topmost first; at least one.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) target: PathBuf,
}

impl Overlay {
    /// Mounts it.
    pub(crate) fn mount(&self) -> Result<(), Error> {
        match self.mount_by_descriptor() {
            // Unknown option, unknown system call, or forbidden by a seccomp filter: the old way may still work.
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => self.mount_by_options(),
            other => other.map_err(Error::io("mount overlay", &self.target)),
        }
    }

    fn mount_by_descriptor(&self) -> Result<(), Errno> {
        let opened = self.open_all()?;
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
        for (path, fd) in self.lower.iter().zip(&opened.lower) {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", option(path, fd))?;
        }
        rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", option(&self.upper, &opened.upper))?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", option(&self.work, &opened.work))?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let mount =
            rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, &self.target, flags)
    }

    /// `mount(2)` from a thread of its own, because the working directory belongs to the whole process otherwise.
    fn mount_by_options(&self) -> Result<(), Error> {
        let failed = Error::io("mount overlay", &self.target);
        let work = || -> Result<(), std::io::Error> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            let opened = self.open_all()?;
            rustix::process::chdir("/proc/thread-self/fd")?;
            let lower: Vec<_> = opened.lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
            let (upper, work) = (opened.upper.as_raw_fd(), opened.work.as_raw_fd());
            let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
            let options = std::ffi::CString::new(options)?;
            rustix::mount::mount("overlay", &self.target, "overlay", MountFlags::empty(), &*options)?;
            Ok(())
        };
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        match result {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed(std::io::Error::other("the mounting thread panicked"))),
        }
    }

    fn open_all(&self) -> Result<Opened, Errno> {
        let open = |path: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        };
        Ok(Opened {
            lower: self.lower.iter().map(open).collect::<Result<_, _>>()?,
            upper: open(&self.upper)?,
            work: open(&self.work)?,
        })
    }
}

struct Opened {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// The path itself, which reads better in mountinfo, or a short name for it. Backslashes would be taken for escapes.
fn option(path: &Path, fd: &OwnedFd) -> PathBuf {
    if path.as_os_str().len() <= FSCONFIG_MAX && !path.as_os_str().as_encoded_bytes().contains(&b'\\') {
        path.to_owned()
    } else {
        format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
    }
}

/// Whether something is mounted on `path`; an absent path is not.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io("inspect", path)(e)),
    }
}

/// Unmounts all that is mounted on `path`. What is still in use is detached and goes when its users do.
pub(crate) fn unmount_all(path: &Path) -> Result<(), Error> {
    while is_mounted(path)? {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => {
                tracing::warn!(path = %path.display(), "the root file system is in use; detaching it");
                rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                    .map_err(Error::io("unmount", path))?;
            }
            other => other.map_err(Error::io("unmount", path))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(dir: &Path, layers: usize) -> Overlay {
        let make = |name: String| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let lower: Vec<_> = (0..layers).map(|i| make(format!("layers/{i:064}/fs"))).collect();
        for (i, layer) in lower.iter().enumerate() {
            std::fs::write(layer.join(format!("file-{i}")), "x").unwrap();
        }
        Overlay {
            lower,
            upper: make("upper".into()),
            work: make("work".into()),
            target: make("target".into()),
        }
    }

    fn check(mount: impl Fn(&Overlay), dir: &Path) {
        let overlay = overlay(dir, 127);
        assert!(!is_mounted(&overlay.target).unwrap());
        mount(&overlay);
        let files = std::fs::read_dir(&overlay.target).unwrap().count();
        let mounted = is_mounted(&overlay.target).unwrap();
        unmount_all(&overlay.target).unwrap();
        assert_eq!((files, mounted), (127, true));
        assert!(!is_mounted(&overlay.target).unwrap());
    }

    #[test]
    fn an_overlay_of_127_layers_mounts_by_both_interfaces() {
        let dir = tempfile::tempdir().unwrap();
        check(|overlay| overlay.mount_by_descriptor().unwrap(), &dir.path().join("new, with : odd \\ name"));
        check(|overlay| overlay.mount_by_options().unwrap(), &dir.path().join("old, with : odd \\ name"));
        let deep = dir.path().join("d".repeat(200)).join("e".repeat(200));
        check(|overlay| overlay.mount().unwrap(), &deep);
    }
}
