//! Opening paths that somebody else wrote, without following them out of where they belong.
//!
//! In: a directory and a path below it. Out: a descriptor. It keeps asking while the kernel says that it could not be
//! sure: `openat2` gives `EAGAIN` whenever a rename or mount anywhere on the host fell into its walk (openat2(2)), which
//! on a host that starts pods is often.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How often a walk is tried. Each try is a few microseconds; a hundred races in a row are no race.
const ATTEMPTS: u32 = 128;

/// Opens an existing `path` below `root` under the rules of `resolve`; close-on-exec.
///
/// # Errors
/// What `openat2` says; `EAGAIN` only after many tries.
pub fn open_below(
    root: impl AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    for _ in 1..ATTEMPTS {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_walk_beside_renames_is_tried_until_it_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("other")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(dir.path().join("other"), dir.path().join("moved")).unwrap();
                    std::fs::rename(dir.path().join("moved"), dir.path().join("other")).unwrap();
                }
            });
            for _ in 0..2_000 {
                let opened = open_below(&root, "a/b/../b/../../a/b", OFlags::PATH, ResolveFlags::IN_ROOT);
                if let Err(e) = opened {
                    done.store(true, Ordering::Relaxed);
                    panic!("{e}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
