//! Snapshots: a writable overlay above an image's layers, one per key, and with it the lease on the image.
//!
//! In: a key, an image's layers. Out: `snapshots/<key>/{snapshot.json,upper,work,rootfs}`, mounted on request. The record is the
//! truth; what is mounted is asked of the kernel. It does not know whether the image still has a name.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layers::{Layers, clear_temporary, copy_attributes};
use crate::mapped::{self, Mapped};
use crate::overlay::{Overlay, is_mounted, unmount_all};
use crate::tree::{open_dir, remove_tree};
use crate::{Error, IdMap, MapMount};

/// What a snapshot was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) image_id: String,
    /// Chain ids, lowest first.
    pub(crate) layers: Vec<Digest>,
}

/// The directory of all snapshots. Who calls keeps calls for one key apart.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    next: AtomicU64,
}

impl Snapshots {
    /// Opens or makes `dir` and reads the records; half-made and half-removed snapshots vanish.
    pub(crate) fn open(dir: PathBuf) -> Result<(Self, BTreeMap<String, Record>), Error> {
        std::fs::create_dir_all(&dir).map_err(Error::io("create directory", &dir))?;
        clear_temporary(&dir)?;
        let snapshots = Self { dir, next: AtomicU64::new(0) };
        let records = snapshots.read_records()?;
        Ok((snapshots, records))
    }

    pub(crate) fn rootfs(&self, key: &str) -> PathBuf {
        self.dir.join(key).join("rootfs")
    }

    pub(crate) fn upper(&self, key: &str) -> PathBuf {
        self.dir.join(key).join("upper")
    }

    /// Makes the directories of a new snapshot, complete or not at all.
    pub(crate) fn create(&self, key: &str, record: &Record, layers: &Layers) -> Result<(), Error> {
        let staging = self.temporary();
        let made = self.fill(&staging, record, layers).and_then(|()| {
            let target = self.dir.join(key);
            std::fs::rename(&staging, &target).map_err(Error::io("create snapshot", &target))
        });
        if made.is_err() {
            remove_tree(&staging)?;
        }
        made
    }

    fn fill(&self, staging: &Path, record: &Record, layers: &Layers) -> Result<(), Error> {
        for name in ["upper", "work", "rootfs", "empty"] {
            let path = staging.join(name);
            std::fs::create_dir_all(&path).map_err(Error::io("create directory", &path))?;
        }
        let upper = staging.join("upper");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&upper, mode).map_err(Error::io("change the mode of", &upper))?;
        if let Some(top) = record.layers.last() {
            let (from, to) = (open_dir(&layers.fs(top))?, open_dir(&upper)?);
            copy_attributes(from.as_fd(), to.as_fd())
                .map_err(Error::io("copy directory attributes", &upper))?;
        }
        let path = staging.join("snapshot.json");
        let json = serde_json::to_vec(record).map_err(|e| Error::io("encode", &path)(e))?;
        // Not synchronised: the directory gets its name only when it is whole, and after a power cut what is in it is void.
        std::fs::write(&path, json).map_err(Error::io("write", &path))
    }

    /// Mounts the snapshot if it is not mounted yet.
    pub(crate) fn mount(&self, key: &str, record: &Record, layers: &Layers) -> Result<PathBuf, Error> {
        let target = self.rootfs(key);
        if is_mounted(&target)? {
            return Ok(target);
        }
        self.overlay(key, record, layers)?.mount()?;
        Ok(target)
    }

    /// The overlay, ready to be mounted.
    fn overlay(&self, key: &str, record: &Record, layers: &Layers) -> Result<Overlay, Error> {
        let dir = self.dir.join(key);
        // Left by an earlier mount; the kernel would refuse, because after a power cut the upper may be torn.
        let stale = dir.join("work/work/incompat");
        match std::fs::remove_dir_all(&stale) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &stale)(e)),
            Ok(()) | Err(_) => {}
        }
        let mut lower: Vec<_> = record.layers.iter().rev().map(|chain| layers.fs(chain)).collect();
        if lower.is_empty() {
            lower.push(dir.join("empty"));
        }
        Ok(Overlay { lower, upper: dir.join("upper"), work: dir.join("work"), target: self.rootfs(key) })
    }

    /// Mounts the snapshot anew, with ids mapped.
    pub(crate) fn mount_mapped(
        &self,
        key: &str,
        record: &Record,
        layers: &Layers,
        map: IdMap<'_>,
    ) -> Result<PathBuf, Error> {
        let target = self.rootfs(key);
        unmount_all(&target)?;
        let mapped = Mapped {
            overlay: self.overlay(key, record, layers)?,
            base: base_of(&self.dir, layers.dir()),
            place: self.dir.join(key).join("empty"),
        };
        mapped.mount(map)?;
        Ok(target)
    }

    /// Whether the file system can be mapped.
    pub(crate) fn can_map(&self, map: MapMount<'_>) -> bool {
        mapped::clone(&self.dir).and_then(|tree| map(tree.as_fd())).is_ok()
    }

    /// Unmounts the snapshot and takes its name away; what is returned is still to be given to [`remove_tree`].
    pub(crate) fn detach(&self, key: &str) -> Result<Option<PathBuf>, Error> {
        let dir = self.dir.join(key);
        if !dir.exists() {
            return Ok(None);
        }
        unmount_all(&self.rootfs(key))?;
        let doomed = self.temporary();
        std::fs::rename(&dir, &doomed).map_err(Error::io("detach snapshot", &dir))?;
        Ok(Some(doomed))
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!(".tmp-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn read_records(&self) -> Result<BTreeMap<String, Record>, Error> {
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let entry = entry.map_err(Error::io("list", &self.dir))?;
            let Ok(key) = entry.file_name().into_string() else { continue };
            let path = entry.path().join("snapshot.json");
            let read = std::fs::read(&path).map_err(Error::io("read", &path)).and_then(|b| {
                serde_json::from_slice(&b)
                    .map_err(|e| Error::corrupt(path.display().to_string(), e.to_string()))
            });
            match read {
                Ok(record) => drop(records.insert(key, record)),
                // Never take a root file system away from under somebody.
                Err(e) if is_mounted(&self.rootfs(&key))? => {
                    tracing::error!(snapshot = key, error = %e, "a mounted snapshot has no record; left alone");
                }
                Err(e) => {
                    tracing::warn!(snapshot = key, error = %e, "a snapshot without a record is removed");
                    remove_tree(&entry.path())?;
                }
            }
        }
        Ok(records)
    }
}

/// The directory that holds both.
fn base_of(first: &Path, second: &Path) -> PathBuf {
    let holds = |dir: &&Path| second.starts_with(dir);
    first.ancestors().find(holds).unwrap_or(Path::new("/")).to_owned()
}

/// Keys become file names.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = !key.is_empty() && key.len() <= 128 && !key.starts_with('.') && key.bytes().all(allowed);
    if good {
        return Ok(());
    }
    let reason = "a snapshot key is 1 to 128 of [A-Za-z0-9_.-] and starts with no dot".to_owned();
    Err(Error::InvalidName { name: crate::digest::shorten(key), reason })
}
