//! The device rules of a container on cgroup v2, as a program for the kernel.
//!
//! In: the rules of an OCI configuration, in order. Out: eBPF instructions of type `BPF_PROG_TYPE_CGROUP_DEVICE`
//! ([`encode`], pure), attached to a cgroup ([`attach`]). The last rule that speaks of a kind of access decides about it;
//! what no rule speaks of is forbidden. On cgroup v1 libcontainer writes the rules itself.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::cgroup::write_file;
use crate::sys;

/// Why a filter could not be put in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("device rule with access {access:?}: only r, w and m exist")]
    Access { access: String },
    #[error("device rule with number {number}: out of range")]
    Number { number: i64 },
    #[error("attaching the device filter to {}", path.display())]
    Attach { path: PathBuf, source: io::Error },
}

/// One checked rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    /// The kernel's device type; none: any.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// Bits of `MKNOD`, `READ` and `WRITE`.
    access: i32,
}

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// What every container may use: the list that libcontainer always allows on cgroup v1, without the host's console.
const ALWAYS: [(Option<i32>, Option<i32>, i32); 10] = [
    (None, None, MKNOD),
    (Some(1), Some(3), READ | WRITE | MKNOD),
    (Some(1), Some(5), READ | WRITE | MKNOD),
    (Some(1), Some(7), READ | WRITE | MKNOD),
    (Some(1), Some(8), READ | WRITE | MKNOD),
    (Some(1), Some(9), READ | WRITE | MKNOD),
    (Some(5), Some(0), READ | WRITE | MKNOD),
    (Some(5), Some(2), READ | WRITE | MKNOD),
    (Some(136), None, READ | WRITE | MKNOD),
    (Some(10), Some(200), READ | WRITE | MKNOD),
];

/// Puts the rules in force for the cgroup whose directory is `path`.
pub(crate) fn attach(path: &Path, devices: &[LinuxDeviceCgroup]) -> Result<(), DeviceError> {
    let program = encode(&rules(devices)?);
    let attach = || sys::attach_device_program(std::fs::File::open(path)?.as_fd(), &program);
    attach().map_err(|source| DeviceError::Attach { path: path.to_owned(), source })
}

/// On cgroup v1, takes the host's console away again, which libcontainer always allows.
pub(crate) fn deny_console(path: &Path, devices: &[LinuxDeviceCgroup]) -> Result<(), DeviceError> {
    if allow_console(devices)? {
        return Ok(());
    }
    let file = path.join("devices.deny");
    write_file(&file, "c 5:1 rwm").map_err(|source| DeviceError::Attach { path: file, source })
}

/// Whether the rules themselves allow the host's console, which libcontainer always allows on cgroup v1.
fn allow_console(devices: &[LinuxDeviceCgroup]) -> Result<bool, DeviceError> {
    let speaks_of_it = |rule: &&Rule| {
        let is = |wanted: Option<i32>, number| wanted.is_none_or(|wanted| wanted == number);
        is(rule.kind, CHARACTER)
            && is(rule.major, 5)
            && is(rule.minor, 1)
            && rule.access & (READ | WRITE) != 0
    };
    let rules = devices.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    Ok(rules.iter().rfind(speaks_of_it).is_some_and(|rule| rule.allow))
}

/// Checks the rules and adds what is always allowed.
pub(crate) fn rules(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, DeviceError> {
    let mut rules = devices.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    for (major, minor, access) in ALWAYS {
        rules.push(Rule { allow: true, kind: Some(CHARACTER), major, minor, access });
    }
    rules.push(Rule { allow: true, kind: Some(BLOCK), major: None, minor: None, access: MKNOD });
    Ok(rules)
}

fn rule(device: &LinuxDeviceCgroup) -> Result<Rule, DeviceError> {
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        // A FIFO is not a device the kernel asks about.
        Some(LinuxDeviceType::P) => Some(0),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|number| *number >= 0)
            .map(Some)
            .ok_or(DeviceError::Number { number }),
    };
    let letters = device.access().as_deref().unwrap_or("rwm");
    let mut access = 0;
    for letter in letters.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(DeviceError::Access { access: letters.to_owned() }),
        };
    }
    Ok(Rule {
        allow: device.allow(),
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        access,
    })
}

// Registers: 1 is the context at the start; afterwards 2 holds the type, 3 the kinds of access not decided yet, 4 and 5
// the numbers, 6 is scratch.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, destination: u8, source: u8, offset: u8, immediate: i32) -> u64 {
    let immediate = u64::from(u32::from_ne_bytes(immediate.to_ne_bytes()));
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset) << 16
        | immediate << 32
}

/// Translates rules into a program that returns 1 for access that is allowed, else 0.
pub(crate) fn encode(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(AND, 2, 0, 0, 0xffff),
    ];
    for rule in rules.iter().rev() {
        encode_rule(rule, &mut program);
    }
    program.extend([instruction(SET, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn encode_rule(rule: &Rule, program: &mut Vec<u64>) {
    let verdict = [instruction(SET, 0, 0, 0, i32::from(rule.allow)), instruction(EXIT, 0, 0, 0, 0)];
    let decision = if rule.allow {
        // What this rule allows needs no further rule; nothing left means allowed.
        vec![instruction(AND, 3, 0, 0, !rule.access), instruction(JUMP_IF_NOT_EQUAL, 3, 0, 2, 0)]
    } else {
        vec![
            instruction(COPY, 6, 3, 0, 0),
            instruction(AND, 6, 0, 0, rule.access),
            instruction(JUMP_IF_EQUAL, 6, 0, 2, 0),
        ]
    };
    let mut left = [(2, rule.kind), (4, rule.major), (5, rule.minor)]
        .into_iter()
        .filter_map(|(register, wanted)| wanted.map(|wanted| (register, wanted)))
        .collect::<Vec<_>>();
    left.reverse();
    while let Some((register, wanted)) = left.pop() {
        let skip = u8::try_from(left.len() + decision.len() + verdict.len()).unwrap_or(u8::MAX);
        program.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, skip, wanted));
    }
    program.extend(decision);
    program.extend(verdict);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Vec<Rule> {
        rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap()
    }

    /// Interprets the instructions that `encode` uses.
    #[allow(clippy::cast_possible_truncation)]
    fn run(program: &[u64], kind: i32, access: i32, (major, minor): (i32, i32)) -> bool {
        let context = [access << 16 | kind, major, minor].map(|word| u64::from(word.cast_unsigned()));
        let mut registers = [0u64; 7];
        let mut at = 0usize;
        loop {
            let word = program[at];
            let (code, to, from) =
                ((word & 0xff) as u8, (word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, immediate) =
                ((word >> 16 & 0xffff) as usize, i64::from((word >> 32) as i32).cast_unsigned());
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[offset / 4],
                COPY => registers[to] = registers[from],
                SET => registers[to] = immediate,
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_IF_EQUAL if registers[to] == immediate => at += offset,
                JUMP_IF_NOT_EQUAL if registers[to] != immediate => at += offset,
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    const DENY_ALL: &str = r#"{"allow":false,"access":"rwm"}"#;

    #[test]
    fn with_everything_denied_the_usual_devices_still_work() {
        let program = encode(&parsed(&format!("[{DENY_ALL}]")));
        assert!(run(&program, CHARACTER, READ | WRITE, (1, 3)));
        assert!(run(&program, CHARACTER, READ, (136, 77)));
        assert!(run(&program, CHARACTER, MKNOD, (1, 1)));
        assert!(run(&program, BLOCK, MKNOD, (8, 0)));
        assert!(!run(&program, CHARACTER, READ, (1, 1)));
        assert!(!run(&program, BLOCK, READ, (8, 0)));
        assert!(!run(&program, BLOCK, READ | MKNOD, (8, 0)));
        assert!(!run(&program, CHARACTER, READ, (5, 1)));
    }

    #[test]
    fn no_rules_at_all_forbid_everything_but_the_usual_devices() {
        let program = encode(&parsed("[]"));
        assert!(!run(&program, CHARACTER, READ, (1, 1)));
        assert!(run(&program, CHARACTER, READ, (1, 5)));
    }

    #[test]
    fn a_later_rule_wins_for_each_kind_of_access_by_itself() {
        let program = encode(&parsed(&format!(
            r#"[{DENY_ALL},{{"allow":true,"type":"b","major":8,"minor":0,"access":"rw"}},
            {{"allow":false,"type":"b","major":8,"access":"w"}}]"#
        )));
        assert!(run(&program, BLOCK, READ, (8, 0)));
        assert!(!run(&program, BLOCK, WRITE, (8, 0)));
        assert!(!run(&program, BLOCK, READ | WRITE, (8, 0)));
        assert!(!run(&program, BLOCK, READ, (8, 1)));
    }

    #[test]
    fn rights_of_several_rules_add_up() {
        let program = encode(&parsed(
            r#"[{"allow":true,"type":"c","major":1,"minor":1,"access":"r"},
            {"allow":true,"type":"c","major":1,"minor":1,"access":"w"}]"#,
        ));
        assert!(run(&program, CHARACTER, READ | WRITE, (1, 1)));
        assert!(!run(&program, BLOCK, READ, (1, 1)));
    }

    #[test]
    fn privileged_means_every_device() {
        let program = encode(&parsed(r#"[{"allow":true,"access":"rwm"}]"#));
        assert!(run(&program, BLOCK, READ | WRITE | MKNOD, (259, 5)));
    }

    #[test]
    fn the_hosts_console_is_allowed_only_where_the_rules_say_so() {
        let allowed = |json: &str| allow_console(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        assert!(!allowed(&format!(r#"[{DENY_ALL},{{"allow":true,"type":"c","access":"m"}}]"#)));
        assert!(!allowed(&format!(
            r#"[{DENY_ALL},{{"allow":true,"type":"c","major":5,"minor":0,"access":"rwm"}}]"#
        )));
        assert!(allowed(&format!(
            r#"[{DENY_ALL},{{"allow":true,"type":"c","major":5,"minor":1,"access":"rw"}}]"#
        )));
        assert!(allowed(r#"[{"allow":true,"access":"rwm"}]"#));
    }

    #[test]
    fn nonsense_is_refused() {
        let rules = |json: &str| rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap());
        assert!(matches!(rules(r#"[{"allow":true,"access":"x"}]"#), Err(DeviceError::Access { .. })));
        assert!(matches!(rules(r#"[{"allow":true,"major":-2}]"#), Err(DeviceError::Number { .. })));
    }
}
