//! A small synchronous netlink socket that sends many requests in one batch and collects every answer.
//!
//! In: a [`Batch`] of encoded requests, each with a few words on what it does. Out: the kernel's replies and, per
//! refused request, its words and the errno. The socket belongs to the network namespace of the thread that opened it
//! and stays there, whichever thread uses it later.
//!
//! It does not subscribe to events, and it does not retry.

pub(crate) mod attributes;
pub(crate) mod links;
mod replies;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::sys::socket::sockopt::SndBufForce;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use replies::Reply;
use replies::{Answer, answers};

/// How long the kernel may take to answer; it waits for its own locks only.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests in one batch at most. All answers must fit into the default receive buffer (208 KiB, in which an
/// acknowledgement takes 0.8 KiB): the kernel drops an acknowledgement that does not fit without a word.
pub(crate) const BATCH_MOST: usize = 64;
/// Requests in one batch at most if each is answered by an interface, which takes about 5 KiB.
pub(crate) const LOOKUPS_MOST: usize = 16;
/// The default send buffer takes a datagram of this size.
const ORDINARY_DATAGRAM: usize = 96 * 1024;
/// Room for the largest batch: all host ports there may be.
const LARGE_SEND_BUFFER: usize = 4 * 1024 * 1024;
/// Larger than any datagram of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What can go wrong when talking to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open netlink socket for {protocol}")]
    Open {
        protocol: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("send netlink batch ({what})")]
    Send {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("receive netlink answer ({what})")]
    Receive {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("no netlink answer within {seconds} s ({what})")]
    Late { what: String, seconds: u64 },
    #[error("malformed netlink answer ({what})")]
    Malformed { what: String },
    #[error("{what}{}", said(.kernel))]
    Refused {
        what: String,
        kernel: Option<String>,
        #[source]
        source: io::Error,
    },
}

fn said(kernel: &Option<String>) -> String {
    kernel.as_ref().map_or_else(String::new, |text| format!(" (kernel: {text})"))
}

impl NetlinkError {
    /// The errno with which the kernel refused a request.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Open { .. }
            | Self::Send { .. }
            | Self::Receive { .. }
            | Self::Late { .. }
            | Self::Malformed { .. } => None,
        }
    }
}

/// Requests that are sent together; the kernel handles them in this order and goes on after a refusal.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    what: String,
    bytes: Vec<u8>,
    acknowledged: bool,
}

impl Batch {
    /// Adds a route-netlink request; `flags` come on top of REQUEST and ACK.
    pub(crate) fn push(&mut self, what: impl Into<String>, message: RouteNetlinkMessage, flags: u16) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        self.requests.push(Request { what: what.into(), bytes, acknowledged: true });
    }

    /// Adds an encoded message, header included, that asks for an acknowledgement.
    pub(crate) fn push_raw(&mut self, what: impl Into<String>, bytes: Vec<u8>) {
        self.requests.push(Request { what: what.into(), bytes, acknowledged: true });
    }

    /// Adds an encoded message that is only answered when the whole batch is refused.
    pub(crate) fn push_frame(&mut self, what: impl Into<String>, bytes: Vec<u8>) {
        self.requests.push(Request { what: what.into(), bytes, acknowledged: false });
    }

    fn summary(&self) -> String {
        let first = self.requests.first().map_or("nothing", |r| r.what.as_str());
        match self.requests.len() {
            0 | 1 => first.to_owned(),
            n => format!("{first} and {} more", n - 1),
        }
    }

    /// The batch as one datagram, numbered from `first`.
    fn datagram(&self, first: u32) -> Vec<u8> {
        let mut datagram = Vec::new();
        for (request, sequence) in self.requests.iter().zip(first..) {
            let start = datagram.len();
            datagram.extend_from_slice(&request.bytes);
            if let Some(field) = datagram.get_mut(start + 8..start + 12) {
                field.copy_from_slice(&sequence.to_ne_bytes());
            }
        }
        datagram
    }
}

/// What came back for a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) replies: Vec<Reply>,
    pub(crate) refusals: Vec<NetlinkError>,
    /// A dump changed while it was read; what it listed may be incomplete.
    pub(crate) interrupted: bool,
}

impl Outcome {
    /// The replies, unless a request was refused with another errno than those tolerated.
    pub(crate) fn tolerate(self, errnos: &[i32]) -> Result<Vec<Reply>, NetlinkError> {
        let bad = self.refusals.into_iter().find(|r| !r.errno().is_some_and(|e| errnos.contains(&e)));
        bad.map_or(Ok(self.replies), Err)
    }
}

/// A netlink socket of one network namespace.
pub(crate) struct Socket {
    socket: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a route-netlink socket in the calling thread's network namespace.
    pub(crate) fn route() -> Result<Self, NetlinkError> {
        Self::open("routes", netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// Opens an nfnetlink socket in the calling thread's network namespace.
    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open("netfilter", netlink_sys::protocols::NETLINK_NETFILTER)
    }

    fn open(name: &'static str, protocol: isize) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Open { protocol: name, source };
        let mut socket = RawSocket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        Ok(Self { socket, sequence: 1, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Sends the batch and waits until every request that asked for it is acknowledged or refused.
    pub(crate) fn transact(&mut self, batch: &Batch) -> Result<Outcome, NetlinkError> {
        debug_assert!(batch.requests.len() <= BATCH_MOST);
        if batch.requests.is_empty() {
            return Ok(Outcome::default());
        }
        let first = self.sequence;
        let datagram = batch.datagram(first);
        if datagram.len() > ORDINARY_DATAGRAM {
            // Best effort: if it does not fit all the same, sending says so.
            nix::sys::socket::setsockopt(&self.socket, SndBufForce, &LARGE_SEND_BUFFER).unwrap_or(());
        }
        self.sequence = (first..).nth(batch.requests.len()).unwrap_or(1);
        let sent = self.socket.send(&datagram, 0);
        sent.map_err(|source| NetlinkError::Send { what: batch.summary(), source })?;
        self.collect(batch, first)
    }

    fn collect(&mut self, batch: &Batch, first: u32) -> Result<Outcome, NetlinkError> {
        let asked = batch.requests.iter().zip(first..).filter(|(r, _)| r.acknowledged);
        let mut open: BTreeSet<u32> = asked.map(|(_, sequence)| sequence).collect();
        let mut outcome = Outcome::default();
        while !open.is_empty() {
            let length = self.receive(batch)?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            for answer in answers(datagram) {
                let answer = answer.ok_or_else(|| NetlinkError::Malformed { what: batch.summary() })?;
                let index = answer.sequence().checked_sub(first).and_then(|n| usize::try_from(n).ok());
                // Answers to an earlier batch whose caller gave up are not ours.
                let Some(request) = index.and_then(|i| batch.requests.get(i)) else { continue };
                if !request.acknowledged {
                    open.clear();
                }
                outcome.take(answer, request, &mut open);
            }
        }
        Ok(outcome)
    }

    fn receive(&mut self, batch: &Batch) -> Result<usize, NetlinkError> {
        let failed = |source| NetlinkError::Receive { what: batch.summary(), source };
        let seconds = PATIENCE.as_secs();
        let wait = Timespec { tv_sec: seconds.cast_signed(), tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&wait))) {
            Ok(0) => Err(NetlinkError::Late { what: batch.summary(), seconds }),
            Ok(_) => self.socket.recv(&mut self.buffer.as_mut_slice(), libc::MSG_TRUNC).map_err(failed),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

impl Outcome {
    fn take(&mut self, answer: Answer, request: &Request, open: &mut BTreeSet<u32>) {
        match answer {
            Answer::Reply { reply, interrupted, .. } => {
                self.replies.push(reply);
                self.interrupted |= interrupted;
            }
            Answer::Done { sequence, interrupted } => {
                self.interrupted |= interrupted;
                open.remove(&sequence);
            }
            Answer::Refused { sequence, errno, kernel } => {
                let source = io::Error::from_raw_os_error(errno);
                self.refusals.push(NetlinkError::Refused { what: request.what.clone(), kernel, source });
                open.remove(&sequence);
            }
        }
    }
}
