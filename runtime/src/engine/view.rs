//! What callers see of sandboxes and containers: CRI's status messages, lists with their filters, and events.
//!
//! In: the state in memory. Out: CRI messages. Nothing waits here and nothing is looked up on the node.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Weak},
};

use futures_util::{Stream, StreamExt as _, stream};
use pintle_cri_api::v1 as cri;

use super::{
    Engine,
    events::Happening,
    host, missed,
    records::{ContainerRecord, NamespaceMode, SandboxConfig, SandboxPhase, SandboxRecord},
    state::{Container, Phase, Sandbox},
};
use crate::spec::signal;

/// The event of something made.
pub const CREATED: cri::ContainerEventType = cri::ContainerEventType::ContainerCreatedEvent;
/// The event of something started.
pub const STARTED: cri::ContainerEventType = cri::ContainerEventType::ContainerStartedEvent;
/// The event of something ended.
pub const STOPPED: cri::ContainerEventType = cri::ContainerEventType::ContainerStoppedEvent;
/// The event of something removed.
pub const DELETED: cri::ContainerEventType = cri::ContainerEventType::ContainerDeletedEvent;

impl Engine {
    /// The sandboxes that a filter lets through, the newest first.
    #[must_use]
    pub fn list_sandboxes(&self, filter: Option<&cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        self.sandboxes_matching(filter.cloned()).collect()
    }

    /// The containers that a filter lets through, the newest first.
    #[must_use]
    pub fn list_containers(&self, filter: Option<&cri::ContainerFilter>) -> Vec<cri::Container> {
        self.containers_matching(filter.cloned()).collect()
    }

    /// As [`Self::list_sandboxes`], each put together when it is asked for.
    pub fn sandboxes_matching(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> impl Iterator<Item = cri::PodSandbox> + Send + use<> {
        let filter = filter.unwrap_or_default();
        let mut all = self.all_sandboxes();
        // Looked at before it is copied: with many pods, most of what a filter is asked about does not fit.
        all.retain(|sandbox| {
            sandbox.look(|record| {
                record.phase != SandboxPhase::Intent
                    && labels_fit(&record.config.labels, &filter.label_selector)
            })
        });
        all.sort_by_cached_key(|sandbox| std::cmp::Reverse(sandbox.look(|record| record.created_at)));
        all.into_iter()
            .map(|sandbox| listed_sandbox(&sandbox))
            .filter(move |sandbox| sandbox_fits(sandbox, &filter))
    }

    /// As [`Self::list_containers`], each put together when it is asked for.
    pub fn containers_matching(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> impl Iterator<Item = cri::Container> + Send + use<> {
        let filter = filter.unwrap_or_default();
        let mut all = self.all_containers();
        all.retain(|container| {
            container.look(|record| record.complete && labels_fit(&record.labels, &filter.label_selector))
        });
        all.sort_by_cached_key(|container| std::cmp::Reverse(container.look(|record| record.created_at)));
        all.into_iter()
            .map(|container| listed_container(&container))
            .filter(move |container| container_fits(container, &filter))
    }

    /// The statuses of a sandbox's containers.
    #[must_use]
    pub fn statuses_of(&self, sandbox: &str) -> Vec<cri::ContainerStatus> {
        let all = self.containers_of(sandbox);
        all.iter().filter(|c| c.look(|record| record.complete)).map(|c| container_status(c)).collect()
    }

    /// Every event from now on, after those that an engine which took over from another one keeps for a while.
    pub fn subscribe(&self) -> EventStream {
        let (kept, live) = self.events.subscribe();
        let engine = Weak::clone(&self.this);
        let told =
            kept.into_iter().map_while(move |what| engine.upgrade().map(|engine| Ok(engine.event(&what))));
        Box::pin(stream::iter(told).chain(live))
    }

    /// Tells subscribers about a sandbox.
    pub(crate) fn publish_sandbox(&self, sandbox: &Arc<Sandbox>, kind: cri::ContainerEventType) {
        self.publish(&sandbox.id, kind, Some(sandbox));
    }

    /// Tells those who are subscribed now that a sandbox is to be looked at again, though nothing happened to it.
    pub(crate) fn publish_found(&self, sandbox: &Arc<Sandbox>) {
        self.work.notify_one();
        self.events.publish_once(&happening(&sandbox.id, STARTED, Some(sandbox)), |what| self.event(what));
    }

    /// Tells subscribers about a container.
    pub(crate) fn publish_container(&self, container: &Container, kind: cri::ContainerEventType) {
        if container.look(|record| record.complete) {
            self.publish(&container.id, kind, Some(&container.sandbox));
        }
    }

    /// Tells subscribers that a container or sandbox has been removed.
    pub(crate) fn publish_removed(&self, id: &str, sandbox: Option<&Arc<Sandbox>>) {
        self.publish(id, DELETED, sandbox);
    }

    fn publish(&self, id: &str, kind: cri::ContainerEventType, sandbox: Option<&Arc<Sandbox>>) {
        self.work.notify_one();
        if !self.events.publish(&happening(id, kind, sandbox), |what| self.event(what)) {
            missed::note_told(&self.lock);
        }
    }

    fn event(&self, what: &Happening) -> cri::ContainerEventResponse {
        let sandbox = what.sandbox.as_deref();
        cri::ContainerEventResponse {
            container_id: what.id.clone(),
            container_event_type: what.kind.into(),
            created_at: what.at,
            pod_sandbox_status: sandbox.map(sandbox_status),
            containers_statuses: sandbox.map(|s| self.statuses_of(&s.id)).unwrap_or_default(),
        }
    }
}

/// What a subscriber gets.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, tonic::Status>> + Send>>;

fn happening(id: &str, kind: cri::ContainerEventType, sandbox: Option<&Arc<Sandbox>>) -> Happening {
    Happening { id: id.to_owned(), kind, at: host::now(), sandbox: sandbox.cloned() }
}

/// CRI's status of a sandbox.
#[must_use]
pub fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let SandboxRecord { id, config, created_at, ips, .. } = sandbox.record();
    let mut ips = ips.into_iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    let options = cri::NamespaceOption {
        network: cri_mode(config.network),
        pid: cri_mode(config.pid),
        ipc: cri_mode(config.ipc),
        userns_options: config.users.as_ref().map(|users| {
            let (uids, gids) = users.cri();
            cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids, gids }
        }),
        ..Default::default()
    };
    cri::PodSandboxStatus {
        id,
        metadata: Some(sandbox_metadata(&config)),
        state: sandbox_state(sandbox).into(),
        created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options) }),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: config.runtime_handler,
    }
}

/// CRI's status of a container.
#[must_use]
pub fn container_status(container: &Container) -> cri::ContainerStatus {
    let record = container.record();
    let mut status = cri::ContainerStatus {
        id: record.id.clone(),
        metadata: Some(cri::ContainerMetadata { name: record.name.clone(), attempt: record.attempt }),
        created_at: record.created_at,
        image: Some(image_spec(&record)),
        image_ref: record.image_ref,
        image_id: record.image_id,
        labels: record.labels,
        annotations: record.annotations,
        log_path: record.log_path,
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.into_iter().map(i64::from).collect(),
            }),
        }),
        mounts: record.mounts.iter().map(cri_mount).collect(),
        resources: record
            .resources
            .as_ref()
            .map(|limits| cri::ContainerResources { linux: Some(limits.into()), ..Default::default() }),
        stop_signal: signal::of_number(record.stop_signal).into(),
        state: container_state(&container.phase()).into(),
        ..Default::default()
    };
    match container.phase() {
        Phase::Created => {}
        Phase::Unknown => {
            status.started_at = status.created_at;
            status.reason = "SupervisorSilent".to_owned();
            status.message = "as last known: its supervisor has not answered yet".to_owned();
        }
        Phase::Running { started_at } => status.started_at = started_at,
        Phase::Exited(end) => {
            status.started_at = end.started_at;
            status.finished_at = end.finished_at;
            status.exit_code = end.code;
            status.reason = end.reason;
            status.message = end.message;
        }
    }
    status
}

/// What `verbose` adds to a container's status: its pid and its OCI configuration.
#[must_use]
pub fn container_info(container: &Container, oci: Option<&serde_json::Value>) -> BTreeMap<String, String> {
    let record = container.record();
    let pid = (!matches!(container.phase(), Phase::Exited(_))).then_some(record.pid).flatten();
    let info = serde_json::json!({
        "sandboxID": record.sandbox,
        "pid": pid.unwrap_or_default(),
        "cgroup": record.cgroup,
        "bundle": container.dir,
        "stopSignal": record.stop_signal,
        "runtimeSpec": oci,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// What `verbose` adds to a sandbox's status.
#[must_use]
pub fn sandbox_info(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let record = sandbox.record();
    let info = serde_json::json!({
        "pid": record.infra_pid.unwrap_or_default(),
        "supervisorPid": sandbox.connection().map_or(0, |connection| connection.pid),
        "supervisorAnswers": !sandbox.is_awaited(),
        "cgroupParent": record.cgroup_parent,
        "resources": record.resources,
        "overhead": record.overhead,
        "directory": sandbox.dir,
        "boot": record.boot,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// Whether a list of labels holds every one of a selector's.
#[must_use]
pub fn labels_fit(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn sandbox_fits(sandbox: &cri::PodSandbox, filter: &cri::PodSandboxFilter) -> bool {
    sandbox.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state)
        && labels_fit(&sandbox.labels, &filter.label_selector)
}

fn container_fits(container: &cri::Container, filter: &cri::ContainerFilter) -> bool {
    container.id.starts_with(&filter.id)
        && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
        && labels_fit(&container.labels, &filter.label_selector)
}

fn listed_sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    let SandboxRecord { id, config, created_at, .. } = sandbox.record();
    cri::PodSandbox {
        id,
        metadata: Some(sandbox_metadata(&config)),
        state: sandbox_state(sandbox).into(),
        created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: config.runtime_handler,
    }
}

fn listed_container(container: &Container) -> cri::Container {
    let record = container.record();
    cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: Some(cri::ContainerMetadata { name: record.name.clone(), attempt: record.attempt }),
        image: Some(image_spec(&record)),
        image_ref: record.image_ref,
        image_id: record.image_id,
        state: container_state(&container.phase()).into(),
        created_at: record.created_at,
        labels: record.labels,
        annotations: record.annotations,
    }
}

fn sandbox_state(sandbox: &Sandbox) -> cri::PodSandboxState {
    if sandbox.is_ready() || sandbox.is_awaited() {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    }
}

fn container_state(phase: &Phase) -> cri::ContainerState {
    match phase {
        Phase::Created => cri::ContainerState::ContainerCreated,
        Phase::Running { .. } | Phase::Unknown => cri::ContainerState::ContainerRunning,
        Phase::Exited(_) => cri::ContainerState::ContainerExited,
    }
}

fn sandbox_metadata(config: &SandboxConfig) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: config.name.clone(),
        uid: config.uid.clone(),
        namespace: config.namespace.clone(),
        attempt: config.attempt,
    }
}

fn image_spec(record: &ContainerRecord) -> cri::ImageSpec {
    cri::ImageSpec {
        image: record.image.clone(),
        user_specified_image: record.user_specified_image.clone(),
        ..Default::default()
    }
}

fn cri_mount(mount: &super::records::MountRecord) -> cri::Mount {
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly || mount.image.is_some(),
        recursive_read_only: mount.recursive_read_only,
        propagation: mount.propagation,
        image: mount.image.clone().map(|image| cri::ImageSpec { image, ..Default::default() }),
        image_sub_path: mount.image_sub_path.clone(),
        mount_options: mount.options.clone(),
        ..Default::default()
    }
}

fn cri_mode(mode: NamespaceMode) -> i32 {
    match mode {
        NamespaceMode::Pod => cri::NamespaceMode::Pod,
        NamespaceMode::Container => cri::NamespaceMode::Container,
        NamespaceMode::Node => cri::NamespaceMode::Node,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_sandbox_filter_selects_by_id_prefix_state_and_every_label() {
        let sandbox = cri::PodSandbox {
            id: "abc".to_owned(),
            labels: labels(&[("a", "1"), ("b", "2")]),
            ..Default::default()
        };
        let filter = |id: &str, state: Option<cri::PodSandboxState>, selector: &[(&str, &str)]| {
            let state = state.map(|state| cri::PodSandboxStateValue { state: state.into() });
            let filter = cri::PodSandboxFilter { id: id.to_owned(), state, label_selector: labels(selector) };
            sandbox_fits(&sandbox, &filter)
        };
        assert!(filter("", None, &[]));
        assert!(filter("ab", Some(cri::PodSandboxState::SandboxReady), &[("a", "1"), ("b", "2")]));
        assert!(!filter("b", None, &[]));
        assert!(!filter("", Some(cri::PodSandboxState::SandboxNotready), &[]));
        assert!(!filter("", None, &[("a", "2")]));
        assert!(!filter("", None, &[("c", "1")]));
    }

    #[test]
    fn a_container_filter_selects_by_sandbox_too() {
        let container =
            cri::Container { id: "abc".to_owned(), pod_sandbox_id: "def".to_owned(), ..Default::default() };
        let filter = cri::ContainerFilter { pod_sandbox_id: "de".to_owned(), ..Default::default() };
        assert!(container_fits(&container, &filter));
        let filter = cri::ContainerFilter { pod_sandbox_id: "x".to_owned(), ..Default::default() };
        assert!(!container_fits(&container, &filter));
    }
}
