//! One look at the node: what is observed, at which time, under which numbers, with the questions that every part of the
//! decision asks of it.
//!
//! In: [`Observed`], the time, [`Policy`]. Out: answers. It decides nothing.

use std::cmp::Reverse;

use crate::ids::SandboxId;
use crate::model::{
    Action, ActionKey, Container, ContainerState, Failure, Observed, Policy, Sandbox, UnderWay,
};
use crate::restart_backoff::BackOff;
use crate::time::Timestamp;

/// What is observed, when, and the numbers to judge it by.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The pod as observed.
    pub observed: &'a Observed,
    /// The time of the look.
    pub now: Timestamp,
    /// The numbers.
    pub policy: &'a Policy,
}

/// Whether an action may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Yes, now.
    Open,
    /// One of its key is under way.
    UnderWay,
    /// It failed; not before then.
    ClosedUntil(Timestamp),
}

impl<'a> Look<'a> {
    /// Whether an action of this key may begin now.
    pub fn gate(&self, key: &ActionKey) -> Gate {
        if self.observed.in_flight.contains_key(key) {
            return Gate::UnderWay;
        }
        match self.retry_at(key) {
            Some(at) if at > self.now => Gate::ClosedUntil(at),
            Some(_) | None => Gate::Open,
        }
    }

    /// The last failure of this key.
    pub fn failure(&self, key: &ActionKey) -> Option<&'a Failure> {
        self.observed.failures.get(key)
    }

    /// When an action that failed may be tried again. A failure from the far future (the clock was set back) never
    /// holds anything up.
    fn retry_at(&self, key: &ActionKey) -> Option<Timestamp> {
        let failure = self.failure(key)?;
        let back_off = self.back_off(key);
        let clock_set_back = failure.at.since(self.now) > back_off.max;
        (!clock_set_back).then(|| failure.at + back_off.delay(failure.count.max(1)))
    }

    fn back_off(&self, key: &ActionKey) -> BackOff {
        match key {
            ActionKey::Pull(_) => self.policy.pull,
            ActionKey::Prepare | ActionKey::Sandbox | ActionKey::Container(_) => self.policy.retry,
            ActionKey::StopContainer(_)
            | ActionKey::RemoveContainer(_)
            | ActionKey::StopSandbox(_)
            | ActionKey::RemoveSandbox(_)
            | ActionKey::CleanUp => self.policy.teardown,
        }
    }

    /// Whether a stop under way would kill later than this one.
    pub fn shortens(&self, action: &Action) -> bool {
        let under_way = self.observed.in_flight.get(&action.key());
        let new = UnderWay::beginning(action, self.now).until;
        matches!((under_way.and_then(|u| u.until), new), (Some(old), Some(new)) if new < old)
    }

    /// Whether something under way may still bring a process or a directory of the pod into being.
    pub fn making(&self) -> bool {
        self.observed.in_flight.keys().any(|key| match key {
            ActionKey::Prepare | ActionKey::Sandbox | ActionKey::Container(_) => true,
            ActionKey::Pull(_)
            | ActionKey::StopContainer(_)
            | ActionKey::RemoveContainer(_)
            | ActionKey::StopSandbox(_)
            | ActionKey::RemoveSandbox(_)
            | ActionKey::CleanUp => false,
        })
    }

    /// Whether a container is being made or started, of whatever name.
    pub fn starting_containers(&self) -> bool {
        self.observed.in_flight.keys().any(|key| matches!(key, ActionKey::Container(_)))
    }

    /// Whether the container may have a process: it has not ended, nor has its whole sandbox been stopped.
    pub fn possibly_alive(&self, container: &Container) -> bool {
        !matches!(container.state, ContainerState::Exited { .. })
            && !self.sandbox(&container.sandbox).is_some_and(|s| s.stopped && !s.ready)
    }

    /// The sandbox of this id.
    pub fn sandbox(&self, id: &SandboxId) -> Option<&'a Sandbox> {
        self.observed.sandboxes.iter().find(|s| s.id == *id)
    }

    /// The sandbox to run in: the newest that is ready and not being stopped.
    pub fn current_sandbox(&self) -> Option<&'a Sandbox> {
        let usable = |s: &&Sandbox| s.ready && !self.stop_decided(s);
        self.observed.sandboxes.iter().filter(usable).max_by_key(|s| sandbox_age(s))
    }

    /// Its stop is under way, or was tried: nothing may be started in it any more.
    fn stop_decided(&self, sandbox: &Sandbox) -> bool {
        let key = ActionKey::StopSandbox(sandbox.id.clone());
        self.observed.in_flight.contains_key(&key) || self.observed.failures.contains_key(&key)
    }

    /// The newest sandbox, ready or not.
    pub fn newest_sandbox(&self) -> Option<&'a Sandbox> {
        self.observed.sandboxes.iter().max_by_key(|s| sandbox_age(s))
    }

    /// The containers in this sandbox that may have a process.
    pub fn alive_in(&self, sandbox: &SandboxId) -> impl Iterator<Item = &'a Container> + use<'a, '_> {
        let sandbox = sandbox.clone();
        self.observed.containers.iter().filter(move |c| c.sandbox == sandbox && self.possibly_alive(c))
    }

    /// The incarnations of the container of this name, the newest first.
    pub fn incarnations(&self, name: &str) -> Vec<&'a Container> {
        let mut all: Vec<_> = self.observed.containers.iter().filter(|c| c.name == name).collect();
        all.sort_by_key(|c| Reverse((c.attempt, c.created_at, &c.id)));
        all
    }

    /// The pod's cgroup, directory and volumes are there, and stay.
    pub fn prepared(&self) -> bool {
        self.observed.node.cgroup && self.observed.node.volumes_ready && !self.cleaning_up()
    }

    /// They are being removed.
    pub fn cleaning_up(&self) -> bool {
        self.observed.in_flight.contains_key(&ActionKey::CleanUp)
    }

    /// Something of the pod is on the node beside sandboxes and containers.
    pub fn node_resources_left(&self) -> bool {
        self.observed.node.cgroup || self.observed.node.directory
    }
}

fn sandbox_age(sandbox: &Sandbox) -> (u32, Timestamp, &SandboxId) {
    (sandbox.attempt, sandbox.created_at, &sandbox.id)
}
