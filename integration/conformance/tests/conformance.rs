//! What CRI says holds of Pintle, and of Debian's containerd but for the differences that are noted with the cases.
//!
//! `PINTLE_CONFORMANCE` names cases or calls by a part of their name; `PINTLE_CONFORMANCE_SIDE` one runtime.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

use std::collections::BTreeSet;

use pintle_conformance::{Kind, all, conformance, names_of_calls};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pintle_does_what_cri_says_and_containerd_does_but_where_it_is_noted() {
    let only = std::env::var("PINTLE_CONFORMANCE").unwrap_or_default();
    let side = std::env::var("PINTLE_CONFORMANCE_SIDE").unwrap_or_default();
    let kinds: Vec<Kind> = [Kind::Pintle, Kind::Containerd]
        .into_iter()
        .filter(|kind| kind.to_string().contains(&side))
        .collect();
    let report = conformance(&kinds, &only).await;
    println!("{report}");
    assert!(report.wrong.is_empty(), "{} are wrong:\n  {}", report.wrong.len(), report.wrong.join("\n  "));
}

#[test]
fn every_call_of_the_protocol_has_cases_and_every_case_a_rule() {
    let with_cases: BTreeSet<String> = all().into_iter().map(|(call, _)| call.to_owned()).collect();
    assert_eq!(with_cases, names_of_calls());
    let mut names = BTreeSet::new();
    for (call, cases) in all() {
        assert!(!cases.is_empty(), "{call} has no case");
        for case in cases {
            assert!(case.rule.len() > 10, "{call}: {}: which rule?", case.name);
            assert!(names.insert(case.name), "{call}: {} stands twice", case.name);
        }
    }
}
