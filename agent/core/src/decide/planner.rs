//! Collects the actions of one plan and when to look again.
//!
//! In: actions that the situation calls for. Out: those that may begin now, and the earliest time at which one that may
//! not yet can. It never holds two actions of one key.

use std::collections::BTreeSet;

use super::look::{Gate, Look};
use crate::model::{Action, ActionKey};
use crate::time::Timestamp;

/// A plan in the making.
pub(crate) struct Planner<'a> {
    look: Look<'a>,
    keys: BTreeSet<ActionKey>,
    actions: Vec<Action>,
    wake_at: Option<Timestamp>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(look: Look<'a>) -> Self {
        Self { look, keys: BTreeSet::new(), actions: Vec::new(), wake_at: None }
    }

    /// Takes the action if it may begin now. If it failed before and has to wait, the plan wakes in time for it.
    pub(crate) fn want(&mut self, action: Action) {
        let key = action.key();
        match self.look.gate(&key) {
            Gate::ClosedUntil(at) => self.wake(at),
            Gate::UnderWay if !self.look.shortens(&action) => {}
            Gate::UnderWay | Gate::Open => {
                if self.keys.insert(key) {
                    self.actions.push(action);
                }
            }
        }
    }

    /// Wakes at this time, unless it is past.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        if at > self.look.now {
            self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    pub(crate) fn into_parts(self) -> (Vec<Action>, Option<Timestamp>) {
        (self.actions, self.wake_at)
    }
}
