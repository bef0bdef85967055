//! Unpacked layers on disk, one directory per chain id.
//!
//! In: a layer unpacked into a [`Staging`] directory. Out: `layers/<chain id>/fs` plus `layer.json` with its size, complete or
//! absent, because it gets its name by rename. It does not decide which layers are needed; see `gc`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::digest::Digest;
use crate::tree::{open_in_root, remove_tree};
use crate::unpack::Unpacked;

const TEMPORARY: &str = ".tmp-";

/// What is known about an unpacked layer without walking it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The unpacked layers of one store.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    next: AtomicU64,
}

/// A layer's identity and place in its image.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    /// Chain ids below, lowest first.
    pub(crate) below: Vec<Digest>,
}

impl Layers {
    /// Opens or makes `dir`; half-unpacked layers of an earlier process vanish.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&dir).map_err(Error::io("create directory", &dir))?;
        clear_temporary(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(0) })
    }

    pub(crate) fn fs(&self, chain_id: &Digest) -> PathBuf {
        self.dir.join(chain_id.hex()).join("fs")
    }

    /// The directory of all layers.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn contains(&self, chain_id: &Digest) -> bool {
        self.dir.join(chain_id.hex()).join("layer.json").exists()
    }

    /// An empty directory to unpack into.
    pub(crate) fn stage(&self) -> Result<Staging, Error> {
        let staging = Staging { dir: self.temporary() };
        let fs = staging.fs();
        std::fs::create_dir_all(&fs).map_err(Error::io("create directory", &fs))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fs, mode).map_err(Error::io("change the mode of", &fs))?;
        Ok(staging)
    }

    /// Gives a staged layer its name. The layers below must be there already. A layer that is there wins.
    pub(crate) fn commit(&self, staging: &Staging, place: &Place, unpacked: &Unpacked) -> Result<(), Error> {
        self.inherit(staging, place, unpacked)?;
        let record =
            LayerRecord { diff_id: place.diff_id.clone(), bytes: unpacked.bytes, inodes: unpacked.inodes };
        let record_path = staging.dir.join("layer.json");
        let json = serde_json::to_vec(&record).map_err(|e| Error::io("encode", &record_path)(e))?;
        std::fs::write(&record_path, json).map_err(Error::io("write", &record_path))?;
        let target = self.dir.join(place.chain_id.hex());
        match rustix::fs::rename(&staging.dir, &target) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            Err(e) => Err(Error::io("store layer", &target)(e)),
        }
    }

    /// Directories the archive did not describe would otherwise hide the lower layers' mode and owner (`/tmp`'s sticky bit).
    pub(crate) fn inherit(&self, staging: &Staging, place: &Place, unpacked: &Unpacked) -> Result<(), Error> {
        let implied = &unpacked.implied;
        if implied.is_empty() || place.below.is_empty() {
            return Ok(());
        }
        let own = crate::tree::open_dir(&staging.fs())?;
        let lower: Vec<_> = place
            .below
            .iter()
            .rev()
            .map(|chain| crate::tree::open_dir(&self.fs(chain)))
            .collect::<Result<_, _>>()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for path in implied {
            let Ok(dir) = open_in_root(own.as_fd(), path, flags) else { continue };
            if let Some(from) = lower.iter().find_map(|root| open_in_root(root.as_fd(), path, flags).ok()) {
                copy_attributes(from.as_fd(), dir.as_fd())
                    .map_err(Error::io("copy directory attributes", &staging.fs()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> Result<Vec<Digest>, Error> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let entry = entry.map_err(Error::io("list", &self.dir))?;
            found.extend(entry.file_name().to_str().and_then(Digest::from_hex));
        }
        Ok(found)
    }

    pub(crate) fn record(&self, chain_id: &Digest) -> Result<LayerRecord, Error> {
        let path = self.dir.join(chain_id.hex()).join("layer.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(path.display().to_string(), e.to_string()))
    }

    /// Takes a layer's name away at once; the returned directory is removed when dropped.
    pub(crate) fn detach(&self, chain_id: &Digest) -> Result<Staging, Error> {
        let from = self.dir.join(chain_id.hex());
        let doomed = Staging { dir: self.temporary() };
        std::fs::rename(&from, &doomed.dir).map_err(Error::io("detach layer", &from))?;
        Ok(doomed)
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{TEMPORARY}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A directory that vanishes when dropped, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
}

impl Staging {
    pub(crate) fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = remove_tree(&self.dir) {
            tracing::warn!(path = %self.dir.display(), error = %e, "could not remove a layer directory");
        }
    }
}

/// Removes what an earlier process left under temporary names.
pub(crate) fn clear_temporary(dir: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            Error::unless_read_only(remove_tree(&entry.path()))?;
        }
    }
    Ok(())
}

/// Mode, owner and times of a directory.
pub(crate) fn copy_attributes(
    from: std::os::fd::BorrowedFd<'_>,
    to: std::os::fd::BorrowedFd<'_>,
) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, ".", Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    crate::layer_root::set_times(to, (stat.st_mtime, nanos))
}
