//! What a pod worker does next.
//!
//! In: the goal, the pod as observed, the time, the numbers. Out: a [`Plan`]. Total, deterministic and level-triggered:
//! nothing is remembered between two calls.

use k8s_openapi::api::core::v1 as api;

use crate::model::{Goal, Observed, Plan, Policy};
use crate::time::Timestamp;

/// The next actions for a pod, its status and when to decide again. (Only the signature so far: no action is planned yet.)
pub fn decide(_goal: &Goal, _observed: &Observed, _now: Timestamp, _policy: &Policy) -> Plan {
    Plan { actions: Vec::new(), wake_at: None, status: api::PodStatus::default(), finished: false }
}
