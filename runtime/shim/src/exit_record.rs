//! The record of a container's end: written before anybody is told, so that it outlives everybody who was not listening.
//!
//! In: an [`ExitRecord`] and the bundle. Out: `exit.json`, complete or not there at all. Its room on the disk is taken when
//! the container is made, so that no exit code is lost because the disk has become full.

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

/// More bytes than a record has.
const ROOM: usize = 512;

/// Takes the room that the record will need.
pub(crate) fn reserve(bundle: &Path) -> Result<(), RecordError> {
    let path = temporary(bundle);
    let take = || open(&path)?.write_all(&[b' '; ROOM]);
    take().map_err(|source| RecordError::Write { path, source })
}

/// Writes the record: into the room that was taken, rename. Not synchronised: what another boot left is dead whatever it
/// says.
pub(crate) fn write(bundle: &Path, record: &ExitRecord) -> Result<(), RecordError> {
    let bytes = serde_json::to_vec(record).map_err(|source| RecordError::Encode { source })?;
    let (temporary, path) = (temporary(bundle), bundle.join(ExitRecord::FILE));
    let store = || {
        let mut file = open(&temporary)?;
        file.write_all(&bytes)?;
        file.set_len(u64::try_from(bytes.len()).map_err(io::Error::other)?)?;
        fs::rename(&temporary, &path)
    };
    store().map_err(|source| RecordError::Write { path: path.clone(), source })
}

fn temporary(bundle: &Path) -> PathBuf {
    bundle.join(".exit.json.tmp")
}

/// Without emptying it: that would give its room away.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fills_the_room_that_was_taken_for_it_and_nothing_of_that_is_left() {
        let bundle = tempfile::tempdir().unwrap();
        let record = ExitRecord {
            v: 1,
            code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: i64::MIN,
            finished_at: i64::MIN,
        };
        assert!(serde_json::to_vec(&record).unwrap().len() < ROOM);
        reserve(bundle.path()).unwrap();
        write(bundle.path(), &record).unwrap();
        let text = fs::read(bundle.path().join(ExitRecord::FILE)).unwrap();
        assert_eq!(text, serde_json::to_vec(&record).unwrap());
        assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_container_can_end_without_room_having_been_taken() {
        let bundle = tempfile::tempdir().unwrap();
        let record =
            ExitRecord { v: 1, code: 0, signal: None, oom_killed: false, started_at: 1, finished_at: 2 };
        write(bundle.path(), &record).unwrap();
        assert!(bundle.path().join(ExitRecord::FILE).exists());
    }
}
