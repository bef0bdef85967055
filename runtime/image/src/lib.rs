//! Image store: pulls and imports images, keeps them as an OCI image layout, unpacks layers, mounts snapshots.
//!
//! In: image names, archives, registry configuration. Out: [`Image`]s and mounted root file systems. Below the root directory
//! it owns `images/` (OCI image layout), `layers/<chain id>/` and `snapshots/<key>/`. It has no long-lived tasks. It does not
//! know containers, pods or CRI; a snapshot's key is just a name, and holding a snapshot is the lease on its image.

mod challenge;
mod compression;
mod content;
mod credentials;
mod digest;
mod download;
mod error;
mod export;
mod facts;
mod go_duration;
mod hosts;
mod import;
mod index;
mod inspect;
mod install;
mod keyed_lock;
mod layer_root;
mod layers;
mod limits;
mod manifest;
mod mapped;
mod overlay;
mod policy;
mod program;
mod progress;
mod pull;
mod read_ahead;
mod reference;
mod registry;
mod registry_auth;
pub mod resolve;
mod rewrite;
mod snapshots;
mod store;
mod tar_stream;
mod tree;
mod tree_compare;
mod unpack;
mod verify;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use credentials::{Keyring, KeyringConfig};
pub use error::Error;
pub use inspect::{Inspection, discard, inspect};
pub use policy::Policy;
pub use progress::Progress;
pub use verify::{Damage, Verification};

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// User name and password, also used to fetch bearer tokens.
    Basic { username: String, password: String },
    /// A bearer token for the registry itself (CRI's `registry_token`).
    Token(String),
    /// A token that a token server exchanges for bearer tokens (CRI's `identity_token`, OAuth2's refresh token).
    Identity(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Self::Token(_) => write!(f, "Token(…)"),
            Self::Identity(_) => write!(f, "Identity(…)"),
        }
    }
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    pub auth: Option<Auth>,
    /// Kept with the image.
    pub annotations: BTreeMap<String, String>,
    /// The host these credentials are for, as docker or CRI name it; absent: the registry of the image.
    pub auth_server: Option<String>,
    /// Credentials for whom `auth` does not serve.
    pub keyring: Option<Arc<Keyring>>,
    /// Which images may be taken; absent: all.
    pub policy: Option<Policy>,
    /// The longest silence in the middle of an answer before the connection counts as broken; absent: a minute.
    pub progress_deadline: Option<std::time::Duration>,
    /// Directory in containerd's `hosts.toml` layout.
    pub registry_config: Option<PathBuf>,
    pub progress: Option<Arc<dyn Progress>>,
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name for the image instead of the names in the archive, which must then hold exactly one image.
    pub tag: Option<String>,
    /// Which images may be taken; absent: all.
    pub policy: Option<Policy>,
    pub progress: Option<Arc<dyn Progress>>,
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:<digest of the config>`.
    pub id: String,
    /// Normalised names with tags.
    pub repo_tags: Vec<String>,
    /// Normalised names with digests.
    pub repo_digests: Vec<String>,
    /// Bytes in the content store: manifest, config and compressed layers.
    pub size: u64,
    pub config: oci_spec::image::ImageConfiguration,
    /// Chain ids of the layers, lowest first.
    pub chain_ids: Vec<String>,
    /// The manifest's, and those the image was pulled with, which count more.
    pub annotations: BTreeMap<String, String>,
}

/// A root file system made from an image for one key.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub key: String,
    pub image_id: String,
    /// Where `mount_snapshot` mounts it.
    pub rootfs: PathBuf,
}

/// Maps the ids of a mount that is attached nowhere.
pub type MapMount<'a> = &'a (dyn Fn(BorrowedFd<'_>) -> std::io::Result<()> + Sync);

/// How the owners of files are shown.
#[derive(Clone, Copy)]
pub struct IdMap<'a> {
    /// The user and the group that root's files are shown to belong to.
    pub root: (u32, u32),
    /// Maps a mount.
    pub map: MapMount<'a>,
}

impl std::fmt::Debug for IdMap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdMap").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What the store occupies on disk.
#[derive(Debug, Clone)]
pub struct FsUsage {
    /// A directory on the file system that holds images and layers.
    pub mountpoint: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// The image store of one root directory. Cheap to clone; one process at a time may have it open.
///
/// All calls but [`pull`](Self::pull) block on the file system and belong on threads that may.
#[derive(Debug, Clone)]
pub struct ImageStore {
    store: Arc<store::Store>,
}

impl ImageStore {
    /// Opens or makes the store below `root` and removes what an earlier process left half-done.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it open.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self { store: Arc::new(store::Store::open(root)?) })
    }

    /// Pulls an image by tag or digest and unpacks it. Layers that are here already are not fetched again, also not those
    /// another call is fetching at this moment.
    ///
    /// # Errors
    /// [`Error::is_retryable`] tells whether trying again makes sense. A failed pull leaves no image, and no part of it that
    /// was not what it claimed to be.
    pub async fn pull(&self, name: &str, opts: PullOptions) -> Result<Image, Error> {
        pull::pull(&self.store, name, &opts).await
    }

    /// Imports the images of an OCI layout or `docker save` archive, plain or compressed with gzip or zstd.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the archive is not what it should be; nothing of it is kept then.
    #[expect(clippy::needless_pass_by_value, reason = "options are given away, as with pull")]
    pub fn import(&self, archive: impl Read, opts: ImportOptions) -> Result<Vec<Image>, Error> {
        import::import(&self.store, archive, &opts)
    }

    /// Writes the images with these names or ids into an archive that `import`, skopeo, `docker load` and `ctr import` read.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] if a blob is not what it should be. What was written then is no archive.
    pub fn export(&self, names: &[String], to: impl std::io::Write) -> Result<(), Error> {
        export::export(&self.store, names, to)
    }

    /// Holds every blob against its digest, and every unpacked layer against its blob. Changes nothing.
    ///
    /// # Errors
    /// If the store cannot be listed; what is damaged is no error but part of the answer.
    pub fn verify(&self, progress: Option<&dyn Progress>) -> Result<Verification, Error> {
        verify::verify(&self.store, progress)
    }

    /// All images, by id.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] if a document in the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        self.store.list()
    }

    /// The image with this name, digest, id or unique beginning of an id (3 digits or more).
    ///
    /// # Errors
    /// [`Error::InvalidName`] if it can be neither name nor id, or begins several ids.
    pub fn get(&self, name_or_id: &str) -> Result<Option<Image>, Error> {
        self.store.get(name_or_id)
    }

    /// Removes an image with all its names, and what only it needed. False if there was none.
    ///
    /// # Errors
    /// [`Error::InUse`] while snapshots hold it.
    pub fn remove(&self, name_or_id: &str) -> Result<bool, Error> {
        self.store.remove(name_or_id)
    }

    /// Gives an image one more name, taking it from another if need be.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidName`].
    pub fn tag(&self, name_or_id: &str, new_name: &str) -> Result<Image, Error> {
        self.store.tag(name_or_id, new_name)
    }

    /// Makes the snapshot `key` of an image, which it holds from now on. The same call again is fine.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the image, [`Error::InUse`] if `key` is a snapshot of another image.
    pub fn create_snapshot(&self, key: &str, image_id: &str) -> Result<Snapshot, Error> {
        let busy = self.store.busy();
        let facts = self.store.facts_of(image_id)?;
        self.store.ensure_layers(&facts, None)?;
        let snapshot = self.store.create_snapshot(key, &facts)?;
        drop(busy);
        self.store.collect()?;
        Ok(snapshot)
    }

    /// Mounts a snapshot, if it is not mounted, and returns its root file system.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the snapshot, [`Error::Io`] if the kernel refuses.
    pub fn mount_snapshot(&self, key: &str) -> Result<PathBuf, Error> {
        self.store.mount_snapshot(key)
    }

    /// Mounts a snapshot anew with the owners of its files mapped. Needs Linux 5.19, and a file system that can be
    /// mapped.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the snapshot, [`Error::Io`] if the kernel refuses; it may not be mounted then.
    pub fn map_snapshot(&self, key: &str, map: IdMap<'_>) -> Result<PathBuf, Error> {
        self.store.map_snapshot(key, map)
    }

    /// Whether the file system of the store can be mapped.
    pub fn can_map(&self, map: MapMount<'_>) -> bool {
        self.store.can_map(map)
    }

    /// Unmounts and deletes a snapshot and lets go of its image. Fine if there is none.
    ///
    /// # Errors
    /// [`Error::Mounted`] if something is mounted inside its writable layer, which is then left alone.
    pub fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        self.store.remove_snapshot(key)
    }

    /// Keys of all snapshots.
    ///
    /// # Errors
    /// None today.
    pub fn snapshots(&self) -> Result<Vec<String>, Error> {
        Ok(self.store.snapshots())
    }

    /// The directory that holds what was written to a snapshot, whether there is one or not.
    #[must_use]
    pub fn writable_layer(&self, key: &str) -> PathBuf {
        self.store.writable_layer(key)
    }

    /// Directories on the file systems that hold the images and the writable layers.
    #[must_use]
    pub fn mountpoints(&self) -> (PathBuf, PathBuf) {
        self.store.mountpoints()
    }

    /// Whether a pull or import runs, whose blobs and layers have no name yet.
    pub fn is_busy(&self) -> bool {
        self.store.is_busy()
    }

    /// Removes the blobs and layers that no image and no snapshot needs, unless a pull or import runs.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be listed or something cannot be removed.
    pub fn collect(&self) -> Result<(), Error> {
        self.store.want_collection();
        self.store.collect()
    }

    /// What blobs and layers occupy, from figures recorded when they were made.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be listed.
    pub fn fs_usage(&self) -> Result<FsUsage, Error> {
        self.store.fs_usage()
    }
}
