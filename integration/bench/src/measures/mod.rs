//! The measures, each a file; each takes its sides in turn and adds to the samples.

pub(crate) mod crowd;
pub(crate) mod footprint;
pub(crate) mod images;
pub(crate) mod pods;
pub(crate) mod restart;

use crate::daemon::Daemon;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Rounds of the single-pod measures.
    pub(crate) rounds: usize,
    /// Rounds before those, not counted.
    pub(crate) warm_ups: usize,
    /// Rounds of what takes seconds.
    pub(crate) long_rounds: usize,
    /// Pods in a crowd.
    pub(crate) pods: usize,
    /// Seconds in which nothing is done, to see what idling costs.
    pub(crate) idle_seconds: u64,
    /// Seconds that daemons are given to come to rest.
    pub(crate) settle_seconds: u64,
}

/// Pods started or removed at once in a crowd.
pub(crate) const AT_ONCE: usize = 8;

/// Both sides, the one first in even rounds and the other in odd ones, so that neither gains by its place.
pub(crate) fn in_turn(pair: [&Daemon; 2], round: usize) -> [&Daemon; 2] {
    let [a, b] = pair;
    if round.is_multiple_of(2) { [a, b] } else { [b, a] }
}
