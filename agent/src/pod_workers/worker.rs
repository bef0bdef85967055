//! One pod's worker.
//!
//! In: the pod's goal, the runtime's facts of it, the ends of its own actions, time. Out: actions begun, status published.
//!
//! ```text
//!  loop { snapshot ─► decide ─► publish status ─► begin actions ─► wait: goal | facts | image | action ended | wake_at }
//! ```
//!
//! Every action runs in a task of its own. Its end reaches this loop only after the pod was read again, so that what it did
//! is seen together with its end. Ends when the plan says that nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pintle_core::decide;
use pintle_core::ids::{PodUid, SandboxId};
use pintle_core::model::{
    Action, ActionKey, DesiredPod, Failure, Goal, ImageState, NodeResources, Observed, Pulled, UnderWay,
};
use pintle_core::time::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, debug, info, warn};

use super::Shared;
use crate::apply::{self, Failed, Target, chain};
use crate::pleg::RuntimeFacts;
use crate::{checkpoint, clock, failpoint, volumes};

/// The worker of one pod.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Shared,
    uid: PodUid,
    goals: watch::Receiver<Goal>,
    failures: BTreeMap<ActionKey, Failure>,
    in_flight: BTreeMap<ActionKey, UnderWay>,
    /// How many tasks work on a key: a stop that became shorter is a second one.
    tasks: BTreeMap<ActionKey, u32>,
    pulled: BTreeMap<String, Pulled>,
    stopped: BTreeSet<SandboxId>,
    /// An image was not on the node at the last look, so that the arrival of one is worth another.
    lacks_image: bool,
    /// There was no address for its sandbox at the last try.
    lacks_address: bool,
    /// Actions that succeeded and what the runtime had afterwards: the same again, with nothing changed, had no effect.
    done: BTreeMap<ActionKey, (Action, Arc<RuntimeFacts>)>,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
}

#[derive(Debug)]
struct Ended {
    action: Action,
    result: Result<(), Failed>,
}

impl Worker {
    pub(super) fn new(shared: Shared, uid: PodUid, goals: watch::Receiver<Goal>) -> Self {
        Self {
            shared,
            uid,
            goals,
            failures: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            tasks: BTreeMap::new(),
            pulled: BTreeMap::new(),
            stopped: BTreeSet::new(),
            lacks_image: false,
            lacks_address: false,
            done: BTreeMap::new(),
            ended: mpsc::unbounded_channel(),
        }
    }

    /// Works until nothing of the pod is left.
    pub(super) async fn run(mut self) {
        let mut facts = self.shared.pleg.watch(&self.uid).await;
        let mut recorded = None;
        let recorded_pod = checkpoint::load_pod(&self.shared.tools.dirs, &self.uid).map(Arc::new);
        loop {
            let goal = self.goals.borrow_and_update().clone();
            let seen = Arc::clone(&facts.borrow_and_update());
            self.shared.images_arrived.mark_unchanged();
            self.record_deadline(&goal, &mut recorded).await;
            let observed = self.snapshot(&goal, &seen).await;
            let now = clock::now();
            let plan = decide::decide(&goal, &observed, now, &self.shared.policy);
            if plan.finished {
                return;
            }
            self.lacks_image = observed.images.values().any(|image| *image == ImageState::Absent);
            let pod = wanted(&goal).cloned().or_else(|| recorded_pod.clone());
            self.shared.statuses.publish(&self.uid, pod, plan.status, (goal.clone(), observed));
            self.done.retain(|_, (_, facts)| Arc::ptr_eq(facts, &seen));
            let (again, fresh): (Vec<_>, Vec<_>) =
                plan.actions.into_iter().partition(|action| self.had_no_effect(action, &seen));
            for action in fresh {
                self.begin(action, &goal, &seen, now);
            }
            if again.is_empty() {
                self.wait(&mut facts, plan.wake_at, now).await;
            }
            for action in again {
                self.note_no_effect(&action);
            }
        }
    }

    async fn wait(
        &mut self,
        facts: &mut watch::Receiver<Arc<RuntimeFacts>>,
        wake_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep(at.since(now)).await,
                None => std::future::pending().await,
            }
        };
        let addresses_freed = Arc::clone(&self.shared.addresses_freed);
        let lacks_address = self.lacks_address && !leaves(&self.goals.borrow());
        let woken_by = tokio::select! {
            // Cancel-safe, all of them: values and messages that were not returned stay in their channels.
            Ok(()) = self.goals.changed() => "goal",
            Ok(()) = facts.changed() => "runtime facts",
            Ok(()) = self.shared.images_arrived.changed(), if self.lacks_image => "an image arrived",
            Some(ended) = self.ended.1.recv() => {
                self.note(ended, &facts.borrow());
                "action ended"
            }
            // Cancel-safe too: a notification that was not returned goes to another pod.
            () = addresses_freed.notified(), if lacks_address => {
                info!("an address is free again: trying at once");
                self.lacks_address = false;
                self.failures.remove(&ActionKey::Sandbox);
                "an address was freed"
            }
            () = sleep => "time",
        };
        // What else ended by now is seen by the same look.
        while let Ok(ended) = self.ended.1.try_recv() {
            self.note(ended, &facts.borrow());
        }
        debug!(woken_by, "the pod worker looks again");
    }

    async fn record_deadline(&self, goal: &Goal, recorded: &mut Option<Timestamp>) {
        let Goal::Terminate { deadline, .. } = *goal else { return };
        if recorded.is_some_and(|old| old <= deadline) {
            return;
        }
        let (dirs, uid) = (self.shared.tools.dirs.clone(), self.uid.clone());
        // A disk that is slow to synchronise delays this pod and no other.
        let save = move || checkpoint::save_deadline(&dirs, &uid, deadline).map_err(|e| chain(&e));
        match tokio::task::spawn_blocking(save).await.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(()) => *recorded = Some(deadline),
            Err(error) => warn!(error, "a restart would let the grace period begin anew"),
        }
    }

    async fn snapshot(&self, goal: &Goal, seen: &RuntimeFacts) -> Observed {
        let images = match goal {
            Goal::Run(pod) => self.images(pod).await,
            Goal::Terminate { .. } => BTreeMap::new(),
        };
        let sandboxes = seen.sandboxes.iter().cloned().map(|mut sandbox| {
            sandbox.stopped = !sandbox.ready && self.stopped.contains(&sandbox.id);
            sandbox
        });
        Observed {
            sandboxes: sandboxes.collect(),
            containers: seen.containers.clone(),
            images,
            node: self.node_resources(goal),
            pulled: self.pulled.clone(),
            failures: self.failures.clone(),
            in_flight: self.in_flight.clone(),
        }
    }

    fn node_resources(&self, goal: &Goal) -> NodeResources {
        let tools = &self.shared.tools;
        let dir = tools.dirs.pod(&self.uid);
        let meta = std::fs::symlink_metadata(&dir).ok();
        let since = meta.as_ref().and_then(|meta| meta.created().or_else(|_| meta.modified()).ok());
        NodeResources {
            cgroup: tools.cgroups.pod_exists(&self.uid),
            volumes_ready: wanted(goal)
                .is_some_and(|pod| volumes::paths_if_ready(&tools.dirs, &pod.pod, &self.uid).is_some()),
            // What a pod that is over keeps for its status is nothing that is left to be given back.
            directory: if leaves(goal) { meta.is_some() } else { tools.dirs.volumes(&self.uid).is_dir() },
            since: since.map(clock::timestamp),
        }
    }

    async fn images(&self, pod: &DesiredPod) -> BTreeMap<String, ImageState> {
        let spec = pod.pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| &spec.containers);
        let names: BTreeSet<&String> = containers.filter_map(|container| container.image.as_ref()).collect();
        let mut images = BTreeMap::new();
        for name in names {
            let state = if self.in_flight.contains_key(&ActionKey::Pull(name.clone())) {
                ImageState::Pulling
            } else {
                match self.shared.tools.runtime.image_status(name).await {
                    Ok(Some(image)) => ImageState::Present(image.id),
                    Ok(None) => ImageState::Absent,
                    Err(e) => {
                        debug!(image = %name, error = %e.message(), "the runtime cannot say whether it has the image");
                        ImageState::Absent
                    }
                }
            };
            images.insert(name.clone(), state);
        }
        images
    }

    /// Whether an action is planned again although it succeeded and changed nothing: without this guard a disagreement
    /// between decision and runtime would spin.
    fn had_no_effect(&self, action: &Action, seen: &Arc<RuntimeFacts>) -> bool {
        let Some((done, facts)) = self.done.get(&action.key()) else { return false };
        let same = match (done, action) {
            (Action::StopContainer { .. }, Action::StopContainer { .. }) => true,
            (done, action) => done == action,
        };
        same && Arc::ptr_eq(facts, seen) && !self.in_flight.contains_key(&action.key())
    }

    fn note_no_effect(&mut self, action: &Action) {
        self.done.remove(&action.key());
        let message = "it was done, but nothing has changed; doing it again".to_owned();
        self.note_failure(action.key(), Failed::new("NoEffect", message));
    }

    fn begin(&mut self, action: Action, goal: &Goal, seen: &Arc<RuntimeFacts>, now: Timestamp) {
        let key = action.key();
        self.in_flight.insert(key.clone(), UnderWay::beginning(&action, now));
        *self.tasks.entry(key).or_default() += 1;
        let target = Target {
            uid: self.uid.clone(),
            pod: wanted(goal).cloned(),
            leaves: leaves(goal),
            facts: Arc::clone(seen),
        };
        let (shared, ended) = (self.shared.clone(), self.ended.0.clone());
        tokio::spawn(
            async move {
                let result = apply::apply(&shared.tools, &target, &action).await;
                if result.is_ok() {
                    failpoint::after_action();
                }
                shared.pleg.refresh_until_done(&target.uid).await;
                // The worker may be gone only if nothing of the pod is left; then nobody needs to know.
                if ended.send(Ended { action, result }).is_err() {
                    debug!("an action ended after its pod");
                }
            }
            .in_current_span(),
        );
    }

    fn note(&mut self, Ended { action, result }: Ended, after: &Arc<RuntimeFacts>) {
        let key = action.key();
        let others = self.tasks.get(&key).copied().unwrap_or(1) - 1;
        if others > 0 {
            self.tasks.insert(key, others);
            return;
        }
        self.tasks.remove(&key);
        self.in_flight.remove(&key);
        if key == ActionKey::Sandbox {
            self.lacks_address = result.as_ref().is_err_and(|failed| failed.lacks_address);
        }
        match result {
            Ok(()) => {
                if let Some(Failure { count, .. }) = self.failures.remove(&key) {
                    info!(action = ?key, count, "it works now, after it had failed");
                }
                self.done.insert(key, (action.clone(), Arc::clone(after)));
                self.note_success(action);
            }
            Err(failed) => self.note_failure(key, failed),
        }
    }

    fn note_success(&mut self, action: Action) {
        match action {
            Action::PullImage { image, container, attempt } => {
                self.pulled.insert(container, Pulled { image, attempt, at: clock::now() });
            }
            Action::StopSandbox { id } => {
                self.stopped.insert(id);
            }
            Action::RemoveSandbox { id } => {
                self.stopped.remove(&id);
            }
            Action::Prepare
            | Action::CreateSandbox { .. }
            | Action::StartContainer { .. }
            | Action::ResumeContainer { .. }
            | Action::StopContainer { .. }
            | Action::RemoveContainer { .. }
            | Action::CleanUp => {}
        }
    }

    fn note_failure(&mut self, key: ActionKey, failed: Failed) {
        let known = self.failures.get(&key);
        let count = known.map_or(0, |old| old.count).saturating_add(1);
        // Told once and not at every try; the status and `explain` tell it as long as it lasts.
        if known.is_some_and(|old| same_cause(&old.message, &failed.message)) {
            debug!(action = ?key, reason = failed.reason, count, "{}", failed.message);
        } else {
            warn!(action = ?key, reason = failed.reason, count, "{}", failed.message);
        }
        let failure =
            Failure { reason: failed.reason.to_owned(), message: failed.message, count, at: clock::now() };
        self.failures.insert(key, failure);
    }
}

/// Whether two messages differ in nothing but ids and numbers, which are others at every try.
fn same_cause(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(|word| !word.contains(|c: char| c.is_ascii_digit())).map(str::to_owned).collect()
    };
    words(one) == words(other)
}

fn wanted(goal: &Goal) -> Option<&Arc<DesiredPod>> {
    match goal {
        Goal::Run(pod) => Some(pod),
        Goal::Terminate { pod, .. } => pod.as_ref(),
    }
}

fn leaves(goal: &Goal) -> bool {
    matches!(goal, Goal::Terminate { .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cgroups::Cgroups;
    use crate::pleg::Pleg;
    use crate::runtime::SharedRuntime;
    use crate::runtime::fake::FakeRuntime;
    use crate::sandbox_config::tests::{desired, node};
    use crate::volumes::PodDirs;

    fn shared(root: &std::path::Path) -> Shared {
        let runtime: SharedRuntime = Arc::new(FakeRuntime::default());
        let dirs = PodDirs::new(root);
        Shared {
            pleg: Pleg::new(Arc::clone(&runtime), dirs.clone()),
            tools: apply::Tools {
                runtime,
                dirs,
                cgroups: Cgroups::open("/pintle-test-worker").expect("hierarchies"),
                node: Arc::new(node()),
            },
            policy: Arc::default(),
            statuses: crate::status_manager::StatusManager::default(),
            images_arrived: watch::channel(0).1,
            addresses_freed: Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_found_no_address_tries_again_as_soon_as_one_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = shared(dir.path());
        let (pod, policy) = (Arc::new(desired(r#"{"metadata":{"name":"a"}}"#)), Arc::clone(&shared.policy));
        let (_goal, goals) = watch::channel(Goal::Run(pod));
        let freed = Arc::clone(&shared.addresses_freed);
        let mut worker = Worker::new(shared, PodUid::new("u-1"), goals);
        let (_facts, mut facts) = watch::channel(Arc::default());
        let failed =
            Failed { lacks_address: true, ..Failed::new("FailedCreatePodSandBox", "no address left") };
        let failure = Ended { action: Action::CreateSandbox { attempt: 0 }, result: Err(failed) };
        worker.note(failure, &facts.borrow());
        assert!(worker.failures.contains_key(&ActionKey::Sandbox));

        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            freed.notify_one();
        });
        let now = clock::now();
        worker.wait(&mut facts, Some(now + policy.retry.max), now).await;
        assert!(worker.failures.is_empty(), "it waits for its time");
    }

    #[test]
    fn a_cause_stays_the_same_though_ids_and_numbers_differ() {
        let of = |id: &str| format!("making /run/sandboxes/{id}: No space left on device (os error 28)");
        assert!(same_cause(&of("4f0ab2"), &of("77aa01")));
        assert!(!same_cause(&of("4f0ab2"), "making /run/sandboxes/4f0ab2: Read-only file system"));
        assert!(!same_cause("no free address", ""));
    }
}
