//! Starts a sandbox's supervisor.
//!
//! In: the supervisor's program, the sandbox's id and directory, the supervisor's cgroup. Out: its socket listens. The
//! supervisor detaches itself, so that the engine is not its parent and may end. It does not talk to it.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use super::{
    error::{Error, Result},
    program::Program,
};

/// How long a supervisor may take until its socket listens.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The most bytes taken of what a starting supervisor says.
const MAX_LINE: u64 = 4096;

/// The supervisor's socket in its sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Starts the supervisor and waits until its socket listens. When it fails, the launching process is gone: what the
/// supervisor is to be joins its cgroup before it leaves that process, so whoever empties the cgroup then has all of it.
///
/// # Errors
/// With the supervisor's own words when it could not start.
pub async fn launch(program: &Program, sandbox: &str, dir: &Path, cgroup: &str) -> Result<()> {
    let mut child = spawn(program, sandbox, dir, cgroup)?;
    match said(&mut child, program.path(), START_LIMIT).await {
        Ok(()) => {
            // Reaps the launching process, which ends once the supervisor has detached.
            tokio::spawn(async move { child.wait().await });
            Ok(())
        }
        Err(error) => {
            child.kill().await.map_err(Error::io("ending the supervisor's start", program.path()))?;
            Err(error)
        }
    }
}

fn spawn(program: &Program, sandbox: &str, dir: &Path, cgroup: &str) -> Result<Child> {
    program
        .command()
        .arg("--sandbox")
        .arg(sandbox)
        .arg("--dir")
        .arg(dir)
        .arg("--cgroup")
        .arg(cgroup)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        // It outlives the engine, whose environment may hold a proxy's password.
        .env_clear()
        // One that is not ready in time must not come up later.
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("starting the supervisor", program.path()))
}

/// Whether it says that it is ready.
async fn said(child: &mut Child, program: &Path, limit: Duration) -> Result<()> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout.take(MAX_LINE));
        timeout(limit, reader.read_line(&mut line))
            .await
            .map_err(|_| Error::DeadlineExceeded(format!("the supervisor was not ready in {limit:?}")))?
            .map_err(Error::io("reading what the supervisor says", program))?;
    }
    match line.trim() {
        "ready" => Ok(()),
        "" => Err(Error::Internal("the supervisor ended without a word".to_owned())),
        said => Err(Error::Internal(format!("the supervisor could not start: {said}"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_is_not_ready_in_time_is_gone_when_its_start_has_failed() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().unwrap();
        let error = said(&mut child, Path::new("sleep"), Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
        child.kill().await.unwrap();

        let dir = tempfile::tempdir().unwrap();
        let (program, told) = (dir.path().join("shim"), dir.path().join("pid"));
        let script = format!("#!/bin/sh\necho $$ > {}\necho error: no\nexec sleep 1000\n", told.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        launch(&Program::unsealed(&program), "s", dir.path(), "/c").await.unwrap_err();
        let late = std::fs::read_to_string(told).unwrap();
        for pid in [pid.to_string(), late.trim().to_owned()] {
            assert!(!Path::new("/proc").join(&pid).exists(), "{pid} is still there");
        }
    }
}
