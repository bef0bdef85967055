//! The rules that hold at every single decision, asserted wherever the world decides.
//!
//! In: goal, facts, plan. Out: a panic that names the broken rule. Some of the rules of the node itself (never two live
//! sandboxes or containers of one name) are asserted in `node`.

use std::collections::BTreeSet;
use std::time::Duration;

use pintle_core::decide::decide;
use pintle_core::explain::explain;
use pintle_core::ids::PodUid;
use pintle_core::model::{Action, ContainerState, Goal, Observed, Plan};

use super::render::is_ready;
use super::world::World;

impl World {
    /// Decides, and holds the decision against the rules that always hold.
    pub fn decide_checked(&mut self, uid: &PodUid, goal: &Goal) -> Plan {
        let observed = self.observe(uid, goal);
        let plan = decide(goal, &observed, self.now, &self.policy);
        assert_eq!(plan, decide(goal, &observed, self.now, &self.policy), "not deterministic");
        let mut reversed = observed.clone();
        reversed.containers.reverse();
        reversed.sandboxes.reverse();
        assert_eq!(
            plan.status,
            decide(goal, &reversed, self.now, &self.policy).status,
            "the order of lists matters"
        );
        assert!(plan.wake_at.is_none_or(|at| at > self.now), "a wake-up in the past");
        let keys: BTreeSet<_> = plan.actions.iter().map(Action::key).collect();
        assert_eq!(keys.len(), plan.actions.len(), "two actions of one key: {:?}", plan.actions);
        let explanation = explain(goal, &observed, self.now, &self.policy);
        assert!(!explanation.to_string().is_empty());
        if let Goal::Run(_) = goal {
            assert_eq!(explanation.ready, is_ready(&plan.status), "the explanation tells another story");
        }
        self.check_actions(uid, goal, &observed, &plan);
        self.check_restarts(uid, &plan);
        plan
    }

    fn check_actions(&self, uid: &PodUid, goal: &Goal, observed: &Observed, plan: &Plan) {
        let shell = self.agent.as_ref().and_then(|a| a.shells.get(uid)).cloned().unwrap_or_default();
        let terminating = shell.terminating || matches!(goal, Goal::Terminate { .. });
        for action in &plan.actions {
            match action {
                Action::Prepare | Action::PullImage { .. } | Action::CreateSandbox { .. } => {
                    assert!(!terminating, "{action:?} after the end was decided");
                }
                Action::ResumeContainer { id, .. } => {
                    assert!(!terminating && !shell.stops_decided.contains(id), "{action:?} after a stop");
                }
                Action::StartContainer { name, attempt, .. } => {
                    assert!(!terminating, "{action:?} after the end was decided");
                    self.check_back_off(observed, name, *attempt);
                }
                Action::StopContainer { id, .. } => {
                    let running = observed.containers.iter().any(|c| c.id == *id);
                    assert!(running, "a stop for a container that is not there");
                }
                Action::RemoveContainer { .. }
                | Action::StopSandbox { .. }
                | Action::RemoveSandbox { .. }
                | Action::CleanUp => {}
            }
        }
    }

    /// The back-off, told in another way than the code tells it: from the chain of the last runs.
    fn check_back_off(&self, observed: &Observed, name: &str, attempt: u32) {
        let previous = observed.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt);
        let Some(previous) = previous else { return };
        assert_eq!(previous.attempt + 1, attempt, "an attempt is left out");
        let ContainerState::Exited { started_at, finished_at, .. } = previous.state else { return };
        let ran = started_at.map_or(Duration::ZERO, |s| finished_at.since(s));
        let spec_same = previous.back_off_step > 0 && ran < self.policy.restart_reset;
        let image = observed.images.keys().any(|image| previous.image_id == format!("sha256:{image}"));
        if spec_same && image {
            let seconds = (10u64 << (previous.back_off_step - 1).min(10)).min(300);
            let waited = self.now.since(finished_at);
            assert!(waited >= Duration::from_secs(seconds), "{name} waited {waited:?}, not {seconds} s");
        }
    }

    fn check_restarts(&mut self, uid: &PodUid, plan: &Plan) {
        if !self.node.pods.contains_key(uid) {
            return;
        }
        for status in plan.status.container_statuses.iter().flatten() {
            if status.container_id.is_some() {
                let last = self.restarts.entry((uid.clone(), status.name.clone())).or_default();
                assert!(status.restart_count >= *last, "the restart count of {} went down", status.name);
                *last = status.restart_count;
            }
        }
    }
}
