//! The rules that hold at every single decision, asserted wherever the world decides.
//!
//! In: goal, facts, plan. Out: a panic that names the broken rule. Some of the rules of the node itself (never two live
//! sandboxes or containers of one name) are asserted in `node`.

use std::collections::BTreeSet;
use std::time::Duration;

use pintle_core::decide::decide;
use pintle_core::explain::explain;
use pintle_core::ids::PodUid;
use pintle_core::model::{Action, ActionKey, ContainerState, Goal, Observed, Plan};

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
        let under_way = observed.in_flight.keys().find(|key| !matches!(key, ActionKey::Pull(_)));
        assert!(!plan.finished || under_way.is_none(), "finished while {under_way:?} is under way");
        self.check_nothing_before_wake(goal, &observed, &plan);
        let explanation = explain(goal, &observed, self.now, &self.policy);
        assert!(!explanation.to_string().is_empty());
        if let Goal::Run(_) = goal {
            assert_eq!(explanation.ready, is_ready(&plan.status), "the explanation tells another story");
        }
        self.check_actions(uid, goal, &observed, &plan);
        self.check_restarts(uid, &plan);
        plan
    }

    /// Until `wake_at` time alone changes nothing.
    fn check_nothing_before_wake(&self, goal: &Goal, observed: &Observed, plan: &Plan) {
        let later = match plan.wake_at {
            Some(at) => self.now + at.since(self.now).saturating_sub(Duration::from_nanos(1)),
            None => self.now + Duration::from_secs(100_000),
        };
        let then = decide(goal, observed, later, &self.policy);
        let keys: BTreeSet<_> = plan.actions.iter().map(Action::key).collect();
        let new = then.actions.iter().find(|action| !keys.contains(&action.key()));
        assert!(new.is_none(), "time alone brought {new:?} before the wake-up");
        assert_eq!(plan.status, then.status, "time alone changed the status before the wake-up");
        assert_eq!(plan.finished, then.finished, "time alone finished the pod before the wake-up");
    }

    fn check_actions(&self, uid: &PodUid, goal: &Goal, observed: &Observed, plan: &Plan) {
        let shell = self.agent.as_ref().and_then(|a| a.shells.get(uid)).cloned().unwrap_or_default();
        let terminating = shell.terminating || matches!(goal, Goal::Terminate { .. });
        let busy = |key: &dyn Fn(&ActionKey) -> bool| observed.in_flight.keys().any(key);
        let making = busy(&|key| matches!(key, ActionKey::Container(_) | ActionKey::Sandbox));
        let cleaning = busy(&|key| *key == ActionKey::CleanUp);
        for action in &plan.actions {
            let makes =
                matches!(action.key(), ActionKey::Container(_) | ActionKey::Sandbox | ActionKey::Prepare);
            assert!(!(makes && cleaning), "{action:?} while the pod's directory is being removed");
            match action {
                Action::Prepare | Action::PullImage { .. } | Action::CreateSandbox { .. } => {
                    assert!(!terminating, "{action:?} after the end was decided");
                }
                Action::ResumeContainer { id, .. } => {
                    assert!(!terminating && !shell.stops_decided.contains(id), "{action:?} after a stop");
                }
                Action::StartContainer { name, attempt, sandbox, .. } => {
                    assert!(!shell.sandbox_stops.contains(sandbox), "{action:?} in a sandbox to be stopped");
                    assert!(!terminating, "{action:?} after the end was decided");
                    self.check_back_off(observed, name, *attempt);
                }
                Action::StopContainer { id, .. } => {
                    let running = observed.containers.iter().any(|c| c.id == *id);
                    assert!(running, "a stop for a container that is not there");
                }
                Action::StopSandbox { .. } | Action::CleanUp => {
                    assert!(!making, "{action:?} while something is being made");
                }
                Action::RemoveContainer { .. } | Action::RemoveSandbox { .. } => {}
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
        if spec_same && image && !self.clock_was_set {
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
