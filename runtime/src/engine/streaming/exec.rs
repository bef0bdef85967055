//! Starts a command in a container for a client.
//!
//! In: a command and the streams it is to have. Out: a session whose bytes go between pipes (or a terminal) and the client;
//! the supervisor is given the other ends and never sees them. A client that goes away hangs up: its command finds the end
//! of its input, nobody who reads its output, and SIGHUP if it has a terminal. It is not killed, as with other runtimes, and
//! counts as one that runs until it has ended.

use std::{
    convert::Infallible,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use futures_util::{FutureExt as _, future::join_all};
use pintle_shim_protocol::{Answer, Request};
use pintle_streaming::{ExecRequest, Input, Output, Session, Streams, Terminal};
use tokio::{
    net::unix::pipe,
    sync::{OwnedSemaphorePermit, oneshot},
};

use super::{
    super::{
        Engine, blocking,
        error::{Error, Result},
        exec::{MAX_LIMIT, ProcessFile, at_its_end},
        ids,
        lifecycle::{check_runs, connection_of},
        state::Container,
        supervisor_client::{self, Connection, unexpected},
    },
    MAX_COMMANDS,
    terminal::{self, check_pid, give},
    told,
};

const RUNNING: &str = "running a command in the container";

/// Both ends of what a command reads and writes.
pub(super) struct Ends {
    pub(super) theirs: [OwnedFd; 3],
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    /// Outputs that the client does not want. They are emptied as long as it is there.
    pub(super) unwanted: Vec<Output>,
    pub(super) terminal: Option<Box<dyn Terminal>>,
}

/// A command that is about to run.
struct Command {
    container: Arc<Container>,
    connection: Connection,
    exec: String,
    process: ProcessFile,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn begin(engine: &Engine, request: &ExecRequest) -> Result<Session> {
    let container = engine.container(&request.container)?;
    check_runs(&container)?;
    let place = Arc::clone(&engine.streamed_commands).try_acquire_owned().map_err(|_| {
        Error::ResourceExhausted(format!(
            "{MAX_COMMANDS} commands of streaming clients run, and there may not be more at once"
        ))
    })?;
    let connection = connection_of(&container)?;
    let gone = || Error::FailedPrecondition(format!("container {} has no process", container.id));
    let pid = container.look(|record| record.pid).ok_or_else(gone)?;
    let exec = ids::generate()?;
    let (dir, name, command) = (container.dir.clone(), exec.clone(), request.command.clone());
    let streams = request.streams;
    let (process, ends) = blocking(move || {
        let process = ProcessFile::write(&dir, &name, command, streams.tty)?;
        let ends = if streams.tty { terminal::open(pid, streams)? } else { pipes(streams)? };
        give(&ends.theirs, pid, process.uid)?;
        Ok((process, ends))
    })
    .await?;
    check_pid(&connection, &container.id, pid).await?;
    let Ends { theirs, stdin, stdout, stderr, unwanted, terminal } = ends;
    let (tell, outcome) = oneshot::channel();
    let command = Command { container, connection, exec, process, _place: place };
    tokio::spawn(async move {
        // Nobody listens when the client has gone.
        tell.send(run(command, theirs).await).unwrap_or(());
    });
    let exit = async move {
        let ended = tokio::select! {
            ended = outcome => ended,
            never = discard(unwanted) => match never {},
        };
        let lost = |_| Err(Error::Internal("a command's task ended early".to_owned()));
        ended.unwrap_or_else(lost).map_err(|error| told(&error))
    };
    Ok(Session { stdin, stdout, stderr, terminal, exit: exit.boxed() })
}

async fn run(command: Command, theirs: [OwnedFd; 3]) -> Result<i32> {
    let request = Request::Exec {
        container: command.container.id.clone(),
        exec: command.exec.clone(),
        process: command.process.path.to_string_lossy().into_owned(),
        timeout_ms: None,
    };
    let answer = ask(&command.connection, request, theirs).await.map_err(Error::supervisor(RUNNING))?;
    let Answer::ExecDone { exit_code, .. } = answer else {
        return Err(Error::supervisor(RUNNING)(unexpected(&answer)));
    };
    Ok(exit_code)
}

async fn ask(
    connection: &Connection,
    request: Request,
    theirs: [OwnedFd; 3],
) -> std::result::Result<Answer, supervisor_client::Error> {
    let posted = connection.post(request, &theirs.each_ref().map(OwnedFd::as_fd)).await?;
    // Held here, they would keep open what the command closes.
    drop(theirs);
    let ended = tokio::time::timeout(MAX_LIMIT, posted.answer()).await;
    ended.unwrap_or(Err(supervisor_client::Error::TimedOut(MAX_LIMIT)))
}

/// A pipe for each stream that is wanted. What is not wanted is at its end, or is thrown away.
fn pipes(streams: Streams) -> Result<Ends> {
    let failed = || Error::io::<io::Error>("making", "a pipe");
    let mut unwanted = Vec::new();
    let (stdin, to_stdin) = if streams.stdin {
        let (theirs, ours) = io::pipe().map_err(failed())?;
        let ours = pipe::Sender::from_owned_fd(ours.into()).map_err(failed())?;
        (theirs.into(), Some(Box::new(ours) as Input))
    } else {
        (at_its_end()?.into(), None)
    };
    let mut output = |wanted: bool| -> Result<(OwnedFd, Option<Output>)> {
        let (ours, theirs) = io::pipe().map_err(failed())?;
        let ours = pipe::Receiver::from_owned_fd(ours.into()).map_err(failed())?;
        let mut ours = Some(Box::new(ours) as Output);
        if !wanted {
            unwanted.extend(ours.take());
        }
        Ok((theirs.into(), ours))
    };
    let (stdout, from_stdout) = output(streams.stdout)?;
    let (stderr, from_stderr) = output(streams.stderr)?;
    Ok(Ends {
        theirs: [stdin, stdout, stderr],
        stdin: to_stdin,
        stdout: from_stdout,
        stderr: from_stderr,
        unwanted,
        terminal: None,
    })
}

/// Empties outputs for ever.
async fn discard(outputs: Vec<Output>) -> Infallible {
    let empty = |mut output: Output| async move {
        if let Err(error) = tokio::io::copy(&mut output, &mut tokio::io::sink()).await {
            tracing::debug!(%error, "an output that nobody wants ended with an error");
        }
    };
    join_all(outputs.into_iter().map(empty)).await;
    pending().await
}
