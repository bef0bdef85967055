//! Where a pod stands: the one evaluation from which the plan, the status and the explanation are made.
//!
//! In: goal and [`Look`]. Out: a [`Situation`]. It names what is needed, not which actions follow from it.
//!
//! ```text
//!  Run:        Replacing ─► Preparing ─► CreatingSandbox ─► Ready ─► Over
//!                  ▲                                          │
//!                  └───────────── sandbox lost ───────────────┘
//!  Terminate:  Stopping ─► Removing ─► CleaningUp ─► Gone
//! ```

use k8s_openapi::api::core::v1 as api;

use super::container_need::{self, ContainerNeed, RestartPolicy, StopReason};
use super::look::Look;
use crate::model::{Container, DesiredPod, Goal, Sandbox};
use crate::time::Timestamp;

/// Where a pod stands.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The look it was judged from.
    pub look: Look<'a>,
    /// The pod as wanted, if known.
    pub pod: Option<&'a DesiredPod>,
    /// How far the pod is.
    pub stage: Stage<'a>,
    /// Its containers: in the order of the specification, or by name when that is not known.
    pub containers: Vec<ContainerView<'a>>,
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub struct ContainerView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its specification, if known.
    pub spec: Option<&'a api::Container>,
    /// Its incarnations, the newest first.
    pub incarnations: Vec<&'a Container>,
    /// What it needs.
    pub need: ContainerNeed<'a>,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// What is left of a lost sandbox is being stopped; a new one follows.
    Replacing,
    /// Its cgroup, directory and volumes are to be made.
    Preparing,
    /// Its sandbox is to be made.
    CreatingSandbox {
        /// The how-manieth.
        attempt: u32,
    },
    /// Its sandbox is there: each container goes its own way.
    Ready(&'a Sandbox),
    /// Every container has ended for good: the sandbox is stopped and the node's resources are given back.
    Over,
    /// It is going away; something may still run.
    Stopping {
        /// When the last container must be gone.
        deadline: Timestamp,
    },
    /// It is going away; nothing runs, what is left at the runtime is removed.
    Removing,
    /// It is going away; only its volumes, cgroup and directory are left.
    CleaningUp,
    /// Nothing is left of it.
    Gone,
}

/// Judges where the pod stands.
pub fn judge<'a>(goal: &'a Goal, look: Look<'a>) -> Situation<'a> {
    match goal {
        Goal::Run(pod) => judge_run(pod, look),
        Goal::Terminate { pod, deadline } => judge_terminate(pod.as_deref(), *deadline, look),
    }
}

fn judge_run<'a>(pod: &'a DesiredPod, look: Look<'a>) -> Situation<'a> {
    let policy = RestartPolicy::of(&pod.pod);
    let specs = containers_of(pod);
    let stage = run_stage(&look, specs, policy);
    let sandbox = look.current_sandbox();
    let containers = specs
        .iter()
        .map(|spec| {
            let need = match (container_need::need(&look, spec, policy, sandbox), stage) {
                (ContainerNeed::Start(_), Stage::Over) => over_need(&look, spec),
                (need, _) => need,
            };
            ContainerView {
                name: &spec.name,
                spec: Some(spec),
                incarnations: look.incarnations(&spec.name),
                need,
            }
        })
        .collect();
    Situation { look, pod: Some(pod), stage, containers }
}

fn over_need<'a>(look: &Look<'a>, spec: &api::Container) -> ContainerNeed<'a> {
    if look.incarnations(&spec.name).is_empty() { ContainerNeed::NeverRan } else { ContainerNeed::Finished }
}

fn run_stage<'a>(look: &Look<'a>, specs: &[api::Container], policy: RestartPolicy) -> Stage<'a> {
    let observed = look.observed;
    let wanted = specs.iter().any(|spec| container_need::wants_to_run(look, spec, policy));
    if let Some(sandbox) = look.current_sandbox() {
        return if wanted { Stage::Ready(sandbox) } else { Stage::Over };
    }
    let lost_for_good =
        policy == RestartPolicy::Never && !observed.sandboxes.is_empty() && !observed.containers.is_empty();
    if !wanted || lost_for_good {
        return Stage::Over;
    }
    let stopped = observed.sandboxes.iter().all(|s| s.stopped);
    if !stopped || observed.containers.iter().any(|c| look.possibly_alive(c)) {
        return Stage::Replacing;
    }
    if !look.prepared() {
        return Stage::Preparing;
    }
    let attempt = look.newest_sandbox().map_or(0, |s| s.attempt.saturating_add(1));
    Stage::CreatingSandbox { attempt }
}

fn judge_terminate<'a>(pod: Option<&'a DesiredPod>, deadline: Timestamp, look: Look<'a>) -> Situation<'a> {
    let stage = terminate_stage(&look, deadline);
    let mut containers: Vec<ContainerView<'a>> = pod
        .map(containers_of)
        .unwrap_or_default()
        .iter()
        .map(|spec| terminating_view(&look, &spec.name, Some(spec)))
        .collect();
    let mut others: Vec<&str> = look.observed.containers.iter().map(|c| c.name.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    others.retain(|name| !containers.iter().any(|view| view.name == *name));
    containers.extend(others.into_iter().map(|name| terminating_view(&look, name, None)));
    Situation { look, pod, stage, containers }
}

fn terminate_stage<'a>(look: &Look<'a>, deadline: Timestamp) -> Stage<'a> {
    let observed = look.observed;
    let alive = observed.containers.iter().any(|c| look.possibly_alive(c));
    let stopped = observed.sandboxes.iter().all(|s| s.stopped && !s.ready);
    if alive || !stopped || look.making() {
        Stage::Stopping { deadline }
    } else if !observed.containers.is_empty() || !observed.sandboxes.is_empty() {
        Stage::Removing
    } else if look.node_resources_left() {
        Stage::CleaningUp
    } else {
        Stage::Gone
    }
}

fn terminating_view<'a>(
    look: &Look<'a>,
    name: &'a str,
    spec: Option<&'a api::Container>,
) -> ContainerView<'a> {
    let incarnations = look.incarnations(name);
    let need = match (incarnations.iter().find(|c| look.possibly_alive(c)), incarnations.is_empty()) {
        (Some(alive), _) => ContainerNeed::Stop(alive, StopReason::PodTerminating),
        (None, false) => ContainerNeed::Finished,
        (None, true) => ContainerNeed::NeverRan,
    };
    ContainerView { name, spec, incarnations, need }
}

fn containers_of(pod: &DesiredPod) -> &[api::Container] {
    pod.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
}
