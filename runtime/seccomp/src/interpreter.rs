//! Runs programs as the kernel would, for the tests.
//!
//! In: a program and a call. Out: what the filter returns. It panics at what the kernel's checker refuses.

use crate::compile::Instruction;

/// What a filter sees of a call: the kernel's `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) audit: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    #[expect(clippy::cast_possible_truncation, reason = "the low word is what is asked for")]
    fn word(&self, offset: u32) -> u32 {
        let index = offset.checked_sub(16).map(|rest| (rest / 8, rest % 8));
        match (offset, index) {
            (0, _) => self.number,
            (4, _) => self.audit,
            (_, Some((argument, 0))) => self.arguments[argument as usize] as u32,
            (_, Some((argument, 4))) => (self.arguments[argument as usize] >> 32) as u32,
            _ => panic!("a load from {offset}"),
        }
    }
}

pub(crate) fn run(program: &[Instruction], call: Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}
