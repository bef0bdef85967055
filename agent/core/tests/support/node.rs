//! A node that exists only in memory: sandboxes, containers, images, pods' directories, and faults to order.
//!
//! In: actions. Out: facts. It outlives the agent, and it knows nothing of goals and plans.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pintle_core::decide::spec_hash;
use pintle_core::ids::{ContainerId, PodUid, SandboxId};
use pintle_core::model::{Action, Container, ContainerState, DesiredPod, ImageState, NodeResources, Sandbox};
use pintle_core::time::Timestamp;

use super::statement::{Survivors, Target};

/// The node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    pub pods: BTreeMap<PodUid, NodePod>,
    pub images: BTreeSet<String>,
    pub programs: BTreeMap<Target, Program>,
    /// How often the next actions of a verb on a thing fail.
    pub faults: BTreeMap<(String, String), u32>,
    pub pull_times: BTreeMap<String, Duration>,
    serial: u32,
}

/// What the node holds of one pod.
#[derive(Debug, Clone, Default)]
pub struct NodePod {
    pub name: String,
    pub grace: Duration,
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
    pub resources: NodeResources,
    /// When the node kills a container by itself, because a stop is under way.
    pub kill_at: BTreeMap<ContainerId, Timestamp>,
}

impl NodePod {
    fn is_empty(&self) -> bool {
        let left = self.resources.cgroup || self.resources.directory;
        self.sandboxes.is_empty() && self.containers.is_empty() && !left
    }
}

/// What the program of a container does.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub exits: Option<(i32, Duration)>,
    pub ignores_stop: bool,
}

/// How an action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It goes on; done when [`Node::is_done`].
    Lasting,
    Failed {
        reason: String,
        message: String,
    },
}

impl Node {
    pub fn image(&self, image: &str) -> ImageState {
        if self.images.contains(image) {
            ImageState::Present(format!("sha256:{image}"))
        } else {
            ImageState::Absent
        }
    }

    /// Carries out an action for a pod; `pod` is what the agent knows of it.
    pub fn perform(
        &mut self,
        uid: &PodUid,
        pod: Option<&DesiredPod>,
        action: &Action,
        now: Timestamp,
    ) -> Outcome {
        let name = pod.map_or_else(
            || self.pods.get(uid).map(|p| p.name.clone()).unwrap_or_default(),
            |p| p.name().to_owned(),
        );
        if let Some(failed) = self.fault(&name, uid, action) {
            return failed;
        }
        let entry = self.pods.entry(uid.clone()).or_default();
        entry.name.clone_from(&name);
        if let Some(pod) = pod {
            entry.grace = pintle_core::termination::grace_period(&pod.pod);
        }
        let outcome = match action {
            Action::Prepare => {
                let since = entry.resources.since.or(Some(now));
                entry.resources = NodeResources { cgroup: true, volumes_ready: true, directory: true, since };
                Outcome::Done
            }
            Action::PullImage { image, .. } => self.pull(image),
            Action::CreateSandbox { attempt } => self.create_sandbox(uid, *attempt, now),
            Action::StartContainer { name, attempt, back_off_step, sandbox } => {
                let spec = pod.and_then(|p| p.pod.spec.as_ref()).unwrap();
                let spec = spec.containers.iter().find(|c| c.name == *name).unwrap();
                if !entry.sandboxes.iter().any(|s| s.id == *sandbox && s.ready) {
                    return sandbox_gone();
                }
                self.create(
                    uid,
                    Container {
                        id: ContainerId::new(String::new()),
                        sandbox: sandbox.clone(),
                        name: name.clone(),
                        attempt: *attempt,
                        spec_hash: spec_hash(spec),
                        back_off_step: *back_off_step,
                        image_id: format!("sha256:{}", spec.image.clone().unwrap_or_default()),
                        created_at: now,
                        state: ContainerState::Created,
                    },
                );
                self.start(uid, name, now)
            }
            Action::ResumeContainer { name, .. } => self.start(uid, name, now),
            Action::StopContainer { id, grace, .. } => self.stop(uid, id, now + *grace, now),
            Action::RemoveContainer { id } => {
                entry.containers.retain(|c| c.id != *id);
                Outcome::Done
            }
            Action::StopSandbox { id } => self.stop_sandbox(uid, id, now),
            Action::RemoveSandbox { id } => {
                assert!(
                    !entry.containers.iter().any(|c| c.sandbox == *id),
                    "sandbox {id} still has containers"
                );
                entry.sandboxes.retain(|s| s.id != *id);
                Outcome::Done
            }
            Action::CleanUp => {
                assert!(!entry.sandboxes.iter().any(|s| s.ready), "volumes are taken from a running sandbox");
                entry.resources = NodeResources::default();
                Outcome::Done
            }
        };
        self.pods.retain(|_, pod| !pod.is_empty());
        outcome
    }

    fn fault(&mut self, name: &str, uid: &PodUid, action: &Action) -> Option<Outcome> {
        let container_of = |id: &ContainerId| {
            let container = self.pods.get(uid)?.containers.iter().find(|c| c.id == *id)?;
            Some(format!("{name}/{}", container.name))
        };
        let (verb, what, reason) = match action {
            Action::Prepare => ("prepare", Some(name.to_owned()), "FailedMount"),
            Action::PullImage { image, .. } => ("pull", Some(image.clone()), "ErrImagePull"),
            Action::CreateSandbox { .. } => ("sandbox", Some(name.to_owned()), "FailedCreatePodSandBox"),
            Action::StartContainer { name: container, .. } => {
                ("create", Some(format!("{name}/{container}")), "CreateContainerError")
            }
            Action::ResumeContainer { .. } => return None,
            Action::StopContainer { id, .. } => ("stop", container_of(id), "FailedKillPod"),
            Action::RemoveContainer { id } => ("remove", container_of(id), "FailedKillPod"),
            Action::StopSandbox { .. } => ("stopsandbox", Some(name.to_owned()), "FailedKillPod"),
            Action::RemoveSandbox { .. } => ("removesandbox", Some(name.to_owned()), "FailedKillPod"),
            Action::CleanUp => ("cleanup", Some(name.to_owned()), "FailedUnmount"),
        };
        let what = what?;
        self.take_fault(verb, &what)
            .then(|| Outcome::Failed { reason: reason.into(), message: format!("{verb} of {what} failed") })
    }

    fn take_fault(&mut self, verb: &str, what: &str) -> bool {
        match self.faults.get_mut(&(verb.to_owned(), what.to_owned())) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    fn pull(&mut self, image: &str) -> Outcome {
        if self.pull_times.contains_key(image) {
            return Outcome::Lasting;
        }
        self.images.insert(image.to_owned());
        Outcome::Done
    }

    fn create_sandbox(&mut self, uid: &PodUid, attempt: u32, now: Timestamp) -> Outcome {
        self.serial += 1;
        let pod = self.pods.entry(uid.clone()).or_default();
        assert!(!pod.sandboxes.iter().any(|s| s.ready), "a second live sandbox for {uid}");
        let alive = |c: &&Container| !matches!(c.state, ContainerState::Exited { .. });
        assert!(!pod.containers.iter().any(|c| alive(&c)), "a sandbox beside live containers of {uid}");
        assert!(pod.resources.volumes_ready, "a sandbox without volumes for {uid}");
        pod.sandboxes.push(Sandbox {
            id: SandboxId::new(format!("s{}", self.serial)),
            attempt,
            ready: true,
            stopped: false,
            created_at: now,
            ips: vec![format!("10.88.0.{}", self.serial)],
        });
        Outcome::Done
    }

    /// Makes a container without starting it.
    pub fn create(&mut self, uid: &PodUid, mut container: Container) {
        self.serial += 1;
        container.id = ContainerId::new(format!("{}{}", container.name, self.serial));
        let pod = self.pods.get_mut(uid).unwrap();
        let alive = |c: &&Container| !matches!(c.state, ContainerState::Exited { .. });
        let other = pod.containers.iter().filter(alive).find(|c| c.name == container.name);
        assert!(other.is_none(), "a second live container {} of {uid}", container.name);
        let highest = pod.containers.iter().filter(|c| c.name == container.name).map(|c| c.attempt).max();
        assert!(highest.is_none_or(|h| h < container.attempt), "attempts of {} go down", container.name);
        pod.containers.push(container);
    }

    fn start(&mut self, uid: &PodUid, name: &str, now: Timestamp) -> Outcome {
        let pod_name = self.pods.get(uid).unwrap().name.clone();
        let failed = self.take_fault("start", &format!("{pod_name}/{name}"));
        let pod = self.pods.get_mut(uid).unwrap();
        let created = |c: &&mut Container| c.name == *name && c.state == ContainerState::Created;
        let Some(container) = pod.containers.iter_mut().find(created) else { return sandbox_gone() };
        if !pod.sandboxes.iter().any(|s| s.id == container.sandbox && s.ready) {
            return sandbox_gone();
        }
        if failed {
            let message = "no such file: /bin/app".to_owned();
            container.state = exited(None, now, 128, "ContainerCannotRun");
            return Outcome::Failed { reason: "RunContainerError".into(), message };
        }
        container.state = ContainerState::Running { started_at: now };
        Outcome::Done
    }

    fn stop(&mut self, uid: &PodUid, id: &ContainerId, deadline: Timestamp, now: Timestamp) -> Outcome {
        let programs = self.programs.clone();
        let Some(pod) = self.pods.get_mut(uid) else { return Outcome::Done };
        let name = pod.name.clone();
        let Some(container) = pod.containers.iter_mut().find(|c| c.id == *id) else { return Outcome::Done };
        let target = Target { pod: name, container: container.name.clone() };
        let started = match container.state {
            ContainerState::Exited { .. } => return Outcome::Done,
            ContainerState::Created => None,
            ContainerState::Running { started_at } => Some(started_at),
            ContainerState::Unknown => Some(container.created_at),
        };
        let stubborn = started.is_some() && programs.get(&target).is_some_and(|p| p.ignores_stop);
        if !stubborn {
            let (code, reason) = if started.is_some() { (143, "Error") } else { (137, "ContainerCannotRun") };
            container.state = exited(started, now, code, reason);
            return Outcome::Done;
        }
        if deadline <= now {
            container.state = exited(started, now, 137, "Error");
            return Outcome::Done;
        }
        let kill_at = pod.kill_at.get(id).map_or(deadline, |earlier| deadline.min(*earlier));
        pod.kill_at.insert(id.clone(), kill_at);
        Outcome::Lasting
    }

    fn stop_sandbox(&mut self, uid: &PodUid, id: &SandboxId, now: Timestamp) -> Outcome {
        let Some(pod) = self.pods.get_mut(uid) else { return Outcome::Done };
        for container in pod.containers.iter_mut().filter(|c| c.sandbox == *id) {
            kill(container, now);
        }
        for sandbox in pod.sandboxes.iter_mut().filter(|s| s.id == *id) {
            sandbox.ready = false;
        }
        Outcome::Done
    }

    pub fn is_sandbox_ready(&self, uid: &PodUid, sandbox: &SandboxId) -> bool {
        self.pods.get(uid).is_some_and(|p| p.sandboxes.iter().any(|s| s.id == *sandbox && s.ready))
    }

    /// Whether a lasting action has ended.
    pub fn is_done(&self, uid: &PodUid, action: &Action) -> bool {
        let Action::StopContainer { id, .. } = action else { return false };
        let container = self.pods.get(uid).and_then(|p| p.containers.iter().find(|c| c.id == *id));
        container.is_none_or(|c| matches!(c.state, ContainerState::Exited { .. }))
    }

    /// The next thing that the node does by itself.
    pub fn next_event(&self) -> Option<Timestamp> {
        let pods = self.pods.values();
        let kills = pods.clone().flat_map(|p| p.kill_at.values().copied());
        let exits = pods.flat_map(|p| p.containers.iter().filter_map(|c| Some(self.own_exit(&p.name, c)?.0)));
        kills.chain(exits).min()
    }

    fn own_exit(&self, pod: &str, container: &Container) -> Option<(Timestamp, i32)> {
        let ContainerState::Running { started_at } = container.state else { return None };
        let target = Target { pod: pod.to_owned(), container: container.name.clone() };
        let (code, after) = self.programs.get(&target)?.exits?;
        Some((started_at + after, code))
    }

    /// Does what is due.
    pub fn run_events(&mut self, now: Timestamp) {
        let view = self.clone();
        for pod in self.pods.values_mut() {
            for container in &mut pod.containers {
                if let Some((at, code)) = view.own_exit(&pod.name, container).filter(|(at, _)| *at <= now) {
                    exit(container, at, code, if code == 0 { "Completed" } else { "Error" });
                }
                if pod.kill_at.get(&container.id).is_some_and(|at| *at <= now) {
                    kill(container, now);
                }
            }
            let ended = |id: &ContainerId| {
                pod.containers
                    .iter()
                    .any(|c| c.id == *id && !matches!(c.state, ContainerState::Exited { .. }))
            };
            pod.kill_at.retain(|id, _| ended(id));
        }
    }

    /// The agent died: what it was doing ends, and what it had done stays.
    pub fn agent_died(&mut self) {
        for pod in self.pods.values_mut() {
            pod.kill_at.clear();
        }
    }

    /// A running container of that name ends.
    pub fn exit(&mut self, target: &Target, now: Timestamp, code: i32, reason: &str) -> bool {
        let Some(container) = self.running(target) else { return false };
        exit(container, now, code, reason);
        true
    }

    pub fn running(&mut self, target: &Target) -> Option<&mut Container> {
        let pods = self.pods.values_mut().filter(|p| p.name == target.pod);
        pods.flat_map(|p| p.containers.iter_mut())
            .find(|c| c.name == target.container && matches!(c.state, ContainerState::Running { .. }))
    }

    pub fn sandbox_vanishes(&mut self, name: &str) -> bool {
        let mut any = false;
        for pod in self.pods.values_mut().filter(|p| p.name == name) {
            any |= !pod.sandboxes.is_empty();
            pod.sandboxes.clear();
        }
        self.pods.retain(|_, pod| !pod.is_empty());
        any
    }

    pub fn sandbox_dies(&mut self, name: &str, containers: Survivors, now: Timestamp) -> bool {
        let mut died = false;
        for pod in self.pods.values_mut().filter(|p| p.name == name) {
            for sandbox in pod.sandboxes.iter_mut().filter(|s| s.ready) {
                sandbox.ready = false;
                died = true;
                for container in pod.containers.iter_mut().filter(|c| c.sandbox == sandbox.id) {
                    match (containers, &container.state) {
                        (_, ContainerState::Exited { .. }) | (Survivors::Running, _) => {}
                        (Survivors::Killed, _) => kill(container, now),
                        (Survivors::Unknown, _) => container.state = ContainerState::Unknown,
                    }
                }
            }
        }
        died
    }
}

fn sandbox_gone() -> Outcome {
    Outcome::Failed { reason: "CreateContainerError".into(), message: "the sandbox is not running".into() }
}

fn exit(container: &mut Container, at: Timestamp, code: i32, reason: &str) {
    if let ContainerState::Running { started_at } = container.state {
        container.state = exited(Some(started_at), at, code, reason);
    }
}

fn kill(container: &mut Container, now: Timestamp) {
    let started = match container.state {
        ContainerState::Exited { .. } => return,
        ContainerState::Running { started_at } => Some(started_at),
        ContainerState::Created => None,
        ContainerState::Unknown => Some(container.created_at),
    };
    container.state = exited(started, now, 137, "Error");
}

fn exited(started_at: Option<Timestamp>, at: Timestamp, exit_code: i32, reason: &str) -> ContainerState {
    ContainerState::Exited {
        started_at,
        finished_at: at,
        exit_code,
        reason: reason.to_owned(),
        message: String::new(),
    }
}
