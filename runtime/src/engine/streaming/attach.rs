//! Joins a client to a container's own process.
//!
//! In: a container and the streams that the client is to have. Out: a session. The supervisor copies output into pipes of
//! the client's own as it writes the log; it waits for nobody, so that a client that is slow by more than a pipe holds
//! loses what came meanwhile, and the log does not. The container never notices who looks on, and goes on when a client
//! leaves. The input is the container's own, of all clients together.
//!
//! The end of a client's input is the end of its attach, as with containerd; of `stdin_once` without a terminal it is the end
//! of the container's input, and the client sees the output to its end.

use std::{
    io::{self, PipeWriter},
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use pintle_cri_api::v1::ContainerConfig;
use pintle_shim_protocol::{Answer, Request};
use pintle_streaming::{AttachRequest, Input, Output, Session, Terminal};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe,
    sync::oneshot,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    super::{
        Engine, blocking,
        container::REQUEST,
        error::{Error, Result},
        lifecycle::{check_runs, connection_of},
        records,
        sandbox::REQUEST_LIMIT,
        state::{Container, Phase},
        supervisor_client::{Connection, unexpected},
    },
    terminal::Master,
};

/// How far a client may lag behind a container's output.
const LAG: usize = 1024 * 1024;
/// How long output is still sent after a client has ended its input: the container's answer to the last of it.
const LAST_WORDS: Duration = Duration::from_millis(500);
const ATTACHING: &str = "attaching to the container";

pub(super) async fn begin(engine: &Engine, request: &AttachRequest) -> Result<Session> {
    let container = engine.container(&request.container)?;
    check_runs(&container)?;
    let connection = connection_of(&container)?;
    let config = config_of(&container).await?;
    let ((stdout, to_stdout), (stderr, to_stderr)) = (follower()?, follower()?);
    let ask = Request::Attach { container: container.id.clone() };
    let fds = [to_stdout.as_fd(), to_stderr.as_fd()];
    let answer = connection.request_for_descriptor(ask, &fds, REQUEST_LIMIT).await;
    let (answer, input) = answer.map_err(Error::supervisor(ATTACHING))?;
    if answer != Answer::Done {
        return Err(Error::supervisor(ATTACHING)(unexpected(&answer)));
    }
    drop((to_stdout, to_stderr));
    let Inputs { stdin, terminal, left } = inputs(input, &config, request.streams.stdin)?;
    let closes = config.stdin_once && !config.tty;
    let cut = CancellationToken::new();
    let mut detached = None;
    if closes && let Some(left) = left {
        tokio::spawn(close_stdin(left, connection, Arc::clone(&container)));
    } else {
        detached = left;
    }
    let output = |wanted: bool, from| wanted.then(|| Box::new(Following::new(from, &cut)) as Output);
    Ok(Session {
        stdin,
        stdout: output(request.streams.stdout, stdout),
        stderr: output(request.streams.stderr, stderr),
        terminal,
        exit: over(container, detached, cut).map(|()| Ok(0)).boxed(),
    })
}

/// What the container was made from.
async fn config_of(container: &Container) -> Result<ContainerConfig> {
    let path = container.dir.join(REQUEST);
    blocking(move || {
        let bad = |reason: &str| Error::Record { path: path.clone(), reason: reason.to_owned() };
        let bytes = records::read_bounded(&path)?.ok_or_else(|| bad("it is missing"))?;
        ContainerConfig::decode(bytes.as_slice()).map_err(|error| bad(&error.to_string()))
    })
    .await
}

/// A pipe that holds as much as a client may lag behind.
fn follower() -> Result<(pipe::Receiver, PipeWriter)> {
    let failed = || Error::io::<io::Error>("making", "a pipe");
    let (reader, writer) = io::pipe().map_err(failed())?;
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(&writer, LAG) {
        tracing::debug!(%error, "an attached client may lag less than others");
    }
    Ok((pipe::Receiver::from_owned_fd(reader.into()).map_err(failed())?, writer))
}

struct Inputs {
    stdin: Option<Input>,
    terminal: Option<Box<dyn Terminal>>,
    /// Ends when the client's input has ended, if the container has one.
    left: Option<oneshot::Receiver<()>>,
}

/// What the client writes to. `descriptor` is the container's input, or its terminal's master, which has a size also where
/// nothing may be written.
fn inputs(descriptor: Option<OwnedFd>, config: &ContainerConfig, wanted: bool) -> Result<Inputs> {
    let (sink, terminal) = match descriptor {
        Some(master) if config.tty => {
            let master = Master::new(master)?;
            (Some(Box::new(master.clone()) as Input), Some(Box::new(master) as Box<dyn Terminal>))
        }
        Some(pipe) => {
            let sender = pipe::Sender::from_owned_fd(pipe).map_err(Error::io("watching", "a pipe"))?;
            (Some(Box::new(sender) as Input), None)
        }
        None => (None, None),
    };
    if !wanted {
        return Ok(Inputs { stdin: None, terminal, left: None });
    }
    // Who writes to a container that has no input is not held up by that.
    let Some(sink) = sink.filter(|_| config.stdin) else {
        return Ok(Inputs { stdin: Some(Box::new(tokio::io::sink())), terminal, left: None });
    };
    let (gone, left) = oneshot::channel();
    let stdin = Watched { sink, _gone: gone };
    Ok(Inputs { stdin: Some(Box::new(stdin)), terminal, left: Some(left) })
}

/// Of `stdin_once`: the first client's input was the only one.
async fn close_stdin(left: oneshot::Receiver<()>, connection: Connection, container: Arc<Container>) {
    // It ends by being dropped, which is no error here.
    left.await.unwrap_or(());
    let request = Request::CloseStdin { container: container.id.clone() };
    if let Err(error) = connection.request(request, REQUEST_LIMIT).await {
        tracing::warn!(container = %container.id, %error, "the container's input stays open");
    }
}

/// Ends when there is nothing more to see for the client, and then ends its outputs.
async fn over(container: Arc<Container>, detached: Option<oneshot::Receiver<()>>, cut: CancellationToken) {
    let mut watch = container.watch();
    let detaches = detached.is_some();
    let detached = async {
        if let Some(left) = detached {
            left.await.unwrap_or(());
            tokio::time::sleep(LAST_WORDS).await;
        }
    };
    tokio::select! {
        // Its outputs end by themselves. An error says that the container is gone.
        ended = watch.wait_for(|phase| matches!(phase, Phase::Exited(_))) => drop(ended),
        () = detached, if detaches => cut.cancel(),
    }
}

/// A container's input, that tells when a client is done with it.
struct Watched {
    sink: Input,
    _gone: oneshot::Sender<()>,
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sink).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_shutdown(cx)
    }
}

/// A container's output, until it ends or is cut off.
struct Following {
    from: pipe::Receiver,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Following {
    fn new(from: pipe::Receiver, cut: &CancellationToken) -> Self {
        Self { from, cut: Box::pin(cut.clone().cancelled_owned()) }
    }
}

impl AsyncRead for Following {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.from).poll_read(cx, buf)
    }
}
