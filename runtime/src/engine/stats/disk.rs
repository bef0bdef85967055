//! What containers occupy on disk: their writable layers and their log files.
//!
//! In: containers whose figures somebody asks for. Out: the last figures with the time they were taken, and, where those are
//! old, a walk in the background. No call waits for a walk, but shortly for the first one of a container. One walk runs at a
//! time, and none that takes long is repeated soon: walking takes a fiftieth of a processor at most.
//!
//! ```text
//!  ask ──► last figures, at once          due? ──► queue ──► one thread: walk, note, next ──► (queue empty) ends
//! ```

use std::{
    collections::{HashSet, VecDeque},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use tokio::sync::watch;

use crate::engine::{Engine, host, state::Container};

/// Figures younger than this are not taken anew.
const FRESH: Duration = Duration::from_secs(10);
/// A walk is not repeated before so many times what it took.
const REST: u32 = 50;
/// The most levels that are entered: each costs two descriptors.
const MAX_DEPTH: usize = 256;
/// The most entries that are counted.
const MAX_ENTRIES: u64 = 10_000_000;
/// The most files beside a log that are looked at for its rotated ones.
const MAX_LOGS: usize = 10_000;

/// What was found, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    pub(crate) layer: Amount,
    pub(crate) logs: Amount,
}

/// An amount of disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// One container's figures.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Measured>,
    /// The first walk is over, whatever came of it.
    tried: bool,
    queued: bool,
    not_before: Option<Instant>,
}

/// The queue of the walks.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    queue: Mutex<Queue>,
    done: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Container>>,
    works: bool,
}

impl Figures {
    /// The last figures; none before the first walk is over.
    pub(crate) fn last(&self) -> Option<Measured> {
        self.state().last
    }

    fn was_tried(&self) -> bool {
        self.state().tried
    }

    /// Whether a walk is due; it counts as queued from now on.
    fn take_due(&self) -> bool {
        let mut state = self.state();
        let due = !state.queued && state.not_before.is_none_or(|at| at <= Instant::now());
        state.queued |= due;
        due
    }

    fn note(&self, measured: Option<Measured>, took: Duration) {
        let mut state = self.state();
        state.last = measured.or(state.last);
        state.tried = true;
        state.queued = false;
        state.not_before = Some(Instant::now() + FRESH.max(took * REST));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Has the figures of containers taken where they are old, and waits a little for those of which there are none.
    pub(crate) async fn measure_disk(self: &Arc<Self>, containers: &[Arc<Container>], patience: Duration) {
        let mut done = self.walks.done.subscribe();
        let due: Vec<_> =
            containers.iter().filter(|container| container.figures.take_due()).cloned().collect();
        if !due.is_empty() {
            self.queue_walks(due);
        }
        let all = done.wait_for(|()| containers.iter().all(|container| container.figures.was_tried()));
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::debug!("what containers occupy on disk is not known yet");
        }
    }

    fn queue_walks(self: &Arc<Self>, due: Vec<Arc<Container>>) {
        let mut queue = self.walks.queue();
        queue.waiting.extend(due);
        if !queue.works {
            queue.works = true;
            let engine = Arc::clone(self);
            tokio::task::spawn_blocking(move || engine.walk_all());
        }
    }

    fn walk_all(&self) {
        while let Some(container) = self.walks.next() {
            let begun = Instant::now();
            let measured = self.measured(&container);
            container.figures.note(measured, begun.elapsed());
            self.walks.done.send_replace(());
        }
    }

    fn measured(&self, container: &Container) -> Option<Measured> {
        let at = host::now();
        let layer = match measure(&self.images.writable_layer(&container.id)) {
            Ok(layer) => layer,
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "its writable layer cannot be measured");
                return None;
            }
        };
        let log = container.look(|record| PathBuf::from(&record.log_path));
        Some(Measured { at, layer, logs: logs(&log) })
    }
}

impl Walks {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Arc<Container>> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.works = next.is_some();
        next
    }
}

/// What a directory and all below it occupy, on its own file system.
pub(crate) fn measure(path: &Path) -> io::Result<Amount> {
    let top = open(CWD, path)?;
    let stat = rustix::fs::fstat(&top)?;
    let mut walk = Walk { device: stat.st_dev, seen: HashSet::new(), amount: Amount::default() };
    walk.count(&stat);
    walk.below(top.as_fd(), 0)?;
    if walk.amount.inodes >= MAX_ENTRIES {
        tracing::warn!(path = %path.display(), "it has more entries than are counted");
    }
    Ok(walk.amount)
}

/// What a log file and its rotated ones, which are named after it, occupy.
fn logs(log: &Path) -> Amount {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Amount::default() };
    let mut walk = Walk { device: 0, seen: HashSet::new(), amount: Amount::default() };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_LOGS) {
        if entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes())
            && let Ok(stat) = rustix::fs::lstat(entry.path())
        {
            walk.count(&stat);
        }
    }
    walk.amount
}

fn open(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

struct Walk {
    device: u64,
    /// Files with several names, which count once.
    seen: HashSet<u64>,
    amount: Amount,
}

impl Walk {
    fn count(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_dir || stat.st_nlink < 2 || self.seen.insert(stat.st_ino) {
            self.amount.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            self.amount.inodes += 1;
        }
    }

    /// Counts what is below a directory. What comes and goes meanwhile may be counted or not.
    fn below(&mut self, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if stat.st_dev != self.device || self.amount.inodes >= MAX_ENTRIES {
                continue;
            }
            self.count(&stat);
            if FileType::from_raw_mode(stat.st_mode).is_dir() && depth < MAX_DEPTH {
                match open(dir, name) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    other => self.below(other?.as_fd(), depth + 1)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_measured_as_du_does_with_hard_links_once_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/large"), vec![1; 300_000]).unwrap();
        std::fs::hard_link(tree.join("a/large"), tree.join("a/b/again")).unwrap();
        std::fs::write(dir.path().join("outside"), vec![1; 500_000]).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), tree.join("link")).unwrap();
        let amount = measure(&tree).unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(&tree).output().unwrap();
        let bytes = String::from_utf8(du.stdout).unwrap();
        assert_eq!(amount.bytes.to_string(), bytes.split('\t').next().unwrap());
        assert_eq!(amount.inodes, 5);
        assert!(measure(&tree.join("none")).is_err());
    }

    #[test]
    fn a_log_counts_with_its_rotated_files_and_without_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260101-000000", "1.log"] {
            std::fs::write(dir.path().join(name), vec![b'x'; 10_000]).unwrap();
        }
        let found = logs(&dir.path().join("0.log"));
        assert_eq!(found.inodes, 2);
        assert!((20_000..40_000).contains(&found.bytes), "{found:?}");
        assert_eq!(logs(Path::new("")), Amount::default());
    }

    #[test]
    fn a_walk_is_due_when_none_was_or_the_last_was_long_ago_and_not_twice_at_once() {
        let figures = Figures::default();
        assert!(figures.take_due() && !figures.take_due());
        figures.note(None, Duration::ZERO);
        assert!(figures.was_tried() && figures.last().is_none() && !figures.take_due());
    }
}
