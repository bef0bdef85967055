//! What one container of a pod needs.
//!
//! In: its specification, its incarnations, the restart policy. Out: a [`ContainerNeed`], from which the plan, the status
//! and the explanation are all made. It knows nothing of the pod's other containers: none delays another.
//!
//! ```text
//!            none ──────────────► Start ◄──────────── Exited, to be run again
//!  Created ─► Resume / Discard      │ back-off, image, create
//!  Unknown ─► Stop ─► Exited        ▼
//!  Running ─► Keep (or Stop ─► Exited when specification or sandbox changed)
//!  Exited  ─► Finished, when the restart policy says so
//! ```

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use sha2::{Digest, Sha256};

use super::look::{Gate, Look};
use crate::model::{ActionKey, Container, ContainerState, ImageState, Sandbox};
use crate::restart_backoff;
use crate::time::Timestamp;

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// When the exit code is not 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// As the pod says; Always when it says nothing.
    pub fn of(pod: &api::Pod) -> Self {
        match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            Some(_) | None => Self::Always,
        }
    }

    fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// What a container needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerNeed<'a> {
    /// Nothing: it runs as wanted.
    Keep,
    /// Nothing: it has ended and stays so.
    Finished,
    /// Nothing: it never ran and the pod is over.
    NeverRan,
    /// To be started: it was created and nothing more.
    Resume(&'a Container),
    /// To be removed: it was created, from another specification, and never started.
    Discard(&'a Container),
    /// To be stopped before anything else happens under its name.
    Stop(&'a Container, StopReason),
    /// A new incarnation.
    Start(Start),
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The pod is going away.
    PodTerminating,
    /// Its sandbox is lost.
    SandboxLost,
    /// Its specification changed.
    SpecChanged,
    /// The runtime cannot say whether it runs.
    StateUnknown,
    /// A newer incarnation exists, or the pod has no container of its name.
    Superseded,
}

impl StopReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::PodTerminating => "the pod is being terminated",
            Self::SandboxLost => "its sandbox is lost",
            Self::SpecChanged => "its specification changed",
            Self::StateUnknown => "its state is unknown",
            Self::Superseded => "it is not wanted any more",
        }
    }
}

/// The next incarnation of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The how-manieth.
    pub attempt: u32,
    /// To be recorded on it.
    pub back_off_step: u32,
    /// What has to come first.
    pub step: StartStep,
}

/// How far a start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStep {
    /// It ended too often too soon.
    RestartBackOff {
        /// The whole delay.
        delay: Duration,
        /// When it is over.
        until: Timestamp,
    },
    /// Creating or starting it failed.
    FailureBackOff {
        /// When to try again.
        until: Timestamp,
    },
    /// Its image is absent and may not be pulled.
    ImageNeverPulled,
    /// Its image is to be pulled now.
    Pull,
    /// Its image is being pulled.
    Pulling,
    /// Pulling its image failed.
    PullBackOff {
        /// When to try again.
        until: Timestamp,
    },
    /// It is to be created and started now.
    Go,
    /// It is being created and started.
    UnderWay,
}

/// Whether the container is to run (again), whatever stands in the way.
pub(super) fn wants_to_run(look: &Look<'_>, spec: &api::Container, policy: RestartPolicy) -> bool {
    let Some(latest) = look.incarnations(&spec.name).first().copied() else { return true };
    match &latest.state {
        ContainerState::Exited { exit_code, .. } => {
            policy.restarts(*exit_code) || latest.spec_hash != spec_hash(spec)
        }
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => {
            look.possibly_alive(latest) || policy.restarts(LOST_EXIT_CODE)
        }
    }
}

/// The exit code of a container whose own was lost.
pub(crate) const LOST_EXIT_CODE: i32 = 137;

/// What the container needs in a pod that is to run in `sandbox` (or in one yet to be made).
pub(super) fn need<'a>(
    look: &Look<'a>,
    spec: &api::Container,
    policy: RestartPolicy,
    sandbox: Option<&Sandbox>,
) -> ContainerNeed<'a> {
    let incarnations = look.incarnations(&spec.name);
    if let Some(older) = incarnations.iter().skip(1).find(|c| look.possibly_alive(c)) {
        return ContainerNeed::Stop(older, StopReason::Superseded);
    }
    let Some(latest) = incarnations.first().copied() else { return start(look, spec, None) };
    if !look.possibly_alive(latest) {
        let again = wants_to_run(look, spec, policy);
        return if again { start(look, spec, Some(latest)) } else { ContainerNeed::Finished };
    }
    if sandbox.is_none_or(|s| s.id != latest.sandbox) {
        return ContainerNeed::Stop(latest, StopReason::SandboxLost);
    }
    let current = latest.spec_hash == spec_hash(spec);
    match (&latest.state, current) {
        (ContainerState::Unknown, _) => ContainerNeed::Stop(latest, StopReason::StateUnknown),
        (ContainerState::Created, true) => ContainerNeed::Resume(latest),
        (ContainerState::Created, false) => ContainerNeed::Discard(latest),
        (ContainerState::Running { .. }, false) => ContainerNeed::Stop(latest, StopReason::SpecChanged),
        (ContainerState::Running { .. } | ContainerState::Exited { .. }, _) => ContainerNeed::Keep,
    }
}

fn start<'a>(look: &Look<'_>, spec: &api::Container, ended: Option<&Container>) -> ContainerNeed<'a> {
    let attempt = ended.map_or(0, |c| c.attempt.saturating_add(1));
    // A container that ended under another specification says nothing about this one: no back-off.
    let same = ended.filter(|c| c.spec_hash == spec_hash(spec));
    let next = same.and_then(|c| restart_backoff::next_start(c, look.now, look.policy));
    let lost = same.map_or(0, |c| c.back_off_step.saturating_add(1));
    let back_off_step = next.map_or(lost, |n| n.step);
    let step = match next {
        Some(next) if next.at > look.now => StartStep::RestartBackOff { delay: next.delay, until: next.at },
        Some(_) | None => start_step(look, spec, attempt),
    };
    ContainerNeed::Start(Start { attempt, back_off_step, step })
}

fn start_step(look: &Look<'_>, spec: &api::Container, attempt: u32) -> StartStep {
    match look.gate(&ActionKey::Container(spec.name.clone())) {
        Gate::UnderWay => return StartStep::UnderWay,
        Gate::ClosedUntil(until) => return StartStep::FailureBackOff { until },
        Gate::Open => {}
    }
    let image = spec.image.as_deref().unwrap_or_default();
    let state = look.observed.images.get(image).unwrap_or(&ImageState::Absent);
    let pulled = look.observed.pulled.get(&spec.name).filter(|p| p.attempt == attempt && p.image == image);
    match (state, PullPolicy::of(spec)) {
        (ImageState::Present(_), PullPolicy::Always) if pulled.is_none() => pull_step(look, image),
        (ImageState::Present(_), _) => StartStep::Go,
        (ImageState::Absent, PullPolicy::Never) => StartStep::ImageNeverPulled,
        (ImageState::Pulling, PullPolicy::Never) => StartStep::ImageNeverPulled,
        (ImageState::Pulling, _) => StartStep::Pulling,
        // Pulled and yet not there: somebody removes it. Not in a tight loop.
        (ImageState::Absent, _) => match pulled.map(|p| p.at + look.policy.pull.initial) {
            Some(until) if until > look.now => StartStep::PullBackOff { until },
            Some(_) | None => pull_step(look, image),
        },
    }
}

fn pull_step(look: &Look<'_>, image: &str) -> StartStep {
    match look.gate(&ActionKey::Pull(image.to_owned())) {
        Gate::UnderWay => StartStep::Pulling,
        Gate::ClosedUntil(until) => StartStep::PullBackOff { until },
        Gate::Open => StartStep::Pull,
    }
}

enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// `imagePullPolicy`; when absent Always for the tag `latest`, else IfNotPresent.
    fn of(spec: &api::Container) -> Self {
        match spec.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None => Self::by_tag(spec.image.as_deref().unwrap_or_default()),
        }
    }

    fn by_tag(image: &str) -> Self {
        let last = image.rsplit('/').next().unwrap_or(image);
        let tagged_otherwise = last.contains('@') || last.split_once(':').is_some_and(|(_, t)| t != "latest");
        if tagged_otherwise { Self::IfNotPresent } else { Self::Always }
    }
}

/// The hash of what may change in a container under one pod uid: its image (and its name, for good measure).
pub fn spec_hash(spec: &api::Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"1\0");
    hasher.update(spec.name.as_bytes());
    hasher.update(b"\0");
    hasher.update(spec.image.as_deref().unwrap_or_default().as_bytes());
    let digest = hasher.finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
