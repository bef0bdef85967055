//! Which bytes go out next: control frames first, then a piece of each stream that has one, in turn. Pure.
//!
//! A stream whose window is used up leaves the turn until the peer opens it.

use bytes::{Bytes, BytesMut};

use super::frame::data_head;
use super::state::{DEFAULT_WINDOW, LARGEST_WINDOW, State};
use crate::limits;

/// A batch for the socket stops growing here.
const BATCH_BYTES: usize = 4 * limits::DATA_BYTES;

/// What is to be written next: control frames, then the pieces of DATA with their heads.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) control: BytesMut,
    pub(super) data: Vec<([u8; 8], Bytes)>,
}

impl State {
    /// What is to be written next; `false` when all is written and the connection is to be closed.
    pub(super) fn take_batch(&mut self, batch: &mut Batch) -> bool {
        let was_full = self.control.len() >= limits::CONTROL_QUEUE_BYTES;
        batch.control = self.control.split();
        if was_full {
            self.signals.read.notify_one();
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(id) = self.ready.pop_front()
        {
            bytes += self.take_piece(id, batch);
        }
        if !batch.control.is_empty() || !batch.data.is_empty() || !self.closing {
            return true;
        }
        let waiting = self.streams.values().any(|slot| slot.reset.is_none() && !slot.out.is_empty());
        if waiting || self.said_goodbye {
            return waiting;
        }
        self.goodbye(0);
        batch.control = self.control.split();
        true
    }

    fn take_piece(&mut self, id: u32, batch: &mut Batch) -> usize {
        let allowed = self.allowed(id);
        let Some(slot) = self.streams.get_mut(&id) else { return 0 };
        slot.is_ready = false;
        let Some(mut piece) = slot.out.pop_front() else {
            if slot.fin_wanted && !slot.fin_sent && slot.reset.is_none() {
                slot.fin_sent = true;
                batch.data.push((data_head(id, 0, true), Bytes::new()));
                self.settle(id);
            }
            return 0;
        };
        if allowed == 0 && !piece.is_empty() {
            slot.out.push_front(piece);
            return 0;
        }
        if piece.len() > allowed {
            slot.out.push_front(piece.split_off(allowed));
        }
        let length = piece.len();
        let fin = slot.fin_wanted && slot.out.is_empty();
        slot.fin_sent |= fin;
        let sent = i64::try_from(length).unwrap_or(LARGEST_WINDOW);
        slot.window -= sent;
        self.window -= sent;
        slot.wake_writer();
        batch.data.push((data_head(id, length, fin), piece));
        self.moved += 1;
        self.make_ready(id);
        self.settle(id);
        length
    }

    fn allowed(&self, id: u32) -> usize {
        let mut allowed = i64::try_from(limits::DATA_BYTES).unwrap_or(DEFAULT_WINDOW);
        if self.connection_has_window {
            allowed = allowed.min(self.window);
        }
        if self.streams_have_windows
            && let Some(slot) = self.streams.get(&id)
        {
            allowed = allowed.min(slot.window);
        }
        usize::try_from(allowed).unwrap_or(0)
    }

    pub(super) fn make_ready(&mut self, id: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        let has_work = !slot.out.is_empty() || (slot.fin_wanted && !slot.fin_sent);
        if has_work && !slot.is_ready && slot.reset.is_none() {
            slot.is_ready = true;
            self.ready.push_back(id);
            self.signals.write.notify_one();
        }
    }
}
