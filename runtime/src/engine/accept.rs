//! Takes connections on the engine's socket, as many as may be.
//!
//! In: a listener. Out: connections. Whoever comes beyond the limit waits; a connection that says nothing at first is
//! closed, so that it does not keep others waiting; a want of descriptors is waited out, and does not end serving or keep
//! a processor busy.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream, unix::UCred},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

/// The most connections at once. A kubelet has three, a command line one.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may say nothing at first.
const FIRST_WORD: Duration = Duration::from_secs(20);
/// Before a connection is taken again when the last one could not be.
const AGAIN: Duration = Duration::from_millis(100);

/// Every connection, for ever.
pub(crate) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Guarded>> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stream::unfold((listener, places), |(listener, places)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let mut told = false;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) if told => tracing::trace!(%error, "a connection still cannot be taken"),
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken; trying again until it can")
                }
            }
            told = true;
            sleep(AGAIN).await;
        };
        Some((Ok(Guarded::new(stream, place)), (listener, places)))
    })
}

/// A connection, its place among the others, and its time for a first word.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: UnixStream,
    silent: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Guarded {
    fn new(stream: UnixStream, place: OwnedSemaphorePermit) -> Self {
        Self { stream, silent: Some(Box::pin(sleep(FIRST_WORD))), _place: place }
    }
}

impl Connected for Guarded {
    type ConnectInfo = Option<UCred>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.peer_cred().ok()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, into) {
            if into.filled().len() > before {
                self.silent = None;
            }
            return Poll::Ready(read);
        }
        let Some(silent) = &mut self.silent else { return Poll::Pending };
        ready!(silent.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
