//! The wall clock is set while everything runs.
//!
//! In: by how much. Out: a [`World`] whose wall clock shows another time and in which everything that is timed by a clock
//! that nobody sets (sleeps, grace periods of stops under way, pulls) happens when it would have happened. Nothing is
//! decided because of it: nobody tells the agent.

use pintle_core::time::Timestamp;

use super::world::World;

impl World {
    /// Sets the wall clock; the trace goes on counting the time that passes.
    pub fn set_clock(&mut self, set: impl Fn(Timestamp) -> Timestamp) {
        self.clock_was_set = true;
        self.now = set(self.now);
        self.began = set(self.began);
        for at in self.node.pods.values_mut().flat_map(|pod| pod.kill_at.values_mut()) {
            *at = set(*at);
        }
        let Some(agent) = &mut self.agent else { return };
        for wake_at in agent.shells.values_mut().filter_map(|shell| shell.wake_at.as_mut()) {
            *wake_at = set(*wake_at);
        }
        for pending in &mut agent.pending {
            pending.since = set(pending.since);
        }
    }
}
