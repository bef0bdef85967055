//! One SPDY stream, as its owner holds it: a receiving and a sending half.
//!
//! Pieces go through as they are (`receive`, `send`), so that a pump needs one buffer. An owner that drops both halves
//! before both sides have finished resets the stream.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::Shared;
use super::state::Broken;

/// Both halves.
#[derive(Debug)]
pub struct Stream {
    receiver: Receiver,
    sender: Sender,
}

/// What the peer sends.
#[derive(Debug)]
pub struct Receiver {
    id: u32,
    shared: Arc<Shared>,
}

/// What the peer is sent.
#[derive(Debug)]
pub struct Sender {
    id: u32,
    shared: Arc<Shared>,
}

impl Stream {
    pub(super) fn new(id: u32, shared: Arc<Shared>) -> Stream {
        Stream { receiver: Receiver { id, shared: Arc::clone(&shared) }, sender: Sender { id, shared } }
    }

    pub(super) async fn replied(&self) -> io::Result<()> {
        let Sender { id, shared } = &self.sender;
        poll_fn(|cx| shared.lock().poll_replied(*id, cx)).await.map_err(broken)
    }

    /// The halves, to be used by different tasks.
    pub fn split(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }
}

impl Receiver {
    /// The next piece; `None` when the peer has finished. Cancel-safe.
    pub async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.shared.lock().poll_receive(self.id, cx)).await.map_err(broken)
    }
}

impl Sender {
    /// Queues a piece as soon as there is room for it.
    pub async fn send(&mut self, piece: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.shared.lock().poll_room(self.id, cx)).await.map_err(broken)?;
        if !piece.is_empty() {
            self.shared.lock().send(self.id, piece);
        }
        Ok(())
    }

    /// Says that nothing more comes. What is queued is still sent, also when this half is dropped.
    pub fn finish(&mut self) {
        self.shared.lock().finish(self.id);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lock().drop_reader(self.id);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.lock().drop_writer(self.id);
    }
}

fn broken(why: Broken) -> io::Error {
    match why {
        Broken::Reset(status) => io::Error::new(
            io::ErrorKind::ConnectionReset,
            format!("the peer reset the stream (status {status})"),
        ),
        Broken::Lost => io::Error::new(io::ErrorKind::ConnectionAborted, "the connection is lost"),
        Broken::Finished => io::Error::new(io::ErrorKind::BrokenPipe, "the stream is finished"),
    }
}
