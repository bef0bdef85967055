//! One connection of an engine: packets in, packets out.
//!
//! In: a `SOCK_SEQPACKET` socket. Out: parsed [`Envelope`]s with the descriptors that came along. Sending never waits: who
//! does not read is given up. Only root may connect.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pintle_shim_protocol::{Envelope, MAX_MESSAGE, Message};
use rustix::net::{SocketFlags, accept_with, sockopt};
use serde::Deserialize;

use crate::passing;

/// A connected engine.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: u32,
    socket: OwnedFd,
    /// Whether a version was agreed on.
    pub(crate) greeted: bool,
    pub(crate) subscribed: bool,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Box<Envelope>, Vec<OwnedFd>),
    /// Not understood: the number to answer to, and why.
    Malformed(u64, String),
    Nothing,
    Closed,
}

#[derive(Deserialize)]
struct OnlySequence {
    seq: u64,
}

impl Connection {
    /// A connection that is there already; it must not block.
    pub(crate) fn new(socket: OwnedFd, key: u32) -> Self {
        Self { key, socket, greeted: false, subscribed: false }
    }

    /// Takes the next waiting connection. None: there is none, or it was refused.
    pub(crate) fn accept(listener: impl AsFd, key: u32) -> Option<Self> {
        let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        let peer = sockopt::socket_peercred(&socket).ok()?;
        peer.uid.is_root().then(|| Self::new(socket, key))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one packet, without waiting.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Incoming {
        let received = match passing::receive(&self.socket, buffer) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Incoming::Nothing,
            Err(_) => return Incoming::Closed,
        };
        if received.bytes == 0 {
            return Incoming::Closed;
        }
        if received.is_cut {
            return Incoming::Malformed(0, format!("a packet has more than {MAX_MESSAGE} bytes"));
        }
        let packet = buffer.get(..received.bytes).unwrap_or_default();
        match serde_json::from_slice::<Envelope>(packet) {
            Ok(envelope) => Incoming::Request(Box::new(envelope), received.descriptors),
            Err(error) => {
                let seq = serde_json::from_slice::<OnlySequence>(packet).map_or(0, |found| found.seq);
                Incoming::Malformed(seq, format!("the packet is no request: {error}"))
            }
        }
    }

    /// Sends without waiting. An error means that the connection is of no more use.
    pub(crate) fn send(
        &self,
        message: &Message,
        descriptor: Option<BorrowedFd<'_>>,
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        scratch.clear();
        serde_json::to_writer(&mut *scratch, message)?;
        Ok(passing::send(&self.socket, scratch, descriptor)?)
    }
}
