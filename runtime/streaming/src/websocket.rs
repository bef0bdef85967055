//! Numbered channels in WebSocket messages, and a byte stream in WebSocket messages.
//!
//! In: a WebSocket (framing is tungstenite's). `Channels` cuts its messages into channels and back, `Tunnel` makes a
//! reader and writer of it, over which SPDY runs. Nothing is read while the channel of the last message is full.

use std::collections::HashMap;
use std::future::pending;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Sink as _, SinkExt, Stream as _, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use crate::channel::{Coding, parse_message};
use crate::limits;

/// v5: the channel whose messages end another channel.
const CLOSE: u8 = 255;

/// A WebSocket over a connection that was upgraded.
pub(crate) async fn start<I>(io: I, role: Role) -> WebSocketStream<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits::WEBSOCKET_BYTES))
        .max_frame_size(Some(limits::WEBSOCKET_BYTES))
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// The channels of one client.
#[derive(Debug)]
pub(crate) struct Channels {
    coding: Coding,
    routes: HashMap<u8, mpsc::Sender<Bytes>>,
    messages: mpsc::Receiver<Bytes>,
    can_close: bool,
    moved: Arc<AtomicU64>,
}

impl Channels {
    /// `messages` are for the client, their channels before them.
    pub(crate) fn new(coding: Coding, messages: mpsc::Receiver<Bytes>, can_close: bool) -> Channels {
        Channels { coding, routes: HashMap::new(), messages, can_close, moved: Arc::default() }
    }

    /// What the client sends on `channel`.
    pub(crate) fn route(&mut self, channel: u8) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(1);
        self.routes.insert(channel, sender);
        receiver
    }

    /// Counts messages, to see whether the client is idle.
    pub(crate) fn moved(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.moved)
    }

    /// Serves the client until it goes, or until nobody is left who could send it anything.
    pub(crate) async fn drive<I>(mut self, mut socket: WebSocketStream<I>) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let mut waiting: Option<(u8, Bytes)> = None;
        loop {
            // Each arm may be dropped and asked again: a reserved place, a message and a received one are whole or not
            // there. What is done about them is outside and not dropped.
            tokio::select! {
                () = hand_on(&self.routes, &mut waiting), if waiting.is_some() => {}
                () = sleep(limits::PROBE), if waiting.is_some() => {
                    // The client's pings wait unread behind the message: it hears from us all the same.
                    socket.send(Message::Pong(Bytes::new())).await?;
                }
                message = socket.next(), if waiting.is_none() => {
                    self.moved.fetch_add(1, Ordering::Relaxed);
                    match message.transpose()? {
                        Some(Message::Binary(bytes)) => waiting = self.sort(bytes),
                        Some(Message::Text(text)) => waiting = self.sort(text.into()),
                        Some(Message::Close(_)) | None => return Ok(()),
                        Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                    }
                }
                message = self.messages.recv() => {
                    self.moved.fetch_add(1, Ordering::Relaxed);
                    let Some(message) = message else { return say_goodbye(socket).await };
                    socket.send(self.wrap(message)?).await?;
                }
            }
        }
    }

    fn sort(&mut self, message: Bytes) -> Option<(u8, Bytes)> {
        let (channel, payload) = parse_message(self.coding, message)?;
        if self.can_close && channel == CLOSE {
            self.routes.remove(payload.first()?);
            return None;
        }
        (!payload.is_empty() && self.routes.contains_key(&channel)).then_some((channel, payload))
    }

    fn wrap(&self, message: Bytes) -> Result<Message, Error> {
        match self.coding {
            Coding::Binary => Ok(Message::Binary(message)),
            Coding::Base64 => Utf8Bytes::try_from(message)
                .map(Message::Text)
                .map_err(|error| Error::Io(io::Error::other(error))),
        }
    }
}

/// Hands `waiting` to its channel as soon as that has room. If nobody listens there any more it is dropped.
async fn hand_on(routes: &HashMap<u8, mpsc::Sender<Bytes>>, waiting: &mut Option<(u8, Bytes)>) {
    let Some((channel, _)) = waiting else { return pending().await };
    let place = match routes.get(channel) {
        Some(route) => route.reserve().await.ok(),
        None => None,
    };
    if let (Some(place), Some((_, payload))) = (place, waiting.take()) {
        place.send(payload);
    }
}

async fn say_goodbye<I>(mut socket: WebSocketStream<I>) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    socket.close(Some(normal_close())).await?;
    let hang_up = async { while let Some(Ok(_)) = socket.next().await {} };
    if timeout(limits::LINGER, hang_up).await.is_err() {
        debug!("a client does not hang up");
    }
    Ok(())
}

fn normal_close() -> tokio_tungstenite::tungstenite::protocol::CloseFrame {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }
}

/// Returns when `moved` has stood still for `limit`, give or take an eighth.
pub(crate) async fn idle(moved: &AtomicU64, limit: Duration) {
    let (mut seen, mut quiet) = (moved.load(Ordering::Relaxed), 0);
    while quiet < 8 {
        sleep(limit / 8).await;
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}

/// A byte stream in binary messages, however it is cut.
#[derive(Debug)]
pub(crate) struct Tunnel<I> {
    socket: WebSocketStream<I>,
    unread: Bytes,
}

impl<I> Tunnel<I> {
    pub(crate) fn new(socket: WebSocketStream<I>) -> Tunnel<I> {
        Tunnel { socket, unread: Bytes::new() }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(text))) => self.unread = text.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let here = self.unread.len().min(buf.remaining());
        let piece = self.unread.split_to(here);
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let mut message = BytesMut::new();
        for part in parts {
            let room = (limits::DATA_BYTES + 8).saturating_sub(message.len());
            message.extend_from_slice(part.get(..room).unwrap_or(part));
        }
        let length = message.len();
        Pin::new(&mut self.socket).start_send(Message::Binary(message.freeze())).map_err(into_io)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(into_io(error))),
        }
    }
}

fn into_io(error: Error) -> io::Error {
    if let Error::Io(error) = error { error } else { io::Error::other(error) }
}
