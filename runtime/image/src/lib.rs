//! Image store: pulls and imports images, keeps them as an OCI image layout, unpacks layers, mounts snapshots.
//!
//! In: image names, archives, registry configuration. Out: [`Image`]s and mounted root file systems. Below the root directory
//! it owns `images/` (OCI image layout), `layers/<chain id>/` and `snapshots/<key>/`. It has no long-lived tasks. It does not
//! know containers, pods or CRI; a snapshot's key is just a name, and holding a snapshot is the lease on its image.

mod error;
mod progress;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::Error;
pub use progress::Progress;

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// User name and password, also used to fetch bearer tokens.
    Basic { username: String, password: String },
    /// A bearer token for the registry itself (CRI's `registry_token`).
    Token(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Self::Token(_) => write!(f, "Token(…)"),
        }
    }
}

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    pub auth: Option<Auth>,
    /// Directory in containerd's `hosts.toml` layout.
    pub registry_config: Option<PathBuf>,
    pub progress: Option<Arc<dyn Progress>>,
}

/// How to import.
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// Name for the image instead of the names in the archive, which must then hold exactly one image.
    pub tag: Option<String>,
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
}

/// A root file system made from an image for one key.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub key: String,
    pub image_id: String,
    /// Where `mount_snapshot` mounts it.
    pub rootfs: PathBuf,
}

/// What the store occupies on disk.
#[derive(Debug, Clone)]
pub struct FsUsage {
    /// A directory on the file system that holds images and layers.
    pub mountpoint: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// The image store of one root directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: Arc<PathBuf>,
}

fn being_built<T>() -> Result<T, Error> {
    Err(Error::unsupported("image store", "being built"))
}

#[expect(clippy::unused_async, clippy::missing_errors_doc, reason = "being built")]
impl ImageStore {
    pub fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self { root: Arc::new(root.to_owned()) })
    }
    pub async fn pull(&self, _name: &str, _opts: PullOptions) -> Result<Image, Error> {
        being_built()
    }
    pub fn import(&self, _archive: impl Read, _opts: ImportOptions) -> Result<Vec<Image>, Error> {
        being_built()
    }
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        being_built()
    }
    pub fn get(&self, _name_or_id: &str) -> Result<Option<Image>, Error> {
        being_built()
    }
    pub fn remove(&self, _name_or_id: &str) -> Result<bool, Error> {
        being_built()
    }
    pub fn tag(&self, _name_or_id: &str, _new_name: &str) -> Result<Image, Error> {
        being_built()
    }
    pub fn create_snapshot(&self, _key: &str, _image_id: &str) -> Result<Snapshot, Error> {
        being_built()
    }
    pub fn mount_snapshot(&self, key: &str) -> Result<PathBuf, Error> {
        Ok(self.root.join(key))
    }
    pub fn remove_snapshot(&self, _key: &str) -> Result<(), Error> {
        being_built()
    }
    pub fn snapshots(&self) -> Result<Vec<String>, Error> {
        being_built()
    }
    pub fn fs_usage(&self) -> Result<FsUsage, Error> {
        being_built()
    }
}
