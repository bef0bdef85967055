//! What is said about bad manifests, word for word, from `manifest/errors.txt`; and the bounds.

use pintle_core::manifest::{self, ManifestErrors, NodeInfo};
use pintle_core::time::Timestamp;

fn errors_of(text: &[u8]) -> Result<usize, ManifestErrors> {
    let node = NodeInfo { name: "n1".to_owned() };
    manifest::parse("web.yaml", text, &node, Timestamp::default()).map(|pods| pods.len())
}

fn message(text: &str) -> String {
    match errors_of(text.as_bytes()) {
        Ok(pods) => format!("accepted: {pods} pods"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_bad_manifest_is_refused_with_file_line_field_and_reason() {
    let mut wrong = String::new();
    let mut count = 0;
    for case in include_str!("manifest/errors.txt").split("\n=== ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (text, expected) = rest.split_once("\n>>>\n").expect("what is expected");
        let actual = message(text);
        count += 1;
        if actual.trim() != expected.trim() {
            wrong.push_str(&format!("\n=== {title}\n{text}\n>>>\n{actual}\n"));
        }
    }
    assert!(wrong.is_empty(), "these differ; now they say:\n{wrong}");
    assert!(count >= 70, "only {count} cases");
}
