//! Runs a helper program that belongs to the node's configuration: credential helpers and providers, the verifier.
//!
//! In: a program, what it reads. Out: its exit status and what it wrote, within bounds and in time; else it is killed with all
//! it started (as far as that stayed in its process group). What it was given and wrote is no part of an error: it may be secret.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// The most a program may write to its standard output.
const OUTPUT_BYTES: u64 = 1 << 20;
/// What is kept of its standard error; the rest is read and forgotten.
const ERROR_BYTES: usize = 4096;

/// A program and what it is given.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// Besides our own environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) input: Vec<u8>,
}

/// What came of it.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Program {
    /// Runs it to its end. The error says why there is none: it cannot be started, takes too long, writes too much.
    pub(crate) async fn run(&self, limit: Duration) -> Result<Output, String> {
        let mut child = tokio::process::Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", self.path.display()))?;
        // Dropped at the end and when nobody waits any more: whatever it left running goes too.
        let _group = Group::of(&child);
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("{} has no standard streams", self.path.display()));
        };
        let feed = async {
            // A program that does not want to read need not.
            drop(stdin.write_all(&self.input).await);
            drop(stdin);
        };
        let work = async { tokio::join!(feed, read_output(stdout), read_error(stderr), child.wait()) };
        let ((), stdout, stderr, status) = tokio::time::timeout(limit, work)
            .await
            .map_err(|_| format!("{} took longer than {} s", self.path.display(), limit.as_secs_f32()))?;
        let failed = |e: String| format!("{}: {e}", self.path.display());
        Ok(Output {
            status: status.map_err(|e| failed(e.to_string()))?,
            stdout: stdout.map_err(failed)?,
            stderr,
        })
    }
}

async fn read_output(from: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(OUTPUT_BYTES + 1).read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
    if bytes.len() as u64 > OUTPUT_BYTES {
        return Err(format!("it wrote more than {OUTPUT_BYTES} bytes"));
    }
    Ok(bytes)
}

async fn read_error(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = ERROR_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    kept
}

/// The process group of a program, killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            match kill_process_group(pid, Signal::KILL) {
                // Nobody is left in it, which is the usual case.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => tracing::warn!(%error, "what a helper program left running cannot be killed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("WORD".into(), "given".into())],
            input: b"read me".to_vec(),
        }
    }

    #[tokio::test]
    async fn a_program_reads_its_input_and_environment_and_answers() {
        let output =
            shell("cat; echo \" $WORD\"; echo why >&2; exit 3").run(Duration::from_secs(60)).await.unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"read me given\n"[..]));
        assert_eq!(output.stderr, b"why\n");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 600 & echo $! $$ > {}; wait", pids.display());
        let run = shell(&script);
        let began = std::time::Instant::now();
        let error = loop {
            // On a loaded machine the shell may need longer than the limit to say who it is.
            let error = run.run(Duration::from_millis(500)).await.err().unwrap();
            if std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')) {
                break error;
            }
            assert!(began.elapsed() < Duration::from_secs(60));
        };
        assert!(error.contains("took longer"), "{error}");
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            let is_gone = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.is_empty() || stat.contains(") Z ")
            };
            while !is_gone() {
                assert!(began.elapsed() < Duration::from_secs(60), "{pid} runs on");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_writes_too_much_or_is_none_is_an_error() {
        let error = shell("yes secret").run(Duration::from_secs(60)).await.err().unwrap();
        assert!(error.contains("more than") && !error.contains("secret"), "{error}");
        let none = Program { path: "/nowhere/helper".into(), ..Program::default() };
        assert!(none.run(Duration::from_secs(60)).await.err().unwrap().contains("cannot be started"));
    }
}
