//! What can go wrong in the image store, by operation.
//!
//! In: failures of the file system, the registry and of what was downloaded. Out: one enum whose variants a caller can act
//! upon (`is_retryable`, `NotFound`, `InUse`, …). It does not log and never repeats its source in its text.

use std::io;
use std::path::{Path, PathBuf};

/// A failed image operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(clippy::error_impl_error, reason = "the crate's one error; callers write pintle_image::Error")]
pub enum Error {
    /// The image name does not follow the rules for references.
    #[error("invalid image name {name:?}: {reason}")]
    InvalidName { name: String, reason: String },
    /// No such image, snapshot or remote manifest.
    #[error("{what} not found")]
    NotFound { what: String },
    /// The registry refused the credentials, or wants some.
    #[error("not authorized to pull {image} from {host}: {reason}")]
    Unauthorized { image: String, host: String, reason: String },
    /// A source of credentials failed.
    #[error("{from} gives no credentials: {reason}")]
    Credentials { from: String, reason: String },
    /// The signature policy does not allow the image, or could not be asked.
    #[error("the signature policy refuses {image}: {reason}")]
    Refused { image: String, reason: String },
    /// The image is held by snapshots.
    #[error("image {image} is in use by {}", .by.join(", "))]
    InUse { image: String, by: Vec<String> },
    /// Downloaded, imported or stored content is not what it claims to be.
    #[error("{what} is corrupt: {reason}")]
    Corrupt { what: String, reason: String },
    /// Something larger than the store accepts.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge { what: String, limit: String },
    /// A feature of images or configuration that the store does not have.
    #[error("{what} is not supported: {reason}")]
    Unsupported { what: String, reason: String },
    /// The registry could not be reached or broke off.
    #[error("{operation} at {host} failed")]
    Network {
        operation: String,
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry answered with an error.
    #[error("{operation} at {host}: the registry answered {status}: {message}")]
    Registry { operation: String, host: String, status: u16, message: String },
    /// A registry configuration file is wrong.
    #[error("registry configuration {}: {reason}", .path.display())]
    Config { path: PathBuf, reason: String },
    /// A path below a tree to be removed is a mount point.
    #[error("{} is a mount point; refusing to remove what is below it", .path.display())]
    Mounted { path: PathBuf },
    /// Another process has the store open.
    #[error("the image store {} is open in another process", .path.display())]
    Locked { path: PathBuf },
    /// The work was given up because another part of it failed, or the store is going away.
    #[error("{operation} was cancelled")]
    Cancelled { operation: String },
    /// The file system is full.
    #[error("{operation} {} failed: {lack} on its file system", .path.display())]
    Full {
        operation: &'static str,
        path: PathBuf,
        lack: &'static str,
        #[source]
        source: io::Error,
    },
    /// The file system refused.
    #[error("{operation} {} failed", .path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Network { .. } | Self::Cancelled { .. } => true,
            Self::Registry { status, .. } => *status == 429 || *status == 408 || *status >= 500,
            Self::InvalidName { .. }
            | Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::Credentials { .. }
            | Self::Refused { .. }
            | Self::InUse { .. }
            | Self::Corrupt { .. }
            | Self::TooLarge { .. }
            | Self::Unsupported { .. }
            | Self::Config { .. }
            | Self::Mounted { .. }
            | Self::Locked { .. }
            | Self::Full { .. }
            | Self::Io { .. } => false,
        }
    }

    /// Whether the registry, or the way to it, is what failed.
    pub fn is_registry_unavailable(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Registry { .. }) && self.is_retryable()
    }

    /// Tidying up that failed because the file system has become read-only is left for another start: what runs from the
    /// store has to be taken care of all the same.
    pub(crate) fn unless_read_only(tidied: Result<(), Self>) -> Result<(), Self> {
        match tidied {
            Err(Self::Io { operation, path, source })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                tracing::warn!(path = %path.display(), operation, "left as it is: the file system is read-only");
                Ok(())
            }
            other => other,
        }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    pub(crate) fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), reason: reason.into() }
    }

    /// For `map_err`: names the file operation that failed.
    pub(crate) fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| {
            let (path, source) = (path.to_owned(), source.into());
            if source.kind() == io::ErrorKind::StorageFull {
                let lack = what_is_full(&path);
                return Self::Full { operation, path, lack, source };
            }
            Self::Io { operation, path, source }
        }
    }
}

/// The kernel has one error for both: a disk with room for a mebibyte that takes no file has no inode for it.
fn what_is_full(path: &Path) -> &'static str {
    const FEW_INODES: u64 = 64;
    const ROOM: u64 = 1 << 20;
    let there = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    match there {
        Some(fs) if fs.f_files > 0 && fs.f_ffree <= FEW_INODES && fs.f_bavail * fs.f_frsize >= ROOM => {
            "no inodes are left"
        }
        Some(_) | None => "no space is left",
    }
}
