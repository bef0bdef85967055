//! System calls by number, and errors by name.
#![allow(unsafe_code)]

use std::ffi::{CString, c_long};
use std::io;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// An argument of a system call: a number or an address.
pub type Word = usize;

/// Makes a system call; memory that arguments point to is the caller's.
pub fn call(number: i64, arguments: &[Word]) -> io::Result<i64> {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: the worst a system call with bad arguments does to this program is to end it.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A C string that lives as long as the program.
pub fn text(text: &str) -> Word {
    CString::new(text).map_or(0, |text| text.into_raw() as Word)
}

/// A negative number as an argument.
pub fn minus(number: isize) -> Word {
    (-number).cast_unsigned()
}

/// Says how an attempt went.
pub fn report<T>(name: &str, result: &io::Result<T>) {
    match result {
        Ok(_) => println!("{name}\tok"),
        Err(error) => println!("{name}\t{}", error_name(error)),
    }
}

/// The symbol of an error number.
pub fn error_name(error: &io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(0);
    let known = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (5, "EIO"),
        (6, "ENXIO"),
        (9, "EBADF"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (15, "ENOTBLK"),
        (16, "EBUSY"),
        (17, "EEXIST"),
        (18, "EXDEV"),
        (19, "ENODEV"),
        (20, "ENOTDIR"),
        (21, "EISDIR"),
        (22, "EINVAL"),
        (26, "ETXTBSY"),
        (28, "ENOSPC"),
        (30, "EROFS"),
        (38, "ENOSYS"),
        (40, "ELOOP"),
        (95, "EOPNOTSUPP"),
        (111, "ECONNREFUSED"),
        (126, "ENOKEY"),
        (127, "EKEYEXPIRED"),
        (122, "EDQUOT"),
    ];
    known
        .iter()
        .find(|(code, _)| *code == number)
        .map_or_else(|| format!("E{number}"), |(_, name)| (*name).to_owned())
}

/// Numbers of x86-64, or the common ones where the architectures differ.
pub mod number {
    #[cfg(target_arch = "x86_64")]
    mod own {
        pub const PTRACE: i64 = 101;
        pub const SYSLOG: i64 = 103;
        pub const CLONE: i64 = 56;
        pub const UNSHARE: i64 = 272;
        pub const SETNS: i64 = 308;
        pub const MOUNT: i64 = 165;
        pub const UMOUNT: i64 = 166;
        pub const PIVOT_ROOT: i64 = 155;
        pub const SWAPON: i64 = 167;
        pub const REBOOT: i64 = 169;
        pub const SETHOSTNAME: i64 = 170;
        pub const SETDOMAINNAME: i64 = 171;
        pub const INIT_MODULE: i64 = 175;
        pub const DELETE_MODULE: i64 = 176;
        pub const ACCT: i64 = 163;
        pub const CLOCK_SETTIME: i64 = 227;
        pub const CLOCK_GETTIME: i64 = 228;
        pub const KEXEC_LOAD: i64 = 246;
        pub const ADD_KEY: i64 = 248;
        pub const KEYCTL: i64 = 250;
        pub const VHANGUP: i64 = 153;
        pub const PERF_EVENT_OPEN: i64 = 298;
        pub const NAME_TO_HANDLE_AT: i64 = 303;
        pub const OPEN_BY_HANDLE_AT: i64 = 304;
        pub const PROCESS_VM_READV: i64 = 310;
        pub const FINIT_MODULE: i64 = 313;
        pub const BPF: i64 = 321;
        pub const USERFAULTFD: i64 = 323;
        pub const PRLIMIT: i64 = 302;
        pub const SETPRIORITY: i64 = 141;
        pub const SCHED_SETSCHEDULER: i64 = 144;
        pub const IOPRIO_SET: i64 = 251;
        pub const MKNODAT: i64 = 259;
        pub const KILL: i64 = 62;
        pub const PERSONALITY: i64 = 135;
        pub const PRCTL: i64 = 157;
        pub const FORK: i64 = 57;
    }
    #[cfg(target_arch = "aarch64")]
    mod own {
        pub const PTRACE: i64 = 117;
        pub const SYSLOG: i64 = 116;
        pub const CLONE: i64 = 220;
        pub const UNSHARE: i64 = 97;
        pub const SETNS: i64 = 268;
        pub const MOUNT: i64 = 40;
        pub const UMOUNT: i64 = 39;
        pub const PIVOT_ROOT: i64 = 41;
        pub const SWAPON: i64 = 224;
        pub const REBOOT: i64 = 142;
        pub const SETHOSTNAME: i64 = 161;
        pub const SETDOMAINNAME: i64 = 162;
        pub const INIT_MODULE: i64 = 105;
        pub const DELETE_MODULE: i64 = 106;
        pub const ACCT: i64 = 89;
        pub const CLOCK_SETTIME: i64 = 112;
        pub const CLOCK_GETTIME: i64 = 113;
        pub const KEXEC_LOAD: i64 = 104;
        pub const ADD_KEY: i64 = 217;
        pub const KEYCTL: i64 = 219;
        pub const VHANGUP: i64 = 58;
        pub const PERF_EVENT_OPEN: i64 = 241;
        pub const NAME_TO_HANDLE_AT: i64 = 264;
        pub const OPEN_BY_HANDLE_AT: i64 = 265;
        pub const PROCESS_VM_READV: i64 = 270;
        pub const FINIT_MODULE: i64 = 273;
        pub const BPF: i64 = 280;
        pub const USERFAULTFD: i64 = 282;
        pub const PRLIMIT: i64 = 261;
        pub const SETPRIORITY: i64 = 140;
        pub const SCHED_SETSCHEDULER: i64 = 119;
        pub const IOPRIO_SET: i64 = 30;
        pub const MKNODAT: i64 = 33;
        pub const KILL: i64 = 129;
        pub const PERSONALITY: i64 = 92;
        pub const PRCTL: i64 = 167;
        /// clone, which with SIGCHLD alone is fork.
        pub const FORK: i64 = 220;
    }
    pub use own::*;
    pub const IO_URING_SETUP: i64 = 425;
    pub const OPEN_TREE: i64 = 428;
    pub const MOVE_MOUNT: i64 = 429;
    pub const FSOPEN: i64 = 430;
    pub const PIDFD_OPEN: i64 = 434;
    pub const CLONE3: i64 = 435;
    pub const MOUNT_SETATTR: i64 = 442;
}
