//! Fuzzes the reading of manifests.
//!
//! In: a manifest file's bytes. Checked: no panic; the same bytes give the same answer; what is accepted has a usable
//! name and uid and reads back as the same pod; what is refused names lines of the file and says little enough.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pintle_core::manifest::{self, MAX_ERRORS, ManifestErrors, NodeInfo};
use pintle_core::model::DesiredPod;
use pintle_core::time::Timestamp;

/// Longer than the longest list of supported fields with a long path before it.
const MAX_MESSAGE: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let first = parse(data);
    assert!(first == parse(data), "the same bytes were read in two ways");
    match first {
        Ok(pods) => pods.iter().for_each(check_pod),
        Err(errors) => check_errors(&errors, data),
    }
});

fn parse(data: &[u8]) -> Result<Vec<DesiredPod>, ManifestErrors> {
    let node = NodeInfo { name: "n1".to_owned() };
    manifest::parse("web.yaml", data, &node, Timestamp::default())
}

fn check_pod(pod: &DesiredPod) {
    let fine = |text: &str, more: &[u8]| {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte);
        !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
    };
    assert!(fine(pod.name(), b"-."), "name {:?}", pod.name());
    assert!(fine(pod.namespace(), b"-"), "namespace {:?}", pod.namespace());
    assert!(fine(&pod.uid.to_string(), b"-"), "uid {}", pod.uid);
    let mut written = serde_json::to_value(&pod.pod).expect("a pod is JSON");
    written["metadata"]["name"] = "web".into();
    // JSON may hold control characters as they are, YAML may not.
    let escaped = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    let again = parse(written.to_string().chars().map(escaped).collect::<String>().as_bytes());
    let again = again.unwrap_or_else(|errors| panic!("{written}\ndoes not read back: {errors}"));
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].pod.spec, pod.pod.spec);
}

fn check_errors(errors: &ManifestErrors, data: &[u8]) {
    let lines = data.split(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
    assert!((1..=MAX_ERRORS).contains(&errors.errors.len()));
    for error in &errors.errors {
        assert!((1..=lines).contains(&error.position.line), "{error}: of {lines} lines");
        assert!(!error.reason.is_empty());
        assert!(error.to_string().len() <= MAX_MESSAGE, "a message of {} bytes", error.to_string().len());
        assert!(!error.to_string().contains('\n'), "{error:?} has several lines");
    }
}
