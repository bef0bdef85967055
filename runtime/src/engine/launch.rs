//! Starts a sandbox's supervisor.
//!
//! In: the supervisor's program, the sandbox's id and directory, the supervisor's cgroup. Out: one end of a connection to
//! it, on which requests may be sent before it runs. The supervisor detaches itself, so that the engine is not its parent
//! and may end. It does not talk to it: whoever does tells what became of it with [`Launched::is_up`] or
//! [`Launched::failure`].

use std::{os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use super::{
    error::{Error, Result},
    program::Program,
};

/// How long a supervisor that does not come up may take to say why.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// The most bytes taken of what a starting supervisor says.
const MAX_LINE: u64 = 4096;

/// The supervisor's socket in its sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// A supervisor that has been started and may come up.
#[derive(Debug)]
pub struct Launched {
    child: Child,
}

/// Starts the supervisor; returns with it our end of its first connection.
///
/// # Errors
/// When the program cannot be executed.
pub fn launch(program: &Program, sandbox: &str, dir: &Path, cgroup: &str) -> Result<(Launched, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(Error::io("making", "a connection for the supervisor"))?;
    // No working directory is set, which would need a fork of the whole engine; the supervisor goes to / by itself.
    let child = program
        .command()
        .arg("--sandbox")
        .arg(sandbox)
        .arg("--dir")
        .arg(dir)
        .arg("--cgroup")
        .arg(cgroup)
        .args(["--connection", "stdin"])
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // It outlives the engine, whose environment may hold a proxy's password.
        .env_clear()
        // One that is not ready in time must not come up later.
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("starting the supervisor", program.path()))?;
    Ok((Launched { child }, ours))
}

impl Launched {
    /// It answers: reaps the launching process, which ends once the supervisor has detached.
    pub fn is_up(mut self) {
        tokio::spawn(async move { self.child.wait().await });
    }

    /// It does not answer: what it says about that, or else the reason known so far. The launching process is gone then,
    /// or the error says that too: what the supervisor is to be is in its cgroup before it leaves that process, so whoever
    /// empties the cgroup has all of it.
    pub async fn failure(mut self, reason: Error) -> Error {
        let said = self.last_words().await;
        let failed = match said.trim() {
            "" | "ready" => reason,
            said => Error::Internal(format!("the supervisor could not start: {said}")),
        };
        match self.child.kill().await {
            Ok(()) => failed,
            Err(error) => {
                let stays = Error::Internal(format!("the supervisor's start cannot be ended: {error}"));
                Error::Several(vec![failed, stays])
            }
        }
    }

    async fn last_words(&mut self) -> String {
        let mut line = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            let mut reader = BufReader::new(stdout.take(MAX_LINE));
            match timeout(LAST_WORDS_LIMIT, reader.read_line(&mut line)).await {
                Ok(Ok(_)) => {}
                // What it has said so far.
                Ok(Err(_)) | Err(_) => return line,
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_does_not_come_up_is_gone_when_its_start_has_failed_and_its_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (program, told) = (dir.path().join("shim"), dir.path().join("pid"));
        let script = format!("#!/bin/sh\necho $$ > {}\necho error: no\nexec sleep 1000\n", told.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (launched, _socket) = launch(&Program::unsealed(&program), "s", dir.path(), "/c").unwrap();
        let error = launched.failure(Error::Internal("silence".to_owned())).await;
        assert!(error.to_string().contains("error: no"), "{error}");
        let late = std::fs::read_to_string(told).unwrap();
        assert!(!Path::new("/proc").join(late.trim()).exists(), "{late} is still there");
    }
}
