//! The directory a layer is unpacked into, and every file operation the unpacker may do there.
//!
//! In: paths from the archive, split and checked by [`split`]. Out: files below the root, never outside: parents are opened
//! with `openat2(RESOLVE_IN_ROOT)`, last components are created and changed relative to the parent's descriptor without
//! following links. It decides nothing about whiteouts beyond making and recognising them.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::digest::{Digest, shorten};
use crate::tar_stream::Entry;
use crate::tree::{kind_at, open_in_root, remove_at};

/// Directories kept open: archives go through one directory after the other, so few are needed.
const PARENTS: usize = 32;

/// Extended attributes of an entry that fit on every file system: ext4 has one block of 4 KiB for names, values and heads.
const XATTR_ROOM: usize = 3 << 10;

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

    /// Whether a directory above it has a name that begins so.
    pub(crate) fn is_below(&self, prefix: &[u8]) -> bool {
        self.parent.split(|b| *b == b'/').any(|component| component.starts_with(prefix))
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

/// A directory that entries are made in.
pub(crate) struct Parent {
    pub(crate) fd: OwnedFd,
    /// Whether what is made in it belongs to us, and not to the directory's group (setgid).
    owner: Owner,
}

/// Whom something belongs to that was made a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Us,
    Unknown,
}

/// The root of one layer being unpacked.
pub(crate) struct LayerRoot {
    fd: OwnedFd,
    shown: PathBuf,
    /// The layer's name, for errors.
    diff_id: Digest,
    us: (Uid, Gid),
    /// Directories made because an entry needed them before the archive named them.
    pub(crate) implied: BTreeSet<Vec<u8>>,
    /// Directories used of late, by path. Making entries never changes where a path leads, replacing one may: then all go.
    parents: HashMap<Vec<u8>, Rc<Parent>>,
}

impl LayerRoot {
    pub(crate) fn open(path: &Path, diff_id: &Digest) -> Result<Self, Error> {
        Ok(Self {
            fd: crate::tree::open_dir(path)?,
            shown: path.to_owned(),
            diff_id: diff_id.clone(),
            us: (rustix::process::geteuid(), rustix::process::getegid()),
            implied: [Vec::new()].into(),
            parents: HashMap::new(),
        })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory `path` as a place for entries, made with its parents if missing.
    pub(crate) fn ensure_parent(&mut self, path: &[u8]) -> Result<Rc<Parent>, Error> {
        if let Some(parent) = self.parents.get(path) {
            return Ok(Rc::clone(parent));
        }
        let fd = self.ensure_dir(path)?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.error("inspect", path, e))?;
        let owner = if stat.st_mode & Mode::SGID.bits() == 0 { Owner::Us } else { Owner::Unknown };
        if self.parents.len() == PARENTS {
            self.parents.clear();
        }
        let parent = Rc::new(Parent { fd, owner });
        self.parents.insert(path.to_vec(), Rc::clone(&parent));
        Ok(parent)
    }

    /// Forgets where paths lead, because something was replaced or a directory's attributes changed.
    pub(crate) fn forget_parents(&mut self) {
        self.parents.clear();
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

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Error> {
        self.forget_parents();
        remove_at(parent, name, &self.shown_path(path))
    }

    /// Makes the directory at `location` (an existing one is kept) and returns it.
    pub(crate) fn make_dir(
        &mut self,
        parent: &Parent,
        location: &Location,
    ) -> Result<(OwnedFd, Owner), Error> {
        let path = location.path();
        let (dir, name) = (parent.fd.as_fd(), &location.name[..]);
        let (mut owner, mut hides_lower) = (parent.owner, false);
        let make = || rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                owner = Owner::Unknown;
                hides_lower = is_whiteout(dir, name);
                self.forget_parents();
                let kind = kind_at(dir, name).map_err(|e| self.error("inspect", &path, e))?;
                if kind != Some(FileType::Directory) {
                    self.remove(dir, name, &path)?;
                    make().map_err(|e| self.error("create directory", &path, e))?;
                }
            }
            other => other.map_err(|e| self.error("create directory", &path, e))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())
            .map_err(|e| self.error("open directory", &path, e))?;
        if hides_lower {
            set_opaque(&fd).map_err(|e| self.error("mark opaque", &path, e))?;
        }
        self.implied.remove(&path);
        Ok((fd, owner))
    }

    /// Creates a regular file in place of whatever is there.
    pub(crate) fn create_file(
        &mut self,
        parent: &Parent,
        location: &Location,
    ) -> Result<(OwnedFd, Owner), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.replace("create file", parent, location, |dir, name| {
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
        })?;
        Ok((fd, parent.owner))
    }

    /// Makes a symbolic link in place of whatever is there.
    pub(crate) fn make_link(
        &mut self,
        parent: &Parent,
        location: &Location,
        target: &[u8],
    ) -> Result<(), Error> {
        self.replace("create link", parent, location, |dir, name| rustix::fs::symlinkat(target, dir, name))
    }

    /// Makes a device or pipe in place of whatever is there.
    pub(crate) fn make_node(
        &mut self,
        parent: &Parent,
        location: &Location,
        (kind, device): (FileType, Dev),
    ) -> Result<(), Error> {
        self.replace("create node", parent, location, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)
        })
    }

    /// Makes an entry; only if the name is taken, what has it is removed first.
    fn replace<T>(
        &mut self,
        operation: &'static str,
        parent: &Parent,
        location: &Location,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let dir = parent.fd.as_fd();
        match make(dir, &location.name) {
            Err(Errno::EXIST) => {
                self.remove(dir, &location.name, &location.path())?;
                make(dir, &location.name).map_err(|e| self.error(operation, &location.path(), e))
            }
            other => other.map_err(|e| self.error(operation, &location.path(), e)),
        }
    }

    /// Links `location` to the file at `target` in the same layer. The target itself may be a symbolic link, which is then
    /// linked and not followed.
    pub(crate) fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        location: &Location,
        target: &Location,
    ) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target_parent = open_in_root(self.as_fd(), &target.parent, flags)
            .map_err(|e| self.error("hard link", &location.path(), e))?;
        let source = rustix::fs::statat(&target_parent, &target.name[..], AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("hard link", &location.path(), e))?;
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(self.corrupt(&location.path(), "a hard link to a directory"));
        }
        if is_whiteout(target_parent.as_fd(), &target.name) {
            return Err(self.corrupt(&location.path(), "a hard link to what a whiteout hides"));
        }
        if let Ok(old) = rustix::fs::statat(parent, &location.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            if (old.st_dev, old.st_ino) == (source.st_dev, source.st_ino) {
                return Ok(());
            }
            self.remove(parent, &location.name, &location.path())?;
        }
        rustix::fs::linkat(&target_parent, &target.name[..], parent, &location.name[..], AtFlags::empty())
            .map_err(|e| self.error("hard link", &location.path(), e))
    }

    /// Owner, extended attributes and mode of a file or directory. Not its time, which changes while a directory is filled.
    pub(crate) fn set_attributes(
        &self,
        file: BorrowedFd<'_>,
        entry: &Entry,
        owner: Owner,
    ) -> Result<(), Error> {
        let failed = |operation| move |e| self.error(operation, &entry.path, e);
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        if owner != Owner::Us || self.us != (uid, gid) {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed("change the owner of"))?;
        }
        self.set_xattrs(entry, |key, value| rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()))?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(failed("change the mode of"))
    }

    /// Owner, extended attributes and time of a link, which has no mode.
    pub(crate) fn set_link_attributes(
        &self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), Error> {
        let failed = |operation| move |e| self.error(operation, &entry.path, e);
        let dir = parent.fd.as_fd();
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        if parent.owner != Owner::Us || self.us != (uid, gid) {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("change the owner of"))?;
        }
        let path = || proc_path(dir, name);
        self.set_xattrs(entry, |key, value| rustix::fs::lsetxattr(path(), key, value, XattrFlags::empty()))?;
        rustix::fs::utimensat(dir, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of"))
    }

    /// Owner, extended attributes, mode and time of a device or pipe.
    pub(crate) fn set_node_attributes(
        &self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), Error> {
        self.set_link_attributes(parent, name, entry)?;
        // It was made by us a moment ago in a directory only we write to, and it is no link.
        rustix::fs::chmodat(&parent.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|e| self.error("change the mode of", &entry.path, e))
    }

    fn set_xattrs(
        &self,
        entry: &Entry,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Error> {
        for (key, value) in &entry.xattrs {
            let shown = || String::from_utf8_lossy(key).into_owned();
            if !may_come_from_a_layer(key) {
                tracing::debug!(attribute = shown(), "dropped an extended attribute of a layer");
                continue;
            }
            match set(key, value) {
                Ok(()) => {}
                // The file system or the kernel has no such attributes (user.* on links).
                Err(Errno::OPNOTSUPP | Errno::PERM) => {
                    tracing::debug!(
                        attribute = shown(),
                        "an extended attribute of a layer cannot be kept here"
                    );
                }
                // To ext4 attributes that are too large are a lack of space; there may be plenty.
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) if entry.xattr_bytes() > XATTR_ROOM => {
                    let reason = format!("its extended attribute {} is too large", shown());
                    return Err(self.corrupt(&entry.path, &reason));
                }
                Err(e) => return Err(self.error("set an extended attribute of", &entry.path, e)),
            }
        }
        Ok(())
    }

    pub(crate) fn io(&self, operation: &'static str, path: &[u8], source: std::io::Error) -> Error {
        Error::io(operation, &self.shown_path(path))(source)
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
        let entry = shorten(&String::from_utf8_lossy(path));
        Error::corrupt(format!("entry {entry:?} of layer {}", self.diff_id), reason)
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

pub(crate) fn set_times(file: BorrowedFd<'_>, mtime: (i64, u32)) -> Result<(), Errno> {
    rustix::fs::futimens(file, &timestamps(mtime))
}

fn timestamps(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Images may mark files for programs (`user.`), give them capabilities and access lists. Everything else is the host's:
/// labels of its security modules (`security.selinux`, `security.ima`), and what steers overlayfs (`trusted.overlay.`,
/// `user.overlay.`: redirect, metacopy, opaque), for which images have whiteouts.
fn may_come_from_a_layer(key: &[u8]) -> bool {
    let users = key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
    users || matches!(key, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}
