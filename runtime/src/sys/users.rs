//! A user namespace to try things with.
//!
//! In: nothing. Out: a descriptor of a namespace in which users and groups are mapped. The engine cannot enter one itself, having
//! several threads; a forked child does, which waits meanwhile and ends.

use std::{
    fs::{self, File},
    io::{self, PipeReader},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// Any one that is not the node's own will do.
const MAPPING: &str = "0 65536 65536\n";

/// Makes a user namespace that lasts as long as the descriptor.
///
/// # Errors
/// When the kernel has none for us.
pub(crate) fn new_user_namespace() -> io::Result<OwnedFd> {
    let (end, held) = io::pipe()?;
    let flags = libc::CLONE_NEWUSER.cast_unsigned();
    // struct clone_args up to `tls`; without an exit signal, so that nobody is told who did not make it.
    let arguments: [u64; 8] = [u64::from(flags), 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: without CLONE_VM and without a stack it is a fork; the child calls only what is async-signal-safe.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    match i32::try_from(pid) {
        Ok(0) => wait_and_end(&end, held.as_raw_fd()),
        Ok(pid) if pid > 0 => {
            let namespace = map_and_open(pid);
            drop(held);
            reap(pid);
            namespace
        }
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

fn map_and_open(pid: i32) -> io::Result<OwnedFd> {
    fs::write(format!("/proc/{pid}/uid_map"), MAPPING)?;
    fs::write(format!("/proc/{pid}/gid_map"), MAPPING)?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// The child's whole life: until its parent lets go.
fn wait_and_end(end: &PipeReader, held: i32) -> ! {
    // SAFETY: the child's own copy, which nothing uses after this.
    unsafe { libc::close(held) };
    let mut byte = 0_u8;
    // SAFETY: `byte` is writable for the one byte that is asked for.
    unsafe { libc::read(end.as_raw_fd(), (&raw mut byte).cast(), 1) };
    // SAFETY: ends the process; has no precondition.
    unsafe { libc::_exit(0) }
}

fn reap(pid: i32) {
    // SAFETY: no status is asked for. `__WALL`, because the child has no exit signal.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}
