//! Unpacks one layer's tar stream into a directory in the form overlayfs wants.
//!
//! In: a compressed layer stream, the expected diff id, bounds. Out: files below the root, and [`Unpacked`] figures. Whiteouts
//! become character devices 0:0 and opaque directories the overlay attribute. A layer is unpacked without its parents, so its
//! links can only lead to itself; [`LayerRoot`](crate::layer_root::LayerRoot) keeps every path inside. It does not clean up
//! after a failure: the caller removes the whole directory.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::Error;
use crate::compression::Decompressed;
use crate::digest::{Digest, HashingReader, shorten};
use crate::layer_root::{LayerRoot, Location, Owner, Parent, set_opaque, set_times, split};
use crate::limits::LayerLimits;
use crate::read_ahead::{Ahead, read_ahead};
use crate::tar_stream::{Entry, Kind, TarStream};
use crate::tree::{kind_at, open_in_root};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";
/// What a directory, or the tail of a file, takes up at least.
const DISK_BLOCK: u64 = 4096;

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Disk space in bytes, rounded up per file.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories the archive used without naming them, the root being ""; they take the attributes of the layers below.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// A layer stream and what it has to be.
pub(crate) struct LayerStream<R> {
    pub(crate) compressed: R,
    pub(crate) compressed_size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) limits: LayerLimits,
}

/// Unpacks into the existing directory `root` and returns the compressed stream, which may have bytes left. Another thread
/// decodes and hashes meanwhile.
pub(crate) fn unpack<R: Read + Send>(layer: LayerStream<R>, root: &Path) -> Result<(Unpacked, R), Error> {
    let diff_id = layer.diff_id;
    let failed = |e| stream_error(&diff_id, e);
    let bytes_max = layer.limits.unpacked_bytes(layer.compressed_size);
    let plain = Decompressed::detect(layer.compressed).map_err(failed)?;
    let root = LayerRoot::open(root, &diff_id)?;
    let work = |ahead: Ahead| {
        let unpacker = Unpacker {
            root,
            tar: TarStream::new(ahead, layer.limits),
            diff_id: diff_id.clone(),
            dir_times: BTreeMap::new(),
            done: Unpacked { bytes: DISK_BLOCK, inodes: 1, implied: Vec::new() },
        };
        unpacker.run()
    };
    let (unpacked, hashing) = read_ahead(HashingReader::new(plain, bytes_max), work).map_err(failed)?;
    let unpacked = unpacked?;
    let (digest, _, plain) = hashing.finish().map_err(failed)?;
    if digest != diff_id {
        let reason =
            format!("its contents have the diff id {digest}, the image's configuration says {diff_id}");
        return Err(Error::corrupt("layer", reason));
    }
    Ok((unpacked, plain.into_inner()))
}

struct Unpacker {
    root: LayerRoot,
    tar: TarStream<Ahead>,
    diff_id: Digest,
    /// Times of directories, set at the end because filling a directory changes them.
    dir_times: BTreeMap<Vec<u8>, (i64, u32)>,
    done: Unpacked,
}

impl Unpacker {
    fn run(mut self) -> Result<Unpacked, Error> {
        let mut last = None;
        loop {
            match self.tar.next_entry() {
                Ok(Some(entry)) => {
                    self.apply(&entry)?;
                    last = Some(entry.path);
                }
                Ok(None) => break,
                Err(e) => return Err(after(last.as_deref(), stream_error(&self.diff_id, e))),
            }
        }
        self.finish()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Error> {
        let location = split(&entry.path).map_err(|reason| self.root.corrupt(&entry.path, &reason))?;
        let Some(location) = location else { return self.apply_root(entry) };
        if location.is_below(AUFS) {
            return Ok(());
        }
        if location.is_below(WHITEOUT) {
            return Err(self.root.corrupt(&entry.path, "it lies in a whiteout, which is no directory"));
        }
        let parent = self.root.ensure_parent(&location.parent)?;
        if let Some(hidden) = location.name.strip_prefix(WHITEOUT) {
            return self.apply_whiteout(parent.fd.as_fd(), (&location, hidden), &entry.kind);
        }
        self.create(&parent, &location, entry)?;
        self.done.inodes += u64::from(!matches!(entry.kind, Kind::HardLink { .. }));
        Ok(())
    }

    /// An entry for the layer's root gives the root's attributes.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(self.root.corrupt(&entry.path, "the root is not a directory"));
        }
        self.dir_times.insert(Vec::new(), entry.mtime);
        self.root.implied.remove(&b""[..]);
        self.root.forget_parents();
        self.root.set_attributes(self.root.as_fd(), entry, Owner::Unknown)
    }

    fn apply_whiteout(
        &mut self,
        parent: BorrowedFd<'_>,
        (location, hidden): (&Location, &[u8]),
        kind: &Kind,
    ) -> Result<(), Error> {
        let is_opaque = location.name == OPAQUE;
        if location.name.starts_with(AUFS) && !is_opaque {
            return Ok(());
        }
        // Aufs wrote them as hard links to one another.
        if !matches!(kind, Kind::File | Kind::HardLink { .. }) {
            return Err(self.root.corrupt(&location.path(), "a whiteout that is not a regular file"));
        }
        if is_opaque {
            return set_opaque(parent).map_err(|e| self.root.error("mark opaque", &location.parent, e));
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.root.corrupt(&location.path(), "a whiteout of nothing, '.' or '..'"));
        }
        let failed = |e| self.root.error("white out", &location.path(), e);
        match kind_at(parent, hidden).map_err(failed)? {
            // Whiteouts hide what is below and not what this layer brings itself.
            Some(FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let dir = rustix::fs::openat(parent, hidden, flags | OFlags::CLOEXEC, Mode::empty())
                    .map_err(failed)?;
                set_opaque(dir).map_err(failed)
            }
            Some(_) => Ok(()),
            None => {
                self.done.inodes += 1;
                rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(failed)
            }
        }
    }

    fn create(&mut self, parent: &Parent, location: &Location, entry: &Entry) -> Result<(), Error> {
        let path = location.path();
        let node = match &entry.kind {
            Kind::File => return self.write_file(parent, location, entry),
            Kind::Directory => return self.make_dir(parent, location, entry),
            Kind::HardLink { target } => {
                let target = split(target).map_err(|reason| self.root.corrupt(&path, &reason))?;
                let target = target.ok_or_else(|| self.root.corrupt(&path, "a hard link to the root"))?;
                return self.root.hard_link(parent.fd.as_fd(), location, &target);
            }
            Kind::Symlink { target } => {
                self.root.make_link(parent, location, target)?;
                return self.root.set_link_attributes(parent, &location.name, entry);
            }
            Kind::CharDevice { major: 0, minor: 0 } => {
                return Err(self.root.corrupt(&path, "a device 0:0, which is overlayfs' own whiteout"));
            }
            Kind::CharDevice { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Fifo => (FileType::Fifo, 0),
        };
        self.root.make_node(parent, location, node)?;
        self.root.set_node_attributes(parent, &location.name, entry)
    }

    fn make_dir(&mut self, parent: &Parent, location: &Location, entry: &Entry) -> Result<(), Error> {
        self.done.bytes += DISK_BLOCK;
        let (dir, owner) = self.root.make_dir(parent, location)?;
        self.root.set_attributes(dir.as_fd(), entry, owner)?;
        self.dir_times.insert(location.path(), entry.mtime);
        Ok(())
    }

    fn write_file(&mut self, parent: &Parent, location: &Location, entry: &Entry) -> Result<(), Error> {
        let (file, owner) = self.root.create_file(parent, location)?;
        let mut file = std::fs::File::from(file);
        loop {
            let chunk = self.tar.body_chunk().map_err(|e| stream_error(&self.diff_id, e))?;
            let n = chunk.len();
            if n == 0 {
                break;
            }
            file.write_all(chunk).map_err(|e| self.root.io("write", &location.path(), e))?;
            self.tar.consume_body(n);
        }
        self.done.bytes += entry.size.next_multiple_of(DISK_BLOCK);
        self.root.set_attributes(file.as_fd(), entry, owner)?;
        set_times(file.as_fd(), entry.mtime).map_err(|e| self.root.error("set the time of", &entry.path, e))
    }

    /// Sets the directories' times and reads the stream to its end.
    fn finish(mut self) -> Result<Unpacked, Error> {
        for (path, mtime) in &self.dir_times {
            // A later entry may have replaced the directory; then there is no time to set.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(dir) = open_in_root(self.root.as_fd(), path, flags) {
                set_times(dir.as_fd(), *mtime).map_err(|e| self.root.error("set the time of", path, e))?;
            }
        }
        let implied = self.root.implied.iter().filter(|path| !path.is_empty()).count() as u64;
        self.done.inodes += implied;
        self.done.bytes += implied * DISK_BLOCK;
        self.done.implied = self.root.implied.iter().cloned().collect();
        let rest = io::copy(&mut self.tar.into_inner(), &mut io::sink());
        rest.map_err(|e| stream_error(&self.diff_id, e))?;
        Ok(self.done)
    }
}

/// Says where in the layer the stream became unreadable.
fn after(last: Option<&[u8]>, error: Error) -> Error {
    match (error, last) {
        (Error::Corrupt { what, reason }, Some(path)) => {
            let path = shorten(&String::from_utf8_lossy(path));
            Error::Corrupt { what, reason: format!("{reason}, after the entry {path:?}") }
        }
        (error, _) => error,
    }
}

/// Failures of the stream: broken contents, more than allowed, or the source's own error, which is passed on if it is ours.
pub(crate) fn stream_error(diff_id: &Digest, error: io::Error) -> Error {
    if let Some(limit) = error.get_ref().and_then(|e| e.downcast_ref::<crate::digest::TooManyBytes>()) {
        return Error::TooLarge { what: format!("layer {diff_id}"), limit: format!("{} bytes", limit.limit) };
    }
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::corrupt(format!("layer {diff_id}"), error.to_string()),
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
