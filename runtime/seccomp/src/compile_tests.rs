//! Compiled programs, run by an interpreter, against what profiles say.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::arch::X32_BIT;
use crate::interpreter::{Call, run};

const ALLOW: u32 = 0x7FFF_0000;
const KILL: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn typed(profile: Value) -> LinuxSeccomp {
    serde_json::from_value(profile).unwrap()
}

fn filter(profile: Value) -> Filter {
    compile_for(&typed(profile), Arch::X86_64).unwrap()
}

fn answer(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let number = Arch::X86_64.number(name).unwrap();
    run(&filter.program, Call { audit: Arch::X86_64.audit(), number, arguments })
}

fn refused(profile: Value) -> String {
    compile_for(&typed(profile), Arch::X86_64).unwrap_err().to_string()
}

#[test]
fn every_action_becomes_the_kernels() {
    let cases = [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, KILL),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_TRACE", Some(7), 0x7FF0_0007),
        ("SCMP_ACT_LOG", None, 0x7FFC_0000),
    ];
    for (action, errno, expected) in cases {
        let mut call = json!({"names": ["chmod"], "action": action});
        if let Some(errno) = errno {
            call["errnoRet"] = errno.into();
        }
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}));
        assert_eq!(answer(&filter, "chmod", [0; 6]), expected, "{action}");
        assert_eq!(answer(&filter, "read", [0; 6]), ALLOW);
    }
}

#[test]
fn the_default_answer_can_be_any_and_newer_calls_are_unheard_of_where_calls_are_forbidden() {
    let named = json!([{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]);
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": named}));
    assert_eq!(answer(&filter, "write", [0; 6]), 0x0005_000D);
    assert_eq!(answer(&filter, "openat2", [0; 6]), ALLOW);
    assert_eq!(answer(&filter, "fchmodat2", [0; 6]), ENOSYS);
    let named = json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]);
    let filter = self::filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": named}));
    assert_eq!(answer(&filter, "fchmodat2", [0; 6]), ALLOW);
}

#[test]
fn calls_of_architectures_that_are_not_listed_end_the_process() {
    let calls = json!([{"names": ["read", "execve"], "action": "SCMP_ACT_ALLOW"}]);
    let own = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls}));
    let all = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls,
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_MIPS"]}));
    let of = |filter: &Filter, arch: Arch, number: u32| {
        run(&filter.program, Call { audit: arch.audit(), number, arguments: [0; 6] })
    };
    assert_eq!(
        [of(&own, Arch::X86, 3), of(&own, Arch::X32, X32_BIT), of(&own, Arch::Aarch64, 63)],
        [KILL; 3]
    );
    assert_eq!(of(&own, Arch::X86_64, u32::MAX), EPERM, "a call that a tracer has called off");
    assert_eq!(
        [of(&all, Arch::X86, 3), of(&all, Arch::X32, X32_BIT), of(&all, Arch::X32, X32_BIT + 520)],
        [ALLOW; 3]
    );
    assert_eq!(of(&all, Arch::X32, X32_BIT + 59), EPERM, "execve has another number there");
    assert_eq!([of(&all, Arch::Aarch64, 63), of(&all, Arch::Arm, 3)], [KILL; 2]);
    let arm = compile_for(
        &typed(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls,
        "architectures": ["SCMP_ARCH_ARM"]})),
        Arch::Aarch64,
    )
    .unwrap();
    assert_eq!([of(&arm, Arch::Aarch64, 63), of(&arm, Arch::Arm, 3)], [ALLOW; 2]);
    assert_eq!(of(&arm, Arch::X86_64, 0), KILL);
}

#[test]
fn arguments_are_compared_in_all_their_64_bits() {
    let big = 0x0000_0007_0000_0009_u64;
    let around = [
        0,
        9,
        big - 1,
        big,
        big + 1,
        0x0000_0007_FFFF_FFFF,
        0x0000_0006_FFFF_FFFF,
        0x0000_0008_0000_0000,
        u64::MAX,
    ];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
    ];
    for (op, holds) in operators {
        let rule = json!({"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": big, "op": op}]});
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}));
        for given in around {
            let expected = if holds(given, big) { ALLOW } else { EPERM };
            assert_eq!(answer(&filter, "write", [0, 0, given, 0, 0, 0]), expected, "{given:#x} {op}");
        }
    }
}

#[test]
fn of_several_rules_the_unconditional_one_decides_and_else_the_first_that_holds() {
    let on = |index: u64, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let rule = |errno: u64, args: Value| json!({"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args});
    let both = json!([
        rule(2, json!([on(0, 1), on(1, 1)])),
        rule(3, json!([on(0, 1)])),
        rule(4, json!([on(2, 5), on(2, 6)]))
    ]);
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": both}));
    assert_eq!(answer(&filter, "write", [1, 1, 0, 0, 0, 0]), 0x0005_0002);
    assert_eq!(answer(&filter, "write", [1, 2, 0, 0, 0, 0]), 0x0005_0003);
    assert_eq!(answer(&filter, "write", [2, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&filter, "write", [2, 1, 5, 0, 0, 0]), 0x0005_0004);
    assert_eq!(answer(&filter, "write", [2, 1, 6, 0, 0, 0]), 0x0005_0004);
    let last = json!([rule(3, json!([on(0, 1)])), rule(9, json!([]))]);
    let filter = self::filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": last}));
    assert_eq!(answer(&filter, "write", [1, 0, 0, 0, 0, 0]), 0x0005_0009);
    // What gives the default anyway does not stand in the way of a later rule.
    let idle = json!([
        {"names": ["write"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [on(0, 1)]},
    ]);
    let filter = self::filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": idle}));
    assert_eq!(answer(&filter, "write", [1, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn what_cannot_be_is_refused_by_the_name_of_its_field() {
    let with = |call: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]});
    assert!(refused(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).contains("defaultAction"));
    assert!(
        refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}))
            .contains("defaultErrnoRet")
    );
    let notify = with(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}));
    assert!(refused(notify).contains("syscalls[0].action"));
    let errno = with(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}));
    assert!(refused(errno).contains("syscalls[0].errnoRet"));
    let none = with(json!({"names": [], "action": "SCMP_ACT_ERRNO"}));
    assert!(refused(none).contains("syscalls[0].names"));
    let seventh = json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]);
    let seventh = with(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": seventh}));
    assert!(refused(seventh).contains("syscalls[0].args[0].index"));
    let flag =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]});
    assert!(refused(flag).contains("flags"));
}

#[test]
fn names_that_no_architecture_has_are_passed_over_and_the_flags_are_the_kernels() {
    let call = json!({"names": ["no_such_call", "read"], "action": "SCMP_ACT_ERRNO"});
    let plain = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]});
    assert_eq!(answer(&filter(plain.clone()), "read", [0; 6]), EPERM);
    assert_eq!(filter(plain).flags, FLAG_SPEC_ALLOW);
    let none = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": []});
    assert_eq!(filter(none).flags, 0);
    let flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"];
    assert_eq!(filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags})).flags, 3);
}

#[test]
fn too_many_rules_and_too_long_programs_are_refused() {
    let rule = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO"});
    let many = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": vec![rule; crate::MAX_RULES + 1]});
    assert!(refused(many).contains("syscalls"));
    let names = vec!["read"; crate::MAX_PARTS + 1];
    let names = json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]);
    assert!(refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": names})).contains("syscalls"));
    let long = (0..1000_u64).map(|value| {
        json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    });
    let long = refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": long.collect::<Vec<_>>()}));
    assert!(long.contains("instructions"), "{long}");
}

/// What a profile says of a call, read off its rules one after the other.
fn evaluate(profile: &LinuxSeccomp, arch: Arch, name: &str, arguments: [u64; 6]) -> u32 {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let calls = profile.syscalls().iter().flatten();
    let of = calls.filter(|call| call.names().iter().any(|known| known == name));
    let of = of.map(|call| (call.action().as_u32(call.errno_ret()), call.args().clone().unwrap_or_default()));
    let of = of.filter(|(value, _)| *value != default).collect::<Vec<_>>();
    assert!(arch.number(name).is_some());
    if let Some((value, _)) = of.iter().find(|(_, args)| args.is_empty()) {
        return *value;
    }
    let holds = |arg: &oci_spec::runtime::LinuxSeccompArg| {
        use oci_spec::runtime::LinuxSeccompOperator as Op;
        let (given, value) = (arguments[arg.index()], arg.value());
        match arg.op() {
            Op::ScmpCmpNe => given != value,
            Op::ScmpCmpLt => given < value,
            Op::ScmpCmpLe => given <= value,
            Op::ScmpCmpEq => given == value,
            Op::ScmpCmpGe => given >= value,
            Op::ScmpCmpGt => given > value,
            Op::ScmpCmpMaskedEq => given & value == arg.value_two().unwrap_or(0) & value,
        }
    };
    let first = of.iter().find(|(_, args)| {
        let twice = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
        if twice { args.iter().any(holds) } else { args.iter().all(holds) }
    });
    first.map_or(default, |(value, _)| *value)
}

const NAMES: [&str; 9] =
    ["read", "write", "openat", "chmod", "execve", "ioctl", "clone", "clone3", "getxattrat"];
const VALUES: [u64; 8] = [0, 1, 2, 0xFFFF_FFFF, 0x1_0000_0000, 0x1_0000_0001, 0x7E02_0000, u64::MAX];

fn any_value() -> impl Strategy<Value = u64> {
    (0..VALUES.len()).prop_map(|at| VALUES[at])
}

fn any_rule() -> impl Strategy<Value = Value> {
    const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let argument = (0..6_u64, any_value(), any_value(), 0..OPS.len()).prop_map(|(index, value, two, op)| {
        json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{}", OPS[op])})
    });
    let names = prop::collection::vec(0..NAMES.len(), 1..4);
    (names, prop::collection::vec(argument, 0..4), 0..4_u32).prop_map(|(names, args, errno)| {
        let names = names.into_iter().map(|at| NAMES[at]).collect::<Vec<_>>();
        match errno {
            0 => json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args}),
            _ => json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args}),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_program_answers_every_call_as_its_profile_says(
        rules in prop::collection::vec(any_rule(), 0..8),
        allows in any::<bool>(),
        calls in prop::collection::vec((0..NAMES.len(), prop::array::uniform6(any_value())), 40),
    ) {
        let action = if allows { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_ERRNO" };
        let profile = typed(json!({"defaultAction": action, "syscalls": rules,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}));
        let filter = compile_for(&profile, Arch::X86_64).unwrap();
        for (at, arguments) in calls {
            for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
                let number = arch.number(NAMES[at]).unwrap();
                let got = run(&filter.program, Call { audit: arch.audit(), number, arguments });
                let expected = evaluate(&profile, arch, NAMES[at], arguments);
                // Newer than all that the profile names: unheard of.
                prop_assert!(got == expected || got == ENOSYS && !allows && expected == EPERM, "{got:#x} {expected:#x}");
            }
        }
    }
}
