//! The manifest directory: watched with inotify, re-read in full every so often.
//!
//! In: a directory. Out: a snapshot of its manifests' bytes whenever one changed, was added or went away.
//!
//! ```text
//! absent ──close_write, moved_to, link──► known ──close_write…──► known, new content
//!                                          │ ▲
//!              modified, not closed yet ───┘ └── the last closed content is kept meanwhile
//!                                          │
//!                        gone for 500 ms ──► absent      (an editor that writes anew within that time is an edit)
//! ```
//!
//! A writer that does not rename is caught in the act: what was read counts only if no event says that somebody wrote
//! meanwhile. Some writes have no event, or not yet: those from before there was a watch, and those of this very moment.
//! So what was written to a moment ago and is no manifest is looked at again after another moment; what is one, is taken at
//! once.
//!
//! Only `*.yaml`, `*.yml` and `*.json` that do not begin with a dot are manifests, so that no editor's, sed's or package
//! manager's temporary file ever is one. Links to regular files are followed, as the kubelet does: the directory is the
//! administrator's. A file that cannot be read, or a directory that was moved away or
//! unmounted, changes nothing; one whose files were deleted before it has none. Parsing is not done
//! here. Runs on a thread of its own, because a manifest may lie on a file system that hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::directory::{Directory, Seen};

/// The most bytes that are read of a manifest.
const MAX_MANIFEST: u64 = pintle_core::manifest::MAX_BYTES as u64;
/// The most files of the directory that are taken.
const MAX_FILES: usize = 4096;
/// How long a file must have been gone before its pods are.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a writer may take from one write to the next before what there is counts as all there will be.
const PAUSE: Duration = Duration::from_millis(300);

/// Whether bytes are a manifest.
pub(crate) type Complete = Box<dyn Fn(&[u8]) -> bool + Send>;

/// What can go wrong with the directory as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// It cannot be made.
    #[error("make the manifest directory {}", dir.display())]
    Make {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be watched.
    #[error("watch the manifest directory {}", dir.display())]
    Watch {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The thread cannot be started.
    #[error("start the manifest thread")]
    Thread(#[source] std::io::Error),
}

/// The directory's manifests at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    /// The last complete content of each file.
    pub(crate) files: BTreeMap<PathBuf, Arc<[u8]>>,
    /// Files that cannot be read, and why. One that could be before is in `files` too.
    pub(crate) unreadable: BTreeMap<PathBuf, String>,
}

/// Starts watching. The first snapshot is taken before this returns. `complete` is asked about files that were written to
/// just before they were read.
pub(crate) fn spawn(
    dir: &Path,
    period: Duration,
    complete: Complete,
) -> Result<watch::Receiver<Arc<Snapshot>>, WatchError> {
    std::fs::create_dir_all(dir).map_err(|source| WatchError::Make { dir: dir.to_owned(), source })?;
    let mut watcher = Watcher::new(dir, period, complete)?;
    watcher.read_all();
    let (sender, receiver) = watch::channel(Arc::new(watcher.snapshot.clone()));
    std::thread::Builder::new()
        .name("manifests".into())
        .stack_size(256 * 1024)
        .spawn(move || watcher.run(&sender))
        .map_err(WatchError::Thread)?;
    Ok(receiver)
}

struct Watcher {
    dir: PathBuf,
    period: Duration,
    complete: Complete,
    directory: Directory,
    snapshot: Snapshot,
    /// Files to read.
    queue: BTreeSet<OsString>,
    /// Files that somebody has written to and not closed yet, as far as events tell, and since when.
    being_written: BTreeMap<OsString, Instant>,
    /// Known files that are not there, and since when.
    missing: BTreeMap<OsString, Instant>,
    /// Files that may not be all there, and until when they have time.
    unsettled: BTreeMap<OsString, Instant>,
    next_full: Instant,
}

impl Watcher {
    fn new(dir: &Path, period: Duration, complete: Complete) -> Result<Self, WatchError> {
        let directory =
            Directory::new(dir).map_err(|source| WatchError::Watch { dir: dir.to_owned(), source })?;
        Ok(Self {
            dir: dir.to_owned(),
            period,
            complete,
            directory,
            snapshot: Snapshot::default(),
            queue: BTreeSet::new(),
            being_written: BTreeMap::new(),
            missing: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            next_full: Instant::now() + period,
        })
    }

    /// Ends when nobody listens any more.
    fn run(mut self, sender: &watch::Sender<Arc<Snapshot>>) {
        while !sender.is_closed() {
            self.wait();
            let before = self.snapshot.clone();
            // Also before a full read, which finds nothing to read when the directory was deleted with what was in it.
            for name in std::mem::take(&mut self.queue) {
                self.read_one(&name);
            }
            if Instant::now() >= self.next_full {
                debug!(dir = %self.dir.display(), "full re-read of the manifests");
                self.read_all();
            }
            self.forget_missing(Instant::now());
            if self.snapshot != before {
                sender.send_replace(Arc::new(self.snapshot.clone()));
            }
        }
    }

    /// Waits for events, a full re-read's time, or that of a file that is missing or not settled.
    fn wait(&mut self) {
        let gone = self.missing.values().map(|since| *since + SETTLE);
        let until = gone.chain(self.unsettled.values().copied()).chain([self.next_full]).min();
        let until = until.filter(|_| self.queue.is_empty()).unwrap_or_else(Instant::now);
        let timeout = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = Timespec::try_from(timeout).ok();
        let ready = {
            let fd = self.directory.as_fd();
            rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref())
        };
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => self.take_events(),
            Err(e) => {
                warn!(error = %e, "waiting for changes of the manifests failed; they are re-read periodically");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        let now = Instant::now();
        let settled = self.unsettled.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone());
        self.queue.extend(settled);
    }

    fn take_events(&mut self) {
        for seen in self.directory.take() {
            let (name, changing) = match seen {
                Seen::Everything => {
                    self.next_full = Instant::now();
                    continue;
                }
                Seen::Touched(name) if self.being_written.contains_key(&name) => continue,
                Seen::Settled(name) | Seen::Touched(name) => (name, false),
                Seen::Changing(name) => (name, true),
            };
            if !is_manifest(&name) {
                continue;
            }
            debug!(file = %name.display(), changing, "manifest event");
            self.unsettled.remove(&name);
            if changing && !self.is_link(&name) {
                // What was closed and is being written again is not complete.
                self.queue.remove(&name);
                self.being_written.entry(name).or_insert_with(Instant::now);
            } else {
                self.being_written.remove(&name);
                self.queue.insert(name);
            }
        }
    }

    fn is_link(&self, name: &OsStr) -> bool {
        self.dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_symlink())
    }

    /// Reads the directory and every file in it that is not just being written.
    fn read_all(&mut self) {
        let now = Instant::now();
        self.next_full = now + self.period;
        // A writer that died without an event we saw must not hide its file for ever.
        let period = self.period;
        self.being_written.retain(|_, since| now.duration_since(*since) < period);
        let watched = self.directory.ensure();
        let entries = match watched.and_then(|()| std::fs::read_dir(&self.dir)) {
            Ok(entries) => entries,
            Err(e) => return self.note_no_directory(&e),
        };
        self.snapshot.unreadable.remove(&self.dir);
        let mut names: BTreeSet<OsString> =
            entries.flatten().map(|entry| entry.file_name()).filter(|name| is_manifest(name)).collect();
        if names.len() > MAX_FILES {
            warn!(found = names.len(), taken = MAX_FILES, "too many manifests; the first by name are taken");
            names = names.into_iter().take(MAX_FILES).collect();
        }
        let known = self.snapshot.files.keys().chain(self.snapshot.unreadable.keys());
        names.extend(known.filter_map(|path| path.file_name().map(OsStr::to_owned)));
        names.retain(|name| !self.being_written.contains_key(name));
        names.iter().for_each(|name| self.read_one(name));
    }

    /// It is told with the manifests that are wrong, and looked for when its parent says that it is there.
    fn note_no_directory(&mut self, error: &std::io::Error) {
        let told = format!("the manifest directory: {error}; pods stay as they are");
        self.snapshot.unreadable.insert(self.dir.clone(), told);
    }

    fn read_one(&mut self, name: &OsStr) {
        self.queue.remove(name);
        let found = read_bounded(&self.dir.join(name));
        self.take_up(name, found);
    }

    fn take_up(&mut self, name: &OsStr, found: std::io::Result<Option<ReadFile>>) {
        let path = self.dir.join(name);
        self.take_events();
        // What was written and closed while it was read may be half of the old and half of the new; it is read again at once.
        if self.being_written.contains_key(name) || self.queue.contains(name) {
            return self.note_unfinished(path);
        }
        self.unsettled.remove(name);
        match found {
            Ok(Some(read)) if self.may_grow(&path, &read) => {
                debug!(file = %path.display(), "just written, and no manifest yet");
                self.unsettled.insert(name.to_owned(), Instant::now() + PAUSE);
                self.note_unfinished(path);
            }
            Ok(Some(read)) => {
                self.missing.remove(name);
                self.snapshot.unreadable.remove(&path);
                if self.snapshot.files.get(&path).is_none_or(|old| **old != *read.bytes) {
                    debug!(file = %path.display(), bytes = read.bytes.len(), "manifest read");
                    self.snapshot.files.insert(path, read.bytes.into());
                }
            }
            // A directory, socket or the like.
            Ok(None) => self.note_missing(name, &path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => self.note_missing(name, &path),
            Err(e) => {
                self.missing.remove(name);
                self.snapshot.unreadable.insert(path, e.to_string());
            }
        }
    }

    /// A file that was never read whole is there nevertheless: the pods that an earlier agent took from it stay.
    fn note_unfinished(&mut self, path: PathBuf) {
        if !self.snapshot.files.contains_key(&path) {
            self.snapshot.unreadable.insert(path, "it is being written".to_owned());
        }
    }

    /// Whether the file may be one that somebody is in the midst of writing.
    fn may_grow(&self, path: &Path, read: &ReadFile) -> bool {
        let known = self.snapshot.files.get(path).is_some_and(|old| **old == *read.bytes);
        // A time in the future is the clock's fault, and no reason to wait.
        let young = SystemTime::now().duration_since(read.modified).is_ok_and(|age| age < PAUSE);
        !known && young && !(self.complete)(&read.bytes)
    }

    fn note_missing(&mut self, name: &OsStr, path: &Path) {
        self.snapshot.unreadable.remove(path);
        if self.snapshot.files.contains_key(path) {
            self.missing.entry(name.to_owned()).or_insert_with(Instant::now);
        } else if self.is_link(name) && !path.exists() {
            self.snapshot.unreadable.insert(path.to_owned(), "it is a link to nothing".to_owned());
        }
    }

    fn forget_missing(&mut self, now: Instant) {
        let Self { dir, snapshot, missing, being_written, .. } = self;
        missing.retain(|name, since| {
            if being_written.contains_key(name) {
                return false;
            }
            let gone = now.duration_since(*since) >= SETTLE;
            if gone {
                let path = dir.join(name);
                info!(file = %path.display(), "manifest gone");
                snapshot.files.remove(&path);
            }
            !gone
        });
    }
}

fn is_manifest(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().first() == Some(&b'.');
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// What was read.
struct ReadFile {
    bytes: Vec<u8>,
    modified: SystemTime,
}

/// A regular file's bytes; `None` for anything else.
fn read_bounded(path: &Path) -> std::io::Result<Option<ReadFile>> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    // Not blocking: opening a fifo must not hang.
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => return Ok(None),
        opened => opened?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(std::io::Error::other(format!("more than {MAX_MANIFEST} bytes")));
    }
    Ok(Some(ReadFile { bytes, modified: meta.modified()? }))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
