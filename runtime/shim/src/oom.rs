//! Notices of the kernel that a container ran out of memory.
//!
//! In: a container's cgroup. Out: a descriptor that becomes readable when the count of OOM kills may have changed; the
//! count itself is [`Hierarchies::oom_kills`]. On cgroup v1 an eventfd registered at `memory.oom_control`, on v2 an inotify
//! watch of `memory.events`. A notice is a hint: v1 sends it before the kill and at the end of the cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use crate::cgroup::{CgroupPath, Hierarchies, write_file};

/// Why there will be no notices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("no hierarchy has a memory controller")]
    NoController,
    #[error("watching {}", path.display())]
    Watch { path: PathBuf, source: io::Error },
}

/// Asks the kernel for notices.
pub(crate) fn watch(hierarchies: &Hierarchies, path: &CgroupPath) -> Result<OwnedFd, WatchError> {
    if let Some(directory) = hierarchies.legacy("memory", path) {
        let file = directory.join("memory.oom_control");
        let register = || -> io::Result<OwnedFd> {
            let notices = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let control = File::open(&file)?;
            let line = format!("{} {}", notices.as_raw_fd(), control.as_raw_fd());
            write_file(&directory.join("cgroup.event_control"), &line)?;
            Ok(notices)
        };
        return register().map_err(|source| WatchError::Watch { path: file.clone(), source });
    }
    let file = hierarchies.unified(path).ok_or(WatchError::NoController)?.join("memory.events");
    let register = || -> io::Result<OwnedFd> {
        let notices = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&notices, &file, inotify::WatchFlags::MODIFY)?;
        Ok(notices)
    };
    register().map_err(|source| WatchError::Watch { path: file.clone(), source })
}

/// Empties the descriptor, so that it becomes readable again only for a new notice.
pub(crate) fn acknowledge(notices: BorrowedFd<'_>) {
    let mut buffer = [0; 4096];
    // One read empties an eventfd; what an inotify has left makes it readable again.
    rustix::io::read(notices, &mut buffer[..]).map(drop).unwrap_or_default();
}
