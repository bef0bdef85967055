//! Looking into, and making mount points in, a container's root without being led out of it.
//!
//! In: a root directory that somebody else filled, and paths inside. Out: file contents of bounded size; directories and
//! files made; the path as it is once the links inside are followed. The kernel resolves every path
//! (`openat2`, `RESOLVE_IN_ROOT`), so that a link can be swapped at any moment and still leads nowhere else.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::error::{Error, Result};
use crate::resolve::open_below;

/// The most components a path may have.
const MAX_DEPTH: usize = 255;

/// What a mount point is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

/// Reads a file inside a root; nothing when there is none or it is larger than `limit`.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(root: &Path, path: &str, limit: u64) -> Result<String> {
    let absent = || Ok(String::new());
    let fail = |e| Error::io("opening inside the container's root", path)(e);
    // Looked at before it is opened: to open a device or a FIFO of the image's may already do something on the node.
    let found = match open_in(&open_root(root)?, path, OFlags::PATH) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return absent(),
        Err(e) => return Err(fail(e.into())),
    };
    let metadata = found.metadata().map_err(Error::io("looking at", path))?;
    if !metadata.is_file() || metadata.len() > limit {
        return absent();
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(fail)?;
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(Error::io("reading", path))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Checks that nothing, or a directory and no link, is at a path right below the root, where the kernel's own file systems
/// go: the library makes links in `/dev` by names that it joins to the root, so that an image's `/dev` that is a link would
/// have them made wherever it leads on the node.
///
/// # Errors
/// When it is a link or a file.
pub fn check_mount_point(root: &Path, name: &str) -> Result<()> {
    match rustix::fs::statat(&open_root(root)?, name.trim_start_matches('/'), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => Ok(()),
        Err(Errno::NOENT) => Ok(()),
        Ok(_) => {
            Err(Error::InvalidArgument(format!("the image's {name} is a link or a file, not a directory")))
        }
        Err(e) => Err(Error::io("looking inside the container's root at", name)(e)),
    }
}

/// Makes sure that a path exists inside a root, and returns it with the links followed.
///
/// # Errors
/// When it cannot be made, or is something else.
pub fn ensure(root: &Path, path: &str, kind: Kind) -> Result<String> {
    let fail = |e: Errno| Error::io("making inside the container's root", path)(e);
    let top = open_root(root)?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.len() > MAX_DEPTH || parts.contains(&"..") {
        return Err(Error::InvalidArgument(format!("mount point {path:?} is not a plain path")));
    }
    let mut walked = String::new();
    let mut here = open_in(&top, "/", OFlags::PATH).map_err(fail)?;
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        walked = format!("{walked}/{part}");
        let wanted = if last { kind } else { Kind::Directory };
        here = match open_in(&top, &walked, OFlags::PATH) {
            Err(Errno::NOENT) => make(&top, &here, (&walked, part), wanted).map_err(fail)?,
            other => other.map_err(fail)?,
        };
    }
    inside(root, &here)
}

fn make(
    top: &OwnedFd,
    parent: &OwnedFd,
    (walked, name): (&str, &str),
    kind: Kind,
) -> std::result::Result<OwnedFd, Errno> {
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody made it meanwhile, or it is a link to nowhere: the next opening tells.
        Ok(()) | Err(Errno::EXIST) => open_in(top, walked, OFlags::PATH),
        Err(e) => Err(e),
    }
}

/// The path of an open file below the root, which the kernel knows with every link followed.
fn inside(root: &Path, fd: &OwnedFd) -> Result<String> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let real = std::fs::read_link(&link).map_err(Error::io("reading", &link))?;
    let root = root.canonicalize().map_err(Error::io("resolving", root))?;
    let below = real.strip_prefix(&root).map_err(|_| {
        Error::FailedPrecondition(format!("{} is not inside the container's root", real.display()))
    })?;
    Ok(Path::new("/").join(below).to_string_lossy().into_owned())
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(Error::io("opening", root))
}

fn open_in(root: &OwnedFd, path: &str, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    open_below(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_to_the_nodes_files_leads_to_the_containers() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("/etc/passwd", root.path().join("etc/link")).unwrap();
        assert_eq!(read(root.path(), "/etc/link", 4096).unwrap(), "");
        fs::write(root.path().join("etc/passwd"), "mine").unwrap();
        assert_eq!(read(root.path(), "/etc/link", 4096).unwrap(), "mine");
        assert_eq!(read(root.path(), "/etc/passwd", 2).unwrap(), "");
    }

    #[test]
    fn a_device_or_fifo_in_a_files_place_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let fifo = FileType::Fifo;
        // A device that nobody has: to open it fails, where to look at it does not.
        let none = rustix::fs::makedev(4095, 4095);
        for (name, kind, device) in [("fifo", fifo, 0), ("device", FileType::CharacterDevice, none)] {
            let path = root.path().join(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR, device).unwrap();
            assert_eq!(read(root.path(), name, 4096).unwrap(), "", "{name}");
        }
    }

    #[test]
    fn a_mount_point_of_the_kernels_may_be_no_link() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        symlink("proc", root.path().join("dev")).unwrap();
        check_mount_point(root.path(), "/proc").unwrap();
        check_mount_point(root.path(), "/sys").unwrap();
        assert!(check_mount_point(root.path(), "/dev").unwrap_err().to_string().contains("/dev"));
    }

    #[test]
    fn a_mount_point_is_made_where_the_links_inside_lead() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        let made = ensure(root.path(), "/var/run/secrets/token", Kind::File).unwrap();
        assert_eq!(made, "/run/secrets/token");
        assert!(root.path().join("run/secrets/token").is_file());
        assert_eq!(ensure(root.path(), "/var/run/", Kind::Directory).unwrap(), "/run");
    }

    #[test]
    fn a_link_upwards_makes_nothing_outside() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("root");
        fs::create_dir(&inner).unwrap();
        symlink("../../..", inner.join("up")).unwrap();
        let made = ensure(&inner, "/up/made", Kind::Directory).unwrap();
        assert_eq!(made, "/made");
        assert!(inner.join("made").is_dir() && !root.path().join("made").exists());
        assert!(ensure(&inner, "/../x", Kind::Directory).is_err());
    }
}
