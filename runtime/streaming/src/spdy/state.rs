//! What both ends of a SPDY/3.1 connection know: streams, windows, what waits to be sent. No IO, no clock.
//!
//! In: frames (`handle`), and what the owners of streams do. Out: bytes to send (`sending`), wake-ups. One stream:
//!
//! ```text
//!  SYN_STREAM ─► open ─┬─ FIN received ─► half closed ─┬─► closed: forgotten once its owner let go
//!                      └─ FIN sent ─────► half closed ─┘
//!  any ─ RST_STREAM, or the owner let go before its time (we send RST_STREAM) ─► closed
//! ```
//!
//! Windows: moby/spdystream, the client of kubectl and crictl, neither sends WINDOW_UPDATE nor heeds it. So a peer's
//! windows bind us only once it has spoken of them, and a peer that overruns ours is held up by TCP, not accused.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::frame::{Frame, FrameError, Status, encode};
use super::headers::{Compressor, Decompressor, HeaderError, Headers};
use super::slot::Slot;
use crate::limits;

pub(super) const DEFAULT_WINDOW: i64 = 64 * 1024;
pub(super) const LARGEST_WINDOW: i64 = 0x7fff_ffff;

/// Why a connection is lost.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("spdy: {0}")]
    Frame(FrameError),
    #[error("spdy: {0}")]
    Header(HeaderError),
    #[error("spdy: the window of the connection grows over 2^31-1")]
    Window,
    #[error("spdy: the connection is closed")]
    Closed,
    #[error("spdy: no more streams: {0} are open")]
    Streams(usize),
}

/// Wakes the tasks of a connection.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// There is something to send.
    pub(super) write: Notify,
    /// There is room again for what is received.
    pub(super) read: Notify,
    /// A stream arrived, or none will any more.
    pub(super) arrival: Notify,
    /// The connection is over.
    pub(super) over: Notify,
}

/// Why nothing more comes from or goes to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Reset(u32),
    Lost,
    Finished,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    client: bool,
    compressor: Compressor,
    decompressor: Decompressor,
    pub(super) streams: HashMap<u32, Slot>,
    arrived: VecDeque<(u32, Headers)>,
    pub(super) control: BytesMut,
    pub(super) ready: VecDeque<u32>,
    next_id: u32,
    last_arrived: u32,
    next_ping: u32,
    held: usize,
    taken: usize,
    pub(super) window: i64,
    initial_window: i64,
    pub(super) streams_have_windows: bool,
    pub(super) connection_has_window: bool,
    leaving: bool,
    pub(super) closing: bool,
    pub(super) said_goodbye: bool,
    lost: bool,
    /// Pieces of data that came or went; whoever asks twice knows whether the connection is idle.
    pub(super) moved: u64,
    pub(super) signals: std::sync::Arc<Signals>,
}

impl State {
    pub(super) fn new(client: bool) -> Result<State, ProtocolError> {
        let mut state = State {
            client,
            compressor: Compressor::new().map_err(ProtocolError::Header)?,
            decompressor: Decompressor::default(),
            streams: HashMap::new(),
            arrived: VecDeque::new(),
            control: BytesMut::new(),
            ready: VecDeque::new(),
            next_id: if client { 1 } else { 2 },
            last_arrived: 0,
            next_ping: if client { 1 } else { 2 },
            held: 0,
            taken: 0,
            window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            streams_have_windows: false,
            connection_has_window: false,
            leaving: false,
            closing: false,
            said_goodbye: false,
            lost: false,
            moved: 0,
            signals: std::sync::Arc::default(),
        };
        state.push(&Frame::Settings { initial_window: u32::try_from(limits::STREAM_BYTES).ok() });
        let more = u32::try_from(limits::CONNECTION_BYTES).unwrap_or_default() - 64 * 1024;
        state.push(&Frame::WindowUpdate { stream: 0, delta: more });
        Ok(state)
    }

    fn push(&mut self, frame: &Frame) {
        encode(frame, &mut self.control);
        self.signals.write.notify_one();
    }

    fn reset(&mut self, stream: u32, status: Status) {
        self.push(&Frame::Reset { stream, status: status as u32 });
    }

    /// Takes in what the peer sent.
    pub(super) fn handle(&mut self, frame: Frame) -> Result<(), ProtocolError> {
        match frame {
            Frame::SynStream { stream, fin, block } => self.syn_stream(stream, fin, &block)?,
            Frame::SynReply { stream, fin, block } | Frame::Headers { stream, fin, block } => {
                // Read in any case: the next block builds upon it.
                self.decompressor.headers(&block).map_err(ProtocolError::Header)?;
                self.reply_or_headers(stream, fin);
            }
            Frame::Data { stream, payload, fin } => self.data(stream, payload, fin),
            Frame::Reset { stream, status } => self.peer_reset(stream, status),
            Frame::Settings { initial_window: Some(window) } => self.settings(i64::from(window)),
            Frame::WindowUpdate { stream, delta } => self.window_update(stream, i64::from(delta))?,
            Frame::Ping(id) if (id % 2 == 1) != self.client => self.push(&Frame::Ping(id)),
            Frame::GoAway { .. } => {
                self.leaving = true;
                self.signals.arrival.notify_one();
            }
            Frame::Ping(_) | Frame::Settings { initial_window: None } | Frame::Unknown(_) => {}
        }
        Ok(())
    }

    fn syn_stream(&mut self, id: u32, fin: bool, block: &Bytes) -> Result<(), ProtocolError> {
        let headers = self.decompressor.headers(block).map_err(ProtocolError::Header)?;
        if (id % 2 == 1) == self.client || id <= self.last_arrived {
            self.reset(id, Status::ProtocolError);
            return Ok(());
        }
        self.last_arrived = id;
        if self.streams.len() >= limits::STREAMS || self.closing || self.leaving {
            self.reset(id, Status::RefusedStream);
            return Ok(());
        }
        let slot = Slot { fin_received: fin, window: self.initial_window, ..Slot::default() };
        self.streams.insert(id, slot);
        self.arrived.push_back((id, headers));
        self.signals.arrival.notify_one();
        Ok(())
    }

    fn reply_or_headers(&mut self, id: u32, fin: bool) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.replied = true;
            slot.fin_received |= fin;
            slot.wake();
        }
        self.settle(id);
    }

    fn data(&mut self, id: u32, payload: Bytes, fin: bool) {
        self.moved += 1;
        let length = payload.len();
        let Some(slot) = self.streams.get_mut(&id) else {
            let ours = (id % 2 == 1) == self.client;
            let known = if ours { id < self.next_id } else { id <= self.last_arrived };
            if !known {
                self.reset(id, Status::InvalidStream);
            }
            return self.give_back(length);
        };
        if slot.fin_received {
            slot.reset = Some(Status::StreamAlreadyClosed as u32);
            slot.wake();
            self.reset(id, Status::StreamAlreadyClosed);
            return self.give_back(length);
        }
        slot.fin_received = fin;
        if slot.reader_gone || slot.reset.is_some() {
            self.give_back(length);
        } else if length > 0 {
            slot.keep(payload);
            self.held += length;
        }
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.wake_reader();
        }
        self.settle(id);
    }

    fn peer_reset(&mut self, id: u32, status: u32) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.reset = Some(status);
            slot.out.clear();
            slot.wake();
        }
        self.settle(id);
    }

    fn settings(&mut self, window: i64) {
        let change = window.min(LARGEST_WINDOW) - self.initial_window;
        self.initial_window += change;
        self.streams_have_windows = true;
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(slot) = self.streams.get_mut(&id) {
                slot.window += change;
            }
            self.make_ready(id);
        }
    }

    fn window_update(&mut self, id: u32, delta: i64) -> Result<(), ProtocolError> {
        if id == 0 {
            self.connection_has_window = true;
            self.window += delta;
            if self.window > LARGEST_WINDOW {
                return Err(ProtocolError::Window);
            }
            let ids: Vec<u32> = self.streams.keys().copied().collect();
            ids.into_iter().for_each(|id| self.make_ready(id));
            return Ok(());
        }
        self.streams_have_windows = true;
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.window += delta;
            if slot.window > LARGEST_WINDOW {
                slot.reset = Some(Status::FlowControlError as u32);
                slot.wake();
                self.reset(id, Status::FlowControlError);
            }
        }
        self.make_ready(id);
        Ok(())
    }

    /// Whether nothing more may be read after a frame for `stream`, until somebody takes or sends something.
    pub(super) fn is_full(&self, stream: Option<u32>) -> bool {
        let slot = stream.and_then(|id| self.streams.get(&id));
        self.control.len() >= limits::CONTROL_QUEUE_BYTES
            || self.held >= limits::CONNECTION_BYTES
            || slot.is_some_and(|slot| slot.held >= limits::STREAM_BYTES)
    }

    pub(super) fn ping(&mut self) {
        let id = self.next_ping;
        self.next_ping = self.next_ping.wrapping_add(2);
        self.push(&Frame::Ping(id));
    }

    /// Opens a stream towards the peer.
    pub(super) fn open(&mut self, headers: &Headers) -> Result<u32, ProtocolError> {
        if self.lost || self.closing || self.leaving || self.next_id > 0x7fff_fffd {
            return Err(ProtocolError::Closed);
        }
        if self.streams.len() >= limits::STREAMS {
            return Err(ProtocolError::Streams(self.streams.len()));
        }
        let block = self.compressor.block(headers).map_err(ProtocolError::Header)?.into();
        let id = self.next_id;
        self.next_id += 2;
        self.streams.insert(id, Slot { window: self.initial_window, ..Slot::default() });
        self.push(&Frame::SynStream { stream: id, fin: false, block });
        Ok(id)
    }

    /// The next stream that the peer opened; an error when there will be no more.
    pub(super) fn arrived(&mut self) -> Result<Option<(u32, Headers)>, ProtocolError> {
        match self.arrived.pop_front() {
            Some(stream) => Ok(Some(stream)),
            None if self.lost || self.closing || self.leaving => Err(ProtocolError::Closed),
            None => Ok(None),
        }
    }

    pub(super) fn accept(&mut self, id: u32) -> Result<(), ProtocolError> {
        let block = self.compressor.block(&Headers::default()).map_err(ProtocolError::Header)?.into();
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.replied = true;
            self.push(&Frame::SynReply { stream: id, fin: false, block });
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, id: u32, status: Status) {
        if let Some(slot) = self.streams.remove(&id) {
            self.held -= slot.held;
            self.give_back(slot.held);
            self.reset(id, status);
        }
    }

    /// Whether the peer has answered to `open`.
    pub(super) fn poll_replied(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let lost = self.lost;
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Broken::Lost)) };
        match slot.reset {
            // A stream that was consented to may be at its end already.
            _ if slot.replied => Poll::Ready(Ok(())),
            Some(status) => Poll::Ready(Err(Broken::Reset(status))),
            None if lost => Poll::Ready(Err(Broken::Lost)),
            None => {
                slot.write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next piece that was received; `None` at the end.
    pub(super) fn poll_receive(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Broken>> {
        let lost = self.lost;
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Broken::Lost)) };
        if let Some(piece) = slot.next_piece() {
            let length = piece.len();
            slot.taken += length;
            let due = slot.taken >= limits::STREAM_BYTES / 2 && !slot.fin_received;
            let delta = if due { std::mem::take(&mut slot.taken) } else { 0 };
            self.held -= length;
            if let (true, Ok(delta)) = (due, u32::try_from(delta)) {
                self.push(&Frame::WindowUpdate { stream: id, delta });
            }
            self.give_back(length);
            return Poll::Ready(Ok(Some(piece)));
        }
        match slot.reset {
            _ if slot.fin_received => Poll::Ready(Ok(None)),
            Some(status) => Poll::Ready(Err(Broken::Reset(status))),
            None if lost => Poll::Ready(Err(Broken::Lost)),
            None => {
                slot.read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether a piece may be queued.
    pub(super) fn poll_room(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let lost = self.lost;
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Broken::Lost)) };
        match slot.reset {
            Some(status) => Poll::Ready(Err(Broken::Reset(status))),
            None if lost => Poll::Ready(Err(Broken::Lost)),
            None if slot.fin_wanted => Poll::Ready(Err(Broken::Finished)),
            None if slot.replied && slot.out.len() < limits::QUEUED_PIECES => Poll::Ready(Ok(())),
            None => {
                slot.write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Queues a piece; `poll_room` has allowed it.
    pub(super) fn send(&mut self, id: u32, piece: Bytes) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.out.push_back(piece);
        }
        self.make_ready(id);
    }

    /// Nothing more will be sent on the stream.
    pub(super) fn finish(&mut self, id: u32) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.fin_wanted = true;
        }
        self.make_ready(id);
    }

    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.reader_gone = true;
            let held = std::mem::take(&mut slot.held);
            slot.received.clear();
            slot.tail = BytesMut::new();
            self.held -= held;
            self.give_back(held);
        }
        self.settle(id);
    }

    pub(super) fn drop_writer(&mut self, id: u32) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.writer_gone = true;
            if !slot.fin_wanted {
                slot.out.clear();
            }
        }
        self.settle(id);
    }

    /// What is queued is still sent, then goodbye is said.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.signals.write.notify_one();
        self.signals.arrival.notify_one();
    }

    /// Tells the peer that it does not speak the protocol.
    pub(super) fn accuse(&mut self) {
        self.goodbye(1);
        self.ready.clear();
        self.closing = true;
    }

    pub(super) fn goodbye(&mut self, status: u32) {
        if !self.said_goodbye {
            self.said_goodbye = true;
            self.push(&Frame::GoAway { last: self.last_arrived, status });
        }
    }

    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.streams.values_mut().for_each(Slot::wake);
        self.signals.arrival.notify_one();
        self.signals.over.notify_waiters();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Forgets a stream that its owner let go of, and tells the peer if it does not know yet.
    pub(super) fn settle(&mut self, id: u32) {
        let Some(slot) = self.streams.get(&id) else { return };
        let owned = !slot.reader_gone || !slot.writer_gone;
        let still_to_send = slot.fin_wanted && !slot.fin_sent && slot.reset.is_none() && !self.lost;
        if owned || still_to_send {
            return;
        }
        let agreed = slot.reset.is_some() || (slot.fin_sent && slot.fin_received);
        self.streams.remove(&id);
        if !agreed {
            self.reset(id, Status::Cancel);
        }
    }

    /// Counts what was received and is gone; at half the window the peer is told, and reading may go on.
    fn give_back(&mut self, length: usize) {
        self.taken += length;
        if self.taken >= limits::CONNECTION_BYTES / 2 {
            let delta = u32::try_from(std::mem::take(&mut self.taken)).unwrap_or(u32::MAX >> 1);
            self.push(&Frame::WindowUpdate { stream: 0, delta });
        }
        self.signals.read.notify_one();
    }
}
