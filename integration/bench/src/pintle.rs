//! Pintle's own side: its directories, its command lines, its manifests.
//!
//! In: a directory. Out: files in it, commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::image::POD_IMAGE;
use crate::place::Place;

/// The supervisors' program.
pub(crate) const SUPERVISOR: &str = "pintle-shim";

/// How long the agent may take to remove all pods.
const REMOVAL_LIMIT: Duration = Duration::from_secs(120);

/// Makes the directories and a configuration file, so that the host's own is not read.
pub(crate) fn configure(dir: &Path) -> Result<()> {
    for name in ["root", "state", "manifests"] {
        let path = dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let path = dir.join("config.yaml");
    fs::write(&path, "logLevel: info\n").with_context(|| format!("writing {}", path.display()))
}

/// Fills in the command line of `pintle runtime` or `pintle agent`.
pub(crate) fn arguments(command: &mut Command, verb: &str, dir: &Path) {
    command.arg(verb).arg("--config").arg(dir.join("config.yaml"));
    command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    command.arg("--listen").arg(format!("unix://{}", dir.join("daemon.sock").display()));
    command.args(["--pod-cidr", "10.89.0.0/16"]);
    if verb == "agent" {
        command.arg("--manifests").arg(dir.join("manifests")).args(["--node-name", "bench"]);
    }
}

/// `pintle import`.
pub(crate) fn import_command(place: &Place, program: &Path, socket: &Path, archive: &Path) -> Command {
    let mut command = place.command(program);
    command.arg("--runtime-endpoint").arg(format!("unix://{}", socket.display())).arg("import").arg(archive);
    command
}

/// `pintle cleanup`.
pub(crate) fn cleanup_command(place: &Place, program: &Path, dir: &Path) -> Command {
    let mut command = place.command(program);
    command.args(["cleanup", "--root"]).arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    command
}

/// The tag that every name of the instance on the host carries.
pub(crate) fn tag(dir: &Path) -> String {
    let digest = Sha256::digest(dir.join("state").to_string_lossy().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the agent pods like those that [`Client::start_pod`] makes.
pub(crate) fn write_manifests(dir: &Path, pods: usize) -> Result<()> {
    for number in 0..pods {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: bench-{number}, namespace: bench}}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  automountServiceAccountToken: false\n  containers:\n  \
             - name: main\n    image: {POD_IMAGE}\n    resources: {{requests: {{cpu: 1m, memory: 1Mi}}, limits: {{memory: 64Mi}}}}\n"
        );
        let path = manifest(dir, number);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Takes all manifests away and waits until the agent has removed the pods.
pub(crate) async fn remove_manifests(dir: &Path, client: &Client) -> Result<()> {
    let manifests = dir.join("manifests");
    let entries = fs::read_dir(&manifests).with_context(|| format!("reading {}", manifests.display()))?;
    for entry in entries {
        let path = entry.context("reading the manifests")?.path();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    let begin = Instant::now();
    while begin.elapsed() < REMOVAL_LIMIT {
        if client.sandboxes().await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the agent's pods were not gone within {REMOVAL_LIMIT:?}")
}

fn manifest(dir: &Path, number: usize) -> PathBuf {
    dir.join("manifests").join(format!("bench-{number}.yaml"))
}
