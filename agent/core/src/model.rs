//! What goes into a decision and what comes out: the pod as wanted, the pod as seen on the node, and the plan.
//!
//! In: nothing; these are types. They are shared by the decision code of this crate and by the agent, which fills
//! [`Observed`] from the runtime's answers and carries out [`Plan::actions`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::restart_backoff::BackOff;
use crate::time::Timestamp;

/// A pod that some source wants on this node: checked, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredPod {
    /// `metadata.uid`; for a static pod derived from its content and the node's name.
    pub uid: PodUid,
    /// The whole object. Name, namespace, uid and node name are set.
    pub pod: api::Pod,
    /// A hash of what was written in the manifest; equal hashes are the same pod.
    pub hash: String,
    /// Where it comes from, for people: a file's path and the number of the document in it.
    pub source: String,
}

impl DesiredPod {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}

/// What is to become of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// Keep it running as its restart policy says.
    Run(Arc<DesiredPod>),
    /// Stop everything and leave nothing behind.
    Terminate {
        /// The pod, if this agent still knows what was wanted (it does not after a restart without a manifest).
        pod: Option<Arc<DesiredPod>>,
        /// When the last container must be gone. Fixed at first sight and only ever shortened.
        deadline: Timestamp,
    },
}

/// What is seen of one pod on the node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Every sandbox with this pod's uid, in any order.
    pub sandboxes: Vec<Sandbox>,
    /// Every container with this pod's uid, in any order.
    pub containers: Vec<Container>,
    /// Which of the images that the pod names are on the node, by the name that the pod uses.
    pub images: BTreeMap<String, ImageState>,
    /// Whether the pod's directory, volumes and cgroup are there.
    pub node: NodeResources,
    /// For which incarnation of each container (by its name) the image was pulled since this agent started. Forgotten
    /// by a crash, which costs one more pull.
    pub pulled: BTreeMap<String, Pulled>,
    /// What went wrong in carrying out actions, by [`Action::key`]; cleared when an action of that key succeeds.
    pub failures: BTreeMap<ActionKey, Failure>,
    /// The actions under way, by [`Action::key`]. A key leaves this map only in a snapshot taken after its action
    /// ended, so that what the action did is seen together with its end.
    pub in_flight: BTreeMap<ActionKey, UnderWay>,
}

/// A pull that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image, as the pod names it.
    pub image: String,
    /// The incarnation it was pulled for.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
}

/// An action under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Since when.
    pub since: Timestamp,
    /// For the stop of a container: when it will be killed.
    pub until: Option<Timestamp>,
}

impl UnderWay {
    /// The entry for an action that begins now.
    pub fn beginning(action: &Action, now: Timestamp) -> Self {
        let until = if let Action::StopContainer { grace, .. } = action { Some(now + *grace) } else { None };
        Self { since: now, until }
    }
}

/// The pod's own things on the node other than sandboxes and containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeResources {
    /// The pod's cgroup exists.
    pub cgroup: bool,
    /// Every volume of the pod is mounted.
    pub volumes_ready: bool,
    /// Something of the pod is left in its directory (volumes included).
    pub directory: bool,
    /// When the pod's directory was made: the pod's start time.
    pub since: Option<Timestamp>,
}

/// Where an image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// On the node, as this image id.
    Present(String),
    /// Not on the node.
    Absent,
    /// Being pulled.
    Pulling,
}

/// A sandbox as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// The how-manieth sandbox of the pod, from 0.
    pub attempt: u32,
    /// Whether its infra container runs.
    pub ready: bool,
    /// [`Action::StopSandbox`] succeeded for it, as far as is known: nothing of it runs, its network is released. A
    /// `false` that a crash left behind costs one more stop.
    pub stopped: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// The pod's addresses, the primary one first; empty for the host's network.
    pub ips: Vec<String>,
}

/// A container as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox it was made in.
    pub sandbox: SandboxId,
    /// The name in the pod's specification.
    pub name: String,
    /// The how-manieth incarnation, from 0.
    pub attempt: u32,
    /// A hash of the specification it was made from.
    pub spec_hash: String,
    /// The step of the restart back-off that led to this incarnation, as recorded on it when it was created.
    pub back_off_step: u32,
    /// The image's id.
    pub image_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it does.
    pub state: ContainerState,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Has ended.
    Exited {
        /// Since when it ran; absent if it never did.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// Exit code, 128 + n for signal n.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`.
        reason: String,
        /// More about it, for people.
        message: String,
    },
    /// The runtime cannot say. Treated as possibly running.
    Unknown,
}

/// Names an action for the bookkeeping of failures and of what is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKey {
    /// Making the pod's cgroup and directory and mounting its volumes.
    Prepare,
    /// Making the sandbox.
    Sandbox,
    /// Pulling an image.
    Pull(String),
    /// Creating or starting the container of this name.
    Container(String),
    /// Stopping the container of this id.
    StopContainer(ContainerId),
    /// Removing the container of this id.
    RemoveContainer(ContainerId),
    /// Stopping the sandbox of this id.
    StopSandbox(SandboxId),
    /// Removing the sandbox of this id.
    RemoveSandbox(SandboxId),
    /// Removing the pod's volumes, cgroup and directory.
    CleanUp,
}

/// An action that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason users know: `ErrImagePull`, `CreateContainerError`, `RunContainerError`, `ErrImageNeverPull`,
    /// `InvalidImageName`, `CreateContainerConfigError`, `FailedCreatePodSandBox`, `FailedMount`.
    pub reason: String,
    /// What failed and why.
    pub message: String,
    /// How many times in a row.
    pub count: u32,
    /// When last.
    pub at: Timestamp,
}

/// What to do next, when to look again, and what to tell the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What can be begun right now. None depends on another of the same plan: they may run side by side, and after the
    /// end of any of them it is time to look and decide again.
    pub actions: Vec<Action>,
    /// When to decide again even if nothing happens; always later than the `now` it was decided at.
    pub wake_at: Option<Timestamp>,
    /// The pod's status as of now.
    pub status: api::PodStatus,
    /// Nothing of the pod is left and nothing is wanted: its worker may end.
    pub finished: bool,
}

/// One step on the node. Each may be carried out twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's directory and cgroup and mount its volumes.
    Prepare,
    /// Pull the image that the container of this name uses.
    PullImage {
        /// The image as the pod names it.
        image: String,
        /// The name of the container that waits for it.
        container: String,
        /// The incarnation it waits for: to be told as [`Observed::pulled`].
        attempt: u32,
    },
    /// Run a sandbox.
    CreateSandbox {
        /// The how-manieth.
        attempt: u32,
    },
    /// Create and start a container in a sandbox.
    StartContainer {
        /// The container's name in the pod.
        name: String,
        /// The how-manieth incarnation.
        attempt: u32,
        /// To be recorded on the container.
        back_off_step: u32,
        /// Where.
        sandbox: SandboxId,
    },
    /// Start a container that was created before and waits (a crash came between).
    ResumeContainer {
        /// The container.
        id: ContainerId,
        /// Its name in the pod.
        name: String,
    },
    /// Send the stop signal, wait for the grace period, kill. Given once more while under way when the grace period has
    /// become shorter.
    StopContainer {
        /// The container.
        id: ContainerId,
        /// How long it may take.
        grace: Duration,
        /// Why, for people and for events.
        why: String,
    },
    /// Remove a container that does not run.
    RemoveContainer {
        /// The container.
        id: ContainerId,
    },
    /// Stop a sandbox: whatever still runs in it is killed and its network released.
    StopSandbox {
        /// The sandbox.
        id: SandboxId,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// The sandbox.
        id: SandboxId,
    },
    /// Unmount the pod's volumes, remove its cgroup and its directory.
    CleanUp,
}

impl Action {
    /// Under which key its failure and its being under way are told.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::Prepare => ActionKey::Prepare,
            Self::PullImage { image, .. } => ActionKey::Pull(image.clone()),
            Self::CreateSandbox { .. } => ActionKey::Sandbox,
            Self::StartContainer { name, .. } | Self::ResumeContainer { name, .. } => {
                ActionKey::Container(name.clone())
            }
            Self::StopContainer { id, .. } => ActionKey::StopContainer(id.clone()),
            Self::RemoveContainer { id } => ActionKey::RemoveContainer(id.clone()),
            Self::StopSandbox { id } => ActionKey::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => ActionKey::RemoveSandbox(id.clone()),
            Self::CleanUp => ActionKey::CleanUp,
        }
    }
}

/// The numbers and node facts that decisions go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Between the restarts of a container.
    pub restart: BackOff,
    /// A container that ran this long begins the back-off afresh.
    pub restart_reset: Duration,
    /// Between pulls of an image that failed.
    pub pull: BackOff,
    /// Between failed attempts to prepare the pod, make its sandbox, create or start a container.
    pub retry: BackOff,
    /// Between failed attempts to stop and remove things.
    pub teardown: BackOff,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
}

impl Default for Policy {
    /// The kubelet's numbers, where it has some.
    fn default() -> Self {
        let back_off =
            |initial, max| BackOff { initial: Duration::from_secs(initial), max: Duration::from_secs(max) };
        Self {
            restart: back_off(10, 300),
            restart_reset: Duration::from_secs(600),
            pull: back_off(10, 300),
            retry: back_off(1, 60),
            teardown: back_off(1, 30),
            host_ips: Vec::new(),
        }
    }
}
