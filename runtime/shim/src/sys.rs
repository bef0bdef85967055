//! The system calls for which no safe wrapper exists, each in a safe function of its own.
//!
//! In: plain values and borrowed descriptors. Out: `io::Result`. All `unsafe` of this crate is in this file, because
//! forking without exec, resource limits by number and bpf(2) cannot be had without it. The process has one thread, so
//! what a forked child may do is not limited to async-signal-safe calls.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a fork one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fork {
    /// The caller; holds the child's pid.
    Parent(i32),
    /// The new process.
    Child,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code; 128 + n when signal n ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Duplicates the process.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the process is single-threaded (main never starts a thread), so the child may do anything.
    let pid = unsafe { libc::fork() };
    if check(pid.into())? == 0 { Ok(Fork::Child) } else { Ok(Fork::Parent(pid)) }
}

/// Duplicates the process; the child becomes a child of the caller's parent.
pub(crate) fn fork_sibling() -> io::Result<Fork> {
    clone_with(libc::CLONE_PARENT as u64, None)
}

/// Duplicates the process; the child is born in the cgroup (v2) whose directory is given. Older kernels cannot.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    clone_with(0, Some(cgroup))
}

/// As [`fork_sibling`] and [`fork_into`], in new namespaces.
pub(crate) fn fork_sibling_apart(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    clone_with(libc::CLONE_PARENT as u64 | namespaces, cgroup)
}

fn clone_with(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const INTO_CGROUP: u64 = 1 << 33;
    // A sibling's end is told as its parent's is.
    let signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let (into, directory) = cgroup.map_or((0, 0), |fd| (INTO_CGROUP, fd.as_raw_fd().cast_unsigned().into()));
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
    // cgroup. Kernels without the last three take the shorter form only.
    let arguments: [u64; 11] = [flags | into, 0, 0, 0, signal, 0, 0, 0, 0, 0, directory];
    let size = if cgroup.is_some() { size_of_val(&arguments) } else { size_of_val(&arguments[..8]) };
    // SAFETY: without CLONE_VM and without a stack, clone3 behaves like fork; the process is single-threaded.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size) };
    if check(pid)? == 0 { Ok(Fork::Child) } else { Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))) }
}

/// Ends the process at once, without running exit handlers that belong to the process it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; has no precondition.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: callers do this only at the start of the process or in a forked child, before which nothing that is used
    // later owns one of these descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) }).map(drop)
}

/// Makes descriptor `number` a duplicate of `from`, which survives exec if it is one of the standard three.
pub(crate) fn place(from: &impl AsRawFd, number: RawFd) -> io::Result<()> {
    let flags = if number < 3 { 0 } else { libc::O_CLOEXEC };
    // SAFETY: dup3 only touches the descriptor table; `number` is one the caller sets up on purpose.
    check(unsafe { libc::dup3(from.as_raw_fd(), number, flags) }.into()).map(drop)
}

/// In a forked child: makes `kept` the descriptors 3, 4, … and closes every other one above 2.
pub(crate) fn keep_only(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    const OUT_OF_THE_WAY: RawFd = 500;
    let mut moved = Vec::with_capacity(kept.len());
    for descriptor in kept {
        moved.push(rustix::io::fcntl_dupfd_cloexec(descriptor, OUT_OF_THE_WAY)?);
    }
    let mut number = 3;
    for descriptor in moved {
        place(&descriptor, number)?;
        number += 1;
    }
    close_from(number)
}

/// Makes a user the owner of a pipe; of what is none it does not.
pub(crate) fn give_pipe(number: RawFd, (user, group): (u32, u32)) -> io::Result<()> {
    // SAFETY: callers pass a descriptor that they hold open for the whole call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let found = rustix::fs::fstat(descriptor)?;
    if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::Fifo {
        return Ok(());
    }
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    Ok(rustix::fs::fchown(descriptor, Some(user), Some(group))?)
}

/// Takes over a descriptor that [`place`] set up.
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: callers pass the number they gave to `place` and adopt it once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Opens a process, so that a signal cannot hit another one that got its pid.
pub(crate) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let process = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let number = RawFd::try_from(process).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends any signal, also a real-time one.
pub(crate) fn signal(process: &OwnedFd, signal: i32) -> io::Result<()> {
    let details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no details are passed; the descriptor is borrowed for the call.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, details, 0) })
        .map(drop)
}

/// Kills a child that was not reaped yet, and so still has its pid.
pub(crate) fn kill_child(pid: i32) {
    let child = nix::unistd::Pid::from_raw(pid);
    // A failure means that it has ended by itself.
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap_or_default();
}

/// The pid of some child that has ended, without reaping it.
pub(crate) fn peek_ended_child() -> io::Result<Option<i32>> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    Ok(wait(libc::P_ALL, 0, options)?.map(|(pid, _)| pid))
}

/// Reaps the child, if it has ended.
pub(crate) fn reap(pid: i32) -> io::Result<Option<Ended>> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(wait(libc::P_PID, id, libc::WEXITED | libc::WNOHANG)?.map(|(_, ended)| ended))
}

fn wait(kind: libc::idtype_t, id: libc::id_t, options: i32) -> io::Result<Option<(i32, Ended)>> {
    // SAFETY: all bytes zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable for the whole call.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, options) };
    match check(result.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        other => other?,
    };
    // SAFETY: waitid fills in the SIGCHLD fields, or leaves them zero when there is nothing to report.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    if pid == 0 {
        return Ok(None);
    }
    let signal = (info.si_code != libc::CLD_EXITED).then_some(status);
    Ok(Some((pid, Ended { code: signal.map_or(status, |signal| 128 + signal), signal })))
}

/// Makes signals behave as a program expects them at its start.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is valid for every signal; SIGKILL, SIGSTOP and the C library's own are refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all bytes zero is the empty signal set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is readable, the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// Sets a resource limit by its kernel number.
pub(crate) fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is readable for the whole call; the kernel checks the resource number.
    check(unsafe { libc::setrlimit(resource as _, &raw const limit) }.into()).map(drop)
}

/// Gives the process a session keyring of its own, so that what it becomes neither finds the keys of whoever started the
/// supervisor nor shares its own with neighbours.
pub(crate) fn leave_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name no memory is read.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) }) {
        // There are no keys here, or a filter keeps them from us, and so from all that we start.
        Err(error) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => Ok(()),
        other => other.map(drop),
    }
}

/// Shows the owners of files below a mount that is attached nowhere as a user namespace maps them (Linux 5.12).
pub(crate) fn map_mount_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(users.as_raw_fd().cast_unsigned()),
    };
    let (descriptor, size) = (mount.as_raw_fd(), size_of_val(&attributes));
    // SAFETY: the path and `attributes` live through the call; the size is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    };
    check(result).map(drop)
}

/// Makes the terminal on standard input the controlling one of the session.
pub(crate) fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer and touches no memory.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Whether one of the standard descriptors is a terminal.
pub(crate) fn is_terminal(number: RawFd) -> bool {
    // SAFETY: touches no memory of ours; a number that is no descriptor is answered with no.
    unsafe { libc::isatty(number) == 1 }
}

/// An instruction of classic BPF.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instruction(libc::sock_filter);

impl From<(u16, u8, u8, u32)> for Instruction {
    fn from((code, jt, jf, k): (u16, u8, u8, u32)) -> Self {
        Self(libc::sock_filter { code, jt, jf, k })
    }
}

/// Binds the process, and all that come from it, by a seccomp program.
pub(crate) fn load_seccomp_filter(flags: u32, program: &[Instruction]) -> io::Result<()> {
    let instructions = program.iter().map(|instruction| instruction.0).collect::<Vec<_>>();
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` and its instructions live through the call, which only reads them.
    match check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })? {
        0 => Ok(()),
        thread => {
            Err(io::Error::other(format!("thread {thread} could not be bound as well, so nothing was")))
        }
    }
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that loading a program needs.
#[repr(C)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that attaching a program needs.
#[repr(C)]
struct AttachProgram {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads a device program and attaches it to a cgroup, which keeps it alive.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let load = LoadProgram {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(too_long)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` and what it points to live through the call; the size is its own.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of_val(&load)) };
    let loaded = RawFd::try_from(check(loaded)?).map_err(too_long)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = AttachProgram {
        target: u32::try_from(cgroup.as_raw_fd()).map_err(too_long)?,
        program: u32::try_from(loaded.as_raw_fd()).map_err(too_long)?,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attach` lives through the call; the size is its own.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of_val(&attach)) })
        .map(drop)
}
