//! Mounts overlays with any number of lower directories.
//!
//! In: lower directories (top first), upper, work and target directory. Out: a mount, or none. Uses the mount API with one
//! `lowerdir+` call per layer (Linux 6.8); before that `mount(2)`, whose options must fit one page: plain paths, which tell
//! something in mountinfo, while they fit, else descriptor numbers relative to `/proc/thread-self/fd`, of which 127 fit. It
//! makes no directories.
//!
//! The mounts are `volatile` where the kernel can (Linux 5.10): nothing of a container's root outlives the boot, and an
//! unmount would otherwise write back the whole file system that the upper directory is on.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};

use crate::Error;

/// `fsconfig` refuses strings of 256 bytes and more.
const FSCONFIG_MAX: usize = 255;

/// Says that what is written need not survive a power cut.
const VOLATILE: &str = ",volatile";

/// `mount(2)` takes one page of options, with the NUL at their end.
const OPTIONS_MAX: usize = 4095 - VOLATILE.len();

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
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let mount =
            rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, &self.target, flags)
    }

    fn mount_by_options(&self) -> Result<(), Error> {
        match self.plain_options() {
            Some(options) => self.mount_with(options).map_err(Error::io("mount overlay", &self.target)),
            None => self.mount_by_numbers(),
        }
    }

    /// The options with paths in them; nothing when they need escapes or more than a page.
    fn plain_options(&self) -> Option<String> {
        let plain =
            |path: &PathBuf| path.to_str().filter(|text| !text.contains([',', ':', '\\'])).map(str::to_owned);
        let lower = self.lower.iter().map(plain).collect::<Option<Vec<_>>>()?.join(":");
        let options =
            format!("lowerdir={lower},upperdir={},workdir={}", plain(&self.upper)?, plain(&self.work)?);
        (options.len() <= OPTIONS_MAX).then_some(options)
    }

    /// From a thread of its own, because the working directory belongs to the whole process otherwise.
    fn mount_by_numbers(&self) -> Result<(), Error> {
        let failed = Error::io("mount overlay", &self.target);
        let work = || -> Result<(), std::io::Error> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            let opened = self.open_all()?;
            rustix::process::chdir("/proc/thread-self/fd")?;
            let lower: Vec<_> = opened.lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
            let (upper, work) = (opened.upper.as_raw_fd(), opened.work.as_raw_fd());
            self.mount_with(format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":")))
        };
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        match result {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed(std::io::Error::other("the mounting thread panicked"))),
        }
    }

    fn mount_with(&self, options: String) -> Result<(), std::io::Error> {
        let mount = |options: String| -> Result<(), std::io::Error> {
            let options = std::ffi::CString::new(options)?;
            rustix::mount::mount("overlay", &self.target, "overlay", MountFlags::empty(), &*options)?;
            Ok(())
        };
        match mount(format!("{options}{VOLATILE}")) {
            // The kernel does not know it.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => mount(options),
            other => other,
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

    fn check(mount: impl Fn(&Overlay), dir: &Path, layers: usize) {
        let overlay = overlay(dir, layers);
        assert!(!is_mounted(&overlay.target).unwrap());
        mount(&overlay);
        let files = std::fs::read_dir(&overlay.target).unwrap().count();
        let mounted = is_mounted(&overlay.target).unwrap();
        unmount_all(&overlay.target).unwrap();
        assert_eq!((files, mounted), (layers, true));
        assert!(!is_mounted(&overlay.target).unwrap());
    }

    /// Whether the kernel knows `lowerdir+`.
    fn is_linux_6_8() -> bool {
        let release = rustix::system::uname().release().to_str().unwrap().to_owned();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 8)
    }

    #[test]
    fn an_overlay_of_127_layers_mounts_by_both_interfaces() {
        let dir = tempfile::tempdir().unwrap();
        let odd = |name: &str| dir.path().join(format!("{name}, with : odd \\ name"));
        if is_linux_6_8() {
            check(|overlay| overlay.mount_by_descriptor().unwrap(), &odd("new"), 127);
        } else {
            let overlay = overlay(&odd("new"), 127);
            assert_eq!(overlay.mount_by_descriptor(), Err(Errno::INVAL), "mount() must see that it cannot");
        }
        check(|overlay| overlay.mount_by_options().unwrap(), &odd("old"), 127);
        let deep = dir.path().join("d".repeat(200)).join("e".repeat(200));
        check(|overlay| overlay.mount().unwrap(), &deep, 127);
    }

    #[test]
    fn the_old_interface_names_the_layers_while_they_fit() {
        let dir = tempfile::tempdir().unwrap();
        let plain = overlay(&dir.path().join("plain"), 20).plain_options().unwrap();
        assert!(plain.contains(dir.path().join("plain/upper").to_str().unwrap()), "{plain}");
        assert_eq!(overlay(&dir.path().join("many"), 127).plain_options(), None);
        assert_eq!(overlay(&dir.path().join("odd:name"), 1).plain_options(), None);
        check(|overlay| overlay.mount_by_options().unwrap(), &dir.path().join("plain"), 20);
    }
}
