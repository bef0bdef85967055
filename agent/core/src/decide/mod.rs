//! What a pod worker does next.
//!
//! In: the goal, the pod as observed, the time, the numbers. Out: a [`Plan`]. Total, deterministic and level-triggered:
//! nothing is remembered between two calls, so an agent that is killed and started again goes on from what it finds.
//!
//! How a shell applies a plan:
//! 1. It begins every action at once, each under [`Action::key`](crate::model::Action::key) in
//!    [`Observed::in_flight`] (entry: [`UnderWay::beginning`](crate::model::UnderWay::beginning)). A second
//!    `StopContainer` for a container being stopped replaces the entry: its grace period became shorter.
//! 2. When one ends it is taken out, its [`Failure`](crate::model::Failure) recorded (count + 1) or cleared, and the
//!    shell looks and decides again. The look must be taken after the end.
//! 3. It decides again at [`Plan::wake_at`], or earlier when any fact or the goal changes.

pub mod container_need;
pub mod look;
pub(crate) mod planner;
pub(crate) mod run;
pub mod situation;

use crate::model::{ActionKey, Goal, Observed, Plan, Policy};
use crate::pod_status;
use crate::termination;
use crate::time::Timestamp;
use look::Look;
use planner::Planner;
use situation::{Situation, Stage};

pub use container_need::spec_hash;

/// The next actions for a pod, its status and when to decide again.
pub fn decide(goal: &Goal, observed: &Observed, now: Timestamp, policy: &Policy) -> Plan {
    let situation = situation::judge(goal, Look { observed, now, policy });
    let mut planner = Planner::new(situation.look);
    match goal {
        Goal::Run(_) => run::plan(&situation, &mut planner),
        Goal::Terminate { deadline, .. } => termination::plan(&situation, *deadline, &mut planner),
    }
    let (actions, wake_at) = planner.into_parts();
    Plan { actions, wake_at, status: pod_status::status(&situation), finished: finished(&situation) }
}

/// Nothing is left, and nothing under way could leave something: pulls leave only images.
fn finished(situation: &Situation<'_>) -> bool {
    let settled = situation.look.observed.in_flight.keys().all(|key| matches!(key, ActionKey::Pull(_)));
    situation.stage == Stage::Gone && settled
}
