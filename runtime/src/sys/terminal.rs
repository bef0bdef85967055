//! Making terminals in a devpts that is not this process's own, and waiting for them.
//!
//! In: a master, opened from the devpts. Out: its slave, without going by a name; the master, to be read without blocking.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use tokio::io::unix::AsyncFd;

/// Lets the slave be opened.
///
/// # Errors
/// When it is no master.
pub(crate) fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives through the call.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens the slave (Linux 4.13).
///
/// # Errors
/// When it is no master, or is locked.
pub(crate) fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags by value and touches no memory.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Has the runtime wait for a descriptor that does not block.
///
/// # Errors
/// When it cannot be waited for.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, and is neither replaced nor closed while the `AsyncFd` has it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
