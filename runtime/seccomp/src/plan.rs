//! What a profile means for the numbers of one architecture.
//!
//! In: a profile's rules, checked. Out: intervals of numbers that are treated alike, in order and without a gap. Rules are
//! read as runc reads them: a name that the architecture does not have is passed over; a rule that gives what the profile
//! gives anyway is left out; a rule without conditions decides over all others of its call; else the first decides whose
//! conditions all hold. Two conditions on one argument in one rule are two rules.
//!
//! A profile that forbids by default answers "no such call" (ENOSYS) to whatever is newer than all that it names: it was
//! written before those calls were, and a C library takes that answer, but not EPERM, as a reason to try an older one.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use crate::arch::{Arch, X32_BIT};
use crate::{MAX_PARTS, MAX_RULES, SeccompError};

pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7FF0_0000;
const LOG: u32 = 0x7FFC_0000;
const ALLOW: u32 = 0x7FFF_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The greatest error number that the kernel returns.
const MAX_ERRNO: u32 = 4095;
/// What a tracer's message has room for.
const MAX_MESSAGE: u32 = 0xFFFF;
/// A call that a tracer has called off.
const NO_CALL: u32 = u32::MAX;

/// What to do with the numbers from `start` up to the next interval's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) start: u32,
    pub(crate) leaf: Leaf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leaf {
    Return(u32),
    /// The first whose conditions hold.
    Rules {
        rules: Vec<Rule>,
        otherwise: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) value: u32,
}

/// A condition on an argument of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub(crate) argument: u32,
    pub(crate) value: u64,
    pub(crate) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// In the bits of the mask.
    Equal {
        mask: u64,
    },
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A profile whose values are known to be good.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    default: u32,
    /// What calls get that are newer than the profile.
    unheard_of: u32,
    rules: Vec<(&'a [String], Vec<Rule>)>,
}

impl<'a> Checked<'a> {
    pub(crate) fn of(profile: &'a LinuxSeccomp) -> Result<Self, SeccompError> {
        let default = value(profile.default_action(), profile.default_errno_ret(), "default")?;
        let syscalls = profile.syscalls().as_deref().unwrap_or_default();
        if syscalls.len() > MAX_RULES {
            let reason = format!("{} entries, and there may be {MAX_RULES}", syscalls.len());
            return Err(SeccompError::field("syscalls", reason));
        }
        let parts = |call: &LinuxSyscall| call.names().len() + call.args().as_ref().map_or(0, Vec::len);
        let parts: usize = syscalls.iter().map(parts).sum();
        if parts > MAX_PARTS {
            let reason = format!("{parts} names and conditions, and there may be {MAX_PARTS}");
            return Err(SeccompError::field("syscalls", reason));
        }
        let mut rules = Vec::with_capacity(syscalls.len());
        for (at, call) in syscalls.iter().enumerate() {
            let of = rules_of(call, &format!("syscalls[{at}]"))?;
            if of.first().is_some_and(|rule| rule.value != default) {
                rules.push((call.names().as_slice(), of));
            }
        }
        let unheard_of = if [ALLOW, LOG].contains(&default) || default & 0xFFFF_0000 == TRACE {
            default
        } else {
            ERRNO | ENOSYS
        };
        Ok(Self { default, unheard_of, rules })
    }

    /// The intervals of the kernel's architecture, which for 64-bit x86 holds the numbers of x32 as well.
    pub(crate) fn intervals(&self, arch: Arch, listed: &[Arch]) -> Vec<Interval> {
        let mut intervals = self.of_arch(arch);
        if arch == Arch::X86_64 {
            intervals.retain(|interval| interval.start < X32_BIT);
            if listed.contains(&Arch::X32) {
                let mut x32 = self.of_arch(Arch::X32);
                // What lies below the first number is no x32 call, and has been said.
                if x32.get(1).is_some_and(|second| second.start == X32_BIT) {
                    x32.remove(0);
                } else if let Some(first) = x32.first_mut() {
                    first.start = X32_BIT;
                }
                intervals.append(&mut x32);
            } else {
                intervals.push(Interval { start: X32_BIT, leaf: Leaf::Return(KILL_PROCESS) });
            }
            intervals.push(Interval { start: NO_CALL, leaf: Leaf::Return(self.default) });
        }
        intervals.dedup_by(|next, before| next.leaf == before.leaf);
        intervals
    }

    fn of_arch(&self, arch: Arch) -> Vec<Interval> {
        let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        let mut newest = None;
        for (names, rules) in &self.rules {
            for number in names.iter().filter_map(|name| arch.number(name)) {
                calls.entry(number).or_default().extend(rules);
                newest = newest.max(Some(number).filter(|number| *number < arch.ordinary_end()));
            }
        }
        let mut intervals = Vec::with_capacity(2 * calls.len() + 3);
        let mut next = Some(0);
        let gap = |from: u32| {
            let new = newest.is_some_and(|newest| from > newest) && from < arch.ordinary_end();
            Interval { start: from, leaf: Leaf::Return(if new { self.unheard_of } else { self.default }) }
        };
        for (number, rules) in &calls {
            if let Some(from) = next.filter(|from| from < number) {
                intervals.push(gap(from));
            }
            intervals.push(Interval { start: *number, leaf: self.leaf(rules) });
            next = number.checked_add(1);
        }
        intervals.extend(next.map(gap));
        intervals
    }

    fn leaf(&self, rules: &[&Rule]) -> Leaf {
        match rules.iter().find(|rule| rule.conditions.is_empty()) {
            Some(rule) => Leaf::Return(rule.value),
            None => {
                let rules = rules.iter().map(|rule| (*rule).clone()).collect();
                Leaf::Rules { rules, otherwise: self.default }
            }
        }
    }
}

fn rules_of(call: &LinuxSyscall, field: &str) -> Result<Vec<Rule>, SeccompError> {
    if call.names().is_empty() {
        return Err(SeccompError::field(format!("{field}.names"), "names no call"));
    }
    let value = value(call.action(), call.errno_ret(), field)?;
    let mut conditions = Vec::new();
    for (at, argument) in call.args().iter().flatten().enumerate() {
        conditions.push(condition(argument, &format!("{field}.args[{at}]"))?);
    }
    let repeated =
        |one: &Condition| conditions.iter().filter(|other| other.argument == one.argument).count() > 1;
    if conditions.iter().any(repeated) {
        return Ok(conditions.iter().map(|one| Rule { conditions: vec![*one], value }).collect());
    }
    Ok(vec![Rule { conditions, value }])
}

fn condition(argument: &LinuxSeccompArg, field: &str) -> Result<Condition, SeccompError> {
    let index = u32::try_from(argument.index()).ok().filter(|index| *index < 6);
    let Some(index) = index else {
        let reason = format!("{} is not one of a call's six arguments, 0 to 5", argument.index());
        return Err(SeccompError::field(format!("{field}.index"), reason));
    };
    let (value, test) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => (argument.value(), Test::Equal { mask: u64::MAX }),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (argument.value_two().unwrap_or(0), Test::Equal { mask: argument.value() })
        }
        LinuxSeccompOperator::ScmpCmpNe => (argument.value(), Test::NotEqual),
        LinuxSeccompOperator::ScmpCmpLt => (argument.value(), Test::Less),
        LinuxSeccompOperator::ScmpCmpLe => (argument.value(), Test::LessOrEqual),
        LinuxSeccompOperator::ScmpCmpGt => (argument.value(), Test::Greater),
        LinuxSeccompOperator::ScmpCmpGe => (argument.value(), Test::GreaterOrEqual),
    };
    Ok(Condition { argument: index, value, test })
}

/// What the kernel calls an action; `field` is `default` or an entry of `syscalls`.
fn value(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32, SeccompError> {
    let name = |of: &str, camel: &str| {
        if field == "default" { format!("default{camel}") } else { format!("{field}.{of}") }
    };
    let number = |most: u32| match errno.unwrap_or(EPERM) {
        number if number <= most => Ok(number),
        number => {
            let reason = format!("{number} is more than {most}");
            Err(SeccompError::field(name("errnoRet", "ErrnoRet"), reason))
        }
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | number(MAX_ERRNO)?,
        LinuxSeccompAction::ScmpActTrace => TRACE | number(MAX_MESSAGE)?,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            let reason = "SCMP_ACT_NOTIFY is not supported: there is no listener to hand the calls to";
            return Err(SeccompError::field(name("action", "Action"), reason));
        }
    })
}
