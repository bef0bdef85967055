//! Compares two directory trees entry by entry, through descriptors.
//!
//! In: two directories. Out: the first difference, in words. Looks at what a layer defines: names, kinds, modes, owners, sizes,
//! times of files and links, devices, targets of links, hard links' counts, contents, extended attributes. Not at times of directories,
//! which a layer need not say. Memory does not grow with the trees.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const BUFFER: usize = 64 << 10;
/// The most bytes of the names, and of a value, of extended attributes: the kernel's.
const ATTRIBUTES: usize = 64 << 10;
/// Deeper than any layer may be.
const DEPTH: usize = 2048;

/// What differs, or why it cannot be said.
type Difference = String;

/// Compares the tree `found` with `wanted`.
pub(crate) fn compare(found: &OwnedFd, wanted: &OwnedFd) -> Result<(), Difference> {
    let stat = |dir: &OwnedFd| rustix::fs::fstat(dir).map_err(|e| format!("cannot be inspected: {e}"));
    same_stat(Path::new("/"), &stat(found)?, &stat(wanted)?)?;
    directory(found.as_fd(), wanted.as_fd(), Path::new("/"), 0)
}

fn directory(
    found: BorrowedFd<'_>,
    wanted: BorrowedFd<'_>,
    path: &Path,
    depth: usize,
) -> Result<(), Difference> {
    if depth > DEPTH {
        return Err(format!("{} is too deep", path.display()));
    }
    same_attributes(path, found, wanted)?;
    let mut entries = 0_u64;
    for entry in read(wanted, path)? {
        let entry = entry.map_err(|e| describe(path, e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries += 1;
            let path = path.join(OsStr::from_bytes(name));
            one(found, wanted, name, (&path, depth))?;
        }
    }
    // All that is wanted is there: as many entries are the same entries.
    let mut more = None;
    let mut there = 0_u64;
    for entry in read(found, path)? {
        let entry = entry.map_err(|e| describe(path, e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            there += 1;
            if more.is_none() && rustix::fs::statat(wanted, name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                more = Some(path.join(OsStr::from_bytes(name)));
            }
        }
    }
    match more {
        Some(more) => Err(format!("{} does not belong there", more.display())),
        None if there != entries => Err(format!("{} changes while it is looked at", path.display())),
        None => Ok(()),
    }
}

fn one(
    found: BorrowedFd<'_>,
    wanted: BorrowedFd<'_>,
    name: &[u8],
    (path, depth): (&PathBuf, usize),
) -> Result<(), Difference> {
    let stat = |dir: BorrowedFd<'_>| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let there = match stat(found) {
        Err(Errno::NOENT) => return Err(format!("{} is missing", path.display())),
        other => other.map_err(|e| describe(path, e))?,
    };
    let right = stat(wanted).map_err(|e| describe(path, e))?;
    same_stat(path, &there, &right)?;
    match FileType::from_raw_mode(right.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let (found, wanted) = (open(found, name, flags, path)?, open(wanted, name, flags, path)?);
            directory(found.as_fd(), wanted.as_fd(), path, depth + 1)
        }
        FileType::RegularFile => {
            let (found, wanted) =
                (open(found, name, OFlags::RDONLY, path)?, open(wanted, name, OFlags::RDONLY, path)?);
            same_attributes(path, found.as_fd(), wanted.as_fd())?;
            same_contents(path, File::from(found), File::from(wanted))
        }
        FileType::Symlink => {
            let target = |dir| rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| describe(path, e));
            if target(found)? == target(wanted)? {
                Ok(())
            } else {
                Err(format!("{} leads elsewhere", path.display()))
            }
        }
        FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Fifo
        | FileType::Socket
        | FileType::Unknown => Ok(()),
    }
}

fn same_stat(path: &Path, found: &Stat, wanted: &Stat) -> Result<(), Difference> {
    let kind = FileType::from_raw_mode(wanted.st_mode);
    let is_dir = kind == FileType::Directory;
    // Whiteouts are devices and have the time at which they were made.
    let has_time = matches!(kind, FileType::RegularFile | FileType::Symlink);
    let checks = [
        ("mode", found.st_mode == wanted.st_mode),
        ("owner", (found.st_uid, found.st_gid) == (wanted.st_uid, wanted.st_gid)),
        ("size", is_dir || found.st_size == wanted.st_size),
        ("number of links", is_dir || found.st_nlink == wanted.st_nlink),
        ("device", found.st_rdev == wanted.st_rdev),
        (
            "time",
            !has_time || (found.st_mtime, found.st_mtime_nsec) == (wanted.st_mtime, wanted.st_mtime_nsec),
        ),
    ];
    match checks.iter().find(|(_, is_same)| !is_same) {
        Some((what, _)) => Err(format!("{} has another {what}", path.display())),
        None => Ok(()),
    }
}

fn same_contents(path: &Path, mut found: File, mut wanted: File) -> Result<(), Difference> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let n = wanted.read(&mut right).map_err(|e| describe(path, e))?;
        found.read_exact(&mut left[..n]).map_err(|e| describe(path, e))?;
        if left[..n] != right[..n] {
            return Err(format!("{} has another content", path.display()));
        }
        if n == 0 {
            return Ok(());
        }
    }
}

fn same_attributes(path: &Path, found: BorrowedFd<'_>, wanted: BorrowedFd<'_>) -> Result<(), Difference> {
    let (there, right) = (names(path, found)?, names(path, wanted)?);
    let differ = || format!("{} has other extended attributes", path.display());
    if there != right {
        return Err(differ());
    }
    for name in right.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if value(path, found, name)? != value(path, wanted, name)? {
            return Err(differ());
        }
    }
    Ok(())
}

/// The names in the kernel's form, in the order of their bytes.
fn names(path: &Path, file: BorrowedFd<'_>) -> Result<Vec<u8>, Difference> {
    let mut buffer = vec![0; ATTRIBUTES];
    let n = match rustix::fs::flistxattr(file, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other.map_err(|e| describe(path, e))?,
    };
    let mut names: Vec<_> = buffer[..n].split(|b| *b == 0).collect();
    names.sort_unstable();
    Ok(names.join(&0))
}

fn value(path: &Path, file: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Difference> {
    let mut buffer = vec![0; ATTRIBUTES];
    let n = rustix::fs::fgetxattr(file, name, &mut buffer[..]).map_err(|e| describe(path, e))?;
    buffer.truncate(n);
    Ok(buffer)
}

fn open(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, path: &Path) -> Result<OwnedFd, Difference> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| describe(path, e))
}

fn read(dir: BorrowedFd<'_>, path: &Path) -> Result<Dir, Difference> {
    Dir::read_from(dir).map_err(|e| describe(path, e))
}

fn describe(path: &Path, error: impl std::fmt::Display) -> Difference {
    format!("{} cannot be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/file"), "content").unwrap();
        symlink("file", dir.path().join("a/link")).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH;
        File::options().write(true).open(dir.path().join("a/file")).unwrap().set_modified(time).unwrap();
        rustix::fs::utimensat(
            rustix::fs::CWD,
            dir.path().join("a/link"),
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
            },
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        dir
    }

    fn difference(change: impl Fn(&Path)) -> String {
        let (found, wanted) = (tree(), tree());
        change(found.path());
        let open = |dir: &tempfile::TempDir| crate::tree::open_dir(dir.path()).unwrap();
        compare(&open(&found), &open(&wanted)).err().unwrap_or_default()
    }

    #[test]
    fn every_kind_of_difference_is_found_and_named() {
        assert_eq!(difference(|_| {}), "");
        let keeps_time = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH;
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        assert_eq!(difference(|d| keeps_time(&d.join("a/file"), "contenT")), "/a/file has another content");
        assert_eq!(difference(|d| keeps_time(&d.join("a/file"), "more content")), "/a/file has another size");
        assert_eq!(
            difference(|d| std::fs::write(d.join("a/file"), "content").unwrap()),
            "/a/file has another time"
        );
        assert_eq!(difference(|d| std::fs::remove_file(d.join("a/file")).unwrap()), "/a/file is missing");
        assert_eq!(
            difference(|d| std::fs::write(d.join("a/b/new"), "").unwrap()),
            "/a/b/new does not belong there"
        );
        let mode = std::fs::Permissions::from_mode(0o700);
        assert_eq!(
            difference(|d| std::fs::set_permissions(d.join("a"), mode.clone()).unwrap()),
            "/a has another mode"
        );
        let owner = |d: &Path| std::os::unix::fs::chown(d.join("a/b"), Some(7), None).unwrap();
        assert_eq!(difference(owner), "/a/b has another owner");
        let attribute = |d: &Path| {
            rustix::fs::setxattr(d.join("a/b"), "trusted.x", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
        };
        assert_eq!(difference(attribute), "/a/b has other extended attributes");
        let linked = |d: &Path| std::fs::hard_link(d.join("a/file"), d.join("a/b/file")).unwrap();
        assert!(
            difference(linked).contains("number of links") || difference(linked).contains("does not belong")
        );
    }
}
