//! A small file system of a test's own, to be filled up, to be set read-only, and taken away at the end.
//!
//! In: a size. Out: a mount point outside of every node's directory. `ext4` in a file by a loop device where that is wanted
//! (it knows a journal, reserved blocks and `errors=`), else `tmpfs`, which can be as small in bytes and in inodes as it is
//! told.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// A tmpfs with these options, for example `size=8m,nr_inodes=2000`.
    pub fn tmpfs(options: &str) -> Self {
        Self::mounted(&["-t", "tmpfs", "-o", options, "pintle-test-disk"])
    }

    /// An ext4 of so many MiB in a file of its own, by a loop device that goes with the mount; a tmpfs where there are no
    /// loop devices.
    pub fn ext4_or_tmpfs(mebibytes: u64) -> Self {
        if !Command::new("losetup").arg("--find").output().is_ok_and(|output| output.status.success()) {
            return Self::tmpfs(&format!("size={mebibytes}m"));
        }
        let image = tempfile::NamedTempFile::new_in("/tmp").expect("a file can be made");
        image.as_file().set_len(mebibytes << 20).expect("a file can be made long");
        let file = image.path().to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &file]);
        // The loop device keeps the file, whose name is not needed any more.
        Self::mounted(&["-t", "ext4", "-o", "loop", &file])
    }

    fn mounted(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-disk-").tempdir_in("/tmp").expect("a directory");
        let at = dir.path().to_string_lossy().into_owned();
        run("mount", &[arguments, &[at.as_str()]].concat());
        Self { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Mounts it anew with these options, for example `ro`.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), &self.path().to_string_lossy()]);
    }

    /// Fills it to the last byte and tells the file that does.
    pub fn fill(&self) -> Ballast {
        let path = self.path().join("ballast");
        let mut file = fs::File::create(&path).expect("a file can be made");
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while std::io::Write::write(&mut file, &block).is_ok_and(|written| written > 0) {}
        }
        file.sync_all().ok();
        Ballast(path)
    }

    /// Uses up its inodes.
    pub fn fill_inodes(&self) -> Ballast {
        let path = self.path().join("ballast");
        fs::create_dir(&path).expect("a directory can be made");
        let mut count = 0_u64;
        while fs::File::create(path.join(count.to_string())).is_ok() {
            count += 1;
        }
        assert!(count > 0, "there were no inodes to use up");
        Ballast(path)
    }
}

/// What fills a disk.
#[derive(Debug)]
pub struct Ballast(std::path::PathBuf);

impl Ballast {
    /// Gives the room back.
    pub fn remove(self) {
        let removed = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        removed.expect("the ballast can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a failed test left mounted below holds the disk: it goes with the last user then.
        rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH).ok();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
