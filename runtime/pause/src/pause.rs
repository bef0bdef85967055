//! The infra process of a pod: it holds the pod's namespaces open, reaps what is reparented to it when the containers
//! share its pid namespace, and ends with status 0 on SIGTERM or SIGINT.
//!
//! In: signals. Out: its exit status. It opens nothing, allocates nothing, needs no file system and no C library. It is
//! not a module of the crate: `build.rs` compiles it alone into a static ELF image of about a kilobyte.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;
/// The kernel's signal set: one bit per signal, signal 1 in bit 0.
const WAITED_FOR: u64 = (1 << (SIGINT - 1)) | (1 << (SIGTERM - 1)) | (1 << (SIGCHLD - 1));
const SIGNAL_SET_BYTES: usize = 8;
const SIG_BLOCK: usize = 0;
const EINTR: isize = -4;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(crate) const SIGPROCMASK: usize = 14;
    pub(crate) const SIGTIMEDWAIT: usize = 128;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(crate) const SIGPROCMASK: usize = 135;
    pub(crate) const SIGTIMEDWAIT: usize = 137;
    pub(crate) const WAIT4: usize = 260;
    pub(crate) const EXIT_GROUP: usize = 94;
}

// The kernel enters with an aligned stack; the ABI wants the frame chain to end in zero.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {main}", "brk #1", main = sym main);

extern "C" fn main() -> ! {
    let set = &raw const WAITED_FOR_SET as usize;
    // SAFETY: `set` points to eight readable bytes of static storage; the old mask is not asked for.
    let blocked = unsafe { syscall(number::SIGPROCMASK, [SIG_BLOCK, set, 0, SIGNAL_SET_BYTES]) };
    if blocked != 0 {
        exit(1);
    }
    // Whoever ended before the mask was set has sent a SIGCHLD that nobody heard.
    reap();
    loop {
        // SAFETY: `set` as above; neither details nor a time-out are asked for.
        let signal = unsafe { syscall(number::SIGTIMEDWAIT, [set, 0, 0, SIGNAL_SET_BYTES]) };
        match signal {
            2 | 15 => exit(0),
            17 => reap(),
            EINTR => {}
            _ => exit(1),
        }
    }
}

static WAITED_FOR_SET: u64 = WAITED_FOR;

/// Reaps every process that has ended: one SIGCHLD may stand for many.
fn reap() {
    // SAFETY: no status and no usage are asked for, so the kernel writes nowhere.
    while unsafe { syscall(number::WAIT4, [usize::MAX, 0, WNOHANG, 0]) } > 0 {}
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: ends the process; touches no memory.
        unsafe { syscall(number::EXIT_GROUP, [status, 0, 0, 0]) };
    }
}

/// # Safety
/// What the kernel does with `arguments` under `number` must be sound.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; it clobbers rcx and r11 only. The caller vouches for the rest.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") arguments[0], in("rsi") arguments[1],
            in("rdx") arguments[2], in("r10") arguments[3], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// What the kernel does with `arguments` under `number` must be sound.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; it clobbers x0 only. The caller vouches for the rest.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") arguments[0] => result, in("x1") arguments[1],
            in("x2") arguments[2], in("x3") arguments[3], options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(1)
}
