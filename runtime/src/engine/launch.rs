//! Starts a sandbox's supervisor.
//!
//! In: the supervisor's program, the sandbox's id and directory, the supervisor's cgroup. Out: its socket listens. The
//! supervisor detaches itself, so that the engine is not its parent and may end. It does not talk to it.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use super::error::{Error, Result};

/// How long a supervisor may take until its socket listens.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The most bytes taken of what a starting supervisor says.
const MAX_LINE: u64 = 4096;

/// The supervisor's socket in its sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Starts the supervisor and waits until its socket listens.
///
/// # Errors
/// With the supervisor's own words when it could not start.
pub async fn launch(program: &Path, sandbox: &str, dir: &Path, cgroup: &str) -> Result<()> {
    let mut child = Command::new(program)
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
        .map_err(Error::io("starting the supervisor", program))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout.take(MAX_LINE));
        timeout(START_LIMIT, reader.read_line(&mut line))
            .await
            .map_err(|_| Error::DeadlineExceeded(format!("the supervisor was not ready in {START_LIMIT:?}")))?
            .map_err(Error::io("reading what the supervisor says", program))?;
    }
    // Reaps the launching process, which ends once the supervisor has detached.
    tokio::spawn(async move { child.wait().await });
    match line.trim() {
        "ready" => Ok(()),
        "" => Err(Error::Internal("the supervisor ended without a word".to_owned())),
        said => Err(Error::Internal(format!("the supervisor could not start: {said}"))),
    }
}
