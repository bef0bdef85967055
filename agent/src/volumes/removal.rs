//! Removing a directory tree that a container may have written: links, mounts, endless depth and all.
//!
//! In: a directory. Out: it is gone, or an error naming what stayed. Everything is done relative to open directories
//! with `openat2`, so that a link or a mount that appears meanwhile leads nowhere.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use pintle_runtime::resolve::open_below;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::VolumeError;

/// How many directories are open at once; what lies deeper is moved up first.
const MAX_DEPTH: usize = 64;

/// Takes away every mount at or below a directory, the last one mounted first.
pub(super) fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    let table =
        procfs::process::Process::myself().and_then(|me| me.mountinfo()).map_err(VolumeError::MountTable)?;
    let below: Vec<PathBuf> = table
        .0
        .into_iter()
        .map(|mount| unescaped(&mount.mount_point))
        .filter(|at| at.starts_with(dir))
        .collect();
    for path in below.into_iter().rev() {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(e) => return Err(VolumeError::Unmount { path, source: e.into() }),
        }
    }
    Ok(())
}

/// Removes a directory and everything in it. Nothing happens if it is not there.
pub(super) fn remove_tree(dir: &Path) -> Result<(), VolumeError> {
    let failed = |e: Errno| VolumeError::Remove { path: dir.to_owned(), source: e.into() };
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(failed(Errno::INVAL));
    };
    let parent = match rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let top = match open_dir(parent.as_fd(), &name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mut spill = Spill { top: top.as_fd(), moved: 0 };
    loop {
        let before = spill.moved;
        empty(top.as_fd(), 0, &mut spill).map_err(failed)?;
        if spill.moved == before {
            break;
        }
    }
    rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(failed)
}

/// Where directories that lie too deep are moved to, to be emptied on the next round.
struct Spill<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Spill<'_> {
    /// Moves a directory up. The name may be taken by something that the container made.
    fn take(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        for _ in 0..1000 {
            let aside = format!(".pintle-removing-{}", self.moved);
            self.moved += 1;
            match rustix::fs::renameat_with(dir, name, self.top, aside, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
        Err(Errno::EXIST)
    }
}

/// Removes what is in a directory. Directories that were moved up (by this call, into the top) are left for a next round.
fn empty(dir: BorrowedFd<'_>, depth: usize, spill: &mut Spill<'_>) -> Result<(), Errno> {
    for (name, is_dir) in entries(dir)? {
        if !is_dir {
            ignore_missing(rustix::fs::unlinkat(dir, &name, AtFlags::empty()))?;
            continue;
        }
        if depth + 1 >= MAX_DEPTH {
            spill.take(dir, &name)?;
            continue;
        }
        match open_dir(dir, &name) {
            Ok(below) => empty(below.as_fd(), depth + 1, spill)?,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e),
        }
        ignore_missing(rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

fn entries(dir: BorrowedFd<'_>) -> Result<Vec<(CString, bool)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => false,
        };
        found.push((name.to_owned(), is_dir));
    }
    Ok(found)
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    open_below(parent, name, flags, resolve)
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// A path as mountinfo writes it, with `\040` and its like put back.
fn unescaped(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = path.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| bytes.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(octal.unwrap_or(bytes[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read_as_they_are() {
        assert_eq!(unescaped(Path::new(r"/a\040b\134c\")), Path::new(r"/a b\c\"));
    }
}
