//! A small file system on the disk for one side's images, made anew for every sample.
//!
//! In: a file's path, a place, a directory there. Out: an empty ext4 mounted over the directory, inside the place only. Why:
//! ext4 looks long for inodes where many were freed a moment ago, and whoever syncs a file system writes everybody's
//! pages; on a file system of its own a sample pays neither for the sample before nor for what else the machine writes.
//! The loop device reads and writes the file past the page cache, so that what is written out goes to the disk, once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::place::{Place, run};

/// Room for the big image several times, and what mke2fs calls no small file system.
const MEGABYTES: usize = 1024;
/// What a disk's file system looks like, and nothing left for the kernel to do in the background.
const FORMAT: &str =
    "-q -F -T default -b 4096 -J size=64 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0";

/// The file under the file system.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Writes the file, all of it: what is measured shall not wait for the host to find room for it.
    pub(crate) fn make(path: PathBuf) -> Result<Self> {
        let failed = || format!("writing {}", path.display());
        let mut file = File::create(&path).with_context(failed)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..MEGABYTES {
            file.write_all(&zeros).with_context(failed)?;
        }
        file.sync_all().with_context(failed)?;
        Ok(Self(path))
    }

    /// Mounts an empty file system over `dir`, where this disk's may be mounted already.
    pub(crate) fn renew(&self, place: &Place, dir: &Path) -> Result<()> {
        place.uncover(dir)?;
        let device = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&self.0))?;
        let device = device.trim();
        let made = run(Command::new("mkfs.ext4").args(FORMAT.split(' ')).arg(device)).and_then(|_| {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            run(place.command("mount").arg(device).arg(dir))
        });
        // From now on the device lives as long as it is mounted.
        run(Command::new("losetup").args(["--detach", device]))?;
        made.map(drop)
    }

    /// Unmounts it, checks that no device is left, removes the file.
    pub(crate) fn close(self, place: &Place, dir: &Path) -> Result<()> {
        place.uncover(dir)?;
        let left = run(Command::new("losetup")
            .args(["--noheadings", "--output", "NAME", "--associated"])
            .arg(&self.0))?;
        fs::remove_file(&self.0).with_context(|| format!("removing {}", self.0.display()))?;
        if left.trim().is_empty() { Ok(()) } else { bail!("loop device {} stays", left.trim()) }
    }
}
