//! Directory trees through file descriptors: opening below a root without leaving it, and removal that never crosses mounts.
//!
//! In: a directory's descriptor and paths relative to it. Out: descriptors, or a tree that is gone. Symbolic links are resolved
//! inside the root only (`openat2`), never through mount points or magic links. Knows nothing of tar or overlay.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Error;
use crate::resolve::open_below;

/// Directories nested deeper than this are moved up before they are removed, so that neither stack nor descriptors run out.
const MAX_DEPTH: u32 = 64;

/// Opens `path` (relative, or taken as relative) below `root`; links are followed inside the root only.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    open_below(root, path, flags, resolve)
}

/// Opens a directory entry `name` of `parent` itself: no links, no mounts.
fn open_child(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    open_below(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, resolve)
}

/// Opens a directory by a trusted path.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::io("open directory", path))
}

/// Removes the file or directory tree `path`; absent is fine. Stops at the first mount point.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::io("remove", path)(Errno::INVAL));
    };
    match rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(parent) => remove_at(parent.as_fd(), name.as_bytes(), path),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("open directory", parent)(e)),
    }
}

/// Removes the entry `name` of `parent`, whatever it is; `shown` is its path for errors.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<(), Error> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX and some file systems EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(refusal(e, "remove", shown)),
    }
    let top = open_child(parent, name).map_err(|e| refusal(e, "open directory", shown))?;
    let walk = Walk { top: top.as_fd(), moved: Cell::new(0) };
    while walk.empty(top.as_fd(), shown, 0)? {}
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|e| refusal(e, "remove directory", shown))
}

struct Walk<'a> {
    top: BorrowedFd<'a>,
    /// Directories moved up so far: names are not tried twice, however many there are.
    moved: Cell<u64>,
}

impl Walk<'_> {
    /// Removes all below `dir`. True if something was moved to the top and another round is needed.
    fn empty(&self, dir: BorrowedFd<'_>, shown: &Path, depth: u32) -> Result<bool, Error> {
        let mut again = false;
        for entry in Dir::read_from(dir).map_err(Error::io("list", shown))? {
            let entry = entry.map_err(Error::io("list", shown))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            again |= self.remove_entry(dir, name, &child_path(shown, name), depth)?;
        }
        Ok(again)
    }

    fn remove_entry(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        shown: &Path,
        depth: u32,
    ) -> Result<bool, Error> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(false),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(refusal(e, "remove", shown)),
        }
        if depth >= MAX_DEPTH {
            self.move_to_top(dir, name, shown)?;
            return Ok(true);
        }
        let child = open_child(dir, name).map_err(|e| refusal(e, "open directory", shown))?;
        let again = self.empty(child.as_fd(), shown, depth + 1)?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
            .map_err(|e| refusal(e, "remove directory", shown))?;
        Ok(again)
    }

    fn move_to_top(&self, dir: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<(), Error> {
        loop {
            let n = self.moved.replace(self.moved.get() + 1);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(dir, name, self.top, format!(".deep-{n}"), flags) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(refusal(e, "move", shown)),
            }
        }
    }
}

fn child_path(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

fn refusal(errno: Errno, operation: &'static str, shown: &Path) -> Error {
    match errno {
        Errno::XDEV | Errno::BUSY => Error::Mounted { path: shown.to_owned() },
        other => Error::io(operation, shown)(other),
    }
}

/// The kind of the entry `name` of `parent`, links not followed; `None` if there is none.
pub(crate) fn kind_at(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_walk_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut at = open_dir(&top).unwrap();
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
            at = open_child(at.as_fd(), b"d").unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn removal_stops_at_a_mount_and_leaves_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("tree/a/mount");
        std::fs::create_dir_all(&mount).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &mount, "tmpfs", none, None).unwrap();
        std::fs::write(mount.join("file"), "x").unwrap();
        let result = remove_tree(&dir.path().join("tree"));
        let kept = mount.join("file").exists();
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(matches!(&result, Err(Error::Mounted { path }) if *path == mount), "{result:?}");
        assert!(kept);
    }
}
