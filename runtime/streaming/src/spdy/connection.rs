//! A SPDY/3.1 connection over a byte stream: one task that reads and writes, ended when the handle is dropped.
//!
//! In: a socket after its HTTP upgrade, streams to open. Out: streams that the peer opens. Nothing is read while a
//! stream's buffer is full (see `state`), so that memory is bounded by `limits` whatever the peer does.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use super::frame::{Decoder, Frame, Status};
use super::headers::Headers;
use super::sending::Batch;
use super::state::{ProtocolError, State};
use super::stream::Stream;
use crate::limits;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

#[derive(Debug)]
pub(super) struct Shared(Mutex<State>);

impl Shared {
    /// A panic elsewhere leaves the state whole: nothing in it panics half-way.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection. Dropping it cuts the socket; `close` says goodbye first.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

/// A stream that the peer wants to open.
#[derive(Debug)]
pub struct Incoming {
    id: u32,
    headers: Headers,
    shared: Arc<Shared>,
    is_answered: bool,
}

impl Connection {
    /// Takes over `io`, on which the HTTP upgrade is done. Must be called within a tokio runtime.
    pub fn start<I>(io: I, role: Role) -> Result<Connection, ProtocolError>
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared(Mutex::new(State::new(role == Role::Client)?)));
        let driver = tokio::spawn(drive(Arc::clone(&shared), io));
        Ok(Connection { shared, driver })
    }

    /// The next stream that the peer opens; `None` when the connection is over or the peer leaves.
    /// Cancel-safe: a stream is taken and returned without an await between.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let signals = Arc::clone(&self.shared.lock().signals);
            match self.shared.lock().arrived() {
                Ok(Some((id, headers))) => {
                    return Some(Incoming {
                        id,
                        headers,
                        shared: Arc::clone(&self.shared),
                        is_answered: false,
                    });
                }
                Ok(None) => {}
                Err(_) => return None,
            }
            signals.arrival.notified().await;
        }
    }

    /// Opens a stream and waits for the peer's consent.
    pub async fn open(&self, headers: &Headers) -> io::Result<Stream> {
        let id = self.shared.lock().open(headers).map_err(io::Error::other)?;
        let stream = Stream::new(id, Arc::clone(&self.shared));
        stream.replied().await?;
        Ok(stream)
    }

    /// Returns when the peer is gone.
    pub async fn lost(&self) {
        let signals = Arc::clone(&self.shared.lock().signals);
        let mut over = std::pin::pin!(signals.over.notified());
        // Enabled before looking, so that the loss cannot fall between.
        over.as_mut().enable();
        if !self.shared.lock().is_lost() {
            over.await;
        }
    }

    /// Returns when no data has come or gone for `limit`, give or take an eighth.
    pub async fn idle(&self, limit: Duration) {
        let (mut seen, mut quiet) = (self.shared.lock().moved, 0);
        while quiet < 8 {
            tokio::time::sleep(limit / 8).await;
            let moved = self.shared.lock().moved;
            quiet = if moved == seen { quiet + 1 } else { 0 };
            seen = moved;
        }
    }

    /// Sends what is queued, says goodbye, and gives the peer `limits::LINGER` to hang up.
    pub async fn close(mut self) {
        self.shared.lock().close();
        if let Err(error) = (&mut self.driver).await {
            debug!(%error, "a SPDY connection's task ended before its time");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
        self.shared.lock().lose();
    }
}

impl Incoming {
    /// What the peer says the stream is for.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The number of the stream.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Consents.
    pub fn accept(mut self) -> Result<(Stream, Headers), ProtocolError> {
        self.shared.lock().accept(self.id)?;
        self.is_answered = true;
        let headers = std::mem::take(&mut self.headers);
        Ok((Stream::new(self.id, Arc::clone(&self.shared)), headers))
    }
}

impl Drop for Incoming {
    /// Whoever drops it refuses it.
    fn drop(&mut self) {
        if !self.is_answered {
            self.shared.lock().refuse(self.id, Status::RefusedStream);
        }
    }
}

async fn drive<I: AsyncRead + AsyncWrite>(shared: Arc<Shared>, io: I) {
    let (read, write) = tokio::io::split(io);
    {
        let mut reading = std::pin::pin!(read_loop(&shared, read));
        let mut writing = std::pin::pin!(write_loop(&shared, write));
        // Neither half is started anew: what remains of the other one is waited for below.
        tokio::select! {
            ended = &mut reading => match ended {
                Ok(()) => {}
                Err(Failure::Io(error)) => debug!(%error, "a SPDY connection broke"),
                Err(Failure::Protocol(error)) => {
                    debug!(%error, "a SPDY peer does not keep to the protocol");
                    shared.lock().accuse();
                    drop(timeout(limits::LINGER, writing).await);
                }
            },
            ended = &mut writing => match ended {
                Ok(()) => drop(timeout(limits::LINGER, reading).await),
                Err(error) => debug!(%error, "a SPDY connection broke"),
            },
        }
    }
    shared.lock().lose();
}

enum Failure {
    Io(io::Error),
    Protocol(ProtocolError),
}

async fn read_loop<I: AsyncRead>(shared: &Shared, mut io: ReadHalf<I>) -> Result<(), Failure> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(limits::READ_BYTES);
        if io.read_buf(&mut buffer).await.map_err(Failure::Io)? == 0 {
            return Ok(());
        }
        loop {
            let frame = decoder.next(&mut buffer);
            let Some(frame) = frame.map_err(|error| Failure::Protocol(ProtocolError::Frame(error)))? else {
                break;
            };
            let stream = if let Frame::Data { stream, .. } = &frame { Some(*stream) } else { None };
            shared.lock().handle(frame).map_err(Failure::Protocol)?;
            room(shared, stream).await;
        }
    }
}

/// Waits until more may be received. A peer that is gone meanwhile shows by the failure of the ping.
async fn room(shared: &Shared, stream: Option<u32>) {
    loop {
        let signals = {
            let state = shared.lock();
            if !state.is_full(stream) {
                return;
            }
            Arc::clone(&state.signals)
        };
        if timeout(limits::PROBE, signals.read.notified()).await.is_err() {
            shared.lock().ping();
        }
    }
}

async fn write_loop<I: AsyncWrite>(shared: &Shared, mut io: WriteHalf<I>) -> io::Result<()> {
    let signals = Arc::clone(&shared.lock().signals);
    loop {
        let mut batch = Batch::default();
        if !shared.lock().take_batch(&mut batch) {
            return io.shutdown().await;
        }
        if batch.control.is_empty() && batch.data.is_empty() {
            signals.write.notified().await;
            continue;
        }
        io.write_all_buf(&mut batch.control).await?;
        for (head, payload) in batch.data {
            io.write_all_buf(&mut Buf::chain(head.as_slice(), payload)).await?;
        }
        io.flush().await?;
    }
}
