//! The pod lifecycle event generator: what the runtime has of each pod, kept current by its events.
//!
//! In: the runtime's event stream, and a slow audit that lists everything. Out: one watch channel of [`RuntimeFacts`] per
//! pod. Facts are always read from the runtime, never taken from an event: an event only says whose to read again.
//!
//! ```text
//!  events ──(uid)──► read this pod ──► changed? ──► its watch channel ──► its worker
//!  audit every 60 s: list all ──► differs from what was published? ──► a moment later still? ──► warn, read again
//! ```
//!
//! Reads of one pod follow one another, so that an older look never replaces a newer one; pods do not wait for each other.

mod read;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use pintle_core::ids::PodUid;
use pintle_core::model::{Container, Sandbox};
use pintle_core::pod_workers::FoundPod;
use pintle_cri_api::v1;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, warn};

use crate::runtime::SharedRuntime;
use crate::sandbox_config::POD_UID;
use crate::volumes::PodDirs;

/// Before events are subscribed to again after the stream broke.
const RESUBSCRIBE: Duration = Duration::from_millis(200);
/// Before what the audit found is looked at again: an event may be on its way.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// What the runtime has of one pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct RuntimeFacts {
    /// Its sandboxes. Whether they were stopped on purpose is the worker's to know.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Its containers.
    pub(crate) containers: Vec<Container>,
}

/// The generator.
#[derive(Clone)]
pub(crate) struct Pleg {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: SharedRuntime,
    dirs: PodDirs,
    pods: Mutex<BTreeMap<PodUid, Arc<Pod>>>,
}

struct Pod {
    /// Held while the pod is read.
    reading: tokio::sync::Mutex<read::Ended>,
    /// A read that has not begun yet is under way already.
    wanted: AtomicBool,
    facts: watch::Sender<Arc<RuntimeFacts>>,
}

impl std::fmt::Debug for Pleg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pleg").field("pods", &self.pods().len()).finish_non_exhaustive()
    }
}

impl Pleg {
    /// Knows of no pod yet.
    pub(crate) fn new(runtime: SharedRuntime, dirs: PodDirs) -> Self {
        Self { inner: Arc::new(Inner { runtime, dirs, pods: Mutex::default() }) }
    }

    /// Every pod that the runtime has something of, and what; read once, at start.
    pub(crate) async fn find_pods(&self) -> Result<Vec<FoundPod>, Status> {
        read::found_pods(&self.inner.runtime).await
    }

    /// The facts of a pod from now on. They are read before this returns.
    pub(crate) async fn watch(&self, uid: &PodUid) -> watch::Receiver<Arc<RuntimeFacts>> {
        let pod = Arc::clone(self.pods().entry(uid.clone()).or_insert_with(|| Arc::new(Pod::new())));
        self.refresh_until_done(uid).await;
        pod.facts.subscribe()
    }

    /// Stops keeping facts of a pod.
    pub(crate) fn forget(&self, uid: &PodUid) {
        self.pods().remove(uid);
    }

    /// Reads a pod now, as often as it takes. What was done to the pod before the call is in its facts after it.
    pub(crate) async fn refresh_until_done(&self, uid: &PodUid) {
        let mut wait = Duration::from_millis(50);
        while let Err(e) = self.refresh(uid).await {
            warn!(%uid, error = %e.message(), "the runtime does not say what it has of a pod; asking again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    async fn refresh(&self, uid: &PodUid) -> Result<(), Status> {
        let Some(pod) = self.pods().get(uid).cloned() else { return Ok(()) };
        let mut ended = pod.reading.lock().await;
        pod.wanted.store(false, Ordering::SeqCst);
        let facts = read::pod(&self.inner.runtime, &self.inner.dirs, uid, &mut ended).await?;
        pod.facts.send_if_modified(|old| {
            let changed = **old != facts;
            if changed {
                *old = Arc::new(facts);
            }
            changed
        });
        Ok(())
    }

    /// Follows the runtime's events and audits, for ever.
    pub(crate) async fn run(self, audit_period: Duration) {
        let mut audit = tokio::time::interval(audit_period);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audit.tick().await;
        loop {
            let mut events = match self.inner.runtime.container_events().await {
                Ok(events) => events,
                Err(e) => {
                    warn!(error = %e.message(), "the runtime's events cannot be subscribed to; trying again");
                    tokio::time::sleep(RESUBSCRIBE).await;
                    continue;
                }
            };
            // Whatever happened while nobody listened.
            self.refresh_all();
            loop {
                tokio::select! {
                    // Cancel-safe: an event that was not returned stays in the stream.
                    event = events.next() => match event {
                        Some(Ok(event)) => self.take(&event),
                        Some(Err(e)) => {
                            warn!(error = %e.message(), "the runtime's event stream broke");
                            break;
                        }
                        None => break,
                    },
                    // Cancel-safe: a tick that was not returned comes again.
                    _ = audit.tick() => drop(tokio::spawn(self.clone().audit())),
                }
            }
            tokio::time::sleep(RESUBSCRIBE).await;
        }
    }

    fn take(&self, event: &v1::ContainerEventResponse) {
        let labels = event.containers_statuses.iter().map(|status| &status.labels);
        let labels = event.pod_sandbox_status.iter().map(|status| &status.labels).chain(labels);
        let uid = labels.filter_map(|labels| labels.get(POD_UID)).next().map(PodUid::new);
        debug!(kind = ?event.container_event_type(), container = event.container_id, ?uid, "runtime event");
        match uid {
            Some(uid) => self.spawn_refresh(uid),
            None => self.refresh_owner(&event.container_id),
        }
    }

    /// An event that does not say whose it is concerns the pod that has its container, or any.
    fn refresh_owner(&self, container: &str) {
        let has = |pod: &Pod| {
            let facts = pod.facts.borrow();
            facts.containers.iter().any(|c| c.id.as_str() == container)
                || facts.sandboxes.iter().any(|s| s.id.as_str() == container)
        };
        let owner = self.pods().iter().find(|(_, pod)| has(pod)).map(|(uid, _)| uid.clone());
        match owner {
            Some(uid) => self.spawn_refresh(uid),
            None => self.refresh_all(),
        }
    }

    fn refresh_all(&self) {
        let uids: Vec<PodUid> = self.pods().keys().cloned().collect();
        uids.into_iter().for_each(|uid| self.spawn_refresh(uid));
    }

    /// One pod that hangs must not delay another's facts: each is read by a task of its own, at most one waiting per pod.
    fn spawn_refresh(&self, uid: PodUid) {
        let waiting = self.pods().get(&uid).is_none_or(|pod| pod.wanted.swap(true, Ordering::SeqCst));
        if !waiting {
            let pleg = self.clone();
            tokio::spawn(async move { pleg.refresh_until_done(&uid).await });
        }
    }

    async fn audit(self) {
        let suspects = self.differing().await;
        if suspects.is_empty() {
            return;
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let still = self.differing().await;
        for uid in suspects.into_iter().filter(|uid| still.contains(uid)) {
            warn!(%uid, "audit: what is known of a pod is not what the runtime says; an event was lost");
            self.spawn_refresh(uid);
        }
    }

    /// The pods of which the runtime lists something else than was published.
    async fn differing(&self) -> Vec<PodUid> {
        let listed = match read::summaries(&self.inner.runtime).await {
            Ok(listed) => listed,
            Err(e) => {
                warn!(error = %e.message(), "audit: the runtime cannot be listed");
                return Vec::new();
            }
        };
        let pods = self.pods();
        let known = pods.iter().map(|(uid, pod)| (uid, read::summary(&pod.facts.borrow())));
        let none = read::Summary::default();
        known
            .filter(|(uid, seen)| listed.get(*uid).unwrap_or(&none) != seen)
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodUid, Arc<Pod>>> {
        self.inner.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    fn new() -> Self {
        Self {
            reading: tokio::sync::Mutex::default(),
            wanted: AtomicBool::new(false),
            facts: watch::Sender::new(Arc::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pintle_core::model::ContainerState;

    use super::*;
    use crate::runtime::fake::FakeRuntime;

    const PERIOD: Duration = Duration::from_secs(60);

    fn container(state: v1::ContainerState, exit_code: i32) -> v1::ContainerStatus {
        v1::ContainerStatus {
            id: "c1".to_owned(),
            metadata: Some(v1::ContainerMetadata { name: "app".to_owned(), attempt: 0 }),
            labels: BTreeMap::from([(POD_UID.to_owned(), "u-1".to_owned())]),
            state: state.into(),
            exit_code,
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_exit_whose_event_was_lost_is_noticed_by_the_next_relist() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = Arc::new(FakeRuntime::default());
        runtime.set(container(v1::ContainerState::ContainerRunning, 0));
        let pleg = Pleg::new(Arc::clone(&runtime) as SharedRuntime, PodDirs::new(dir.path()));
        let mut facts = pleg.watch(&PodUid::new("u-1")).await;
        assert!(matches!(facts.borrow_and_update().containers[0].state, ContainerState::Running { .. }));
        tokio::spawn(pleg.run(PERIOD));
        // The look after subscribing is over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!facts.has_changed().expect("it is watched"));

        runtime.set(container(v1::ContainerState::ContainerExited, 7));
        let noticed = tokio::time::timeout(2 * PERIOD, facts.changed()).await;
        noticed.expect("the relist does not notice it").expect("it is watched");
        let state = facts.borrow().containers[0].state.clone();
        assert!(matches!(state, ContainerState::Exited { exit_code: 7, .. }), "{state:?}");
    }
}
