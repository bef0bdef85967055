//! Runs a command in a running container and collects what it writes: CRI's `ExecSync`.
//!
//! In: a container, a command, a time limit. Out: exit code and output of bounded size. The pipes go to the supervisor
//! with the request, so that the output never passes through it. The supervisor kills the whole tree of the command at
//! the time limit.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use oci_spec::runtime::{Process, Spec};
use pintle_shim_protocol::{Answer, Request};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::oneshot};

use super::{
    Engine, blocking, detached,
    error::{Error, Result},
    ids,
    lifecycle::{check_runs, connection_of},
    records,
    sandbox_files::OCI_CONFIG,
    state::Container,
    supervisor_client::unexpected,
};

/// The most bytes kept of either stream; what goes beyond is read and thrown away.
pub const MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// How much longer than the command's own limit the engine waits for its end.
const MARGIN: Duration = Duration::from_secs(30);
/// The wait for a command without a limit.
const NO_LIMIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote to standard output, up to [`MAX_OUTPUT`].
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to [`MAX_OUTPUT`].
    pub stderr: Vec<u8>,
}

impl Engine {
    /// Runs a command in a container and waits for it.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when the time limit ended it.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput> {
        let container = self.container(id)?;
        if command.first().is_none_or(String::is_empty) {
            return Err(Error::InvalidArgument("there is no command to run".to_owned()));
        }
        check_runs(&container)?;
        detached(run(container, command, limit)).await
    }
}

async fn run(container: Arc<Container>, command: Vec<String>, limit: Option<Duration>) -> Result<ExecOutput> {
    let connection = connection_of(&container)?;
    // Random, because the supervisor joins equal ids: a command of an engine before this one may still run, and an engine
    // in a pid namespace of its own has the same pid after every start.
    let exec = ids::generate()?;
    let dir = container.dir.clone();
    let name = exec.clone();
    let process = blocking(move || ProcessFile::write(&dir, &name, command)).await?;
    let stdin = at_its_end()?;
    let (stdout, stdout_writer) = collect()?;
    let (stderr, stderr_writer) = collect()?;
    let request = Request::Exec {
        container: container.id.clone(),
        exec,
        process: process.path.to_string_lossy().into_owned(),
        timeout_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    };
    let wait = limit.map_or(NO_LIMIT, |limit| limit + MARGIN);
    let fds = [stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
    let answer = connection.request_with_fds(request, &fds, wait).await;
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

/// The file with the process to run; removed when the exec is over.
#[derive(Debug)]
struct ProcessFile {
    path: PathBuf,
}

impl ProcessFile {
    /// Writes the container's own process with another command.
    fn write(dir: &Path, exec: &str, command: Vec<String>) -> Result<Self> {
        let config = dir.join(OCI_CONFIG);
        let bad = |reason: String| Error::Record { path: config.clone(), reason };
        let text = records::read_bounded(&config)?.ok_or_else(|| bad("it is missing".to_owned()))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        let mut process: Process =
            spec.process().clone().ok_or_else(|| bad("it has no process".to_owned()))?;
        process.set_args(Some(command));
        let path = dir.join(format!("exec-{exec}.json"));
        let text = serde_json::to_vec(&process).map_err(|e| bad(e.to_string()))?;
        records::write_private(&path, &text)?;
        Ok(Self { path })
    }
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
fn at_its_end() -> Result<PipeReader> {
    Ok(io::pipe().map_err(Error::io("making", "a pipe"))?.0)
}

/// A pipe whose reading end is emptied by a task.
fn collect() -> Result<(Collector, PipeWriter)> {
    let (reader, writer) = io::pipe().map_err(Error::io("making", "a pipe"))?;
    let reader = non_blocking(reader).map_err(Error::io("making", "a pipe"))?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(drain(reader, stopped));
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

async fn drain(mut reader: pipe::Receiver, mut stopped: oneshot::Receiver<()>) -> Vec<u8> {
    let mut output = Vec::new();
    let mut chunk = vec![0u8; 64 * 1024];
    loop {
        // Cancel-safe: a read that is given up has taken nothing out of the pipe.
        tokio::select! {
            read = reader.read(&mut chunk) => match read {
                Ok(length) if length > 0 => keep(&mut output, &chunk[..length]),
                Ok(_) | Err(_) => return output,
            },
            _ = &mut stopped => break,
        }
    }
    // The command has ended: everything it wrote is in the pipe.
    while let Ok(length) = reader.try_read(&mut chunk) {
        if length == 0 {
            break;
        }
        keep(&mut output, &chunk[..length]);
    }
    output
}

fn keep(output: &mut Vec<u8>, chunk: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(output.len());
    output.extend_from_slice(&chunk[..chunk.len().min(room)]);
}
