//! The watch on a directory that may go away and come back.
//!
//! In: a path. Out: what happens to the files in it, as [`Seen`]. While it is not there, its nearest parent that is there is
//! watched instead, one step after the other down to it, so that nobody has to look for it again and again. It reads no file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use tracing::debug;

const BUFFER: usize = 16 * 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The file is there, whole, or is not there any more.
    Settled(OsString),
    /// Its owner, mode or times are others; who writes to it may still do so.
    Touched(OsString),
    /// Somebody writes to the file, or it was just made.
    Changing(OsString),
    /// The directory itself, or what leads to it, is not what it was, or events are lost: everything has to be read.
    Everything,
}

/// A directory's watch.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    inotify: Inotify,
    itself: Option<WatchDescriptor>,
    /// The nearest parent, and what has to appear in it.
    parent: Option<(WatchDescriptor, OsString)>,
}

impl Directory {
    /// Watches a directory that is there.
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut directory = Self { path: path.to_owned(), inotify, itself: None, parent: None };
        directory.ensure().map(|()| directory)
    }

    /// Watches the directory that has the path now. If there is none, this fails and the way to it is watched.
    pub(super) fn ensure(&mut self) -> std::io::Result<()> {
        let first = match self.watch_itself() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // What is moved away or deleted tells nothing about this path any more.
        let old = self.itself.take();
        self.forget(old);
        self.watch_parent();
        // It may have come while its parent was not watched yet.
        self.watch_itself().map_err(|_| first)
    }

    fn watch_itself(&mut self) -> std::io::Result<()> {
        let changes =
            WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
        let under_way = WatchMask::CREATE | WatchMask::MODIFY | WatchMask::ATTRIB;
        let mask = changes | under_way | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        let watched = self.inotify.watches().add(&self.path, mask)?;
        let old = self.itself.replace(watched.clone()).filter(|old| *old != watched);
        self.forget(old);
        let parent = self.parent.take().map(|(watch, _)| watch);
        self.forget(parent);
        Ok(())
    }

    fn watch_parent(&mut self) {
        let mut missing = self.path.as_path();
        while let (Some(parent), Some(name)) = (missing.parent(), missing.file_name()) {
            let mask =
                WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
            if let Ok(watched) = self.inotify.watches().add(parent, mask | WatchMask::ONLYDIR) {
                debug!(dir = %parent.display(), "the manifest directory is waited for");
                let old = self.parent.replace((watched.clone(), name.to_owned())).map(|(watch, _)| watch);
                self.forget(old.filter(|old| *old != watched));
                return;
            }
            missing = parent;
        }
    }

    /// Ends a watch. The kernel has ended it already when what it was on is gone.
    fn forget(&mut self, watch: Option<WatchDescriptor>) {
        if let Some(Err(error)) = watch.map(|watch| self.inotify.watches().remove(watch)) {
            debug!(%error, "a watch was gone already");
        }
    }

    /// What to wait for.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// What has happened. Does not wait.
    pub(super) fn take(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut buffer = [0; BUFFER];
        while let Ok(events) = self.inotify.read_events(&mut buffer) {
            let before = seen.len();
            let (itself, parent) = (&self.itself, &self.parent);
            seen.extend(events.filter_map(|event| meaning(&event, itself, parent)));
            if seen.len() == before {
                break;
            }
        }
        seen
    }
}

fn meaning(
    event: &Event<&OsStr>,
    itself: &Option<WatchDescriptor>,
    parent: &Option<(WatchDescriptor, OsString)>,
) -> Option<Seen> {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return Some(Seen::Everything);
    }
    if let Some((watch, name)) = parent
        && event.wd == *watch
    {
        // Anything about the parent itself, and the one name in it.
        return event.name.is_none_or(|seen| seen == name).then_some(Seen::Everything);
    }
    if itself.as_ref() != Some(&event.wd) {
        return None;
    }
    if event.mask.intersects(EventMask::IGNORED | EventMask::UNMOUNT | EventMask::MOVE_SELF) {
        return Some(Seen::Everything);
    }
    let name = event.name?.to_owned();
    Some(if event.mask.intersects(EventMask::MODIFY | EventMask::CREATE) {
        Seen::Changing(name)
    } else if event.mask.contains(EventMask::ATTRIB) {
        Seen::Touched(name)
    } else {
        Seen::Settled(name)
    })
}
