//! The directory a layer is unpacked into, and every file operation the unpacker may do there.
//!
//! In: paths from the archive, split and checked by [`split`]. Out: files below the root, never outside: parents are opened
//! with `openat2(RESOLVE_IN_ROOT)`, last components are created and changed relative to the parent's descriptor without
//! following links. It decides nothing about whiteouts beyond making and recognising them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::tar_stream::Entry;
use crate::tree::{kind_at, open_in_root, remove_at};

pub(crate) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// Parent components and last component of a path from an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// Components joined by `/`, empty for the root.
    pub(crate) parent: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

impl Location {
    pub(crate) fn path(&self) -> Vec<u8> {
        join(&self.parent, &self.name)
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Splits an archive path; `None` is the root itself. `..` is refused, empty and `.` components vanish.
pub(crate) fn split(path: &[u8]) -> Result<Option<Location>, String> {
    let mut components = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(format!("the path {:?} contains '..'", String::from_utf8_lossy(path))),
            other if other.len() > 255 => return Err("a path component has more than 255 bytes".into()),
            other => components.push(other),
        }
    }
    Ok(components.pop().map(|name| Location { parent: components.join(&b'/'), name: name.to_vec() }))
}

/// The root of one layer being unpacked.
pub(crate) struct LayerRoot {
    fd: OwnedFd,
    shown: PathBuf,
    /// Directories made because an entry needed them before the archive named them.
    pub(crate) implied: std::collections::BTreeSet<Vec<u8>>,
}

impl LayerRoot {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { fd: crate::tree::open_dir(path)?, shown: path.to_owned(), implied: [Vec::new()].into() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory `path`, made with its parents if missing.
    pub(crate) fn ensure_dir(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open_in_root(self.fd.as_fd(), path, flags) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) if !path.is_empty() => {}
            Err(e) => return Err(self.error("open directory", path, e)),
        }
        let cut = path.iter().rposition(|b| *b == b'/');
        let (parent, name) = cut.map_or((&b""[..], path), |i| (&path[..i], &path[i + 1..]));
        let parent_fd = self.ensure_dir(parent)?;
        let hides_lower = is_whiteout(parent_fd.as_fd(), name);
        if hides_lower {
            self.remove(parent_fd.as_fd(), name, path)?;
        }
        rustix::fs::mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755))
            .map_err(|e| self.error("create directory", path, e))?;
        let fd =
            open_in_root(self.fd.as_fd(), path, flags).map_err(|e| self.error("open directory", path, e))?;
        if hides_lower {
            set_opaque(&fd).map_err(|e| self.error("mark opaque", path, e))?;
        } else {
            self.implied.insert(path.to_vec());
        }
        Ok(fd)
    }

    pub(crate) fn remove(&self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Error> {
        remove_at(parent, name, &self.shown_path(path))
    }

    /// Makes the directory at `location` (an existing one is kept) and returns it.
    pub(crate) fn make_dir(&mut self, parent: BorrowedFd<'_>, location: &Location) -> Result<OwnedFd, Error> {
        let path = location.path();
        let kind = kind_at(parent, &location.name).map_err(|e| self.error("inspect", &path, e))?;
        let hides_lower = is_whiteout(parent, &location.name);
        if kind != Some(FileType::Directory) {
            self.remove(parent, &location.name, &path)?;
            rustix::fs::mkdirat(parent, &location.name[..], Mode::from_raw_mode(0o700))
                .map_err(|e| self.error("create directory", &path, e))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, &location.name[..], flags, Mode::empty())
            .map_err(|e| self.error("open directory", &path, e))?;
        if hides_lower {
            set_opaque(&fd).map_err(|e| self.error("mark opaque", &path, e))?;
        }
        self.implied.remove(&path);
        Ok(fd)
    }

    /// Creates a regular file that did not exist.
    pub(crate) fn create_file(&self, parent: BorrowedFd<'_>, location: &Location) -> Result<OwnedFd, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, &location.name[..], flags, Mode::from_raw_mode(0o600))
            .map_err(|e| self.error("create file", &location.path(), e))
    }

    /// Links `location` to the file at `target` in the same layer. The target itself may be a symbolic link, which is then
    /// linked and not followed.
    pub(crate) fn hard_link(
        &self,
        parent: BorrowedFd<'_>,
        location: &Location,
        target: &Location,
    ) -> Result<(), Error> {
        let failed = |e| self.error("hard link", &location.path(), e);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target_parent = open_in_root(self.as_fd(), &target.parent, flags).map_err(failed)?;
        let source = rustix::fs::statat(&target_parent, &target.name[..], AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(self.corrupt(&location.path(), "a hard link to a directory"));
        }
        if let Ok(old) = rustix::fs::statat(parent, &location.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            if (old.st_dev, old.st_ino) == (source.st_dev, source.st_ino) {
                return Ok(());
            }
            self.remove(parent, &location.name, &location.path())?;
        }
        rustix::fs::linkat(&target_parent, &target.name[..], parent, &location.name[..], AtFlags::empty())
            .map_err(failed)
    }

    /// Owner, attributes, mode and time of the entry `name` of `parent`, links not followed. For directories the time is
    /// set again later.
    pub(crate) fn set_attributes(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        is_symlink: bool,
    ) -> Result<(), Error> {
        let failed = |operation| move |e| self.error(operation, &entry.path, e);
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("change the owner of"))?;
        for (key, value) in &entry.xattrs {
            self.set_xattr(parent, name, (key, value))?;
        }
        if !is_symlink {
            // The entry was made by us a moment ago in a directory only we write to, and it is no link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(failed("change the mode of"))?;
        }
        set_times(parent, name, entry.mtime).map_err(failed("set the time of"))
    }

    fn set_xattr(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        (key, value): (&[u8], &[u8]),
    ) -> Result<(), Error> {
        // Such attributes would steer overlayfs (redirect, metacopy, opaque); whiteouts are how images say that.
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            tracing::debug!(attribute = %String::from_utf8_lossy(key), "dropped an overlay attribute of a layer");
            return Ok(());
        }
        let shown = String::from_utf8_lossy(key).into_owned();
        match rustix::fs::lsetxattr(proc_path(parent, name), key, value, XattrFlags::empty()) {
            Ok(()) => Ok(()),
            // The file system or the kernel has no such attributes (user.* on links, SELinux off).
            Err(Errno::OPNOTSUPP | Errno::PERM) => {
                tracing::debug!(attribute = shown, "an extended attribute of a layer cannot be kept here");
                Ok(())
            }
            Err(e) => Err(self.error("set an extended attribute of", name, e)),
        }
    }

    pub(crate) fn shown_path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.shown.join(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
    }

    /// Errors the archive's contents can cause make the layer corrupt; the rest is the file system's fault.
    pub(crate) fn error(&self, operation: &'static str, path: &[u8], errno: Errno) -> Error {
        match errno {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::EXIST
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::XDEV
            | Errno::MLINK
            | Errno::INVAL
            | Errno::RANGE => self.corrupt(path, &format!("cannot {operation} it: {errno}")),
            other => Error::io(operation, &self.shown_path(path))(other),
        }
    }

    pub(crate) fn corrupt(&self, path: &[u8], reason: &str) -> Error {
        Error::corrupt(format!("layer entry {:?}", String::from_utf8_lossy(path)), reason)
    }
}

/// A path that names the entry `name` of the directory `parent` for system calls without an `at` form.
fn proc_path(parent: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat()
}

pub(crate) fn set_opaque(dir: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Whether `name` is an overlay whiteout (character device 0:0).
pub(crate) fn is_whiteout(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

pub(crate) fn set_times(parent: BorrowedFd<'_>, name: &[u8], mtime: (i64, u32)) -> Result<(), Errno> {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
