//! The pod workers: one task for each pod, the only one that acts for it; and their owner, which starts them.
//!
//! In: the wanted pods. Out: a worker with the right goal for each, and nothing for those that are finished. Which pods
//! have a worker, and to what end, is `pintle_core::pod_workers`'; what a pod needs next is `pintle_core::decide`'s.
//!
//! ```text
//!   wanted pods ──► owner (WorkerSet) ──goal──► worker ──► runtime, volumes, cgroups
//!                        ▲                        │ status
//!                        └────────finished────────┴──────► status manager
//! ```

mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use pintle_core::ids::PodUid;
use pintle_core::model::{DesiredPod, Goal, Policy};
use pintle_core::pod_sources::SourceError;
use pintle_core::pod_workers::{FoundPod, WorkerSet};
use pintle_core::time::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{Instrument as _, info, info_span, warn};

use crate::admission::{self, Capacity};
use crate::apply::{Tools, chain};
use crate::checkpoint;
use crate::clock;
use crate::pleg::Pleg;
use crate::status_manager::StatusManager;

/// What the sources want, and what is wrong with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The pods.
    pub(crate) pods: Vec<Arc<DesiredPod>>,
    /// For the status manager.
    pub(crate) errors: Vec<SourceError>,
}

/// What every worker works with.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Hands.
    pub(crate) tools: Tools,
    /// Eyes.
    pub(crate) pleg: Pleg,
    /// The numbers.
    pub(crate) policy: Arc<Policy>,
    /// Where statuses go.
    pub(crate) statuses: StatusManager,
    /// Changes when an image arrives, whoever brought it: pods may wait for it.
    pub(crate) images_arrived: watch::Receiver<u64>,
    /// Wakes one pod that waits for an address when one is free again.
    pub(crate) addresses_freed: Arc<Notify>,
}

/// The owner of the workers.
#[derive(Debug)]
pub(crate) struct PodWorkers {
    shared: Shared,
    capacity: Capacity,
    set: WorkerSet,
    workers: BTreeMap<PodUid, watch::Sender<Goal>>,
    /// Pods that were admitted, and those that were refused; decided once for each.
    admitted: BTreeMap<PodUid, Arc<DesiredPod>>,
    refused: BTreeMap<PodUid, Arc<DesiredPod>>,
    finished: (mpsc::UnboundedSender<PodUid>, mpsc::UnboundedReceiver<PodUid>),
    /// Pods that were there before this agent: they are not admitted anew.
    found: Vec<PodUid>,
}

impl PodWorkers {
    /// Takes over what is on the node. Nothing happens to it before [`PodWorkers::run`].
    pub(crate) fn new(shared: Shared, capacity: Capacity, found: Vec<FoundPod>) -> Self {
        let mut set = WorkerSet::new();
        let uids = found.iter().map(|pod| pod.uid.clone()).collect();
        for pod in found {
            info!(pod = %format_args!("{}/{}", pod.namespace, pod.name), uid = %pod.uid, "found on the node");
            set.found(pod);
        }
        Self {
            shared,
            capacity,
            set,
            workers: BTreeMap::new(),
            admitted: BTreeMap::new(),
            refused: BTreeMap::new(),
            finished: mpsc::unbounded_channel(),
            found: uids,
        }
    }

    /// Follows the sources, for ever. What they want at the beginning decides what becomes of the pods that were found.
    pub(crate) async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        let first = wanted.borrow_and_update().clone();
        self.resume_terminations(&first.pods);
        self.want(first);
        loop {
            tokio::select! {
                // Cancel-safe: the value stays in the channel.
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now_wanted = wanted.borrow_and_update().clone();
                    self.want(now_wanted);
                }
                // Cancel-safe: a message that was not returned stays in the channel.
                Some(uid) = self.finished.1.recv() => self.finish(&uid),
            }
        }
    }

    /// A termination that an earlier agent began goes on, with the time that is left of it, wanted again or not.
    fn resume_terminations(&mut self, wanted: &[Arc<DesiredPod>]) {
        let now = clock::now();
        let ending: Vec<(PodUid, Timestamp)> = self
            .found
            .iter()
            .filter_map(|uid| Some((uid.clone(), checkpoint::load_deadline(&self.shared.tools.dirs, uid)?)))
            .collect();
        let others = wanted.iter().filter(|pod| ending.iter().all(|(uid, _)| *uid != pod.uid)).cloned();
        self.set.want(others.collect(), now);
        for (uid, deadline) in ending {
            self.set.shorten(&uid, deadline.since(now), now);
        }
    }

    fn want(&mut self, wanted: Wanted) {
        self.set.want(wanted.pods, clock::now());
        self.shared.statuses.set_errors(wanted.errors);
        self.follow_goals();
    }

    fn finish(&mut self, uid: &PodUid) {
        info!(%uid, "nothing is left of the pod");
        self.workers.remove(uid);
        self.admitted.remove(uid);
        self.refused.remove(uid);
        self.found.retain(|found| found != uid);
        self.shared.pleg.forget(uid);
        self.shared.statuses.forget(uid);
        self.set.finished(uid);
        self.follow_goals();
    }

    /// Tells every worker its goal and starts those that are missing.
    fn follow_goals(&mut self) {
        self.shared.statuses.set_waiting(self.set.waiting());
        let mut goals: Vec<(PodUid, Goal)> = self.set.goals().into_iter().collect();
        // What was here before counts before anything new is let in.
        goals.sort_by_key(|(uid, _)| !self.found.contains(uid));
        for (uid, goal) in goals {
            if let Some(worker) = self.workers.get(&uid) {
                worker.send_if_modified(|old| {
                    let changed = *old != goal;
                    if changed {
                        *old = goal.clone();
                    }
                    changed
                });
            } else if self.may_run(&uid, &goal) {
                self.start(uid, goal);
            }
        }
        let shares = admission::burstable_shares(self.admitted.values());
        if let Err(e) = self.shared.tools.cgroups.set_burstable_shares(shares) {
            warn!(error = %chain(&e), "the burstable class keeps its old share of the processors");
        }
    }

    /// Whether the pod fits on the node. Decided once, and never for one that was there before.
    fn may_run(&mut self, uid: &PodUid, goal: &Goal) -> bool {
        let Goal::Run(pod) = goal else { return true };
        if self.refused.contains_key(uid) {
            return false;
        }
        if self.found.contains(uid) {
            self.admitted.insert(uid.clone(), Arc::clone(pod));
            return true;
        }
        match admission::admit(pod, self.admitted.values(), &self.capacity) {
            Ok(()) => {
                self.admitted.insert(uid.clone(), Arc::clone(pod));
                true
            }
            Err(refusal) => {
                warn!(pod = pod.name(), reason = refusal.reason, "pod refused: {}", refusal.message);
                self.shared.statuses.publish_refused(pod, refusal.status());
                self.refused.insert(uid.clone(), Arc::clone(pod));
                false
            }
        }
    }

    fn start(&mut self, uid: PodUid, goal: Goal) {
        let span = match &goal {
            Goal::Run(pod) | Goal::Terminate { pod: Some(pod), .. } => {
                info_span!("pod", namespace = pod.namespace(), name = pod.name(), %uid)
            }
            Goal::Terminate { pod: None, .. } => info_span!("pod", %uid),
        };
        let (sender, goals) = watch::channel(goal);
        let worker = worker::Worker::new(self.shared.clone(), uid.clone(), goals);
        let finished = self.finished.0.clone();
        self.workers.insert(uid.clone(), sender);
        tokio::spawn(
            async move {
                worker.run().await;
                if finished.send(uid).is_err() {
                    warn!("the owner of the pod workers is gone");
                }
            }
            .instrument(span),
        );
    }
}
