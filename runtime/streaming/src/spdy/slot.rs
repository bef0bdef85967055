//! What is known of one stream: pieces received and not yet taken, pieces to send, who is gone. Pure.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use crate::limits;

/// One stream of a connection; see `state` for its life.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) received: VecDeque<Bytes>,
    /// Small pieces, copied together.
    pub(super) tail: BytesMut,
    pub(super) held: usize,
    /// Taken by the owner and not yet given back as window.
    pub(super) taken: usize,
    pub(super) fin_received: bool,
    pub(super) reset: Option<u32>,
    pub(super) replied: bool,
    pub(super) out: VecDeque<Bytes>,
    pub(super) fin_wanted: bool,
    pub(super) fin_sent: bool,
    pub(super) is_ready: bool,
    pub(super) window: i64,
    pub(super) reader_gone: bool,
    pub(super) writer_gone: bool,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
}

impl Slot {
    pub(super) fn keep(&mut self, payload: Bytes) {
        self.held += payload.len();
        if payload.len() < limits::SMALL_PIECE {
            self.tail.extend_from_slice(&payload);
            return;
        }
        if !self.tail.is_empty() {
            self.received.push_back(self.tail.split().freeze());
        }
        self.received.push_back(payload);
    }

    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        let piece = match self.received.pop_front() {
            Some(piece) => piece,
            None if self.tail.is_empty() => return None,
            None => std::mem::take(&mut self.tail).freeze(),
        };
        self.held -= piece.len();
        Some(piece)
    }

    pub(super) fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.read_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.write_waker.take() {
            waker.wake();
        }
    }
}
