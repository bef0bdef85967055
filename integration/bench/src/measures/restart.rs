//! A container whose process is killed, until its successor runs.
//!
//! In: both sides, running, with the pods' image. Out: samples. The client does the restart, as a kubelet would, upon the
//! runtime's event; what has ended is removed after the clock is stopped.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::sleep;

use super::Amount;
use crate::client::Pod;
use crate::daemon::Daemon;
use crate::events::{Exits, Starts};
use crate::kernel;
use crate::samples::Samples;

/// How long a container's exit may be unknown to the runtime that has announced it.
const REMOVAL_LIMIT: Duration = Duration::from_secs(20);

/// Crashes in the agent's pods.
const AGENT_CRASHES: usize = 10;

/// How long the agent itself takes: each time another pod's only container, since a second crash of the same one would
/// wait for its back-off.
pub(crate) async fn measure_agent(agent: &Daemon, samples: &mut Samples) -> Result<()> {
    let client = agent.client()?;
    let mut starts = Starts::subscribe(client).await?;
    for (container, sandbox) in client.running().await?.into_iter().take(AGENT_CRASHES) {
        let pid = client.container_pid(&container).await?;
        let begin = Instant::now();
        kernel::kill(pid, Signal::KILL);
        starts.in_sandbox(&sandbox).await?;
        samples.add_time("restart.agent", agent.kind, begin.elapsed());
    }
    Ok(())
}

pub(crate) async fn measure(pair: [&Daemon; 2], amount: Amount, samples: &mut Samples) -> Result<()> {
    let [mut a, mut b] = [Victim::new(pair[0]).await?, Victim::new(pair[1]).await?];
    for round in 0..amount.warm_ups + amount.rounds {
        let mut ignored = Samples::default();
        let counted = round >= amount.warm_ups;
        let samples = if counted { &mut *samples } else { &mut ignored };
        for victim in if round.is_multiple_of(2) { [&mut a, &mut b] } else { [&mut b, &mut a] } {
            victim.crash(samples).await?;
        }
    }
    for victim in [a, b] {
        victim.daemon.client()?.remove_pod(&victim.pod.sandbox).await?;
    }
    Ok(())
}

struct Victim<'a> {
    daemon: &'a Daemon,
    exits: Exits,
    pod: Pod,
    attempt: u32,
}

impl<'a> Victim<'a> {
    async fn new(daemon: &'a Daemon) -> Result<Self> {
        let client = daemon.client()?;
        let exits = Exits::subscribe(daemon.kind, client).await?;
        let (pod, _) = client.start_pod("victim").await?;
        Ok(Self { daemon, exits, pod, attempt: 0 })
    }

    async fn crash(&mut self, samples: &mut Samples) -> Result<()> {
        let (client, kind) = (self.daemon.client()?, self.daemon.kind);
        let pid = client.container_pid(&self.pod.container).await?;
        self.attempt += 1;
        let begin = Instant::now();
        kernel::kill(pid, Signal::KILL);
        self.exits.of(&self.pod.container).await?;
        let seen = begin.elapsed();
        let (next, _, _) = client.start_container(&self.pod.sandbox, &self.pod.config, self.attempt).await?;
        samples.add_time("restart", kind, begin.elapsed());
        samples.add_time("restart.seen", kind, seen);
        self.remove_ended().await?;
        self.pod.container = next;
        Ok(())
    }

    /// containerd announces an exit before its CRI part has taken note of it, and refuses the removal until then.
    async fn remove_ended(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.daemon.client()?.remove_container(&self.pod.container).await {
                Err(_) if begin.elapsed() < REMOVAL_LIMIT => sleep(Duration::from_millis(20)).await,
                result => return result,
            }
        }
    }
}
