//! Network namespaces: telling them apart, and running a few system calls inside one.
//!
//! In: an open namespace. Out: whatever the closure returns. The thread that enters a namespace never leaves it: it is
//! made for the purpose and ends. It creates and pins no namespaces.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("identify network namespace ({which})")]
    Identify {
        which: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("start the thread that enters a network namespace")]
    Thread(#[source] io::Error),
    #[error("enter network namespace")]
    Enter(#[source] io::Error),
    #[error("the thread inside a network namespace panicked")]
    Panicked,
}

/// What makes a namespace the same as another one: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetnsId {
    device: u64,
    inode: u64,
}

/// The calling thread's namespace.
pub(crate) fn open_current() -> Result<File, NetnsError> {
    const PATH: &str = "/proc/thread-self/ns/net";
    File::open(PATH).map_err(|source| NetnsError::Identify { which: PATH, source })
}

/// The namespace behind a file.
pub(crate) fn identify(netns: BorrowedFd<'_>) -> Result<NetnsId, NetnsError> {
    let stat = rustix::fs::fstat(netns);
    let stat = stat.map_err(|errno| NetnsError::Identify { which: "pod's", source: errno.into() })?;
    Ok(NetnsId { device: stat.st_dev, inode: stat.st_ino })
}

/// Runs `work` on a thread of its own inside the namespace.
///
/// # Errors
/// When there is no thread, or it may not enter.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let inside = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter(errno.into()))?;
            Ok(work())
        };
        let thread = thread::Builder::new().name("pod-netns".into()).stack_size(256 * 1024);
        let handle = thread.spawn_scoped(scope, inside).map_err(NetnsError::Thread)?;
        handle.join().unwrap_or(Err(NetnsError::Panicked))
    })
}
