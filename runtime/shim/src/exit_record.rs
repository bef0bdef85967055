//! The record of a container's end: written before anybody is told, so that it outlives everybody who was not listening.
//!
//! In: an [`ExitRecord`] and the bundle. Out: `exit.json`, complete or not there at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pintle_shim_protocol::ExitRecord;

/// Why the record is not on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("encoding an exit record")]
    Encode { source: serde_json::Error },
    #[error("writing exit record {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the record: temporary file, fsync, rename.
pub(crate) fn write(bundle: &Path, record: &ExitRecord) -> Result<(), RecordError> {
    let bytes = serde_json::to_vec(record).map_err(|source| RecordError::Encode { source })?;
    let (temporary, path) = (bundle.join(".exit.json.tmp"), bundle.join(ExitRecord::FILE));
    let store = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    store().map_err(|source| RecordError::Write { path: path.clone(), source })
}
