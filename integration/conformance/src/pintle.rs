//! Pintle's own side: `pintle runtime` with directories of its own, and what must not be left of it.
//!
//! In: a directory. Out: command lines; at the end the doctor's word and the kernel's.

use std::{
    path::Path,
    process::{Command, Output},
};

use pintle_integration::{Residue, program};
use sha2::{Digest as _, Sha256};

use crate::ground::Ground;

/// The daemon's command.
pub(crate) fn daemon(ground: &Ground, dir: &Path) -> Command {
    let config = dir.join("config.yaml");
    std::fs::write(&config, "logLevel: info\n").expect("a configuration can be written");
    let mut command = ground.command(program("pintle"));
    command.arg("runtime").arg("--config").arg(config);
    command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    command.arg("--listen").arg(format!("unix://{}", dir.join("sock").display()));
    command.args(["--pod-cidr", "10.89.0.0/16"]);
    command.env("PINTLE_SHIM", program("pintle-shim"));
    command
}

/// The command that gives it an image.
pub(crate) fn import(ground: &Ground, dir: &Path, archive: &Path) -> Command {
    let mut command = ground.command(program("pintle"));
    command.arg("--runtime-endpoint").arg(format!("unix://{}", dir.join("sock").display()));
    command.arg("import").arg(archive);
    command
}

/// What the doctor finds, while the daemon runs or afterwards; nothing when all is well.
pub(crate) fn findings(ground: &Ground, dir: &Path, when: &str) -> Vec<String> {
    let found = maintain(ground, dir, &["doctor"]);
    if found.status.success() {
        return Vec::new();
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    vec![format!("the doctor, {when}: {}{}", text(&found.stdout), text(&found.stderr))]
}

/// Takes away what an instance keeps between pods and looks for anything else.
pub(crate) fn leftovers(ground: &Ground, dir: &Path) -> Vec<String> {
    let cleaned = maintain(ground, dir, &["cleanup"]);
    let mut left = Vec::new();
    if !cleaned.status.success() {
        left.push(format!("cleanup: {}", String::from_utf8_lossy(&cleaned.stderr)));
    }
    left.extend(Residue::of(dir, &tag(dir)).lines());
    left.extend(ground.mounts_below(dir).into_iter().map(|point| format!("mount {point}")));
    left
}

fn maintain(ground: &Ground, dir: &Path, verb: &[&str]) -> Output {
    let mut command = ground.command(program("pintle"));
    command.args(verb).arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    if verb == ["doctor"] {
        command.arg("--listen").arg(format!("unix://{}", dir.join("sock").display()));
    }
    command.output().expect("pintle runs")
}

/// The tag that every name of the instance on the host carries.
fn tag(dir: &Path) -> String {
    let digest = Sha256::digest(dir.join("state").to_string_lossy().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
