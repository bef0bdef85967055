//! An agent in miniature on a node in memory and a clock that stands still until it is moved.
//!
//! In: statements, or (for random tests) single steps. Out: a trace of actions, statuses, and a panic when a rule that
//! always holds is broken. It applies plans exactly as `decide`'s documentation asks a shell to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use pintle_core::explain::explain;
use pintle_core::ids::{ContainerId, PodUid, SandboxId};
use pintle_core::model::{
    Action, ActionKey, ContainerState, DesiredPod, Failure, Goal, Observed, Policy, Pulled, UnderWay,
};
use pintle_core::pod_workers::{FoundPod, WorkerSet};
use pintle_core::time::Timestamp;

use super::node::{Node, Outcome};
use super::render::{describe, node_text, status_text};
use super::statement::{PodText, Statement, Target, duration};

/// Everything.
#[derive(Debug, Clone)]
pub struct World {
    pub now: Timestamp,
    pub began: Timestamp,
    pub clock_was_set: bool,
    pub node: Node,
    pub agent: Option<Agent>,
    pub policy: Policy,
    pub trace: Vec<String>,
    manifests: BTreeMap<(String, String), PodText>,
    known: BTreeMap<String, Vec<PodText>>,
    images: BTreeMap<(String, String), String>,
    crash_after: Option<u32>,
    crash_in_start: Option<(Target, bool)>,
    pub restarts: BTreeMap<(PodUid, String), i32>,
}

/// What dies with the agent.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    pub workers: WorkerSet,
    pub shells: BTreeMap<PodUid, Shell>,
    pub pending: Vec<Pending>,
}

/// What the agent remembers of one pod.
#[derive(Debug, Clone, Default)]
pub struct Shell {
    pub in_flight: BTreeMap<ActionKey, UnderWay>,
    pub failures: BTreeMap<ActionKey, Failure>,
    pub pulled: BTreeMap<String, Pulled>,
    pub stopped: BTreeSet<SandboxId>,
    pub stops_decided: BTreeSet<ContainerId>,
    pub sandbox_stops: BTreeSet<SandboxId>,
    pub terminating: bool,
    pub wake_at: Option<Timestamp>,
}

/// An action begun and not ended.
#[derive(Debug, Clone)]
pub struct Pending {
    pub uid: PodUid,
    pub action: Action,
    pub since: Timestamp,
    pub lasting: bool,
}

impl Default for World {
    fn default() -> Self {
        let began = Timestamp::from_nanos(1_750_000_000 * 1_000_000_000);
        let policy = Policy { host_ips: vec!["192.0.2.1".into()], ..Policy::default() };
        Self {
            now: began,
            began,
            clock_was_set: false,
            node: Node::default(),
            agent: Some(Agent::default()),
            policy,
            trace: Vec::new(),
            manifests: BTreeMap::new(),
            known: BTreeMap::new(),
            images: BTreeMap::new(),
            crash_after: None,
            crash_in_start: None,
            restarts: BTreeMap::new(),
        }
    }
}

impl World {
    /// Runs a statement and everything that follows from it without time passing.
    pub fn run(&mut self, statement: Statement) -> Result<(), String> {
        match statement {
            Statement::Tick(time) => self.tick(time),
            Statement::ClockSet { forward, back } => self.set_clock(|at| at + forward - back),
            Statement::Show { what, pod } => self.show(&what, &pod)?,
            Statement::Expect { what, pod, rest } => self.expect(&what, &pod, &rest)?,
            other => {
                self.change(other)?;
                self.settle();
            }
        }
        Ok(())
    }

    /// What a statement changes, without what follows from it.
    pub fn change(&mut self, statement: Statement) -> Result<(), String> {
        let now = self.now;
        match statement {
            Statement::PodSet { name, file, spec } => {
                self.images.retain(|(pod, _), _| *pod != name);
                self.manifests.insert((file, name), spec);
                self.manifests_changed();
            }
            Statement::PodRemove { name, file } => {
                found(self.manifests.remove(&(file, name)).is_some(), "such manifest")?;
                self.manifests_changed();
            }
            Statement::PodImage { name, container, image } => {
                self.images.insert((name, container), image);
                self.manifests_changed();
            }
            Statement::PodShorten { name, grace } => {
                let agent = self.agent.as_mut().ok_or("the agent is down")?;
                let uids: Vec<_> = agent.shells.keys().filter(|uid| pod_of(uid) == name).cloned().collect();
                for uid in uids {
                    agent.workers.shorten(&uid, grace, now);
                }
            }
            Statement::AgentStop => self.kill_agent(),
            Statement::AgentStart => self.start_agent(),
            Statement::AgentRestart => {
                self.kill_agent();
                self.start_agent();
            }
            Statement::CrashAfter(count) => self.crash_after = Some(count),
            Statement::CrashInStart { target, down } => self.crash_in_start = Some((target, down)),
            other => return self.change_node(other),
        }
        Ok(())
    }

    /// What a statement changes on the node.
    fn change_node(&mut self, statement: Statement) -> Result<(), String> {
        let now = self.now;
        match statement {
            Statement::ContainerExit { target, code } => {
                let reason = if code == 0 { "Completed" } else { "Error" };
                found(self.node.exit(&target, now, code, reason), "such running container")?;
            }
            Statement::ContainerOom { target } => {
                found(self.node.exit(&target, now, 137, "OOMKilled"), "such running container")?;
            }
            Statement::ContainerUnknown { target } => {
                self.node.running(&target).ok_or("no such running container")?.state =
                    ContainerState::Unknown;
            }
            Statement::ProgramExits { target, code, after } => {
                self.node.programs.entry(target).or_default().exits = Some((code, after));
            }
            Statement::ProgramRuns { target } => {
                self.node.programs.remove(&target);
            }
            Statement::ProgramIgnoresStop { target } => {
                self.node.programs.entry(target).or_default().ignores_stop = true;
            }
            Statement::SandboxDie { pod, containers } => {
                found(self.node.sandbox_dies(&pod, containers, now), "live sandbox")?;
            }
            Statement::SandboxVanish { pod } => {
                found(self.node.sandbox_vanishes(&pod), "sandbox")?;
            }
            Statement::Image { image, present: true } => {
                self.node.images.insert(image);
            }
            Statement::Image { image, present: false } => {
                self.node.images.remove(&image);
            }
            Statement::PullTakes { image, time } => {
                self.node.pull_times.insert(image, time);
            }
            Statement::Fail { verb, what, times } => {
                self.node.faults.insert((verb, what), times);
            }
            _ => {}
        }
        Ok(())
    }

    /// No crash that was ordered happens any more.
    pub fn disarm(&mut self) {
        self.crash_after = None;
        self.crash_in_start = None;
    }

    pub fn kill_agent(&mut self) {
        self.agent = None;
        self.node.agent_died();
    }

    /// Boot: first what is on the node, then what is wanted.
    pub fn start_agent(&mut self) {
        let mut agent = Agent::default();
        for (uid, pod) in &self.node.pods {
            agent.workers.found(FoundPod {
                uid: uid.clone(),
                namespace: "default".into(),
                name: pod.name.clone(),
                grace: pod.grace,
            });
        }
        self.agent = Some(agent);
        self.manifests_changed();
    }

    fn manifests_changed(&mut self) {
        let manifests: Vec<_> =
            self.manifests.iter().map(|((f, n), t)| (f.clone(), n.clone(), t.clone())).collect();
        let pods = manifests.iter().map(|(file, name, text)| self.desired(file, name, text)).collect();
        if let Some(agent) = &mut self.agent {
            agent.workers.want(pods, self.now);
        }
    }

    fn desired(&mut self, file: &str, name: &str, text: &PodText) -> Arc<DesiredPod> {
        let known = self.known.entry(name.to_owned()).or_default();
        let index = known.iter().position(|t| t == text).unwrap_or_else(|| {
            known.push(text.clone());
            known.len() - 1
        });
        let uid = format!("{name}-{}", index + 1);
        let container = |(container, image): &(String, String)| api::Container {
            name: container.clone(),
            image: Some(self.images.get(&(name.to_owned(), container.clone())).unwrap_or(image).clone()),
            image_pull_policy: text.pull.clone(),
            ..api::Container::default()
        };
        let mut pod = api::Pod {
            spec: Some(api::PodSpec {
                containers: text.containers.iter().map(container).collect(),
                restart_policy: Some(text.restart.clone()),
                termination_grace_period_seconds: text.grace.map(|g| i64::try_from(g.as_secs()).unwrap()),
                host_network: text.host_network.then_some(true),
                ..api::PodSpec::default()
            }),
            ..api::Pod::default()
        };
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("default".to_owned());
        pod.metadata.uid = Some(uid.clone());
        Arc::new(DesiredPod { uid: PodUid::new(uid), pod, hash: String::new(), source: file.to_owned() })
    }

    /// Lets time pass, stopping wherever something is due.
    pub fn tick(&mut self, time: Duration) {
        let target = self.now + time;
        while let Some(at) = self.next_due().filter(|at| *at <= target) {
            self.now = self.now.max(at);
            self.node.run_events(self.now);
            self.settle();
        }
        self.now = target;
        self.node.run_events(self.now);
        self.settle();
    }

    /// When the next thing happens by itself.
    pub fn next_due(&self) -> Option<Timestamp> {
        let agent = self.agent.iter();
        let wakes = agent.clone().flat_map(|a| a.shells.values().filter_map(|s| s.wake_at));
        let pulls =
            agent.flat_map(|a| a.pending.iter().filter(|p| p.lasting).filter_map(|p| self.pull_end(p)));
        wakes.chain(pulls).chain(self.node.next_event()).min()
    }

    fn pull_end(&self, pending: &Pending) -> Option<Timestamp> {
        let Action::PullImage { image, .. } = &pending.action else { return None };
        self.node.pull_times.get(image).map(|time| pending.since + *time)
    }

    /// Decides and acts until nothing more is to do now.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let begun = self.decide_all();
            let ended = self.end_lasting();
            let acted = self.finish_all();
            if begun + ended + acted == 0 {
                return;
            }
        }
        panic!("no end of actions without anything happening:\n{}", self.trace.join("\n"));
    }

    fn finish_all(&mut self) -> usize {
        let mut count = 0;
        while let Some(index) = self.agent.as_ref().and_then(|a| a.pending.iter().position(|p| !p.lasting)) {
            self.finish(index);
            count += 1;
        }
        count
    }

    /// Every worker decides once and begins what its plan says. How many actions were begun, and workers ended.
    pub fn decide_all(&mut self) -> usize {
        let Some(agent) = &self.agent else { return 0 };
        let mut count = 0;
        for (uid, goal) in agent.workers.goals() {
            let plan = self.decide_checked(&uid, &goal);
            let terminating = matches!(goal, Goal::Terminate { .. });
            let now = self.now;
            let agent = self.agent.as_mut().unwrap();
            let shell = agent.shells.entry(uid.clone()).or_default();
            shell.terminating |= terminating;
            shell.wake_at = plan.wake_at;
            for action in plan.actions {
                shell.in_flight.insert(action.key(), UnderWay::beginning(&action, now));
                if let Action::StopContainer { id, .. } = &action {
                    shell.stops_decided.insert(id.clone());
                }
                if let Action::StopSandbox { id } = &action {
                    shell.sandbox_stops.insert(id.clone());
                }
                agent.pending.push(Pending { uid: uid.clone(), action, since: now, lasting: false });
                count += 1;
            }
            if plan.finished {
                assert!(!self.node.pods.contains_key(&uid), "{uid} is finished and something is left");
                let left = agent.pending.iter().filter(|p| p.uid == uid).map(|p| p.action.key());
                assert!(
                    left.clone().all(|k| matches!(k, ActionKey::Pull(_))),
                    "{uid} is finished while busy"
                );
                agent.workers.finished(&uid);
                agent.shells.remove(&uid);
                agent.pending.retain(|p| p.uid != uid);
                self.restarts.retain(|(pod, _), _| *pod != uid);
                self.note(&uid, "finished");
                count += 1;
            }
        }
        count
    }

    /// The facts of a pod.
    pub fn observe(&self, uid: &PodUid, goal: &Goal) -> Observed {
        let node = self.node.pods.get(uid).cloned().unwrap_or_default();
        let shell = self.agent.as_ref().and_then(|a| a.shells.get(uid)).cloned().unwrap_or_default();
        let mut sandboxes = node.sandboxes;
        for sandbox in &mut sandboxes {
            sandbox.stopped = shell.stopped.contains(&sandbox.id);
        }
        let pod = match goal {
            Goal::Run(pod) => Some(pod),
            Goal::Terminate { pod, .. } => pod.as_ref(),
        };
        let specs = pod.and_then(|p| p.pod.spec.as_ref()).map(|s| s.containers.clone()).unwrap_or_default();
        let images = specs.iter().filter_map(|c| c.image.clone());
        Observed {
            sandboxes,
            containers: node.containers,
            images: images.map(|image| (image.clone(), self.node.image(&image))).collect(),
            node: node.resources,
            pulled: shell.pulled,
            failures: shell.failures,
            in_flight: shell.in_flight,
        }
    }

    /// Carries out a pending action.
    pub fn finish(&mut self, index: usize) {
        let Some(agent) = &mut self.agent else { return };
        let pending = agent.pending.remove(index);
        let goals = agent.workers.goals();
        let pod = match goals.get(&pending.uid) {
            Some(Goal::Run(pod)) => Some(Arc::clone(pod)),
            Some(Goal::Terminate { pod, .. }) => pod.clone(),
            None => None,
        };
        if self.crashes_in_start(&pending, pod.as_deref()) {
            return;
        }
        let outcome = self.node.perform(&pending.uid, pod.as_deref(), &pending.action, self.now);
        let text = describe(&pending.action);
        match &outcome {
            Outcome::Done => self.note(&pending.uid, &text),
            Outcome::Lasting => self.note(&pending.uid, &format!("{text} ...")),
            Outcome::Failed { reason, message } => {
                self.note(&pending.uid, &format!("{text} -> {reason}: {message}"));
            }
        }
        if outcome == Outcome::Lasting {
            self.agent.as_mut().unwrap().pending.push(Pending { lasting: true, ..pending });
        } else {
            self.ended(&pending, outcome);
        }
        self.count_down_to_crash();
    }

    /// Records the end of an action.
    pub fn ended(&mut self, pending: &Pending, outcome: Outcome) {
        let now = self.now;
        let Some(agent) = &mut self.agent else { return };
        let key = pending.action.key();
        let again = agent.pending.iter().any(|p| p.uid == pending.uid && p.action.key() == key);
        let Some(shell) = agent.shells.get_mut(&pending.uid) else { return };
        if !again {
            shell.in_flight.remove(&key);
        }
        match outcome {
            Outcome::Failed { reason, message } => {
                let count = shell.failures.get(&key).map_or(0, |f| f.count) + 1;
                shell.failures.insert(key, Failure { reason, message, count, at: now });
            }
            Outcome::Done | Outcome::Lasting => {
                shell.failures.remove(&key);
                match &pending.action {
                    Action::StopSandbox { id } => {
                        shell.stopped.insert(id.clone());
                    }
                    Action::PullImage { image, container, attempt } => {
                        let pulled = Pulled { image: image.clone(), attempt: *attempt, at: now };
                        shell.pulled.insert(container.clone(), pulled);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Ends what lasted and is done. How many.
    pub fn end_lasting(&mut self) -> usize {
        let Some(agent) = &self.agent else { return 0 };
        let done = |p: &Pending| {
            p.lasting
                && (self.node.is_done(&p.uid, &p.action) || self.pull_end(p).is_some_and(|at| at <= self.now))
        };
        let Some(index) = agent.pending.iter().position(done) else { return 0 };
        let pending = self.agent.as_mut().unwrap().pending.remove(index);
        if let Action::PullImage { image, .. } = &pending.action {
            self.node.images.insert(image.clone());
        }
        self.note(&pending.uid, &format!("... {} is done", describe(&pending.action)));
        self.ended(&pending, Outcome::Done);
        1
    }

    fn crashes_in_start(&mut self, pending: &Pending, pod: Option<&DesiredPod>) -> bool {
        let Action::StartContainer { name, attempt, back_off_step, sandbox } = &pending.action else {
            return false;
        };
        let here = |t: &Target| t.container == *name && pod.is_some_and(|p| p.name() == t.pod);
        let Some((_, down)) = self.crash_in_start.take_if(|(target, _)| here(target)) else { return false };
        if !self.node.is_sandbox_ready(&pending.uid, sandbox) {
            return false;
        }
        let spec = pod
            .and_then(|p| p.pod.spec.as_ref())
            .unwrap()
            .containers
            .iter()
            .find(|c| c.name == *name)
            .unwrap();
        let container = pintle_core::model::Container {
            id: ContainerId::new(""),
            sandbox: sandbox.clone(),
            name: name.clone(),
            attempt: *attempt,
            spec_hash: pintle_core::decide::spec_hash(spec),
            back_off_step: *back_off_step,
            image_id: format!("sha256:{}", spec.image.clone().unwrap_or_default()),
            created_at: self.now,
            state: ContainerState::Created,
        };
        self.node.create(&pending.uid, container);
        self.note(&pending.uid, &format!("create {name}#{attempt}, and the agent is killed"));
        self.kill_agent();
        if !down {
            self.start_agent();
        }
        true
    }

    fn count_down_to_crash(&mut self) {
        match &mut self.crash_after {
            Some(left) if *left <= 1 => {
                self.crash_after = None;
                self.trace.push(format!("{} the agent is killed and started", self.clock()));
                self.kill_agent();
                self.start_agent();
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    fn clock(&self) -> String {
        let since = self.now.since(self.began);
        match since.subsec_millis() {
            0 => format!("[{}s]", since.as_secs()),
            millis => format!("[{}.{millis:03}s]", since.as_secs()),
        }
    }

    fn note(&mut self, uid: &PodUid, text: &str) {
        self.trace.push(format!("{} {uid}: {text}", self.clock()));
    }

    /// The goal of the worker of a pod of this name: of the one that runs, else of one that goes away.
    pub fn worker(&self, name: &str) -> Option<(PodUid, Goal)> {
        let goals = self.agent.as_ref()?.workers.goals();
        let mut mine: Vec<_> = goals.into_iter().filter(|(uid, _)| pod_of(uid) == name).collect();
        mine.sort_by_key(|(_, goal)| matches!(goal, Goal::Terminate { .. }));
        mine.into_iter().next()
    }

    fn show(&mut self, what: &str, pod: &str) -> Result<(), String> {
        match what {
            "node" => {
                let text = node_text(&self.node);
                self.trace.push(text);
                return Ok(());
            }
            "waiting" => {
                let agent = self.agent.as_ref().ok_or("the agent is down")?;
                let lines = agent
                    .workers
                    .waiting()
                    .into_iter()
                    .map(|(pod, behind)| format!("  {} from {} waits for {behind}", pod.uid, pod.source));
                let lines: Vec<_> = lines.collect();
                self.trace.extend(if lines.is_empty() { vec!["  nobody waits".into()] } else { lines });
                return Ok(());
            }
            _ => {}
        }
        let (uid, goal) = self.worker(pod).ok_or("no such pod has a worker")?;
        let plan = self.decide_checked(&uid, &goal);
        match what {
            "status" => self.trace.push(status_text(&plan.status)),
            "wake" => {
                let wake =
                    plan.wake_at.map_or("none".to_owned(), |at| format!("in {:?}", at.since(self.now)));
                self.trace.push(format!("  wake {wake}"));
            }
            "explain" => {
                let observed = self.observe(&uid, &goal);
                let text = explain(&goal, &observed, self.now, &self.policy).to_string();
                self.trace.extend(text.lines().map(|line| format!("  {line}")));
            }
            other => return Err(format!("show {other}?")),
        }
        Ok(())
    }

    fn expect(&mut self, what: &str, pod: &str, rest: &[String]) -> Result<(), String> {
        if what == "node" {
            let left = node_text(&self.node);
            return if left == "  nothing" { Ok(()) } else { Err(format!("the node still has\n{left}")) };
        }
        let (uid, goal) = self.worker(pod).ok_or("no such pod has a worker")?;
        let plan = self.decide_checked(&uid, &goal);
        if what == "wake" {
            let wanted = rest.first().map(String::as_str).unwrap_or_default();
            let wanted = if wanted == "none" { None } else { Some(self.now + duration(wanted)?) };
            let wake = plan.wake_at;
            return if wake == wanted { Ok(()) } else { Err(format!("wakes {wake:?}, not {wanted:?}")) };
        }
        let text = status_text(&plan.status);
        let words: BTreeSet<&str> = text.split_whitespace().collect();
        match rest.iter().find(|word| !words.contains(word.as_str())) {
            None => Ok(()),
            Some(word) => Err(format!("{word} is not in the status\n{text}")),
        }
    }
}

/// The name of the pod with this uid.
fn pod_of(uid: &PodUid) -> String {
    uid.as_str().rsplit_once('-').map(|(name, _)| name.to_owned()).unwrap_or_default()
}

fn found(yes: bool, what: &str) -> Result<(), String> {
    if yes { Ok(()) } else { Err(format!("there is no {what}")) }
}
