//! Classic BPF for seccomp: the few instructions that filters need, and their meaning.
//!
//! In: a plan's intervals. Out: instructions. Every piece ends by returning, so that pieces can be put one after the other;
//! jumps go forwards only, as the kernel wants them.

use crate::compile::Instruction;
use crate::plan::{Condition, Interval, Leaf, Rule, Test};

const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has them.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Where an instruction of a condition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// To the instruction after it.
    Next,
    /// The condition holds.
    Pass,
    /// It does not.
    Fail,
}

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

pub(crate) const fn returning(value: u32) -> Instruction {
    plain(RETURN, value)
}

/// The start of every program.
pub(crate) const fn load_arch() -> Instruction {
    plain(LOAD_WORD, ARCH)
}

/// What is done for the calls of one architecture; the kernel's number for it is in the accumulator, and stays there for
/// whatever comes after when it is another one.
pub(crate) fn for_arch(audit: u32, intervals: &[Interval], program: &mut Vec<Instruction>) {
    let mut body = vec![plain(LOAD_WORD, NUMBER)];
    body.extend(search(intervals));
    program.push(branch(JUMP_EQUAL, audit, 1, 0));
    program.push(plain(JUMP, length(&body)));
    program.append(&mut body);
}

/// Halves the numbers until one interval is left.
fn search(intervals: &[Interval]) -> Vec<Instruction> {
    let [only] = intervals else {
        let (low, high) = intervals.split_at(intervals.len() / 2);
        let Some(boundary) = high.first() else { return Vec::new() };
        let (mut below, mut above) = (search(low), search(high));
        let mut program = match u8::try_from(below.len()) {
            Ok(over) => vec![branch(JUMP_GREATER_OR_EQUAL, boundary.start, over, 0)],
            Err(_) => vec![branch(JUMP_GREATER_OR_EQUAL, boundary.start, 0, 1), plain(JUMP, length(&below))],
        };
        program.append(&mut below);
        program.append(&mut above);
        return program;
    };
    match &only.leaf {
        Leaf::Return(value) => vec![returning(*value)],
        Leaf::Rules { rules, otherwise } => {
            let mut program = Vec::new();
            for rule in rules {
                program.append(&mut tried(rule));
            }
            program.push(returning(*otherwise));
            program
        }
    }
}

/// Returns the rule's value if all its conditions hold; else goes on behind.
fn tried(rule: &Rule) -> Vec<Instruction> {
    let mut pieces = Vec::new();
    for condition in &rule.conditions {
        pieces.push(tested(condition));
    }
    let mut behind: usize = 1;
    let mut reversed = vec![returning(rule.value)];
    for piece in pieces.iter().rev() {
        for (at, (instruction, yes, no)) in piece.iter().enumerate().rev() {
            let to_pass = piece.len() - at - 1;
            let offset = |to: To| {
                let distance = match to {
                    To::Next => 0,
                    To::Pass => to_pass,
                    To::Fail => to_pass + behind,
                };
                // At most six conditions of five instructions.
                u8::try_from(distance).unwrap_or(u8::MAX)
            };
            let mut instruction = *instruction;
            if instruction.code & 0x07 == JUMP {
                (instruction.jt, instruction.jf) = (offset(*yes), offset(*no));
            }
            reversed.push(instruction);
        }
        behind += piece.len();
    }
    reversed.reverse();
    reversed
}

/// An argument has 64 bits, the accumulator 32: the high word is looked at first.
fn tested(condition: &Condition) -> Vec<(Instruction, To, To)> {
    let (high, low) = (word(condition.value >> 32), word(condition.value));
    let load =
        |second: u32| (plain(LOAD_WORD, ARGUMENTS + 8 * condition.argument + second), To::Next, To::Next);
    // Both architectures' families are little-endian: the low word comes first.
    let (load_high, load_low) = (load(4), load(0));
    let when = |code, k, yes, no| (plain(code, k), yes, no);
    use To::{Fail, Next, Pass};
    match condition.test {
        Test::Equal { mask: u64::MAX } => {
            vec![load_high, when(JUMP_EQUAL, high, Next, Fail), load_low, when(JUMP_EQUAL, low, Pass, Fail)]
        }
        Test::Equal { mask } => vec![
            load_high,
            when(AND, word(mask >> 32), Next, Next),
            when(JUMP_EQUAL, high & word(mask >> 32), Next, Fail),
            load_low,
            when(AND, word(mask), Next, Next),
            when(JUMP_EQUAL, low & word(mask), Pass, Fail),
        ],
        Test::NotEqual => {
            vec![load_high, when(JUMP_EQUAL, high, Next, Pass), load_low, when(JUMP_EQUAL, low, Fail, Pass)]
        }
        Test::Greater | Test::GreaterOrEqual => vec![
            load_high,
            when(JUMP_GREATER, high, Pass, Next),
            when(JUMP_EQUAL, high, Next, Fail),
            load_low,
            when(at_least(condition.test), low, Pass, Fail),
        ],
        Test::Less | Test::LessOrEqual => vec![
            load_high,
            when(JUMP_GREATER, high, Fail, Next),
            when(JUMP_EQUAL, high, Next, Pass),
            load_low,
            when(at_least(condition.test), low, Fail, Pass),
        ],
    }
}

/// "Less" is "not greater or equal", "less or equal" is "not greater".
const fn at_least(test: Test) -> u16 {
    match test {
        Test::GreaterOrEqual | Test::Less => JUMP_GREATER_OR_EQUAL,
        Test::Greater | Test::LessOrEqual | Test::Equal { .. } | Test::NotEqual => JUMP_GREATER,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low word is what is wanted")]
const fn word(value: u64) -> u32 {
    value as u32
}

/// Programs that are too long are refused afterwards.
fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
}
