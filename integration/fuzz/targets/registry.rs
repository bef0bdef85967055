//! Fuzzes what registries and token servers answer: challenges, tokens, error documents.
//!
//! In: a header's or a body's bytes. Checked: no panic; a token can be sent as a header; what a registry says is cut short; no
//! scope is asked for that is more than reading one repository.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the image store")]

#[path = "../../../runtime/image/src/challenge.rs"]
mod challenge;
#[path = "../../../runtime/image/src/digest.rs"]
mod digest;
#[path = "../../../runtime/image/src/error.rs"]
mod error;

use challenge::Challenge;
use error::Error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = std::str::from_utf8(data) {
        check_challenges(header);
    }
    match challenge::token_of(data) {
        Ok(token) => assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())),
        Err(reason) => assert!(reason.len() < 200, "{reason}"),
    }
    assert!(challenge::message_of(data).chars().count() <= 201);
});

fn check_challenges(header: &str) {
    let found = challenge::select(header.lines());
    assert_eq!(found, challenge::select(header.lines()), "it is read differently");
    if let Some(Challenge::Bearer { realm, service, scope }) = &found {
        let all =
            realm.len() + service.as_ref().map_or(0, String::len) + scope.as_ref().map_or(0, String::len);
        assert!(all <= header.len());
        let asked = challenge::scope(scope.as_deref(), "a/b");
        let name = asked.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull"));
        assert!(name.is_some_and(|name| !name.is_empty() && !name.contains([':', ',', ' '])), "{asked}");
    }
}
