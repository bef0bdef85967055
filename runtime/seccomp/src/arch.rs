//! The architectures whose calls a filter can meet on the nodes that Pintle runs on, and the numbers of their calls.
//!
//! In: names. Out: numbers, and what the kernel calls the architecture (`AUDIT_ARCH_…`). The numbers come from the crate
//! `syscalls`; what it lacks (x32, ARM's private calls) is here. Nothing is said of other families: no task of theirs can
//! run on a node of these.

use std::str::FromStr;

use oci_spec::runtime::Arch as OciArch;

/// What every x32 call has set in its number.
pub const X32_BIT: u32 = 0x4000_0000;

/// An architecture of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit x86 with 32-bit pointers: the kernel tells it from [`Arch::X86_64`] by the number only.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

impl Arch {
    /// The one that this program is built for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The kernel's number for it.
    #[must_use]
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Itself and what runs beside it on one kernel.
    #[must_use]
    pub const fn family(self) -> &'static [Self] {
        match self {
            Self::X86_64 | Self::X86 | Self::X32 => &[Self::X86_64, Self::X86, Self::X32],
            Self::Aarch64 | Self::Arm => &[Self::Aarch64, Self::Arm],
        }
    }

    /// What OCI calls it. `SCMP_ARCH_NATIVE` is not for here.
    #[must_use]
    pub const fn oci(self) -> OciArch {
        match self {
            Self::X86_64 => OciArch::ScmpArchX86_64,
            Self::X86 => OciArch::ScmpArchX86,
            Self::X32 => OciArch::ScmpArchX32,
            Self::Aarch64 => OciArch::ScmpArchAarch64,
            Self::Arm => OciArch::ScmpArchArm,
        }
    }

    /// What Docker's profiles call it: Go's name.
    #[must_use]
    pub const fn go(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "386",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }

    /// The number of a call, if the architecture has it.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        let known = match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok().map(|call| call.id()),
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|call| call.id()),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok().map(|call| call.id()),
            Self::Arm => match syscalls::arm::Sysno::from_str(name) {
                Ok(call) => Some(call.id()),
                Err(_) => return special(&ARM_PRIVATE, name),
            },
            Self::X32 => {
                let own = || Self::X86_64.number(name).filter(|_| !NOT_X32.contains(&name));
                return special(&X32_OWN, name).or_else(own).map(|number| number | X32_BIT);
            }
        };
        known.and_then(|number| u32::try_from(number).ok())
    }

    /// The greatest number an ordinary call can have; ARM's private ones lie above.
    pub(crate) const fn ordinary_end(self) -> u32 {
        match self {
            Self::Arm => 0x000F_0000,
            Self::X86_64 | Self::X86 | Self::Aarch64 => X32_BIT,
            Self::X32 => u32::MAX,
        }
    }
}

fn special(table: &[(&str, u32)], name: &str) -> Option<u32> {
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

const ARM_PRIVATE: [(&str, u32); 5] = [
    ("breakpoint", 0xF_0001),
    ("cacheflush", 0xF_0002),
    ("usr26", 0xF_0003),
    ("usr32", 0xF_0004),
    ("set_tls", 0xF_0005),
];

/// Calls with numbers of x32's own, because their arguments hold pointers.
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls of 64-bit x86 that x32 does not have.
const NOT_X32: [&str; 12] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "uretprobe",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        assert_eq!(Arch::X86_64.number("read"), Some(0));
        assert_eq!(Arch::X86_64.number("clone3"), Some(435));
        assert_eq!(Arch::X86.number("read"), Some(3));
        assert_eq!(Arch::X86.number("socketcall"), Some(102));
        assert_eq!(Arch::X32.number("read"), Some(X32_BIT));
        assert_eq!(Arch::X32.number("execve"), Some(X32_BIT + 520));
        assert_eq!(Arch::Aarch64.number("openat"), Some(56));
        assert_eq!(Arch::Aarch64.number("open"), None);
        assert_eq!(Arch::Arm.number("set_tls"), Some(0xF_0005));
        assert_eq!(Arch::Arm.number("unshare"), Some(337));
        assert_eq!(Arch::X86_64.number("no_such_call"), None);
    }
}
