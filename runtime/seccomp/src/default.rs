//! The profile of containers that ask for the runtime's default.
//!
//! In: the capabilities in a container's bounding set. Out: a profile that allows what is listed here and in
//! `default_calls`, and answers "operation not permitted" to the rest. It allows what containerd's default profile allows, so that what runs there runs
//! here, and nothing more but the newer forms of allowed calls (extended attributes by descriptor, `mseal`, the kernel's
//! own `uretprobe`). What stays closed without the capability that goes with it: namespaces (`unshare`, `setns`, the flags
//! of `clone`; `clone3` hides its flags from a filter and is answered "no such call"), mounts, keys, modules, clocks,
//! `bpf`, `io_uring`, `userfaultfd`, sockets of virtual machines (`AF_VSOCK`).
//!
//! The kernels Pintle runs on are all newer than 4.8, before which ptrace could get around a filter.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use crate::arch::Arch;
use crate::default_calls::{
    ARM_ONLY, ATTRIBUTES, FILES, IDENTITY, MEMORY, MESSAGES, PROCESSES, SIGNALS, SOCKETS, SYSTEM, THREADS,
    TIME, WAITING, X86_ONLY,
};
use crate::{SeccompError, argument};

const ENOSYS: u32 = 38;
const AF_VSOCK: u64 = 40;
/// `CLONE_NEW`: NS, CGROUP, UTS, IPC, USER, PID, NET.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// Linux, 32-bit Linux, each also with the old release numbers (`UNAME26`); and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

const ALWAYS: &[&[&str]] = &[
    FILES, ATTRIBUTES, WAITING, MEMORY, PROCESSES, THREADS, SIGNALS, IDENTITY, TIME, SOCKETS, MESSAGES,
    SYSTEM,
];

/// What a capability opens.
const WITH: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// The default profile for a container with these capabilities (`CAP_…`) in its bounding set.
///
/// # Errors
/// None that is known of.
pub fn profile(capabilities: &[String]) -> Result<LinuxSeccomp, SeccompError> {
    let has = |name: &str| capabilities.iter().any(|held| held == name);
    let mut always = ALWAYS.concat();
    always.extend(match Arch::NATIVE {
        Arch::X86_64 | Arch::X86 | Arch::X32 => X86_ONLY,
        Arch::Aarch64 | Arch::Arm => ARM_ONLY,
    });
    for (_, opened) in WITH.iter().filter(|(capability, _)| has(capability)) {
        always.extend(*opened);
    }
    let mut rules = vec![allow(&always, None)];
    rules.push(allow(&["socket"], Some(on_first(AF_VSOCK, LinuxSeccompOperator::ScmpCmpNe)?)));
    for personality in PERSONALITIES {
        let is_it = on_first(personality, LinuxSeccompOperator::ScmpCmpEq)?;
        rules.push(allow(&["personality"], Some(is_it)));
    }
    if !has("CAP_SYS_ADMIN") {
        let none = argument(0, (CLONE_NAMESPACES, Some(0)), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
        rules.push(allow(&["clone"], Some(none)));
        let mut unheard_of = allow(&["clone3"], None);
        unheard_of.set_action(LinuxSeccompAction::ScmpActErrno);
        unheard_of.set_errno_ret(Some(ENOSYS));
        rules.push(unheard_of);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_architectures(Some(Arch::NATIVE.family().iter().map(|arch| arch.oci()).collect()));
    profile.set_syscalls(Some(rules));
    Ok(profile)
}

fn allow(names: &[&str], argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(ToString::to_string).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args(argument.map(|argument| vec![argument]));
    rule
}

fn on_first(value: u64, op: LinuxSeccompOperator) -> Result<LinuxSeccompArg, SeccompError> {
    argument(0, (value, None), op)
}

#[cfg(test)]
#[path = "default_tests.rs"]
mod tests;
