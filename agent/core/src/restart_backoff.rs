//! How long to wait between attempts: doubling from an initial delay to a maximum.
//!
//! In: how often it was tried, when it last ended, how long it ran. Out: delays and the next step. It remembers nothing:
//! the step is recorded on each container when it is created, so a restarted agent goes on where the last one stopped.

use std::time::Duration;

use crate::model::{Container, ContainerState, Policy};
use crate::time::Timestamp;

/// A delay that doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl BackOff {
    /// The delay after the `count`th failure in a row: none after none, then `initial`, doubling up to `max`.
    pub fn delay(&self, count: u32) -> Duration {
        let Some(doublings) = count.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// When and as which step the next incarnation of an ended container may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextStart {
    /// To be recorded on the next incarnation.
    pub step: u32,
    /// How long it must wait after the end of the last one.
    pub delay: Duration,
    /// When it may start.
    pub at: Timestamp,
}

/// The next start after an ended container; `None` if it has not ended.
///
/// As in the kubelet the first restart is immediate and the second waits for the initial delay. An end far ahead of
/// `now` means that the clock was set back: waiting for it could take hours, so the delay then counts as over.
pub fn next_start(ended: &Container, now: Timestamp, policy: &Policy) -> Option<NextStart> {
    let ContainerState::Exited { started_at, finished_at, .. } = &ended.state else { return None };
    let ran = started_at.map_or(Duration::ZERO, |started| finished_at.since(started));
    let step = if ran >= policy.restart_reset { 0 } else { ended.back_off_step };
    let delay = policy.restart.delay(step);
    let clock_set_back = finished_at.since(now) > policy.restart.max;
    let at = if clock_set_back { now } else { *finished_at + delay };
    Some(NextStart { step: step.saturating_add(1), delay, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, SandboxId};

    fn secs(n: i64) -> Timestamp {
        Timestamp::from_nanos(n * 1_000_000_000)
    }

    fn ended(step: u32, started: i64, finished: i64) -> Container {
        Container {
            id: ContainerId::new("c"),
            sandbox: SandboxId::new("s"),
            name: "app".into(),
            attempt: step,
            spec_hash: String::new(),
            back_off_step: step,
            image_id: String::new(),
            created_at: secs(started),
            state: ContainerState::Exited {
                started_at: Some(secs(started)),
                finished_at: secs(finished),
                exit_code: 1,
                reason: "Error".into(),
                message: String::new(),
            },
        }
    }

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes() {
        let back_off = Policy::default().restart;
        let delays: Vec<u64> = (0..9).map(|n| back_off.delay(n).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(back_off.delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn a_container_that_ran_ten_minutes_begins_afresh() {
        let policy = Policy::default();
        let short = next_start(&ended(4, 0, 599), secs(599), &policy).unwrap();
        assert_eq!((short.step, short.at), (5, secs(599 + 80)));
        let long = next_start(&ended(4, 0, 600), secs(600), &policy).unwrap();
        assert_eq!((long.step, long.at), (1, secs(600)));
    }

    #[test]
    fn a_clock_set_back_by_hours_does_not_hold_a_container_for_hours() {
        let next = next_start(&ended(3, 9_000, 10_000), secs(100), &Policy::default()).unwrap();
        assert_eq!(next.at, secs(100));
    }
}
