//! A pod's status, as the Kubernetes API shows it.
//!
//! In: a [`Situation`]. Out: `PodStatus`. Every time in it comes from a fact, never from the time of the call, so that the
//! same facts always give the same status. It is a sink: no decision reads it.
//!
//! There are no probes yet: a container is ready while it runs. Probe results will come as facts in `Observed`, and
//! [`is_ready`] is the one place that will read them.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;

use crate::decide::container_need::{ContainerNeed, LOST_EXIT_CODE, RestartPolicy, StartStep};
use crate::decide::look::Look;
use crate::decide::run::never_started;
use crate::decide::situation::{ContainerView, Situation, Stage};
use crate::model::{ActionKey, Container, ContainerState, Failure};
use crate::qos;
use crate::time::Timestamp;

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not every container has been started yet.
    Pending,
    /// At least one container runs or is to run again.
    Running,
    /// Every container ended with 0 and none will run again.
    Succeeded,
    /// Every container has ended, one at least not with 0, and none will run again.
    Failed,
}

impl Phase {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The whole status.
pub fn status(situation: &Situation<'_>) -> api::PodStatus {
    let statuses: Vec<_> = situation
        .containers
        .iter()
        .filter(|view| is_reported(situation, view))
        .map(|view| container_status(situation, view))
        .collect();
    let phase = phase(situation, &statuses);
    let ips = pod_ips(situation);
    let host_ips = &situation.look.policy.host_ips;
    api::PodStatus {
        phase: Some(phase.as_str().to_owned()),
        conditions: Some(conditions(situation, phase)),
        container_statuses: Some(statuses),
        host_ip: host_ips.first().cloned(),
        host_ips: some_if_any(host_ips.iter().map(|ip| api::HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: some_if_any(ips.into_iter().map(|ip| api::PodIP { ip }).collect()),
        qos_class: situation.pod.map(|pod| qos::class(&pod.pod).to_string()),
        start_time: start_time(&situation.look).map(api_time),
        ..api::PodStatus::default()
    }
}

/// While a pod is being removed its containers vanish one by one: what is known of them was told before.
fn is_reported(situation: &Situation<'_>, view: &ContainerView<'_>) -> bool {
    match situation.stage {
        Stage::Removing | Stage::CleaningUp | Stage::Gone => !view.incarnations.is_empty(),
        Stage::Replacing
        | Stage::Preparing
        | Stage::CreatingSandbox { .. }
        | Stage::Ready(_)
        | Stage::Over
        | Stage::Stopping { .. } => true,
    }
}

fn some_if_any<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Whether the pod is Ready: it has containers, and every one is.
pub(crate) fn pod_is_ready(situation: &Situation<'_>) -> bool {
    let ready = |view| is_ready(&situation.look, view);
    !situation.containers.is_empty() && situation.containers.iter().all(ready)
}

/// Whether the container takes requests: it runs, in a sandbox that does.
fn is_ready(look: &Look<'_>, view: &ContainerView<'_>) -> bool {
    let sandbox = view.incarnations.first().and_then(|latest| look.sandbox(&latest.sandbox));
    running_since(look, view).is_some() && sandbox.is_some_and(|s| s.ready)
}

fn running_since(look: &Look<'_>, view: &ContainerView<'_>) -> Option<Timestamp> {
    let latest = view.incarnations.first().filter(|c| look.possibly_alive(c))?;
    match latest.state {
        ContainerState::Running { started_at } => Some(started_at),
        ContainerState::Created | ContainerState::Exited { .. } | ContainerState::Unknown => None,
    }
}

fn container_status(situation: &Situation<'_>, view: &ContainerView<'_>) -> api::ContainerStatus {
    let look = situation.look;
    let latest = view.incarnations.first().copied();
    let (state, last) = states(situation, view);
    let image = view.spec.and_then(|spec| spec.image.clone()).unwrap_or_default();
    api::ContainerStatus {
        name: view.name.to_owned(),
        state: Some(state),
        last_state: last.map(terminated),
        ready: is_ready(&look, view),
        started: Some(running_since(&look, view).is_some()),
        restart_count: latest.map_or(0, restart_count),
        image,
        image_id: latest.map(|c| c.image_id.clone()).unwrap_or_default(),
        container_id: latest.map(container_id),
        ..api::ContainerStatus::default()
    }
}

/// The attempt's number. One that was made and not started is not a restart yet: it may be discarded, and its number given
/// to another.
fn restart_count(latest: &Container) -> i32 {
    let attempt = match latest.state {
        ContainerState::Created => latest.attempt.saturating_sub(1),
        ContainerState::Running { .. } | ContainerState::Exited { .. } | ContainerState::Unknown => {
            latest.attempt
        }
    };
    i32::try_from(attempt).unwrap_or(i32::MAX)
}

/// The state, and the incarnation that the last state tells of.
fn states<'a>(
    situation: &Situation<'_>,
    view: &ContainerView<'a>,
) -> (api::ContainerState, Option<&'a Container>) {
    let latest = view.incarnations.first().copied();
    let previous = view.incarnations.get(1).copied();
    let Some(latest) = latest else {
        let state = match view.need {
            ContainerNeed::NeverRan => never_ran(),
            ContainerNeed::Keep
            | ContainerNeed::Finished
            | ContainerNeed::Resume(_)
            | ContainerNeed::Discard(_)
            | ContainerNeed::Stop(..)
            | ContainerNeed::Start(_) => waiting_state(situation, view),
        };
        return (state, None);
    };
    let alive = situation.look.possibly_alive(latest);
    match (&latest.state, alive) {
        (ContainerState::Running { started_at }, true) => (running(*started_at), previous),
        (ContainerState::Created | ContainerState::Unknown, true) => {
            (waiting_state(situation, view), previous)
        }
        (ContainerState::Exited { .. }, _) | (_, false) => match waiting_reason(situation, view) {
            Some((reason, message)) => (waiting(&reason, message), Some(latest)),
            None => (terminated(latest), previous),
        },
    }
}

fn waiting_state(situation: &Situation<'_>, view: &ContainerView<'_>) -> api::ContainerState {
    match waiting_reason(situation, view) {
        Some((reason, message)) => waiting(&reason, message),
        None => waiting("ContainerCreating", pod_level_failure(situation)),
    }
}

/// The reason why a container does not go on, if it is one that users have a name for.
pub(crate) fn waiting_reason(
    situation: &Situation<'_>,
    view: &ContainerView<'_>,
) -> Option<(String, Option<String>)> {
    let look = situation.look;
    let creation = look.failure(&ActionKey::Container(view.name.to_owned()));
    let named = |failure: &Failure| (failure.reason.clone(), Some(failure.message.clone()));
    match &view.need {
        ContainerNeed::Start(start) => match start.step {
            StartStep::RestartBackOff { delay, .. } => Some((
                "CrashLoopBackOff".to_owned(),
                Some(crash_loop_message(situation, view, delay.as_secs())),
            )),
            StartStep::ImageNeverPulled => {
                Some(("ErrImageNeverPull".to_owned(), Some(never_pull_message(view))))
            }
            StartStep::Pull | StartStep::Pulling | StartStep::PullBackOff { .. } => pull_reason(look, view),
            StartStep::FailureBackOff { .. } | StartStep::Go | StartStep::UnderWay => creation.map(named),
        },
        ContainerNeed::Stop(container, _) if matches!(container.state, ContainerState::Unknown) => Some((
            "ContainerStatusUnknown".to_owned(),
            Some("The runtime cannot say whether the container runs".to_owned()),
        )),
        ContainerNeed::Resume(_) => creation.map(named),
        ContainerNeed::Keep
        | ContainerNeed::Finished
        | ContainerNeed::NeverRan
        | ContainerNeed::Discard(_)
        | ContainerNeed::Stop(..) => None,
    }
}

/// `ErrImagePull` after the first failure, `ImagePullBackOff` after further ones; other reasons stay what they are.
fn pull_reason(look: Look<'_>, view: &ContainerView<'_>) -> Option<(String, Option<String>)> {
    let image = view.spec.and_then(|spec| spec.image.clone()).unwrap_or_default();
    let failure = look.failure(&ActionKey::Pull(image.clone()))?;
    if failure.count > 1 && failure.reason == "ErrImagePull" {
        let message = format!("Back-off pulling image \"{image}\": {}", failure.message);
        Some(("ImagePullBackOff".to_owned(), Some(message)))
    } else {
        Some((failure.reason.clone(), Some(failure.message.clone())))
    }
}

fn never_pull_message(view: &ContainerView<'_>) -> String {
    let image = view.spec.and_then(|spec| spec.image.as_deref()).unwrap_or_default();
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

fn crash_loop_message(situation: &Situation<'_>, view: &ContainerView<'_>, seconds: u64) -> String {
    let pod = situation
        .pod
        .map_or_else(String::new, |pod| format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid));
    format!("back-off {} restarting failed container={} pod={pod}", short_duration(seconds), view.name)
}

/// As Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn short_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, rest) => format!("{rest}s"),
        (minutes, rest) => format!("{minutes}m{rest}s"),
    }
}

/// What holds up the whole pod, told by each container that waits for it.
fn pod_level_failure(situation: &Situation<'_>) -> Option<String> {
    let key = match situation.stage {
        Stage::Preparing => ActionKey::Prepare,
        Stage::Ready(_) if !situation.look.prepared() => ActionKey::Prepare,
        Stage::CreatingSandbox { .. } => ActionKey::Sandbox,
        Stage::Ready(_)
        | Stage::Replacing
        | Stage::Over
        | Stage::Stopping { .. }
        | Stage::Removing
        | Stage::CleaningUp
        | Stage::Gone => return None,
    };
    situation.look.failure(&key).map(|failure| format!("{}: {}", failure.reason, failure.message))
}

fn waiting(reason: &str, message: Option<String>) -> api::ContainerState {
    let waiting = api::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    api::ContainerState { waiting: Some(waiting), ..api::ContainerState::default() }
}

fn running(started_at: Timestamp) -> api::ContainerState {
    let running = api::ContainerStateRunning { started_at: Some(api_time(started_at)) };
    api::ContainerState { running: Some(running), ..api::ContainerState::default() }
}

fn terminated(container: &Container) -> api::ContainerState {
    let ContainerState::Exited { started_at, finished_at, exit_code, reason, message } = &container.state
    else {
        return terminated_unknown(Some(container));
    };
    let reason = match reason.as_str() {
        "" if never_started(container) => "ContainerCannotRun",
        "" if *exit_code == 0 => "Completed",
        "" => "Error",
        given => given,
    };
    let terminated = api::ContainerStateTerminated {
        container_id: Some(container_id(container)),
        exit_code: *exit_code,
        started_at: started_at.map(api_time),
        finished_at: Some(api_time(*finished_at)),
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.clone()),
        signal: None,
    };
    api::ContainerState { terminated: Some(terminated), ..api::ContainerState::default() }
}

fn never_ran() -> api::ContainerState {
    terminated_unknown(None)
}

fn terminated_unknown(container: Option<&Container>) -> api::ContainerState {
    let terminated = api::ContainerStateTerminated {
        container_id: container.map(container_id),
        exit_code: LOST_EXIT_CODE,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..api::ContainerStateTerminated::default()
    };
    api::ContainerState { terminated: Some(terminated), ..api::ContainerState::default() }
}

fn container_id(container: &Container) -> String {
    format!("pintle://{}", container.id)
}

/// The kubelet's rule for the phase, from the container statuses and the restart policy.
pub(crate) fn phase(situation: &Situation<'_>, statuses: &[api::ContainerStatus]) -> Phase {
    let mut tally = Tally::default();
    for status in statuses {
        tally.count(status);
    }
    let terminal = match situation.stage {
        Stage::Over | Stage::Stopping { .. } | Stage::Removing | Stage::CleaningUp | Stage::Gone => {
            tally.running == 0 && tally.waiting == 0
        }
        Stage::Replacing | Stage::Preparing | Stage::CreatingSandbox { .. } | Stage::Ready(_) => false,
    };
    if terminal {
        let succeeded = tally.stopped > 0 && tally.stopped == tally.succeeded;
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    let policy = situation.pod.map_or(RestartPolicy::Always, |pod| RestartPolicy::of(&pod.pod));
    match tally {
        Tally { waiting: 1.., .. } => Phase::Pending,
        Tally { running: 1.., .. } => Phase::Running,
        Tally { stopped: 0, .. } => Phase::Pending,
        Tally { .. } if policy == RestartPolicy::Always => Phase::Running,
        Tally { stopped, succeeded, .. } if stopped == succeeded => Phase::Succeeded,
        Tally { .. } if policy == RestartPolicy::Never => Phase::Failed,
        Tally { .. } => Phase::Running,
    }
}

#[derive(Default, Clone, Copy)]
struct Tally {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

impl Tally {
    fn count(&mut self, status: &api::ContainerStatus) {
        let state = status.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            self.running += 1;
        } else if let Some(ended) = state.and_then(|s| s.terminated.as_ref()) {
            self.stopped += 1;
            self.succeeded += usize::from(ended.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            self.stopped += 1;
        } else {
            self.waiting += 1;
        }
    }
}

fn pod_ips(situation: &Situation<'_>) -> Vec<String> {
    let host_network = situation
        .pod
        .and_then(|pod| pod.pod.spec.as_ref())
        .and_then(|spec| spec.host_network)
        .unwrap_or(false);
    match situation.look.current_sandbox() {
        Some(_) if host_network => situation.look.policy.host_ips.clone(),
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    }
}

/// When the pod began on this node.
fn start_time(look: &Look<'_>) -> Option<Timestamp> {
    let observed = look.observed;
    let oldest = observed.sandboxes.iter().map(|s| s.created_at).min();
    observed.node.since.or(oldest)
}

fn conditions(situation: &Situation<'_>, phase: Phase) -> Vec<api::PodCondition> {
    let look = situation.look;
    let began = start_time(&look);
    let sandbox = look.current_sandbox();
    let network = match sandbox {
        Some(sandbox) => Verdict::met(Some(sandbox.created_at)),
        None => Verdict::unmet(last_end(situation).or(began), None, None),
    };
    let done = (phase == Phase::Succeeded).then_some("PodCompleted");
    let initialized = Verdict { reason: done, ..Verdict::met(began) };
    let ready = readiness(situation, phase);
    vec![
        network.condition("PodReadyToStartContainers"),
        initialized.condition("Initialized"),
        ready.condition("Ready"),
        ready.condition("ContainersReady"),
        Verdict::met(began).condition("PodScheduled"),
    ]
}

struct Verdict {
    met: bool,
    since: Option<Timestamp>,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn met(since: Option<Timestamp>) -> Self {
        Self { met: true, since, reason: None, message: None }
    }

    fn unmet(since: Option<Timestamp>, reason: Option<&'static str>, message: Option<String>) -> Self {
        Self { met: false, since, reason, message }
    }

    fn condition(&self, type_: &str) -> api::PodCondition {
        api::PodCondition {
            type_: type_.to_owned(),
            status: if self.met { "True" } else { "False" }.to_owned(),
            last_transition_time: self.since.map(api_time),
            reason: self.reason.map(str::to_owned),
            message: self.message.clone(),
            ..api::PodCondition::default()
        }
    }
}

fn readiness(situation: &Situation<'_>, phase: Phase) -> Verdict {
    let look = situation.look;
    let since = last_end(situation).or_else(|| start_time(&look));
    match phase {
        Phase::Succeeded => return Verdict::unmet(since, Some("PodCompleted"), None),
        Phase::Failed => return Verdict::unmet(since, Some("PodFailed"), None),
        Phase::Pending | Phase::Running => {}
    }
    let unready: Vec<&str> =
        situation.containers.iter().filter(|view| !is_ready(&look, view)).map(|view| view.name).collect();
    if unready.is_empty() {
        let last_start = situation.containers.iter().filter_map(|view| running_since(&look, view)).max();
        return Verdict::met(last_start);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::unmet(since, Some("ContainersNotReady"), Some(message))
}

/// When a container of the pod last ended.
fn last_end(situation: &Situation<'_>) -> Option<Timestamp> {
    let ends = situation.look.observed.containers.iter().filter_map(|c| match c.state {
        ContainerState::Exited { finished_at, .. } => Some(finished_at),
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => None,
    });
    ends.max()
}

/// As the API writes times: whole seconds.
fn api_time(at: Timestamp) -> Time {
    let seconds = at.as_nanos().div_euclid(1_000_000_000);
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}
