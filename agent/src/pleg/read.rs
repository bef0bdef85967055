//! One look at what the runtime has, as the core's types.
//!
//! In: CRI's lists and statuses, termination message files. Out: [`RuntimeFacts`] of a pod, summaries of all pods. It
//! keeps nothing but the ends of containers, which never change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pintle_core::ids::{ContainerId, PodUid, SandboxId};
use pintle_core::model::{Container, ContainerState, Sandbox};
use pintle_core::pod_workers::FoundPod;
use pintle_core::termination;
use pintle_core::time::Timestamp;
use pintle_cri_api::v1;
use tonic::{Code, Status};

use super::RuntimeFacts;
use crate::container_config::{BACK_OFF_STEP, HASH, MESSAGE_POLICY};
use crate::runtime::SharedRuntime;
use crate::sandbox_config::{POD_NAME, POD_NAMESPACE, POD_UID, recorded_grace};
use crate::termination_message;
use crate::volumes::PodDirs;

/// The containers of a pod that have ended, by id.
pub(super) type Ended = BTreeMap<ContainerId, Container>;
/// What the lists alone tell of a pod: each sandbox and container with its state.
pub(super) type Summary = BTreeSet<(String, &'static str)>;

/// Everything of one pod.
pub(super) async fn pod(
    runtime: &SharedRuntime,
    dirs: &PodDirs,
    uid: &PodUid,
    ended: &mut Ended,
) -> Result<RuntimeFacts, Status> {
    let label_selector = BTreeMap::from([(POD_UID.to_owned(), uid.as_str().to_owned())]);
    let of_sandboxes = v1::PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() };
    let mut facts = RuntimeFacts::default();
    for listed in runtime.list_pod_sandbox(Some(of_sandboxes)).await? {
        match runtime.pod_sandbox_status(&listed.id).await {
            Ok(status) => facts.sandboxes.push(sandbox(&status)),
            Err(e) if e.code() == Code::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    let of_containers = v1::ContainerFilter { label_selector, ..Default::default() };
    let listed = runtime.list_containers(Some(of_containers)).await?;
    ended.retain(|id, _| listed.iter().any(|container| container.id == id.as_str()));
    for listed in listed {
        if let Some(known) = ended.get(&ContainerId::new(listed.id.as_str())) {
            facts.containers.push(known.clone());
            continue;
        }
        match runtime.container_status(&listed.id).await {
            Ok(status) => {
                let container = container(&status, &listed, dirs, uid);
                if matches!(container.state, ContainerState::Exited { .. }) {
                    ended.insert(container.id.clone(), container.clone());
                }
                facts.containers.push(container);
            }
            Err(e) if e.code() == Code::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(facts)
}

/// Every pod by the labels on its sandboxes and containers.
pub(super) async fn found_pods(runtime: &SharedRuntime) -> Result<Vec<FoundPod>, Status> {
    let mut found: BTreeMap<PodUid, FoundPod> = BTreeMap::new();
    for listed in runtime.list_pod_sandbox(None).await? {
        if let Some(pod) = identity(&listed.labels) {
            let grace = recorded_grace(&listed.annotations);
            found.insert(pod.uid.clone(), FoundPod { grace, ..pod });
        }
    }
    for listed in runtime.list_containers(None).await? {
        if let Some(pod) = identity(&listed.labels) {
            found.entry(pod.uid.clone()).or_insert(pod);
        }
    }
    Ok(found.into_values().collect())
}

/// What the lists say of every pod.
pub(super) async fn summaries(runtime: &SharedRuntime) -> Result<BTreeMap<PodUid, Summary>, Status> {
    let mut all: BTreeMap<PodUid, Summary> = BTreeMap::new();
    for listed in runtime.list_pod_sandbox(None).await? {
        if let Some(uid) = listed.labels.get(POD_UID) {
            let ready = listed.state() == v1::PodSandboxState::SandboxReady;
            all.entry(PodUid::new(uid)).or_default().insert((listed.id, sandbox_word(ready)));
        }
    }
    for listed in runtime.list_containers(None).await? {
        if let Some(uid) = listed.labels.get(POD_UID) {
            let word = state_word(listed.state());
            all.entry(PodUid::new(uid)).or_default().insert((listed.id, word));
        }
    }
    Ok(all)
}

/// The same of what was published.
pub(super) fn summary(facts: &RuntimeFacts) -> Summary {
    let sandboxes = facts.sandboxes.iter().map(|s| (s.id.as_str().to_owned(), sandbox_word(s.ready)));
    let containers = facts.containers.iter().map(|c| {
        let state = match c.state {
            ContainerState::Created => v1::ContainerState::ContainerCreated,
            ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
            ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
            ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
        };
        (c.id.as_str().to_owned(), state_word(state))
    });
    sandboxes.chain(containers).collect()
}

fn sandbox_word(ready: bool) -> &'static str {
    if ready { "ready" } else { "not ready" }
}

fn state_word(state: v1::ContainerState) -> &'static str {
    state.as_str_name()
}

fn identity(labels: &BTreeMap<String, String>) -> Option<FoundPod> {
    let text = |label: &str| labels.get(label).cloned().unwrap_or_default();
    Some(FoundPod {
        uid: PodUid::new(labels.get(POD_UID)?),
        namespace: text(POD_NAMESPACE),
        name: text(POD_NAME),
        grace: termination::DEFAULT_GRACE,
    })
}

fn sandbox(status: &v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.as_ref();
    let first = network.map(|network| network.ip.clone()).filter(|ip| !ip.is_empty());
    let more = network.map(|network| network.additional_ips.iter().map(|ip| ip.ip.clone()));
    Sandbox {
        id: SandboxId::new(status.id.as_str()),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state() == v1::PodSandboxState::SandboxReady,
        stopped: false,
        created_at: Timestamp::from_nanos(status.created_at),
        ips: first.into_iter().chain(more.into_iter().flatten()).collect(),
    }
}

fn container(
    status: &v1::ContainerStatus,
    listed: &v1::Container,
    dirs: &PodDirs,
    uid: &PodUid,
) -> Container {
    let metadata = status.metadata.clone().unwrap_or_default();
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let image_id = [&status.image_id, &status.image_ref].into_iter().find(|id| !id.is_empty());
    let message = dirs.message(uid, &metadata.name, metadata.attempt);
    Container {
        id: ContainerId::new(status.id.as_str()),
        sandbox: SandboxId::new(listed.pod_sandbox_id.as_str()),
        attempt: metadata.attempt,
        spec_hash: annotation(HASH),
        back_off_step: annotation(BACK_OFF_STEP).parse().unwrap_or(0),
        image_id: image_id.cloned().unwrap_or_default(),
        created_at: Timestamp::from_nanos(status.created_at),
        state: state(status, &message),
        name: metadata.name,
    }
}

fn state(status: &v1::ContainerStatus, message: &Path) -> ContainerState {
    let started_at = (status.started_at > 0).then(|| Timestamp::from_nanos(status.started_at));
    match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running {
            started_at: started_at.unwrap_or(Timestamp::from_nanos(status.created_at)),
        },
        v1::ContainerState::ContainerExited => ContainerState::Exited {
            started_at,
            finished_at: Timestamp::from_nanos(status.finished_at),
            exit_code: status.exit_code,
            reason: reason(status),
            message: end_message(status, message),
        },
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    }
}

fn reason(status: &v1::ContainerStatus) -> String {
    match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

/// What the container said itself goes before what the runtime says.
fn end_message(status: &v1::ContainerStatus, file: &Path) -> String {
    let falls_back =
        status.annotations.get(MESSAGE_POLICY).is_some_and(|policy| policy == "FallbackToLogsOnError");
    let log = (falls_back && status.exit_code != 0).then(|| Path::new(&status.log_path));
    let own = termination_message::read(termination_message::Sources { file, log });
    if own.is_empty() { status.message.clone() } else { own }
}
