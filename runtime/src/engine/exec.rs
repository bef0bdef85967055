//! Runs a command in a running container and collects what it writes: CRI's `ExecSync`.
//!
//! In: a container, a command, a time limit. Out: exit code and output of bounded size. The pipes go to the supervisor
//! with the request, so that the output never passes through it. The supervisor kills the whole tree of the command at
//! the time limit, and when the caller goes away.
//!
//! Other runtimes keep the first 16 MiB of each stream and say nothing about the rest, and a kubelet refuses an answer of
//! more than 16 MiB altogether. Here both streams together fit such an answer, and what was cut ends with a line that
//! says so.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use oci_spec::runtime::Process;
use pintle_shim_protocol::{Answer, Request};
use serde::Deserialize;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::oneshot};

use super::{
    Engine, blocking, detached,
    error::{Error, Result},
    ids,
    lifecycle::{check_runs, connection_of},
    records,
    sandbox_files::OCI_CONFIG,
    state::Container,
    supervisor_client::{Connection, unexpected},
};
use crate::spec::{bounds, process::TERM};

/// The most bytes kept of both streams together: an answer that a kubelet takes (16 MiB), less what is around them.
pub const MAX_OUTPUT: usize = 16 * 1024 * 1024 - 4096;
/// The most commands that run at once, in all containers: what they write is held in memory.
pub const MAX_EXECS: usize = 256;
/// The longest time limit; also what an enormous one means.
pub(super) const MAX_LIMIT: Duration = Duration::from_secs(366 * 24 * 3600);
/// How long a supervisor may take to be told that a command is not wanted any more.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than the command's own limit the engine waits for its end.
const MARGIN: Duration = Duration::from_secs(30);

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote to standard output; with the other up to [`MAX_OUTPUT`], and a line about what was cut.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Engine {
    /// Runs a command in a container and waits for it. Not to wait any longer ends it.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when the time limit ended it; [`Error::ResourceExhausted`] when too many run.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput> {
        let container = self.container(id)?;
        bounds::to_run("cmd", &command)?;
        check_runs(&container)?;
        let place = Arc::clone(&self.execs).try_acquire_owned().map_err(|_| {
            Error::ResourceExhausted(format!("{MAX_EXECS} commands run, and there may not be more at once"))
        })?;
        let limit = limit.map(|limit| limit.min(MAX_LIMIT));
        // Dropped with this future: that is how the task, which goes on, learns that nobody waits.
        let (here, left) = oneshot::channel();
        let outcome = detached(async move {
            let _place = place;
            run(container, command, limit, left).await
        })
        .await;
        drop(here);
        outcome
    }
}

async fn run(
    container: Arc<Container>,
    command: Vec<String>,
    limit: Option<Duration>,
    left: oneshot::Receiver<()>,
) -> Result<ExecOutput> {
    let connection = connection_of(&container)?;
    // Random, because the supervisor joins equal ids: a command of an engine before this one may still run, and an engine
    // in a pid namespace of its own has the same pid after every start.
    let exec = ids::generate()?;
    let dir = container.dir.clone();
    let name = exec.clone();
    let process = blocking(move || ProcessFile::write(&dir, &name, command, false)).await?;
    let stdin = at_its_end()?;
    let room = Arc::new(AtomicUsize::new(MAX_OUTPUT));
    let (stdout, stdout_writer) = collect(Arc::clone(&room))?;
    let (stderr, stderr_writer) = collect(room)?;
    let request = Request::Exec {
        container: container.id.clone(),
        exec: exec.clone(),
        process: process.path.to_string_lossy().into_owned(),
        timeout_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    };
    let wait = limit.map_or(MAX_LIMIT, |limit| limit + MARGIN);
    let fds = [stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
    let answer = {
        let answer = connection.request_with_fds(request, &fds, wait);
        tokio::pin!(answer);
        tokio::select! {
            // Not cancelled: when the caller goes away first, it is waited for below.
            answer = &mut answer => answer,
            _ = left => {
                end(&connection, &container, exec).await;
                answer.await
            }
        }
    };
    drop((stdin, stdout_writer, stderr_writer));
    let (stdout, stderr) = (stdout.finish().await, stderr.finish().await);
    let answer = answer.map_err(Error::supervisor("running a command in the container"))?;
    let Answer::ExecDone { exit_code, timed_out } = answer else {
        return Err(Error::supervisor("running a command in the container")(unexpected(&answer)));
    };
    if timed_out {
        let text = format!("the command did not end in {:?}", limit.unwrap_or_default());
        return Err(Error::DeadlineExceeded(text));
    }
    Ok(ExecOutput { exit_code, stdout, stderr })
}

/// Nobody waits for a command any more.
async fn end(connection: &Connection, container: &Container, exec: String) {
    tracing::debug!(container = %container.id, "a command whose caller went away is ended");
    let request = Request::KillExec { container: container.id.clone(), exec };
    if let Err(error) = connection.request(request, KILL_LIMIT).await {
        tracing::warn!(container = %container.id, %error, "a command whose caller went away cannot be ended");
    }
}

/// The file with the process to run; removed when the exec is over.
#[derive(Debug)]
pub(super) struct ProcessFile {
    pub(super) path: PathBuf,
    /// The user it is for, as the container numbers it.
    pub(super) uid: u32,
}

impl ProcessFile {
    /// Writes the container's own process with another command, and with a terminal or without one.
    pub(super) fn write(dir: &Path, exec: &str, command: Vec<String>, terminal: bool) -> Result<Self> {
        let config = dir.join(OCI_CONFIG);
        let bad = |reason: String| Error::Record { path: config.clone(), reason };
        let text = records::read_bounded(&config)?.ok_or_else(|| bad("it is missing".to_owned()))?;
        let OfContainer { mut process } = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        process.set_args(Some(command)).set_terminal(Some(terminal)).set_console_size(None);
        if terminal {
            set_term(&mut process);
        }
        let uid = process.user().uid();
        let path = dir.join(format!("exec-{exec}.json"));
        let text = serde_json::to_vec(&process).map_err(|e| bad(e.to_string()))?;
        records::write_private(&path, &text)?;
        Ok(Self { path, uid })
    }
}

/// The kind of terminal that every client is taken to be, whatever the container's own process has.
fn set_term(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    env.retain(|entry| !entry.starts_with("TERM="));
    env.push(TERM.to_owned());
    process.set_env(Some(env));
}

/// What an exec takes over of the container's OCI configuration.
#[derive(Debug, Deserialize)]
struct OfContainer {
    process: Process,
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "an exec's file cannot be removed");
        }
    }
}

/// Standard input with nothing in it. Not the node's `/dev/null`: root in the container could change its mode and owner
/// through the descriptor.
pub(super) fn at_its_end() -> Result<PipeReader> {
    Ok(io::pipe().map_err(Error::io("making", "a pipe"))?.0)
}

/// A pipe whose reading end is emptied by a task.
fn collect(room: Arc<AtomicUsize>) -> Result<(Collector, PipeWriter)> {
    let (reader, writer) = io::pipe().map_err(Error::io("making", "a pipe"))?;
    let reader = non_blocking(reader).map_err(Error::io("making", "a pipe"))?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(drain(reader, Kept::new(room), stopped));
    Ok((Collector { task, stop }, writer))
}

fn non_blocking(reader: PipeReader) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(OwnedFd::from(reader))
}

#[derive(Debug)]
struct Collector {
    task: tokio::task::JoinHandle<Vec<u8>>,
    stop: oneshot::Sender<()>,
}

impl Collector {
    /// What was written until now. A process that the command left behind may hold the pipe open; it is not waited for.
    async fn finish(self) -> Vec<u8> {
        // The task may have ended by itself.
        self.stop.send(()).unwrap_or(());
        self.task.await.unwrap_or_default()
    }
}

async fn drain(mut reader: pipe::Receiver, mut kept: Kept, mut stopped: oneshot::Receiver<()>) -> Vec<u8> {
    let mut chunk = vec![0u8; 64 * 1024];
    loop {
        // Cancel-safe: a read that is given up has taken nothing out of the pipe.
        tokio::select! {
            read = reader.read(&mut chunk) => match read {
                Ok(length) if length > 0 => kept.take(&chunk[..length]),
                Ok(_) | Err(_) => return kept.finish(),
            },
            _ = &mut stopped => break,
        }
    }
    // The command has ended: everything it wrote is in the pipe. It is asked of the kernel, because tokio says that there is
    // nothing until it has heard of it, which on a busy node is later than the end.
    match reader.into_nonblocking_fd() {
        Ok(pipe) => take_rest(fs::File::from(pipe), &mut chunk, &mut kept),
        Err(error) => tracing::warn!(%error, "the end of a command's output cannot be read"),
    }
    kept.finish()
}

fn take_rest(mut pipe: fs::File, chunk: &mut [u8], kept: &mut Kept) {
    while let Ok(length) = pipe.read(chunk) {
        if length == 0 {
            break;
        }
        kept.take(&chunk[..length]);
    }
}

/// What is kept of a stream.
#[derive(Debug)]
struct Kept {
    /// For this stream and its sibling.
    room: Arc<AtomicUsize>,
    output: Vec<u8>,
    thrown_away: u64,
}

impl Kept {
    fn new(room: Arc<AtomicUsize>) -> Self {
        Self { room, output: Vec::new(), thrown_away: 0 }
    }

    fn take(&mut self, chunk: &[u8]) {
        let give = |room: usize| Some(room.saturating_sub(chunk.len()));
        let room = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give).unwrap_or(0);
        // Once something is missing, nothing may follow it.
        let kept = if self.thrown_away > 0 { 0 } else { chunk.len().min(room) };
        self.output.extend_from_slice(&chunk[..kept]);
        self.thrown_away += (chunk.len() - kept) as u64;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.thrown_away > 0 {
            let note = format!("\n[pintle: the output was cut here; {} more bytes]\n", self.thrown_away);
            self.output.extend_from_slice(note.as_bytes());
        }
        self.output
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn what_was_written_is_kept_though_the_end_is_told_before_it() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"kept").unwrap();
        let (stop, stopped) = oneshot::channel();
        stop.send(()).unwrap();
        let kept = Kept::new(Arc::new(AtomicUsize::new(100)));
        assert_eq!(drain(non_blocking(reader).unwrap(), kept, stopped).await, b"kept");
    }

    #[test]
    fn two_streams_share_the_room_and_what_is_cut_says_so() {
        let room = Arc::new(AtomicUsize::new(10));
        let (mut out, mut err) = (Kept::new(Arc::clone(&room)), Kept::new(room));
        out.take(b"123456");
        err.take(b"abcdef");
        out.take(b"7");
        assert_eq!(out.finish(), b"123456\n[pintle: the output was cut here; 1 more bytes]\n");
        assert_eq!(err.finish(), b"abcd\n[pintle: the output was cut here; 2 more bytes]\n");
    }
}
