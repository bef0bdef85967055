//! What a reviewer should not have to say: who may use whom, that every file opens with its purpose, that files stay
//! small, that nothing is left "for later" without a reason.
//!
//! Reads `cargo metadata` and the files git tracks; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates each crate may use (architecture: arrows run downwards only). Dev-dependencies count too: the
/// supervisor has the pause program for its tests only.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "pintle",
        &[
            "pintle-cli",
            "pintle-cni",
            "pintle-core",
            "pintle-cri-api",
            "pintle-probes",
            "pintle-runtime",
            "pintle-image",
        ],
    ),
    ("pintle-bench", &["pintle-cri-api", "pintle-pause"]),
    ("pintle-cli", &["pintle-cri-api", "pintle-streaming"]),
    ("pintle-cni", &[]),
    ("pintle-conformance", &["pintle-cri-api", "pintle-integration", "pintle-pause"]),
    ("pintle-controlplane", &[]),
    ("pintle-core", &[]),
    ("pintle-cri-api", &[]),
    ("pintle-image", &[]),
    (
        "pintle-integration",
        &[
            "pintle-cri-api",
            "pintle-cni",
            "pintle-core",
            "pintle-image",
            "pintle-runtime",
            "pintle-shim-protocol",
        ],
    ),
    ("pintle-pause", &[]),
    ("pintle-probes", &[]),
    (
        "pintle-runtime",
        &[
            "pintle-cni",
            "pintle-cri-api",
            "pintle-image",
            "pintle-pause",
            "pintle-seccomp",
            "pintle-shim-protocol",
            "pintle-streaming",
        ],
    ),
    ("pintle-seccomp", &[]),
    ("pintle-shim", &["pintle-pause", "pintle-shim-protocol"]),
    ("pintle-shim-protocol", &[]),
    ("pintle-streaming", &[]),
];

/// Production lines a file may have (what comes before its `#[cfg(test)] mod tests`).
const PRODUCTION_BUDGET: usize = 500;
/// Lines a file may have in all.
const TOTAL_BUDGET: usize = 800;

#[test]
fn crates_use_only_what_lies_below_them() {
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a package has a name");
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
            wrong.push(format!("{name} stands in no row of ALLOWED"));
            continue;
        };
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a dependency has a name");
            if dependency["path"].is_string() && !allowed.contains(&used) {
                wrong.push(format!("{name} may not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "crate edges:\n  {}", wrong.join("\n  "));
    assert_eq!(seen.len(), ALLOWED.len(), "a row of ALLOWED names a crate that is gone");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "these do not open with //!: {silent:#?}");
}

#[test]
fn files_stay_within_their_line_budget() {
    let ratchet = ratchet();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let production = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        let total = text.lines().count();
        let test_file =
            path.starts_with("integration") || path.components().any(|part| part.as_os_str() == "tests");
        let over = total > TOTAL_BUDGET || (!test_file && production > PRODUCTION_BUDGET);
        match ratchet.get(&path) {
            None if over => {
                wrong.push(format!("{}: {production} production lines, {total} in all", path.display()))
            }
            Some(_) if !over => wrong.push(format!("{}: fits now, take it off the ratchet", path.display())),
            Some(most) if total > *most => {
                wrong.push(format!("{}: {total} lines, was {most}", path.display()))
            }
            None | Some(_) => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "over {PRODUCTION_BUDGET} production or {TOTAL_BUDGET} lines in all:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn nothing_is_put_off_without_a_reason() {
    let marks = ["TODO", "FIXME", "XXX"].map(|mark| format!("// {mark}"));
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str()) && !line.contains(&format!("{mark}("))) {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "put off without (a reason):\n  {}", wrong.join("\n  "));
}

#[test]
fn unsafe_code_lives_in_its_folders() {
    let homes = ["runtime/src/sys", "runtime/shim", "runtime/pause", "integration/attacker"];
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            !homes.iter().any(|home| path.starts_with(home))
                && text.lines().any(|line| line.contains("unsafe {") || line.contains("allow(unsafe_code)"))
        })
        .map(|(path, _)| path)
        .filter(|path| !path.ends_with("tidy.rs"))
        .collect();
    assert!(wrong.is_empty(), "unsafe outside {homes:?}: {wrong:#?}");
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let text = std::fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md is there");
    let sources = sources();
    let named = |name: &str| sources.iter().any(|(_, source)| source.contains(&format!("fn {name}(")));
    let mut wrong = Vec::new();
    let mut checked = 0;
    for word in text.split('`').skip(1).step_by(2).filter(|word| word.contains('_') || word.contains('/')) {
        let path = word.contains('/');
        if path && !word.starts_with('/') && !root().join(word).exists() {
            wrong.push(format!("no file {word}"));
        }
        if !path && word != "wake_at" && !named(word) {
            wrong.push(format!("no test {word}"));
        }
        checked += 1;
    }
    assert!(wrong.is_empty(), "SPECIFICATION.md names what is not there: {wrong:#?}");
    assert!(checked > 50, "only {checked} names were found");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Every `.rs` file below the crates' folders, by its path from the top, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let top = root();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["agent", "cni", "controlplane", "integration", "probes", "runtime"]
        .iter()
        .map(|name| top.join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                found.push((path.strip_prefix(&top).expect("it lies below the top").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found below {}", top.display());
    found.sort();
    found
}

/// Files that are over their budget for now, with the lines they may have at the most: `LINES PATH` a line.
fn ratchet() -> BTreeMap<PathBuf, usize> {
    include_str!("tidy.ratchet")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (lines, path) = line.split_once(' ').expect("LINES PATH");
            (PathBuf::from(path), lines.parse().expect("a number of lines"))
        })
        .collect()
}
