//! The table of CRI's fields in SPECIFICATION.md, held against the protocol's descriptor: no field can be forgotten.
//!
//! A row is `| Message.field | effect | who holds it |`; the last column names tests in backticks, or cases of the
//! conformance suite by their sentence between quotation marks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pintle_conformance::all;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

const SECTION: &str = "## CRI's fields";

/// What a pod, a container and an image are asked for with.
const ROOTS: [&str; 6] = [
    "PodSandboxConfig",
    "ContainerConfig",
    "LinuxPodSandboxConfig",
    "LinuxContainerSecurityContext",
    "LinuxContainerResources",
    "ImageSpec",
];

#[test]
fn every_field_of_a_pod_a_container_and_an_image_stands_in_the_table() {
    let fields = fields();
    let rows: BTreeSet<String> = rows().into_keys().collect();
    let forgotten: Vec<_> = fields.difference(&rows).collect();
    let invented: Vec<_> = rows.difference(&fields).collect();
    assert!(forgotten.is_empty(), "no row for {forgotten:#?}");
    assert!(invented.is_empty(), "no such field: {invented:#?}");
    assert!(fields.len() > 120, "only {} fields were found", fields.len());
}

#[test]
fn every_row_of_the_table_of_fields_names_tests_that_exist() {
    let cases: BTreeSet<&str> =
        all().into_iter().flat_map(|(_, cases)| cases).map(|case| case.name).collect();
    let sources = sources();
    let mut wrong = Vec::new();
    for (field, (effect, held)) in rows() {
        let tests: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        let named: Vec<&str> = held.split('"').skip(1).step_by(2).collect();
        if effect.is_empty() || tests.len() + named.len() == 0 {
            wrong.push(format!("{field}: no effect, or nobody holds it"));
        }
        let missing = tests.into_iter().filter(|test| !sources.contains(&format!("fn {test}(")));
        wrong.extend(missing.map(|test| format!("{field}: no test {test}")));
        let missing = named.into_iter().filter(|case| !cases.contains(case));
        wrong.extend(missing.map(|case| format!("{field}: no case {case:?}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every field that can be reached from the roots. What is for Windows is refused as a whole, by the field that holds it.
fn fields() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(pintle_cri_api::FILE_DESCRIPTOR_SET).unwrap();
    let messages: BTreeMap<String, DescriptorProto> = set
        .file
        .into_iter()
        .filter(|file| file.package() == "runtime.v1")
        .flat_map(|file| file.message_type)
        .map(|message| (message.name().to_owned(), message))
        .collect();
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<String> = ROOTS.map(str::to_owned).to_vec();
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let message = &messages[&name];
        for field in &message.field {
            found.insert(format!("{name}.{}", field.name()));
            let below = field.type_name().rsplit('.').next().unwrap_or_default().to_owned();
            // A map's entry is no message of the protocol's own; neither is an enumeration.
            if messages.contains_key(&below) && !below.starts_with("Windows") {
                todo.push(below);
            }
        }
    }
    found
}

/// Field, effect, and who holds it.
fn rows() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(top().join("SPECIFICATION.md")).unwrap();
    let (_, section) = text.split_once(SECTION).expect("the section of fields");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Field")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{line}");
        let cell = |number: usize| cells[number].to_owned();
        assert!(rows.insert(cell(0), (cell(1), cell(2))).is_none(), "{} stands twice", cells[0]);
    }
    rows
}

/// The text of every source file.
fn sources() -> String {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> =
        ["agent", "cni", "integration", "runtime"].iter().map(|name| top().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    text
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}
