//! How a pod ends: its grace period, its deadline, and the order in which everything of it is stopped and removed.
//!
//! In: a [`Situation`] of the stages Stopping to Gone. Out: actions. What fails holds up only what depends on it.
//!
//! ```text
//!  stop all containers at once ─► stop each sandbox whose containers have ended ─► remove its containers
//!      ─► remove the sandbox ─► (all gone) clean up volumes, cgroup and directory ─► gone
//! ```

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use crate::decide::container_need::StopReason;
use crate::decide::look::Look;
use crate::decide::planner::Planner;
use crate::decide::situation::{Situation, Stage};
use crate::model::{Action, ActionKey, Container, Sandbox};
use crate::time::Timestamp;

/// `terminationGracePeriodSeconds` where neither the pod nor anything else says one.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The pod's own grace period: `deletionGracePeriodSeconds`, else `spec.terminationGracePeriodSeconds`, else 30 s; 0
/// counts as 1 s at the node.
pub fn grace_period(pod: &api::Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds));
    match seconds {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)),
        None => DEFAULT_GRACE,
    }
}

/// A deadline once set is only ever brought forward.
pub fn shorten(deadline: Timestamp, asked: Timestamp) -> Timestamp {
    deadline.min(asked)
}

/// Plans for a pod that is going away.
pub(crate) fn plan(situation: &Situation<'_>, deadline: Timestamp, planner: &mut Planner<'_>) {
    let look = situation.look;
    let left = deadline.since(look.now);
    // More than the whole grace period is left only after the clock was set back.
    let most = situation.pod.map_or(left, |pod| grace_period(&pod.pod)).min(left);
    for container in look.observed.containers.iter().filter(|c| look.possibly_alive(c)) {
        let failed = look.failure(&ActionKey::StopContainer(container.id.clone())).is_some();
        planner.want(Action::StopContainer {
            id: container.id.clone(),
            grace: if failed { most } else { left },
            why: StopReason::PodTerminating.text().to_owned(),
        });
        if failed {
            planner.wake(deadline);
        }
    }
    // What could not be stopped is given up at the deadline, or when the clock cannot say any more when that is.
    let deadline = if most < left { look.now } else { deadline };
    stop_and_remove_sandboxes(&look, deadline, planner);
    remove_containers(&look, deadline, planner);
    if situation.stage == Stage::CleaningUp {
        planner.want(Action::CleanUp);
    }
}

/// A sandbox is stopped once its containers have ended, or when the deadline is past and they could not be stopped: that
/// kills whatever is left in it.
fn stop_and_remove_sandboxes(look: &Look<'_>, deadline: Timestamp, planner: &mut Planner<'_>) {
    for sandbox in &look.observed.sandboxes {
        if is_stopped(sandbox) {
            if !look.observed.containers.iter().any(|c| c.sandbox == sandbox.id) {
                planner.want(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        } else if !look.making() && look.alive_in(&sandbox.id).all(|c| given_up(look, c, deadline)) {
            planner.want(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
}

/// A container is removed when its sandbox is stopped; one whose sandbox is not there any more when it has ended, or
/// could not be stopped in time. The newest incarnation of a name goes last, so that the status stays true until then.
fn remove_containers(look: &Look<'_>, deadline: Timestamp, planner: &mut Planner<'_>) {
    for container in &look.observed.containers {
        let removable = match look.sandbox(&container.sandbox) {
            Some(sandbox) => is_stopped(sandbox),
            None => !look.possibly_alive(container) || given_up(look, container, deadline),
        };
        let oldest = look.incarnations(&container.name).last().is_some_and(|c| c.id == container.id);
        if removable && oldest {
            planner.want(Action::RemoveContainer { id: container.id.clone() });
        }
    }
}

fn is_stopped(sandbox: &Sandbox) -> bool {
    sandbox.stopped && !sandbox.ready
}

fn given_up(look: &Look<'_>, container: &Container, deadline: Timestamp) -> bool {
    look.now >= deadline && look.failure(&ActionKey::StopContainer(container.id.clone())).is_some()
}
