//! The actions for a pod that is to run.
//!
//! In: a [`Situation`] of the stages Replacing to Over. Out: actions. What is lost is stopped, what is superseded is
//! removed (the newest ended incarnation of each container is kept), what is missing is made.

use std::collections::BTreeSet;
use std::time::Duration;

use super::container_need::{ContainerNeed, Start, StartStep, StopReason};
use super::planner::Planner;
use super::situation::{ContainerView, Situation, Stage};
use crate::ids::SandboxId;
use crate::model::{Action, ActionKey, Container, ContainerState, Sandbox};
use crate::termination;

/// Plans for a pod that is to run.
pub(super) fn plan(situation: &Situation<'_>, planner: &mut Planner<'_>) {
    let grace = situation.pod.map_or(Duration::ZERO, |pod| termination::grace_period(&pod.pod));
    stop_strays(situation, grace, planner);
    wake_for_waits(situation, planner);
    match situation.stage {
        Stage::Replacing => {}
        Stage::Preparing if situation.look.cleaning_up() => {}
        Stage::Preparing => planner.want(Action::Prepare),
        Stage::CreatingSandbox { attempt } => planner.want(Action::CreateSandbox { attempt }),
        Stage::Ready(sandbox) if situation.look.prepared() => {
            for view in &situation.containers {
                plan_container(view, sandbox, planner);
            }
        }
        Stage::Ready(_) => planner.want(Action::Prepare),
        Stage::Over => give_back(situation, planner),
        Stage::Stopping { .. } | Stage::Removing | Stage::CleaningUp | Stage::Gone => {}
    }
    stop_lost_sandboxes(situation, planner);
    collect_garbage(situation, planner);
}

fn plan_container(view: &ContainerView<'_>, sandbox: &Sandbox, planner: &mut Planner<'_>) {
    match &view.need {
        ContainerNeed::Keep | ContainerNeed::Finished | ContainerNeed::NeverRan | ContainerNeed::Stop(..) => {
        }
        ContainerNeed::Resume(container) => {
            planner.want(Action::ResumeContainer { id: container.id.clone(), name: container.name.clone() })
        }
        ContainerNeed::Discard(container) => {
            planner.want(Action::RemoveContainer { id: container.id.clone() });
        }
        ContainerNeed::Start(start) => plan_start(view, start, sandbox, planner),
    }
}

fn plan_start(view: &ContainerView<'_>, start: &Start, sandbox: &Sandbox, planner: &mut Planner<'_>) {
    match start.step {
        StartStep::RestartBackOff { .. }
        | StartStep::FailureBackOff { .. }
        | StartStep::PullBackOff { .. }
        | StartStep::ImageNeverPulled
        | StartStep::Pulling
        | StartStep::UnderWay => {}
        StartStep::Pull => {
            let image = view.spec.and_then(|s| s.image.clone()).unwrap_or_default();
            let container = view.name.to_owned();
            planner.want(Action::PullImage { image, container, attempt: start.attempt });
        }
        StartStep::Go => planner.want(Action::StartContainer {
            name: view.name.to_owned(),
            attempt: start.attempt,
            back_off_step: start.back_off_step,
            sandbox: sandbox.id.clone(),
        }),
    }
}

/// Wakes when a container's delay is over: also when it cannot start then for want of a sandbox, as its status changes.
fn wake_for_waits(situation: &Situation<'_>, planner: &mut Planner<'_>) {
    for view in &situation.containers {
        let ContainerNeed::Start(start) = &view.need else { continue };
        match start.step {
            StartStep::RestartBackOff { until, .. }
            | StartStep::FailureBackOff { until }
            | StartStep::PullBackOff { until } => planner.wake(until),
            StartStep::ImageNeverPulled
            | StartStep::Pull
            | StartStep::Pulling
            | StartStep::Go
            | StartStep::UnderWay => {}
        }
    }
}

/// Stops every container that may run and is not wanted as it is.
fn stop_strays(situation: &Situation<'_>, grace: Duration, planner: &mut Planner<'_>) {
    let look = situation.look;
    let current = look.current_sandbox();
    for container in look.observed.containers.iter().filter(|c| look.possibly_alive(c)) {
        let lost = current.is_none_or(|s| s.id != container.sandbox);
        let view = situation.containers.iter().find(|v| v.name == container.name);
        let newest = view.and_then(|v| v.incarnations.first()).is_some_and(|c| c.id == container.id);
        let reason = match view.map(|v| &v.need) {
            _ if lost => StopReason::SandboxLost,
            Some(ContainerNeed::Stop(wanted, reason)) if wanted.id == container.id => *reason,
            Some(_) if newest => continue,
            Some(_) | None => StopReason::Superseded,
        };
        planner.want(stop(container, grace, reason));
    }
}

fn stop(container: &Container, grace: Duration, reason: StopReason) -> Action {
    Action::StopContainer { id: container.id.clone(), grace, why: reason.text().to_owned() }
}

/// Stops every sandbox but the current one, once its containers are stopped (or would not be stopped one by one).
fn stop_lost_sandboxes(situation: &Situation<'_>, planner: &mut Planner<'_>) {
    let look = situation.look;
    if look.starting_containers() {
        return;
    }
    let current = look.current_sandbox().map(|s| &s.id);
    for sandbox in look.observed.sandboxes.iter().filter(|s| !s.stopped || s.ready) {
        let given_up = |c: &Container| look.failure(&ActionKey::StopContainer(c.id.clone())).is_some();
        if Some(&sandbox.id) != current && look.alive_in(&sandbox.id).all(given_up) {
            planner.want(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
}

/// Gives back what a pod that is over does not need any more. Its ended containers stay, for their logs and exit codes.
fn give_back(situation: &Situation<'_>, planner: &mut Planner<'_>) {
    let look = situation.look;
    if look.making() {
        return;
    }
    if let Some(sandbox) = look.current_sandbox() {
        planner.want(Action::StopSandbox { id: sandbox.id.clone() });
    }
    let stopped = look.observed.sandboxes.iter().all(|s| s.stopped && !s.ready);
    let alive = look.observed.containers.iter().any(|c| look.possibly_alive(c));
    if stopped && !alive && look.node_resources_left() {
        planner.want(Action::CleanUp);
    }
}

/// Removes ended containers but the newest of each name, and dead sandboxes that nothing refers to but the newest.
fn collect_garbage(situation: &Situation<'_>, planner: &mut Planner<'_>) {
    let look = situation.look;
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    let mut dead: Vec<&Container> =
        look.observed.containers.iter().filter(|c| !look.possibly_alive(c)).collect();
    dead.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
    for container in dead {
        let known = situation.containers.iter().any(|v| v.name == container.name);
        if !known || !kept.insert(&container.name) {
            planner.want(Action::RemoveContainer { id: container.id.clone() });
        }
    }
    let referred = |id: &SandboxId| look.observed.containers.iter().any(|c| c.sandbox == *id);
    let newest = look.newest_sandbox().map(|s| &s.id);
    for sandbox in look.observed.sandboxes.iter().filter(|s| s.stopped && !s.ready) {
        if Some(&sandbox.id) != newest && !referred(&sandbox.id) {
            planner.want(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// Whether the container ended without ever having run.
pub(crate) fn never_started(container: &Container) -> bool {
    matches!(container.state, ContainerState::Exited { started_at: None, .. })
}
