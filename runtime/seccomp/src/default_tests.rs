//! The default profile, compiled and run by an interpreter.

use super::*;
use crate::interpreter::{Call, run};
use crate::{Filter, MAX_INSTRUCTIONS, compile};

const ALLOWED: u32 = 0x7FFF_0000;
const FORBIDDEN: u32 = 0x0005_0001;
const UNHEARD_OF: u32 = 0x0005_0026;

fn filter(capabilities: &[&str]) -> Filter {
    let capabilities = capabilities.iter().map(ToString::to_string).collect::<Vec<_>>();
    compile(&profile(&capabilities).unwrap()).unwrap()
}

fn answer(filter: &Filter, name: &str, first: u64) -> u32 {
    let arch = Arch::NATIVE;
    let number = arch.number(name).unwrap_or_else(|| panic!("{name}"));
    run(&filter.program, Call { audit: arch.audit(), number, arguments: [first, 0, 0, 0, 0, 0] })
}

#[test]
fn an_ordinary_container_can_do_ordinary_things_only() {
    let filter = filter(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
    for name in
        ["read", "openat", "execve", "mmap", "ptrace", "futex", "setuid", "chroot", "pidfd_open", "seccomp"]
    {
        assert_eq!(answer(&filter, name, 0), ALLOWED, "{name}");
    }
    for name in [
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "move_mount",
        "fsopen",
        "open_tree",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "settimeofday",
        "open_by_handle_at",
        "syslog",
        "acct",
        "quotactl",
        "mbind",
        "move_pages",
        "kcmp",
        "process_madvise",
        "pidfd_getfd",
        "vhangup",
        "sethostname",
    ] {
        assert_eq!(answer(&filter, name, 0), FORBIDDEN, "{name}");
    }
}

#[test]
fn namespaces_cannot_be_had_by_any_form_of_clone() {
    let filter = filter(&["CAP_CHOWN"]);
    assert_eq!(answer(&filter, "clone3", 0), UNHEARD_OF);
    assert_eq!(answer(&filter, "clone", 0x0001_0011), ALLOWED);
    for flag in
        [0x0002_0000_u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
    {
        assert_eq!(answer(&filter, "clone", flag | 0x11), FORBIDDEN, "{flag:#x}");
    }
}

#[test]
fn a_capability_opens_what_goes_with_it() {
    for (capability, names) in WITH {
        let (with, without) = (filter(&[capability]), filter(&[]));
        for name in names.iter().filter(|name| Arch::NATIVE.number(name).is_some()) {
            assert_eq!(answer(&with, name, 0x1000_0000), ALLOWED, "{capability} {name}");
            assert_ne!(answer(&without, name, 0x1000_0000), ALLOWED, "{capability} {name}");
        }
    }
}

#[test]
fn sockets_of_virtual_machines_and_odd_personalities_are_closed() {
    let filter = filter(&[]);
    assert_eq!([answer(&filter, "socket", 2), answer(&filter, "socket", 40)], [ALLOWED, FORBIDDEN]);
    for personality in PERSONALITIES {
        assert_eq!(answer(&filter, "personality", personality), ALLOWED);
    }
    assert_eq!(answer(&filter, "personality", 0x0040_0000), FORBIDDEN, "addresses that are not random");
}

#[test]
fn every_name_is_one_that_some_architecture_has() {
    let opened = WITH.iter().flat_map(|(_, names)| names.iter());
    let all = ALWAYS.iter().flat_map(|names| names.iter()).chain(opened).chain(X86_ONLY).chain(ARM_ONLY);
    let known = |name: &str| {
        [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm].iter().any(|arch| arch.number(name).is_some())
    };
    // Only s390 and others have these; they stand here for whoever builds there.
    let unknown = all.filter(|name| !known(name)).copied().collect::<Vec<_>>();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_program_is_short_and_no_decision_takes_long() {
    let filter = filter(&["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
    println!("{} instructions", filter.program.len());
    assert!(filter.program.len() < MAX_INSTRUCTIONS / 4);
}
