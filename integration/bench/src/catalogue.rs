//! What is measured: names, units, which way is better, and the targets that the project has set itself.
//!
//! In: nothing. Out: [`MEASURES`], in the order in which they are printed.

/// Measures that are taken together, and the names that `--only` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// A pod's start, call by call
    Start,
    /// Exec of `true`
    Exec,
    /// A pod's stop and removal
    Removal,
    /// A container that is killed, until it runs again
    Restart,
    /// Many pods, 8 at a time
    Crowd,
    /// Pull and import of a 100 MB image
    Images,
    /// Memory of daemons, supervisors and infra processes
    Memory,
    /// Processor time with 50 idle pods
    Idle,
    /// From the daemon's start until it shows all pods
    Ready,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// What a measure is called and held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) key: &'static str,
    pub(crate) group: Group,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// How many times less (or more) than containerd's Pintle's median shall be.
    pub(crate) target: Option<f64>,
}

const fn less(key: &'static str, group: Group, title: &'static str, unit: &'static str) -> Measure {
    Measure { key, group, title, unit, better: Better::Less, target: None }
}

const fn target(factor: f64, measure: Measure) -> Measure {
    Measure { target: Some(factor), ..measure }
}

const fn more(measure: Measure) -> Measure {
    Measure { better: Better::More, ..measure }
}

use Group::{Crowd, Exec, Idle, Images, Memory, Ready, Removal, Restart, Start};

/// All measures.
pub(crate) const MEASURES: &[Measure] = &[
    target(5.0, less("start", Start, "pod start", "ms")),
    less("start.sandbox", Start, "  RunPodSandbox", "ms"),
    less("start.create", Start, "  CreateContainer", "ms"),
    less("start.start", Start, "  StartContainer", "ms"),
    target(8.0, less("exec", Exec, "exec of `true`", "ms")),
    target(5.0, less("removal", Removal, "pod removal", "ms")),
    less("removal.stop", Removal, "  StopPodSandbox", "ms"),
    less("removal.remove", Removal, "  RemovePodSandbox", "ms"),
    less("restart", Restart, "crash to running again", "ms"),
    less("restart.seen", Restart, "  crash to event", "ms"),
    less("restart.agent", Restart, "  by the agent itself", "ms"),
    target(5.0, less("crowd.start", Crowd, "50 pods, 8 at a time: start", "ms")),
    target(5.0, less("crowd.removal", Crowd, "50 pods, 8 at a time: removal", "ms")),
    target(1.5, more(less("pull", Images, "pull + unpack", "MB/s"))),
    target(1.5, more(less("import", Images, "import + unpack", "MB/s"))),
    target(10.0, less("pod.pss", Memory, "memory per pod, PSS", "KiB")),
    less("pod.dirty", Memory, "memory per pod, private dirty", "KiB"),
    less("supervisor.pss", Memory, "  supervisor, PSS", "KiB"),
    less("supervisor.dirty", Memory, "  supervisor, private dirty", "KiB"),
    less("infra.pss", Memory, "  infra, PSS", "KiB"),
    less("infra.dirty", Memory, "  infra, private dirty", "KiB"),
    less("growth", Memory, "  supervisor's growth in 100 execs", "KiB"),
    target(3.0, less("idle.pss", Memory, "agent idle, PSS", "KiB")),
    less("idle.dirty", Memory, "agent idle, private dirty", "KiB"),
    less("full.pss", Memory, "agent with 50 pods, PSS", "KiB"),
    less("full.dirty", Memory, "agent with 50 pods, private dirty", "KiB"),
    less("runtime.pss", Memory, "runtime alone idle, PSS", "KiB"),
    less("runtime.dirty", Memory, "runtime alone idle, private dirty", "KiB"),
    less("cpu.daemon", Idle, "CPU at 50 idle pods: agent", "ms/min"),
    less("cpu.supervisors", Idle, "CPU at 50 idle pods: supervisors", "ms/min"),
    less("ready.empty", Ready, "start to ready, no pods", "ms"),
    less("ready.full", Ready, "start to ready, 50 pods", "ms"),
];
