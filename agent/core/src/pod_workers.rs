//! Which pods have a worker, and to what end: the pods as wanted against the pods that still occupy the node.
//!
//! In: the merged set of wanted pods, what was found on the node at boot, the pods that are finished. Out: a [`Goal`] for
//! each worker. It decides nothing inside a pod and starts nothing.
//!
//! ```text
//!            wanted, name free            not wanted any more            finished
//!  (waiting) ─────────────────► Running ──────────────────► Terminating ─────────► (none)
//!      ▲                                                          │
//!      └── wanted again, or replaced by a pod of the same name ◄──┘ start only when it is finished
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::PodUid;
use crate::model::{DesiredPod, Goal};
use crate::termination;
use crate::time::Timestamp;

/// Every pod worker of the node.
///
/// At boot tell it what is on the node ([`WorkerSet::found`]) before the first [`WorkerSet::want`]: a pod must not start
/// while an older one of its name may still run.
#[derive(Debug, Clone, Default)]
pub struct WorkerSet {
    wanted: Vec<Arc<DesiredPod>>,
    workers: BTreeMap<PodUid, Worker>,
}

#[derive(Debug, Clone)]
struct Worker {
    name: FullName,
    pod: Option<Arc<DesiredPod>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Found { grace: Duration },
    Running,
    Terminating { deadline: Timestamp },
}

type FullName = (String, String);

/// A pod seen on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPod {
    /// Its uid, from the labels of its sandboxes and containers.
    pub uid: PodUid,
    /// Its namespace, likewise.
    pub namespace: String,
    /// Its name, likewise.
    pub name: String,
    /// Its own grace period, from the annotation on its sandbox; [`termination::DEFAULT_GRACE`] if there is none.
    pub grace: Duration,
}

impl WorkerSet {
    /// No pod at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells of a pod that is on the node. Nothing happens to it before the next [`WorkerSet::want`].
    pub fn found(&mut self, pod: FoundPod) {
        let worker =
            Worker { name: (pod.namespace, pod.name), pod: None, state: State::Found { grace: pod.grace } };
        self.workers.entry(pod.uid).or_insert(worker);
    }

    /// Sets which pods are wanted from now on.
    pub fn want(&mut self, pods: Vec<Arc<DesiredPod>>, now: Timestamp) {
        self.wanted = pods;
        self.end_unwanted(now);
        self.begin_wanted();
    }

    /// Tells that the worker of this pod found it [`finished`](crate::model::Plan::finished). A pod that waited for it
    /// may run now, the same pod included if it is wanted again.
    pub fn finished(&mut self, uid: &PodUid) {
        if self.workers.get(uid).is_some_and(|w| matches!(w.state, State::Terminating { .. })) {
            self.workers.remove(uid);
            self.begin_wanted();
        }
    }

    /// Asks for a terminating pod to be gone within `grace` from now; it never gets more time than it had.
    pub fn shorten(&mut self, uid: &PodUid, grace: Duration, now: Timestamp) {
        if let Some(Worker { state: State::Terminating { deadline }, .. }) = self.workers.get_mut(uid) {
            *deadline = termination::shorten(*deadline, now + grace);
        }
    }

    /// What each worker has to work towards.
    pub fn goals(&self) -> BTreeMap<PodUid, Goal> {
        self.workers.iter().filter_map(|(uid, worker)| Some((uid.clone(), worker.goal()?))).collect()
    }

    /// The wanted pods that have to wait, each with the pod it waits for: an older one of its name, or itself going away.
    pub fn waiting(&self) -> Vec<(Arc<DesiredPod>, PodUid)> {
        let waits = |pod: &Arc<DesiredPod>| Some((Arc::clone(pod), self.occupant(pod)?.clone()));
        self.wanted.iter().filter_map(waits).collect()
    }

    fn end_unwanted(&mut self, now: Timestamp) {
        for (uid, worker) in &mut self.workers {
            let wanted = self.wanted.iter().any(|pod| pod.uid == *uid);
            let grace = match worker.state {
                State::Found { grace } => grace,
                State::Running => worker
                    .pod
                    .as_ref()
                    .map_or(termination::DEFAULT_GRACE, |p| termination::grace_period(&p.pod)),
                State::Terminating { .. } => continue,
            };
            if !wanted {
                worker.state = State::Terminating { deadline: now + grace };
            }
        }
    }

    fn begin_wanted(&mut self) {
        for pod in &self.wanted {
            if self.occupant(pod).is_none() {
                let name = full_name(pod);
                let worker = Worker { name, pod: Some(Arc::clone(pod)), state: State::Running };
                self.workers.insert(pod.uid.clone(), worker);
            }
        }
    }

    /// The pod that must be finished before this one may run.
    fn occupant(&self, pod: &DesiredPod) -> Option<&PodUid> {
        if let Some((uid, worker)) = self.workers.get_key_value(&pod.uid) {
            return matches!(worker.state, State::Terminating { .. }).then_some(uid);
        }
        let name = full_name(pod);
        self.workers.iter().find(|(_, worker)| worker.name == name).map(|(uid, _)| uid)
    }
}

impl Worker {
    fn goal(&self) -> Option<Goal> {
        match self.state {
            State::Found { .. } => None,
            State::Running => self.pod.clone().map(Goal::Run),
            State::Terminating { deadline } => Some(Goal::Terminate { pod: self.pod.clone(), deadline }),
        }
    }
}

fn full_name(pod: &DesiredPod) -> FullName {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as api;

    use super::*;

    fn pod(uid: &str, name: &str) -> Arc<DesiredPod> {
        let mut object = api::Pod::default();
        object.metadata.name = Some(name.into());
        Arc::new(DesiredPod {
            uid: PodUid::new(uid),
            pod: object,
            hash: String::new(),
            source: String::new(),
        })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn summary(set: &WorkerSet) -> Vec<String> {
        let word = |goal: &Goal| match goal {
            Goal::Run(_) => "runs".to_owned(),
            Goal::Terminate { deadline, .. } => format!("ends by {}", deadline.as_nanos() / 1_000_000_000),
        };
        set.goals().iter().map(|(uid, goal)| format!("{uid} {}", word(goal))).collect()
    }

    #[test]
    fn a_replaced_pod_starts_only_when_the_old_one_is_finished() {
        let mut set = WorkerSet::new();
        set.want(vec![pod("u1", "web")], at(0));
        set.want(vec![pod("u2", "web")], at(5));
        assert_eq!(summary(&set), ["u1 ends by 35"]);
        assert_eq!(
            set.waiting().first().map(|(p, behind)| (p.uid.clone(), behind.clone())),
            Some((PodUid::new("u2"), PodUid::new("u1")))
        );
        set.finished(&PodUid::new("u1"));
        assert_eq!(summary(&set), ["u2 runs"]);
        assert!(set.waiting().is_empty());
    }

    #[test]
    fn a_pod_wanted_again_while_it_goes_away_starts_afresh_afterwards() {
        let mut set = WorkerSet::new();
        set.want(vec![pod("u1", "web")], at(0));
        set.want(vec![], at(1));
        set.want(vec![pod("u1", "web")], at(2));
        assert_eq!(summary(&set), ["u1 ends by 31"]);
        set.finished(&PodUid::new("u1"));
        assert_eq!(summary(&set), ["u1 runs"]);
    }

    #[test]
    fn a_chain_of_edits_keeps_only_the_last() {
        let mut set = WorkerSet::new();
        set.want(vec![pod("u1", "web")], at(0));
        set.want(vec![pod("u2", "web")], at(1));
        set.want(vec![pod("u3", "web")], at(2));
        set.finished(&PodUid::new("u1"));
        assert_eq!(summary(&set), ["u3 runs"]);
    }

    #[test]
    fn a_deadline_is_only_brought_forward() {
        let mut set = WorkerSet::new();
        set.want(vec![pod("u1", "web")], at(0));
        set.want(vec![], at(0));
        set.shorten(&PodUid::new("u1"), Duration::from_secs(60), at(1));
        assert_eq!(summary(&set), ["u1 ends by 30"]);
        set.shorten(&PodUid::new("u1"), Duration::from_secs(2), at(1));
        assert_eq!(summary(&set), ["u1 ends by 3"]);
        set.want(vec![], at(20));
        assert_eq!(summary(&set), ["u1 ends by 3"]);
    }

    #[test]
    fn what_is_found_at_boot_is_adopted_when_wanted_and_ended_with_its_own_grace_when_not() {
        let mut set = WorkerSet::new();
        for (uid, name) in [("u1", "web"), ("u2", "db")] {
            let grace = Duration::from_secs(7);
            set.found(FoundPod {
                uid: PodUid::new(uid),
                namespace: "default".into(),
                name: name.into(),
                grace,
            });
        }
        assert!(summary(&set).is_empty());
        set.want(vec![pod("u1", "web"), pod("u3", "db")], at(0));
        assert_eq!(summary(&set), ["u1 runs", "u2 ends by 7"]);
        set.finished(&PodUid::new("u2"));
        assert_eq!(summary(&set), ["u1 runs", "u3 runs"]);
    }

    #[test]
    fn a_running_pod_is_never_dropped_by_a_stray_finish() {
        let mut set = WorkerSet::new();
        set.want(vec![pod("u1", "web")], at(0));
        set.finished(&PodUid::new("u1"));
        assert_eq!(summary(&set), ["u1 runs"]);
    }
}
