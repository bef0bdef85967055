//! One pod as a row of `get pods`, computed as kubectl does.
//!
//! In: a v1.Pod with its status, and the time. Out: the cells NAME READY STATUS RESTARTS AGE, and the wide ones.
//! Pure: no clock, no output.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::age;

/// The cells of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRow {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ready: String,
    pub(crate) status: String,
    pub(crate) restarts: String,
    pub(crate) age: String,
    pub(crate) ip: String,
    pub(crate) node: String,
    pub(crate) nominated_node: String,
    pub(crate) readiness_gates: String,
}

/// What the containers' statuses add up to.
#[derive(Debug, Default)]
struct Tally {
    ready: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
    reason: String,
}

impl Tally {
    fn restart(&mut self, container: &ContainerStatus) {
        self.restarts += container.restart_count;
        self.last_restart = self.last_restart.max(last_finish(container));
    }
}

/// Whether the init containers still have work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    Pending,
    Done,
}

const NONE: &str = "<none>";

/// The row of `pod` at `now`.
pub(crate) fn row(pod: &Pod, now: Timestamp) -> PodRow {
    let spec = pod.spec.as_ref();
    let status = pod.status.clone().unwrap_or_default();
    let (tally, total) = tally(pod, &status);
    PodRow {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        ready: format!("{}/{total}", tally.ready),
        status: final_reason(pod, &status, &tally),
        restarts: restarts(&tally, now),
        age: age_of(pod.metadata.creation_timestamp.as_ref(), now),
        ip: pod_ip(&status).unwrap_or_else(|| NONE.to_owned()),
        node: text_or_none(spec.and_then(|spec| spec.node_name.as_deref())),
        nominated_node: text_or_none(status.nominated_node_name.as_deref()),
        readiness_gates: readiness_gates(pod, &status),
    }
}

fn tally(pod: &Pod, status: &PodStatus) -> (Tally, usize) {
    let spec = pod.spec.as_ref();
    let sidecars = sidecar_names(pod);
    let total = spec.map_or(0, |spec| spec.containers.len()) + sidecars.len();
    let mut all = Tally { reason: first_reason(status), ..Tally::default() };
    let mut restartable = Tally::default();
    let init = tally_init(pod, status, &sidecars, (&mut all, &mut restartable));
    if init == Init::Done || condition(status, "Initialized") == Some(true) {
        all.restarts = restartable.restarts;
        all.last_restart = restartable.last_restart;
        tally_app(status, &mut all);
    }
    (all, total)
}

fn first_reason(status: &PodStatus) -> String {
    let gated = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
    });
    match (&status.reason, gated) {
        (_, true) => "SchedulingGated".to_owned(),
        (Some(reason), false) if !reason.is_empty() => reason.clone(),
        (_, false) => status.phase.clone().unwrap_or_default(),
    }
}

fn sidecar_names(pod: &Pod) -> Vec<&str> {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect()
}

fn tally_init(
    pod: &Pod,
    status: &PodStatus,
    sidecars: &[&str],
    (all, restartable): (&mut Tally, &mut Tally),
) -> Init {
    let planned = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref()).map_or(0, Vec::len);
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let is_sidecar = sidecars.contains(&container.name.as_str());
        all.restart(container);
        if is_sidecar {
            restartable.restart(container);
        }
        let state = container.state.clone().unwrap_or_default();
        if state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
            continue;
        }
        if is_sidecar && container.started == Some(true) {
            all.ready += usize::from(container.ready);
            continue;
        }
        all.reason = init_reason(&state).unwrap_or_else(|| format!("Init:{index}/{planned}"));
        return Init::Pending;
    }
    Init::Done
}

fn init_reason(state: &ContainerState) -> Option<String> {
    if let Some(ended) = &state.terminated {
        return Some(format!("Init:{}", ended_reason(ended)));
    }
    let waiting = state.waiting.as_ref()?.reason.as_deref()?;
    (!waiting.is_empty() && waiting != "PodInitializing").then(|| format!("Init:{waiting}"))
}

fn tally_app(status: &PodStatus, tally: &mut Tally) {
    let mut running = false;
    let containers: Vec<&ContainerStatus> = status.container_statuses.iter().flatten().collect();
    // From the last to the first, so that the first container's reason is the one that stays.
    for container in containers.into_iter().rev() {
        tally.restart(container);
        let state = container.state.clone().unwrap_or_default();
        let waiting = state.waiting.and_then(|waiting| waiting.reason).filter(|reason| !reason.is_empty());
        if let Some(reason) = waiting {
            tally.reason = reason;
        } else if let Some(ended) = &state.terminated {
            tally.reason = ended_reason(ended);
        } else if container.ready && state.running.is_some() {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" && running {
        let ready = condition(status, "Ready") == Some(true);
        tally.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended_reason(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        (_, _) => format!("ExitCode:{}", ended.exit_code),
    }
}

fn final_reason(pod: &Pod, status: &PodStatus, tally: &Tally) -> String {
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if deleted && status.reason.as_deref() == Some("NodeLost") {
        "Unknown".to_owned()
    } else if deleted && !ended {
        "Terminating".to_owned()
    } else {
        tally.reason.clone()
    }
}

fn restarts(tally: &Tally, now: Timestamp) -> String {
    match tally.last_restart {
        Some(last) if tally.restarts != 0 => {
            format!("{} ({} ago)", tally.restarts, age::kubectl(now.duration_since(last)))
        }
        Some(_) | None => tally.restarts.to_string(),
    }
}

fn last_finish(container: &ContainerStatus) -> Option<Timestamp> {
    let Time(finished) = container.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?;
    Some(*finished)
}

fn age_of(created: Option<&Time>, now: Timestamp) -> String {
    created.map_or_else(|| "<unknown>".to_owned(), |Time(created)| age::kubectl(now.duration_since(*created)))
}

fn pod_ip(status: &PodStatus) -> Option<String> {
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.clone());
    first.or_else(|| status.pod_ip.clone()).filter(|ip| !ip.is_empty())
}

fn text_or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or(NONE).to_owned()
}

fn readiness_gates(pod: &Pod, status: &PodStatus) -> String {
    let gates: Vec<_> = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()).collect();
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let met = gates.iter().filter(|gate| condition(status, &gate.condition_type) == Some(true)).count();
    format!("{met}/{}", gates.len())
}

fn condition(status: &PodStatus, name: &str) -> Option<bool> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == name)?;
    Some(found.status == "True")
}

#[cfg(test)]
#[path = "pod_row_tests.rs"]
mod tests;
