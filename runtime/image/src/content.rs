//! The content store: blobs by digest in an OCI image layout directory.
//!
//! In: bytes, from memory or streamed into an [`Ingest`]. Out: files `blobs/sha256/<hex>` that are complete and have the digest
//! of their name, because they only get there by rename after the check. It does not know which blobs are needed; see `gc`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;
use crate::digest::{Digest, HashingReader};
use crate::manifest::Descriptor;

/// One write of a blob that is copied; the standard library's 8 KiB make too many.
const COPY_BUFFER: usize = 128 << 10;

/// The blobs of one store.
#[derive(Debug)]
pub(crate) struct Content {
    dir: PathBuf,
    next_ingest: AtomicU64,
}

impl Content {
    /// Opens or makes the layout in `dir`; unfinished ingests of an earlier process vanish.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        let ingest = dir.join("ingest");
        for needed in [&dir.join("blobs/sha256"), &ingest] {
            std::fs::create_dir_all(needed).map_err(Error::io("create directory", needed))?;
        }
        for unfinished in std::fs::read_dir(&ingest).map_err(Error::io("list", &ingest))? {
            let unfinished = unfinished.map_err(Error::io("list", &ingest))?;
            Error::unless_read_only(crate::tree::remove_tree(&unfinished.path()))?;
        }
        let marker = dir.join("oci-layout");
        if !marker.exists() {
            write_atomically(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        }
        Ok(Self { dir, next_ingest: AtomicU64::new(0) })
    }

    /// The layout in `dir` as it is, for reading.
    pub(crate) fn look(dir: PathBuf) -> Self {
        Self { dir, next_ingest: AtomicU64::new(0) }
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Whether the blob is here; if so it must have the size that is claimed.
    pub(crate) fn contains_as(&self, claimed: &Descriptor) -> Result<bool, Error> {
        let path = self.path(&claimed.digest);
        match std::fs::metadata(&path) {
            Ok(meta) => check_size(&claimed.digest, meta.len(), claimed.size).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("inspect", &path)(e)),
        }
    }

    /// Opens a blob for reading.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                return Error::not_found(format!("blob {digest}"));
            }
            Error::io("open", &path)(e)
        })
    }

    /// Reads a small blob and checks it against its digest.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut reader = self.open_blob(digest)?.take(limit + 1);
        reader.read_to_end(&mut bytes).map_err(Error::io("read", &self.path(digest)))?;
        check_small(&format!("blob {digest}"), &bytes, limit)?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(Error::corrupt(format!("blob {digest}"), "its bytes have another digest"))
        }
    }

    /// Stores a small blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if !self.contains(&digest) {
            let mut ingest = self.ingest()?;
            ingest.write_all(bytes).map_err(Error::io("write", &ingest.path))?;
            ingest.commit(self, &digest)?;
        }
        Ok(digest)
    }

    /// A new file to stream a blob into.
    pub(crate) fn ingest(&self) -> Result<Ingest, Error> {
        let n = self.next_ingest.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("ingest").join(n.to_string());
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(Ingest { file, path })
    }

    /// All blobs with their sizes.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let dir = self.dir.join("blobs/sha256");
        let mut blobs = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let entry = entry.map_err(Error::io("list", &dir))?;
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(Digest::from_hex) {
                blobs.push((digest, entry.metadata().map_err(Error::io("inspect", &entry.path()))?.len()));
            }
        }
        Ok(blobs)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Error> {
        crate::tree::remove_tree(&self.path(digest))
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }
}

/// A blob on its way into the store; dropped without [`commit`](Self::commit) it vanishes.
#[derive(Debug)]
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
}

impl Ingest {
    /// Makes the file the blob `digest`; the caller has checked that it is.
    pub(crate) fn commit(self, content: &Content, digest: &Digest) -> Result<(), Error> {
        std::fs::rename(&self.path, content.path(digest)).map_err(Error::io("store blob", &self.path))
    }

    /// Opens what has been written, for reading.
    pub(crate) fn reopen(&self) -> Result<File, Error> {
        File::open(&self.path).map_err(Error::io("open", &self.path))
    }

    /// Streams `reader` into the file and returns digest and size.
    pub(crate) fn fill(&mut self, reader: impl Read, limit: u64) -> io::Result<(Digest, u64)> {
        let mut hashing = HashingReader::new(reader, limit);
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            let n = hashing.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            let failed = |e| io::Error::other(Error::io("write", &self.path)(e));
            self.file.write_all(&buffer[..n]).map_err(failed)?;
        }
        let (digest, size, _) = hashing.finish()?;
        Ok((digest, size))
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit the file is no longer here; that is the usual case.
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), error = %e, "could not remove an unfinished blob");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Passes a stream on and writes what it reads into an ingest.
pub(crate) struct Tee<'a, R> {
    pub(crate) inner: R,
    pub(crate) ingest: &'a mut Ingest,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        // Our own error, so that a full disk is not taken for a corrupt layer.
        self.ingest
            .write_all(&buf[..n])
            .map_err(|e| io::Error::other(Error::io("write", &self.ingest.path)(e)))?;
        Ok(n)
    }
}

/// Refuses what is longer than its limit.
pub(crate) fn check_small(what: &str, bytes: &[u8], limit: u64) -> Result<(), Error> {
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { what: what.to_owned(), limit: format!("{limit} bytes") });
    }
    Ok(())
}

/// Refuses a blob that is longer or shorter than its descriptor says.
pub(crate) fn check_size(digest: &Digest, size: u64, claimed: u64) -> Result<(), Error> {
    if size == claimed {
        return Ok(());
    }
    let reason = format!("it has {size} bytes, its descriptor says {claimed}");
    Err(Error::corrupt(format!("blob {digest}"), reason))
}

/// Writes a file so that a crash leaves either the old or the new one. A failure leaves the old one alone.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let written = write_and_sync(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path).map_err(Error::io("rename", &temporary)));
    if let Err(error) = written {
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(path = %temporary.display(), error = %e, "could not remove an unfinished file");
            }
            Ok(()) | Err(_) => {}
        }
        return Err(error);
    }
    if let Some(dir) = path.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}
