//! What is on disk below a store's root and what nobody there needs, for whoever looks for leftovers.
//!
//! In: the root directory. Out: an [`Inspection`]. [`inspect`] changes nothing and may run beside an open
//! [`ImageStore`](crate::ImageStore), which then may be about to name what seems unneeded: [`Inspection::open_elsewhere`] says so.
//! [`discard`] removes one of the things found. Which snapshots have a container is not known here.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::Error;
use crate::content::Content;
use crate::digest::Digest;
use crate::facts::Facts;
use crate::index::Index;
use crate::overlay::unmount_all;
use crate::snapshots::{Record, check_key};
use crate::tree::remove_tree;

/// The most bytes a snapshot's record may have; it holds one digest for each of an image's layers.
const RECORD_BYTES: u64 = 1024 * 1024;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Whether somebody has the store open.
    pub open_elsewhere: bool,
    /// The snapshots' keys.
    pub snapshots: Vec<String>,
    /// Snapshots whose record cannot be read, each with the reason.
    pub broken_snapshots: Vec<(String, String)>,
    /// Files and directories that were never finished, or never wholly removed.
    pub unfinished: Vec<PathBuf>,
    /// Directories of layers that no image and no snapshot is made of.
    pub unneeded_layers: Vec<PathBuf>,
    /// Blobs that no image's documents lead to.
    pub unneeded_blobs: Vec<PathBuf>,
    /// Layers that a snapshot is made of and that are not there.
    pub missing_layers: Vec<PathBuf>,
    /// Images whose documents cannot be read, each with the reason.
    pub broken_images: Vec<(String, String)>,
}

/// Looks at the store below a root; an empty answer if there is none.
pub fn inspect(root: &Path) -> Result<Inspection, Error> {
    let mut found = Inspection { open_elsewhere: is_open(root)?, ..Inspection::default() };
    let (layers, blobs, snapshots) =
        (root.join("layers"), root.join("images/blobs/sha256"), root.join("snapshots"));
    for dir in [&layers, &snapshots] {
        let names = names(dir)?;
        found.unfinished.extend(names.iter().filter(|n| n.starts_with(".tmp-")).map(|n| dir.join(n)));
    }
    let ingest = root.join("images/ingest");
    found.unfinished.extend(names(&ingest)?.iter().map(|name| ingest.join(name)));
    found.unfinished.extend(Some(root.join("images/index.tmp")).filter(|path| path.exists()));

    let mut needed = read_images(root, &mut found)?;
    read_snapshots(&snapshots, &mut found, &mut needed)?;
    let present = |dir: &Path| -> Result<BTreeSet<Digest>, Error> {
        Ok(names(dir)?.iter().filter_map(|name| Digest::from_hex(name)).collect())
    };
    let unneeded = |dir: &Path, there: &BTreeSet<Digest>, needed: &BTreeSet<Digest>| -> Vec<PathBuf> {
        there.difference(needed).map(|digest| dir.join(digest.hex())).collect()
    };
    // With an image that cannot be read nothing is known to be unneeded.
    if found.broken_images.is_empty() {
        found.unneeded_layers = unneeded(&layers, &present(&layers)?, &needed.layers);
        found.unneeded_blobs = unneeded(&blobs, &present(&blobs)?, &needed.blobs);
    }
    found.missing_layers = unneeded(&layers, &needed.mounted, &present(&layers)?);
    Ok(found)
}

/// Removes something that [`inspect`] found below `root`: a directory or file of the store, by the path that it was found with.
/// Nothing else: a path that could not have been found is refused. Only while nobody has the store open.
pub fn discard(root: &Path, path: &Path) -> Result<(), Error> {
    let _lock = lock(root)?.ok_or_else(|| Error::Locked { path: root.to_owned() })?;
    let folders = ["layers", "snapshots", "images/ingest", "images/blobs/sha256"].map(|name| root.join(name));
    let is_index = path == root.join("images/index.tmp");
    let in_folder = path.parent().is_some_and(|parent| folders.iter().any(|folder| folder == parent));
    if !(is_index || in_folder && path.file_name().is_some()) {
        return Err(Error::not_found(format!("{} in the image store", path.display())));
    }
    if path.parent() == Some(&folders[1]) {
        unmount_all(&path.join("rootfs"))?;
    }
    remove_tree(path)
}

/// What images and snapshots are made of.
#[derive(Debug, Default)]
struct Needed {
    layers: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
    /// The layers of snapshots alone.
    mounted: BTreeSet<Digest>,
}

fn read_images(root: &Path, found: &mut Inspection) -> Result<Needed, Error> {
    let mut needed = Needed::default();
    let content = Content::look(root.join("images"));
    // Opening a missing index would make one.
    if !content.index_path().exists() {
        return Ok(needed);
    }
    let index = match Index::open(content.index_path()) {
        Ok(index) => index,
        Err(e @ Error::Corrupt { .. }) => {
            found.broken_images.push(("index.json".to_owned(), e.to_string()));
            return Ok(needed);
        }
        Err(e) => return Err(e),
    };
    for entry in index.entries() {
        match Facts::read(&content, &entry.descriptor) {
            Ok(facts) => {
                needed.layers.extend(facts.chain_ids.iter().cloned());
                needed.blobs.extend(facts.blobs.iter().cloned());
            }
            Err(e) => {
                let name = entry.name.clone().unwrap_or_else(|| entry.descriptor.digest.to_string());
                found.broken_images.push((name, e.to_string()));
            }
        }
    }
    Ok(needed)
}

fn read_snapshots(dir: &Path, found: &mut Inspection, needed: &mut Needed) -> Result<(), Error> {
    for key in names(dir)?.into_iter().filter(|name| check_key(name).is_ok()) {
        match read_record(&dir.join(&key).join("snapshot.json")) {
            Ok(record) => {
                needed.layers.extend(record.layers.iter().cloned());
                needed.mounted.extend(record.layers);
            }
            Err(reason) => found.broken_snapshots.push((key.clone(), reason)),
        }
        found.snapshots.push(key);
    }
    Ok(())
}

fn read_record(path: &Path) -> Result<Record, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(RECORD_BYTES).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(Error::io("list", dir))?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn is_open(root: &Path) -> Result<bool, Error> {
    Ok(root.join("images").is_dir() && lock(root)?.is_none())
}

/// The store's lock, held until dropped; `None` while somebody else has it.
fn lock(root: &Path) -> Result<Option<std::os::fd::OwnedFd>, Error> {
    let images = root.join("images");
    let lock = crate::tree::open_dir(&images)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(Error::io("lock", &images)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn store() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        drop(crate::ImageStore::open(root.path()).unwrap());
        root
    }

    #[test]
    fn a_sound_store_has_nothing_to_find() {
        let root = store();
        assert_eq!(inspect(root.path()).unwrap(), Inspection::default());
        assert_eq!(inspect(&root.path().join("none")).unwrap(), Inspection::default());
    }

    #[test]
    fn what_nobody_needs_is_found_and_can_be_discarded() {
        let root = store();
        let (layer, blob) = ("1".repeat(64), "2".repeat(64));
        let planted = [
            root.path().join("layers").join(&layer),
            root.path().join("layers/.tmp-7"),
            root.path().join("snapshots/.tmp-3"),
        ];
        planted.iter().for_each(|dir| fs::create_dir_all(dir.join("fs")).unwrap());
        fs::write(root.path().join("images/blobs/sha256").join(&blob), "x").unwrap();
        fs::write(root.path().join("images/ingest/4"), "x").unwrap();
        let found = inspect(root.path()).unwrap();
        assert_eq!(found.unneeded_layers, [root.path().join("layers").join(layer)]);
        assert_eq!(found.unneeded_blobs, [root.path().join("images/blobs/sha256").join(blob)]);
        assert_eq!(found.unfinished.len(), 3, "{found:?}");
        for path in found.unneeded_layers.iter().chain(&found.unneeded_blobs).chain(&found.unfinished) {
            discard(root.path(), path).unwrap();
        }
        assert_eq!(inspect(root.path()).unwrap(), Inspection::default());
    }

    #[test]
    fn nothing_outside_the_stores_folders_is_discarded_and_nothing_while_it_is_open() {
        let root = store();
        fs::write(root.path().join("precious"), "x").unwrap();
        for path in ["precious", "layers", "layers/..", "layers/../precious", "images/index.json"] {
            assert!(discard(root.path(), &root.path().join(path)).is_err(), "{path}");
        }
        assert!(root.path().join("precious").exists());
        fs::create_dir(root.path().join("layers/.tmp-1")).unwrap();
        let store = crate::ImageStore::open(root.path()).unwrap();
        fs::create_dir(root.path().join("layers/.tmp-1")).unwrap();
        assert!(inspect(root.path()).unwrap().open_elsewhere);
        assert!(discard(root.path(), &root.path().join("layers/.tmp-1")).is_err());
        drop(store);
    }

    #[test]
    fn with_an_image_that_cannot_be_read_nothing_is_unneeded() {
        let root = store();
        fs::write(root.path().join("images/index.json"), "{").unwrap();
        fs::create_dir(root.path().join("layers").join("1".repeat(64))).unwrap();
        let found = inspect(root.path()).unwrap();
        assert_eq!(found.broken_images.len(), 1);
        assert!(found.unneeded_layers.is_empty());
    }
}
