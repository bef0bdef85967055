//! The system calls of the engine for which no safe wrapper exists, each in a safe function of its own.
//!
//! In: borrowed descriptors. Out: `io::Result`. All `unsafe` of this crate is in this folder.
#![allow(unsafe_code)]

pub(crate) mod memory;
pub(crate) mod terminal;
pub(crate) mod users;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Makes a mount that is not attached anywhere read-only, for everybody who gets at it (Linux 5.12).
///
/// # Errors
/// What `mount_setattr` says.
pub(crate) fn make_mount_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_mount_attributes(mount, &attributes)
}

/// Shows the owners of files below a mount that is not attached anywhere as a user namespace maps them (Linux 5.12).
///
/// # Errors
/// What `mount_setattr` says.
pub(crate) fn map_mount_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::from(users.as_raw_fd().cast_unsigned());
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_mount_attributes(mount, &attributes)
}

fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path and `attributes` live through the call; the size is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
