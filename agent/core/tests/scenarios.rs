//! Runs every file of `tests/scenarios` on the simulated node.
//!
//! A file opens with comments that say the rule. Then blocks: statements, a line `----`, and what happened, up to an empty
//! line. `UPDATE_EXPECT=1` writes what happened into the files; read the difference before believing it.

// Tests may read files and give up; `wildcard`: a statement or action of no interest is not looked at.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::wildcard_enum_match_arm)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::statement;
use support::world::World;

#[test]
fn every_scenario_goes_as_it_is_written() {
    let update = std::env::var("UPDATE_EXPECT").is_ok();
    let mut wrong = Vec::new();
    let files = scenario_files();
    assert!(files.len() >= 40, "only {} scenarios", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let actual = match std::panic::catch_unwind(|| run(&text)) {
            Ok(Ok(actual)) => actual,
            Ok(Err(reason)) => {
                wrong.push(format!("{}: {reason}", name(&file)));
                continue;
            }
            Err(_) => {
                wrong.push(format!("{}: panicked", name(&file)));
                continue;
            }
        };
        if update {
            fs::write(&file, actual).unwrap();
        } else if actual != text {
            wrong.push(format!("{}:\n{}", name(&file), difference(&text, &actual)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_scenario_that_tells_something_else_is_noticed() {
    let text = "pod add web\n----\n[0s] web-1: nothing happens\n";
    assert_ne!(run(text).unwrap(), text);
    assert!(run("pod add web\nexpect status web phase=Failed\n----\n").is_err());
    assert!(run("expect wake web 10s\n----\n").is_err());
    assert!(run("pod dance web\n----\n").is_err());
    assert!(run("pod add web colour=red\n----\n").is_err());
}

fn scenario_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "txt"));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// The text as it should be: the statements of `text` and what really happens.
fn run(text: &str) -> Result<String, String> {
    let mut world = World::default();
    let mut out = String::new();
    for block in blocks(text) {
        world.trace.clear();
        for line in &block {
            out.push_str(line);
            out.push('\n');
            if let Some(statement) = statement::parse(line)? {
                world.run(statement).map_err(|reason| format!("{line}: {reason}"))?;
            }
        }
        if block.iter().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        out.push_str("----\n");
        for line in &world.trace {
            out.push_str(line);
            out.push('\n');
        }
        out.push('\n');
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// The statements of each block.
fn blocks(text: &str) -> Vec<Vec<String>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().peekable();
    while lines.peek().is_some() {
        blocks.push(lines.by_ref().take_while(|line| *line != "----").map(str::to_owned).collect());
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    }
    blocks
}

fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let show = |lines: &[&str], mark: &str| -> String {
        lines.iter().skip(same).take(8).map(|line| format!("{mark} {line}\n")).collect()
    };
    format!("line {}:\n{}{}", same + 1, show(&expected, "-"), show(&actual, "+"))
}
