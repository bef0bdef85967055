//! A store on a file system that has no space, no inodes, or is read-only; runs as root. The error tells which, what was
//! half-done is gone, what was there works, and once there is room again the same store goes on without being opened anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use pintle_image::{Error, ImageStore, ImportOptions, PullOptions};
use rustix::mount::{MountFlags, UnmountFlags};
use support::{Compression, Layout, Registry, run, tar};

/// A small file system of its own, in a file.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// ext4 of 48 MiB with 1,500 inodes.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk");
        std::fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        let mut command = std::process::Command::new("mkfs.ext4");
        run(command.args(["-q", "-m0", "-N1500", "-O^has_journal"]).arg(&image));
        let disk = Self { dir };
        std::fs::create_dir(disk.path()).unwrap();
        run(std::process::Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn remount(&self, flags: MountFlags) {
        rustix::mount::mount_remount(self.path(), flags, "").unwrap();
    }

    /// Takes all space but so many KiB.
    fn fill(&self, leave_kib: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        let block = [0; 4096];
        let free = || {
            let stat = rustix::fs::statvfs(self.path()).unwrap();
            stat.f_bavail * stat.f_frsize
        };
        while free() > leave_kib << 10 && file.write_all(&block).is_ok() {
            // Faster while there is much to fill.
            let much = free().saturating_sub((leave_kib << 10) + (1 << 20));
            let end = file.stream_position().unwrap();
            if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, much).is_ok() {
                file.seek(std::io::SeekFrom::End(0)).unwrap();
            }
        }
        path
    }

    /// Takes all inodes but so many.
    fn fill_inodes(&self, leave: u64) -> PathBuf {
        let dir = self.path().join("ballast");
        std::fs::create_dir(&dir).unwrap();
        let free = rustix::fs::statvfs(self.path()).unwrap().f_ffree;
        for i in 0..free.saturating_sub(leave) {
            std::fs::File::create(dir.join(i.to_string())).unwrap();
        }
        dir
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(e) = rustix::mount::unmount(self.path(), UnmountFlags::empty()) {
            rustix::mount::unmount(self.path(), UnmountFlags::DETACH).unwrap();
            assert!(std::thread::panicking(), "something of the store is still in use: {e}");
        }
    }
}

/// Names of everything below, without the ballast.
fn listing(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![root.join("store")]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

fn small() -> Layout {
    let mut layout = Layout::new();
    layout.image("small:1", &[(tar(&[("file", Some("text"))]), Compression::Gzip)], None);
    layout
}

/// Two layers of 4 MiB that compress well, so that the blobs fit where the files do not, and 300 files.
fn large() -> Layout {
    let body = "0123456789abcdef".repeat(256 << 10);
    let names: Vec<_> = (0..300).map(|i| format!("dir/{i}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), Some("x"))).collect();
    let mut layout = Layout::new();
    let layers = [tar(&[("a", Some(&body))]), tar(&[("b", Some(&body))]), tar(&files)];
    layout.image("large:1", &layers.map(|layer| (layer, Compression::Gzip)), None);
    layout
}

fn import(store: &ImageStore, layout: &Layout) -> Result<(), Error> {
    store.import(&layout.archive()[..], ImportOptions::default()).map(drop)
}

/// The operating system's reason, and what the error says in all.
fn reason_of(error: &Error) -> (Option<i32>, String) {
    let (Error::Io { source, .. } | Error::Full { source, .. }) = error else {
        panic!("not a failure of the file system: {error:?}")
    };
    (source.raw_os_error(), format!("{error}: {source}"))
}

fn assert_told(error: &Error, errno: rustix::io::Errno, words: &str, disk: &Disk) {
    let (raw, text) = reason_of(error);
    assert_eq!(raw, Some(errno.raw_os_error()), "{text}");
    assert!(text.contains(words) && text.contains(disk.path().to_str().unwrap()), "{text}");
}

#[tokio::test]
async fn without_space_imports_pulls_and_snapshots_fail_clearly_and_work_again_afterwards() {
    let (disk, registry, big) = (Disk::new(), Registry::start(), large());
    registry.push(&big, "large:1");
    let store = ImageStore::open(&disk.path().join("store")).unwrap();
    import(&store, &small()).unwrap();
    let before = listing(&disk.path());
    let nospace = rustix::io::Errno::NOSPC;
    for leave in [0, 64, 1024, 5000] {
        let ballast = disk.fill(leave);
        let error = import(&store, &big).unwrap_err();
        assert_told(&error, nospace, "no space is left", &disk);
        assert_eq!(listing(&disk.path()), before, "{leave}");
        let error = store.pull(&registry.name("large:1"), PullOptions::default()).await.unwrap_err();
        assert_told(&error, nospace, "no space is left", &disk);
        assert_eq!(listing(&disk.path()), before, "{leave}");
        std::fs::remove_file(ballast).unwrap();
    }
    let ballast = disk.fill(0);
    let error = store.create_snapshot("c", "docker.io/library/small:1").unwrap_err();
    assert_told(&error, nospace, "no space is left", &disk);
    assert_eq!(listing(&disk.path()), before);
    assert_eq!(store.list().unwrap().len(), 1);
    std::fs::remove_file(ballast).unwrap();
    store.create_snapshot("c", "small:1").unwrap();
    assert!(store.mount_snapshot("c").unwrap().join("file").exists());
    import(&store, &big).unwrap();
    store.pull(&registry.name("large:1"), PullOptions::default()).await.unwrap();
    store.remove_snapshot("c").unwrap();
    disk.fill(0);
    assert!(store.remove("large:1").unwrap() && store.remove("small:1").unwrap());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn without_inodes_the_error_says_so_and_nothing_is_left() {
    let disk = Disk::new();
    let store = ImageStore::open(&disk.path().join("store")).unwrap();
    import(&store, &small()).unwrap();
    let before = listing(&disk.path());
    for leave in [0, 3, 10, 100, 250] {
        let ballast = disk.fill_inodes(leave);
        let error = import(&store, &large()).unwrap_err();
        assert_told(&error, rustix::io::Errno::NOSPC, "no inodes are left", &disk);
        assert_eq!(listing(&disk.path()), before, "{leave}");
        if leave == 3 {
            let error = store.create_snapshot("c", "small:1").unwrap_err();
            assert_told(&error, rustix::io::Errno::NOSPC, "no inodes are left", &disk);
            assert_eq!(listing(&disk.path()), before, "{leave}");
        }
        std::fs::remove_dir_all(ballast).unwrap();
    }
    import(&store, &large()).unwrap();
}

#[test]
fn a_read_only_disk_is_named_and_harms_nothing() {
    let disk = Disk::new();
    let store = ImageStore::open(&disk.path().join("store")).unwrap();
    import(&store, &small()).unwrap();
    store.create_snapshot("c", "small:1").unwrap();
    let before = listing(&disk.path());
    disk.remount(MountFlags::RDONLY);
    for error in [
        import(&store, &large()).unwrap_err(),
        store.create_snapshot("d", "small:1").unwrap_err(),
        store.remove_snapshot("c").unwrap_err(),
    ] {
        assert_told(&error, rustix::io::Errno::ROFS, "Read-only", &disk);
    }
    assert_eq!((store.list().unwrap().len(), listing(&disk.path())), (1, before));
    disk.remount(MountFlags::empty());
    import(&store, &large()).unwrap();
    assert!(store.mount_snapshot("c").unwrap().join("file").exists());
    store.remove_snapshot("c").unwrap();
    assert!(store.remove("small:1").unwrap());
}
