//! The store behind [`ImageStore`](crate::ImageStore): state, look-up, names, leases and garbage collection.
//!
//! In: calls from any thread. Out: images, snapshots. One mutex guards names, leases and the count of running pulls; files are
//! only renamed or unlinked under it, never read or written at length. Blobs and layers that no name and no snapshot needs are
//! collected when no pull or import runs.
//!
//! ```text
//!   blob, layer:  absent ──ingest──▶ complete, unnamed ──register──▶ in use ──remove──▶ unnamed ──collect──▶ absent
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::content::Content;
use crate::digest::Digest;
use crate::facts::Facts;
use crate::index::{Index, IndexEntry};
use crate::layers::Layers;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::snapshots::{Record, Snapshots, check_key};
use crate::{Error, FsUsage, IdMap, Image, MapMount, Snapshot};

/// Layers fetched from one registry and unpacked at the same time, over all pulls.
const LAYERS_OF_A_REGISTRY: usize = 8;

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    pub(crate) content: Content,
    pub(crate) layers: Layers,
    snapshots: Snapshots,
    state: Mutex<State>,
    /// Held while something is mounted or unmounted.
    mounting: Mutex<()>,
    pub(crate) locks: crate::keyed_lock::KeyedLocks,
    pub(crate) slots: crate::keyed_lock::KeyedSlots,
    /// The directory whose lock keeps other processes out.
    lock: OwnedFd,
}

#[derive(Debug)]
struct State {
    index: Index,
    leases: BTreeMap<String, Record>,
    facts: HashMap<Digest, Arc<Facts>>,
    /// Running pulls and imports, whose blobs and layers have no name yet.
    busy: usize,
    collect_wanted: bool,
}

/// Keeps the collector away while blobs and layers without names are made.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Store>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let images = root.join("images");
        // Set-user-id programs of images lie here, and so do the files of private ones.
        for name in ["images", "layers", "snapshots"] {
            make_private_dir(&root.join(name))?;
        }
        let lock = crate::tree::open_dir(&images)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => Error::Locked { path: root.to_owned() },
            other => Error::io("lock", &images)(other),
        })?;
        let content = Content::open(images)?;
        let index = Index::open(content.index_path())?;
        let layers = Layers::open(root.join("layers"))?;
        let (snapshots, leases) = Snapshots::open(root.join("snapshots"))?;
        let state = State { index, leases, facts: HashMap::new(), busy: 0, collect_wanted: true };
        let store = Self {
            root: root.to_owned(),
            content,
            layers,
            snapshots,
            state: Mutex::new(state),
            mounting: Mutex::new(()),
            locks: crate::keyed_lock::KeyedLocks::default(),
            slots: crate::keyed_lock::KeyedSlots::new(LAYERS_OF_A_REGISTRY),
            lock,
        };
        Error::unless_read_only(store.drop_broken_entries())?;
        Error::unless_read_only(store.collect())?;
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is saved before memory follows, so the state is whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.state().busy += 1;
        Busy(Arc::clone(self))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.state().busy > 0
    }

    /// Names an image whose blobs and layers are all here, after making sure the disk has them.
    pub(crate) fn register(&self, names: &[String], descriptor: &Descriptor) -> Result<Image, Error> {
        rustix::fs::syncfs(&self.lock).map_err(Error::io("sync", &self.root))?;
        let mut state = self.state();
        let facts = self.facts(&mut state, descriptor)?;
        state.index.add(names, descriptor)?;
        let images = self.images(&mut state)?;
        drop(state);
        images
            .into_iter()
            .find(|image| image.id == facts.id())
            .ok_or_else(|| Error::not_found(format!("image {}", facts.id())))
    }

    /// All entries as they are now.
    pub(crate) fn entries(&self) -> Vec<IndexEntry> {
        self.state().index.entries().to_vec()
    }

    pub(crate) fn list(&self) -> Result<Vec<Image>, Error> {
        self.images(&mut self.state())
    }

    pub(crate) fn get(&self, name_or_id: &str) -> Result<Option<Image>, Error> {
        let mut state = self.state();
        let Some(id) = self.find_id(&mut state, name_or_id)? else { return Ok(None) };
        Ok(self.images(&mut state)?.into_iter().find(|image| image.id == id))
    }

    pub(crate) fn tag(&self, name_or_id: &str, new_name: &str) -> Result<Image, Error> {
        let reference = Reference::parse(new_name)?;
        if reference.digest.is_some() {
            let reason = "a digest cannot be given to an image".to_owned();
            return Err(Error::InvalidName { name: new_name.to_owned(), reason });
        }
        let descriptor = {
            let mut state = self.state();
            let id = self.find_id(&mut state, name_or_id)?;
            let entries = state.index.entries().to_vec();
            let mut found = None;
            for entry in entries {
                if id.is_some() && Some(self.facts(&mut state, &entry.descriptor)?.id()) == id {
                    found = Some(entry.descriptor);
                    break;
                }
            }
            found.ok_or_else(|| Error::not_found(format!("image {name_or_id}")))?
        };
        self.register(&[reference.stored()], &descriptor)
    }

    /// Removes an image with all its names.
    pub(crate) fn remove(&self, name_or_id: &str) -> Result<bool, Error> {
        {
            let mut state = self.state();
            let Some(id) = self.find_id(&mut state, name_or_id)? else { return Ok(false) };
            let by: Vec<_> =
                state.leases.iter().filter(|(_, r)| r.image_id == id).map(|(key, _)| key.clone()).collect();
            if !by.is_empty() {
                return Err(Error::InUse { image: id, by });
            }
            let mut doomed = BTreeSet::new();
            for entry in state.index.entries().to_vec() {
                if self.facts(&mut state, &entry.descriptor)?.id() == id {
                    doomed.insert(entry.descriptor.digest);
                }
            }
            let is_doomed = |entry: &IndexEntry| doomed.contains(&entry.descriptor.digest);
            match state.index.remove(is_doomed) {
                // A full disk must not keep images from being removed. Layers without their image's name are no loss: as
                // long as the image has it they are unpacked again when needed.
                Err(Error::Full { .. }) if state.busy == 0 => {
                    self.remove_layers_of_only(&mut state, is_doomed)?;
                    state.index.remove(is_doomed)?;
                }
                other => other?,
            }
            state.facts.retain(|digest, _| !doomed.contains(digest));
            state.collect_wanted = true;
        }
        self.collect()?;
        Ok(true)
    }

    /// Frees the space of layers that only these entries need.
    fn remove_layers_of_only(
        &self,
        state: &mut State,
        is_doomed: impl Fn(&IndexEntry) -> bool,
    ) -> Result<(), Error> {
        let mut needed: BTreeSet<Digest> = state.leases.values().flat_map(|r| r.layers.clone()).collect();
        let mut unneeded = BTreeSet::new();
        for entry in state.index.entries().to_vec() {
            let chain = self.facts(state, &entry.descriptor)?.chain_ids.clone();
            if is_doomed(&entry) { &mut unneeded } else { &mut needed }.extend(chain);
        }
        for layer in unneeded.difference(&needed).filter(|layer| self.layers.contains(layer)) {
            drop(self.layers.detach(layer)?);
        }
        Ok(())
    }

    /// Facts of the image with this id, for those who are about to use its layers.
    pub(crate) fn facts_of(&self, image_id: &str) -> Result<Arc<Facts>, Error> {
        let mut state = self.state();
        let id = self.find_id(&mut state, image_id)?;
        for entry in state.index.entries().to_vec() {
            let facts = self.facts(&mut state, &entry.descriptor)?;
            if Some(facts.id()) == id {
                return Ok(facts);
            }
        }
        Err(Error::not_found(format!("image {image_id}")))
    }

    /// Takes the lease and makes the directories.
    pub(crate) fn create_snapshot(&self, key: &str, facts: &Facts) -> Result<Snapshot, Error> {
        check_key(key)?;
        let record = Record { image_id: facts.id(), layers: facts.chain_ids.clone() };
        let mut state = self.state();
        match state.leases.get(key) {
            Some(existing) if *existing == record => {}
            Some(existing) => {
                return Err(Error::InUse { image: existing.image_id.clone(), by: vec![key.to_owned()] });
            }
            None => {
                // The image may have been removed since the facts were read.
                if self.find_id(&mut state, &record.image_id)?.is_none() {
                    return Err(Error::not_found(format!("image {}", record.image_id)));
                }
                self.snapshots.create(key, &record, &self.layers)?;
                state.leases.insert(key.to_owned(), record);
            }
        }
        Ok(Snapshot { key: key.to_owned(), image_id: facts.id(), rootfs: self.snapshots.rootfs(key) })
    }

    pub(crate) fn mount_snapshot(&self, key: &str) -> Result<PathBuf, Error> {
        let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.state().leases.get(key).cloned();
        let record = record.ok_or_else(|| Error::not_found(format!("snapshot {key}")))?;
        self.snapshots.mount(key, &record, &self.layers)
    }

    pub(crate) fn map_snapshot(&self, key: &str, map: IdMap<'_>) -> Result<PathBuf, Error> {
        let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.state().leases.get(key).cloned();
        let record = record.ok_or_else(|| Error::not_found(format!("snapshot {key}")))?;
        self.snapshots.mount_mapped(key, &record, &self.layers, map)
    }

    pub(crate) fn can_map(&self, map: MapMount<'_>) -> bool {
        self.snapshots.can_map(map)
    }

    pub(crate) fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        let doomed = {
            let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
            let doomed = self.snapshots.detach(key)?;
            self.state().leases.remove(key);
            doomed
        };
        doomed.map_or(Ok(()), |dir| crate::tree::remove_tree(&dir))
    }

    pub(crate) fn snapshots(&self) -> Vec<String> {
        self.state().leases.keys().cloned().collect()
    }

    pub(crate) fn writable_layer(&self, key: &str) -> std::path::PathBuf {
        self.snapshots.upper(key)
    }

    pub(crate) fn mountpoints(&self) -> (std::path::PathBuf, std::path::PathBuf) {
        (self.root.join("images"), self.root.join("snapshots"))
    }

    pub(crate) fn fs_usage(&self) -> Result<FsUsage, Error> {
        let mut usage = FsUsage { mountpoint: self.mountpoints().0, bytes: 0, inodes: 0 };
        for (_, size) in self.content.list()? {
            usage.bytes += size.next_multiple_of(4096);
            usage.inodes += 1;
        }
        for layer in self.layers.list()? {
            // A layer removed meanwhile counts no more.
            if let Ok(record) = self.layers.record(&layer) {
                usage.bytes += record.bytes;
                usage.inodes += record.inodes;
            }
        }
        Ok(usage)
    }

    /// Asks for a collection once the running pulls are done, because one of them left things behind.
    pub(crate) fn want_collection(&self) {
        self.state().collect_wanted = true;
    }

    /// Removes blobs and layers nobody needs, if that was asked for and nobody is at work.
    pub(crate) fn collect(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.busy > 0 || !state.collect_wanted {
            return Ok(());
        }
        let mut blobs = BTreeSet::new();
        let mut layers: BTreeSet<Digest> = state.leases.values().flat_map(|r| r.layers.clone()).collect();
        for entry in state.index.entries().to_vec() {
            let facts = self.facts(&mut state, &entry.descriptor)?;
            blobs.extend(facts.blobs.iter().cloned());
            layers.extend(facts.chain_ids.iter().cloned());
        }
        for (digest, _) in self.content.list()?.iter().filter(|(digest, _)| !blobs.contains(digest)) {
            self.content.remove(digest)?;
        }
        let unneeded = self.layers.list()?.into_iter().filter(|chain| !layers.contains(chain));
        let doomed: Vec<_> = unneeded.map(|chain| self.layers.detach(&chain)).collect::<Result<_, _>>()?;
        state.collect_wanted = false;
        drop(state);
        // The trees themselves go without the lock.
        drop(doomed);
        Ok(())
    }

    fn facts(&self, state: &mut State, descriptor: &Descriptor) -> Result<Arc<Facts>, Error> {
        if let Some(facts) = state.facts.get(&descriptor.digest) {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(Facts::read(&self.content, descriptor)?);
        state.facts.insert(descriptor.digest.clone(), Arc::clone(&facts));
        Ok(facts)
    }

    /// Images whose documents are gone or broken cannot be used; they are forgotten, with a word in the log.
    fn drop_broken_entries(&self) -> Result<(), Error> {
        let mut state = self.state();
        let mut broken = BTreeSet::new();
        for entry in state.index.entries().to_vec() {
            match self.facts(&mut state, &entry.descriptor) {
                Ok(_) => {}
                Err(e @ Error::Io { .. }) => return Err(e),
                Err(e) => {
                    tracing::error!(image = entry.name, error = %e, "an image in the store is broken and is forgotten");
                    broken.insert(entry.descriptor.digest);
                }
            }
        }
        if broken.is_empty() { Ok(()) } else { state.index.remove(|e| broken.contains(&e.descriptor.digest)) }
    }

    fn images(&self, state: &mut State) -> Result<Vec<Image>, Error> {
        let mut images: BTreeMap<String, Image> = BTreeMap::new();
        for entry in state.index.entries().to_vec() {
            let facts = self.facts(state, &entry.descriptor)?;
            let image = images.entry(facts.id()).or_insert_with(|| facts.image());
            image.annotations.extend(entry.descriptor.annotations.clone().unwrap_or_default());
            let names = match &entry.name {
                Some(name) if name.contains('@') => &mut image.repo_digests,
                _ => &mut image.repo_tags,
            };
            names.extend(entry.name.clone());
        }
        Ok(images.into_values().collect())
    }

    /// The id of the image meant by a name, a digest, an id or the beginning of one. Errors if nothing can be meant.
    fn find_id(&self, state: &mut State, wanted: &str) -> Result<Option<String>, Error> {
        let entries = state.index.entries().to_vec();
        let parsed = Reference::parse(wanted);
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let is_id = (3..=64).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if let Ok(reference) = &parsed
            && let Some(entry) = entries.iter().find(|entry| names_entry(reference, entry))
        {
            return self.facts(state, &entry.descriptor).map(|facts| Some(facts.id()));
        }
        if !is_id {
            return parsed.map(|_| None);
        }
        let mut found = BTreeSet::new();
        for entry in &entries {
            let facts = self.facts(state, &entry.descriptor)?;
            let is_digest = hex.len() == 64 && facts.documents.iter().any(|digest| digest.hex() == hex);
            if is_digest || facts.config_digest.hex().starts_with(hex) {
                found.insert(facts.id());
            }
        }
        match found.len() {
            0 | 1 => Ok(found.into_iter().next()),
            _ => Err(Error::InvalidName {
                name: wanted.to_owned(),
                reason: "it is the beginning of several image ids".into(),
            }),
        }
    }
}

/// Whether a reference means this entry: by its name, or by repository and digest whatever the entry's tag.
fn names_entry(reference: &Reference, entry: &IndexEntry) -> bool {
    let Some(name) = &entry.name else { return false };
    if *name == reference.stored() {
        return true;
    }
    let same_digest = reference.digest.as_ref() == Some(&entry.descriptor.digest);
    same_digest && name.strip_prefix(&reference.name()).is_some_and(|rest| rest.starts_with([':', '@']))
}

/// Makes a directory that only root can look into; one that is there becomes so. One that is so is not written to: the
/// file system may have become read-only, and what runs from it has to be taken care of all the same.
fn make_private_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
    if std::fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == 0o700) {
        return Ok(());
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .map_err(Error::io("change the mode of", dir))
}
