//! The latest of every pod: its status and what it was made from. A sink: no decision reads it.
//!
//! In: what each pod's worker publishes. Out: a `v1.PodList`, and the arguments from which a pod's state is explained.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pintle_core::ids::PodUid;
use pintle_core::manifest::SEEN_ANNOTATION;
use pintle_core::model::{DesiredPod, Goal, Observed};
use pintle_core::pod_sources::SourceError;

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The pod as it is wanted; absent for one found without a manifest.
    pub(crate) pod: Option<Arc<DesiredPod>>,
    /// Its status.
    pub(crate) status: api::PodStatus,
    /// Counts changes of the status.
    pub(crate) version: u64,
    /// What it was decided from; absent for a pod that has no worker.
    pub(crate) basis: Option<(Goal, Observed)>,
}

/// The sink.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatusManager {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    pods: BTreeMap<PodUid, Entry>,
    errors: Vec<SourceError>,
    waiting: Vec<(Arc<DesiredPod>, PodUid)>,
}

impl StatusManager {
    /// Takes a pod's latest status; `pod` may be one that is known from its record only.
    pub(crate) fn publish(
        &self,
        uid: &PodUid,
        pod: Option<Arc<DesiredPod>>,
        status: api::PodStatus,
        basis: (Goal, Observed),
    ) {
        self.put(uid, Entry { pod, status, version: 0, basis: Some(basis) });
    }

    /// Takes the status of a pod that was refused, and will never have a worker.
    pub(crate) fn publish_refused(&self, pod: &Arc<DesiredPod>, status: api::PodStatus) {
        self.put(&pod.uid, Entry { pod: Some(Arc::clone(pod)), status, version: 0, basis: None });
    }

    fn put(&self, uid: &PodUid, mut entry: Entry) {
        let mut shared = self.shared();
        if let Some(old) = shared.pods.get(uid) {
            entry.version = old.version + u64::from(old.status != entry.status);
        }
        shared.pods.insert(uid.clone(), entry);
    }

    /// Forgets a pod of which nothing is left.
    pub(crate) fn forget(&self, uid: &PodUid) {
        self.shared().pods.remove(uid);
    }

    /// Takes what is wrong with manifests.
    pub(crate) fn set_errors(&self, errors: Vec<SourceError>) {
        self.shared().errors = errors;
    }

    /// Takes which pods wait for which other to be gone.
    pub(crate) fn set_waiting(&self, waiting: Vec<(Arc<DesiredPod>, PodUid)>) {
        self.shared().waiting = waiting;
    }

    /// What is wrong with manifests.
    pub(crate) fn source_errors(&self) -> Vec<SourceError> {
        self.shared().errors.clone()
    }

    /// The pods that wait until another is gone.
    pub(crate) fn waiting(&self) -> Vec<(Arc<DesiredPod>, PodUid)> {
        self.shared().waiting.clone()
    }

    /// The first entry whose pod is meant.
    pub(crate) fn find(&self, is_meant: impl Fn(&DesiredPod) -> bool) -> Option<Entry> {
        let shared = self.shared();
        shared.pods.values().find(|entry| entry.pod.as_deref().is_some_and(&is_meant)).cloned()
    }

    /// The pods that are wanted, as the API shows them. Nothing else is copied: there may be hundreds, and whoever waits
    /// for one asks often.
    pub(crate) fn objects(&self, wanted: impl Fn(&api::Pod) -> bool) -> Vec<api::Pod> {
        let shared = self.shared();
        let entries = shared.pods.values();
        entries
            .filter(|entry| entry.pod.as_deref().is_some_and(|pod| wanted(&pod.pod)))
            .filter_map(Entry::object)
            .collect()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The pod with its status, as the API shows it.
    pub(crate) fn object(&self) -> Option<api::Pod> {
        let mut object = self.pod.as_ref()?.pod.clone();
        object.metadata.resource_version = Some((self.version + 1).to_string());
        // A pod that no API server made began when the node took it up.
        let began = self.status.start_time.clone().or_else(|| seen(&object));
        object.metadata.creation_timestamp = object.metadata.creation_timestamp.or(began);
        object.status = Some(self.status.clone());
        if let Some((Goal::Terminate { deadline, .. }, _)) = &self.basis {
            let at = k8s_openapi::jiff::Timestamp::from_nanosecond(i128::from(deadline.as_nanos()));
            object.metadata.deletion_timestamp = at.ok().map(Time);
        }
        Some(object)
    }
}

/// When its manifest was first seen: all there is of a pod that was refused.
fn seen(pod: &api::Pod) -> Option<Time> {
    let text = pod.metadata.annotations.as_ref()?.get(SEEN_ANNOTATION)?;
    text.parse().ok().map(Time)
}
