//! Fuzzes seccomp profiles: what is read from a file, and the program that it becomes.
//!
//! In: a file's bytes. Checked: no panic; what is accepted becomes the same program each time, one that the kernel's own
//! checker takes (length, jumps, loads, the end), and that decides every call by an action there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pintle_seccomp::file::{self, Conditions};
use pintle_seccomp::{Filter, Instruction, MAX_INSTRUCTIONS, SeccompError, compile};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const BRANCHES: [u16; 3] = [0x15, 0x25, 0x35];
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
/// The length of the kernel's `struct seccomp_data`.
const DATA: u32 = 64;
/// The kernel's actions: the upper half of what a filter returns.
const ACTIONS: [u32; 7] = [0x8000, 0, 3, 5, 0x7FF0, 0x7FFC, 0x7FFF];

fuzz_target!(|data: &[u8]| {
    let all = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"].map(str::to_owned);
    for (capabilities, kernel) in [(&[][..], (4, 7)), (&all[..], (6, 18))] {
        let read = || file::parse(data, Conditions { capabilities, kernel });
        match read().and_then(|profile| compile(&profile)) {
            Ok(filter) => {
                check_filter(&filter);
                assert_eq!(read().and_then(|profile| compile(&profile)), Ok(filter), "it becomes another");
            }
            Err(error) => check_error(&error),
        }
    }
});

fn check_filter(filter: &Filter) {
    let program = &filter.program;
    assert!(!program.is_empty() && program.len() <= MAX_INSTRUCTIONS, "{} instructions", program.len());
    assert!(filter.flags < 8, "flags {:#x}", filter.flags);
    for (at, instruction) in program.iter().enumerate() {
        check_instruction(at, *instruction, program.len());
    }
    assert_eq!(program.last().map(|last| last.code), Some(RETURN), "it may run over its end");
    for audit in [0xC000_003E, 0x4000_0003, 0xC000_00B7, 0x4000_0028, 0] {
        for number in (0..600).step_by(5).chain([0x4000_0000, 0x4000_0208, 0xF_0005, u32::MAX]) {
            for arguments in [0, 0xFFFF_FFFF] {
                let answer = decided(program, |offset| match offset {
                    0 => number,
                    4 => audit,
                    _ => arguments,
                });
                assert!(ACTIONS.contains(&(answer >> 16)), "call {number} gets {answer:#x}");
            }
        }
    }
}

/// As the kernel looks at it before it takes it.
fn check_instruction(at: usize, instruction: Instruction, length: usize) {
    let Instruction { code, jt, jf, k } = instruction;
    let inside = |over: usize| at + 1 + over < length;
    let fine = match code {
        LOAD => k < DATA && k % 4 == 0,
        AND | RETURN => true,
        JUMP => inside(k as usize),
        code => BRANCHES.contains(&code) && inside(jt.into()) && inside(jf.into()),
    };
    assert!(fine, "instruction {at} of {length}: {instruction:?}");
}

fn decided(program: &[Instruction], word: impl Fn(u32) -> u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => accumulator = word(k),
            AND => accumulator &= k,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            JUMP => at += k as usize,
            _ => return k,
        }
        at += 1;
    }
}

fn check_error(error: &SeccompError) {
    let text = error.to_string();
    assert!(text.starts_with("seccomp profile: ") && text.len() < 8192, "a message of {} bytes", text.len());
}
