//! What a node costs that does nothing: memory, processor time, and the time to come back after a restart.
//!
//! In: containerd, `pintle runtime`, `pintle agent`, all stopped, with the pods' image. Out: samples. Never two Pintles at
//! once: they would share pages, and each would look smaller than it is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::time::sleep;

use super::{Amount, crowd, restart};
use crate::client::Client;
use crate::daemon::{Daemon, Kind};
use crate::kernel::{self, Process};
use crate::pintle;
use crate::samples::Samples;

/// How long the agent may take to have all pods running.
const CROWD_LIMIT: Duration = Duration::from_secs(180);
/// Looks at the memory of an idle daemon, a second apart.
const LOOKS: usize = 5;
/// Execs after which a supervisor should be no larger.
const EXECS: usize = 100;

/// Memory of a runtime that has just been started, with nothing in it.
pub(crate) async fn runtime_alone(
    [containerd, runtime]: [&mut Daemon; 2],
    amount: Amount,
    samples: &mut Samples,
) -> Result<()> {
    containerd.start(0).await?;
    runtime.start(0).await?;
    sleep(Duration::from_secs(amount.settle_seconds)).await;
    watch_memory([&*containerd, &*runtime], ["runtime.pss", "runtime.dirty"], samples).await?;
    containerd.stop().await?;
    runtime.stop().await
}

/// Everything about the agent, idle and with its pods. Both sides are stopped before and running afterwards.
pub(crate) async fn measure(mut pair: [&mut Daemon; 2], amount: Amount, samples: &mut Samples) -> Result<()> {
    restarts(&mut pair, 0, amount, samples).await?;
    sleep(Duration::from_secs(amount.settle_seconds)).await;
    watch_memory([&*pair[0], &*pair[1]], ["idle.pss", "idle.dirty"], samples).await?;
    for daemon in &pair {
        fill(daemon, amount.pods).await?;
    }
    sleep(Duration::from_secs(amount.settle_seconds)).await;
    idle([&*pair[0], &*pair[1]], amount, samples).await?;
    watch_memory([&*pair[0], &*pair[1]], ["full.pss", "full.dirty"], samples).await?;
    for daemon in &pair {
        pod_memory(daemon, amount.pods, samples).await?;
        growth(daemon, samples).await?;
    }
    restart::measure_agent(pair[1], samples).await?;
    for daemon in &mut pair {
        daemon.stop().await?;
    }
    restarts(&mut pair, amount.pods, amount, samples).await
}

/// Starts each side several times; leaves both running.
async fn restarts(
    pair: &mut [&mut Daemon; 2],
    pods: usize,
    amount: Amount,
    samples: &mut Samples,
) -> Result<()> {
    let key = if pods == 0 { "ready.empty" } else { "ready.full" };
    // The first start makes directories and reads programs from the disk.
    for round in 0..=amount.long_rounds {
        for daemon in pair.iter_mut() {
            let took = daemon.start(pods).await?;
            if round > 0 {
                samples.add_time(key, daemon.kind, took);
            }
            if round < amount.long_rounds {
                daemon.stop().await?;
            }
        }
    }
    Ok(())
}

/// Gives a side its pods: the agent by manifests, containerd by calls.
async fn fill(daemon: &Daemon, pods: usize) -> Result<()> {
    let client = daemon.client()?;
    if daemon.kind == Kind::Agent {
        pintle::write_manifests(&daemon.dir, pods)?;
    } else {
        crowd::start(client, "idle", pods).await?;
    }
    let begin = Instant::now();
    while client.running().await?.len() < pods {
        if begin.elapsed() > CROWD_LIMIT {
            bail!(
                "{} has not {pods} pods within {CROWD_LIMIT:?}:\n{}",
                daemon.kind.name(),
                daemon.log_tail()
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn watch_memory(
    pair: [&Daemon; 2],
    [pss, dirty]: [&'static str; 2],
    samples: &mut Samples,
) -> Result<()> {
    for _ in 0..LOOKS {
        for daemon in pair {
            let memory = kernel::memory(daemon.pid()?)?;
            samples.add(pss, daemon.kind, memory.pss);
            samples.add(dirty, daemon.kind, memory.private_dirty);
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Processor time of both sides over the same seconds.
async fn idle(pair: [&Daemon; 2], amount: Amount, samples: &mut Samples) -> Result<()> {
    let used = |daemon: &Daemon| -> Result<[f64; 2]> {
        let supervisors = daemon.supervisors();
        let times: Result<Vec<f64>> = supervisors.iter().map(|process| kernel::cpu_ms(process.pid)).collect();
        Ok([kernel::cpu_ms(daemon.pid()?)?, times?.iter().sum()])
    };
    let before = [used(pair[0])?, used(pair[1])?];
    sleep(Duration::from_secs(amount.idle_seconds)).await;
    for (daemon, before) in pair.into_iter().zip(before) {
        let after = used(daemon)?;
        let per_minute = 60.0 / amount.idle_seconds as f64;
        samples.add("cpu.daemon", daemon.kind, (after[0] - before[0]) * per_minute);
        samples.add("cpu.supervisors", daemon.kind, (after[1] - before[1]) * per_minute);
    }
    Ok(())
}

/// Memory of every pod's supervisor and infra process.
async fn pod_memory(daemon: &Daemon, pods: usize, samples: &mut Samples) -> Result<()> {
    let (client, kind) = (daemon.client()?, daemon.kind);
    let supervisors = daemon.supervisors();
    let sandboxes = client.ready_sandboxes().await?;
    if sandboxes.len() != pods {
        bail!("{} shows {} ready sandboxes, not {pods}", kind.name(), sandboxes.len());
    }
    for sandbox in sandboxes {
        let supervisor = kernel::memory(supervisor_of(&supervisors, &sandbox)?)?;
        let infra = kernel::memory(client.infra_pid(&sandbox).await?)?;
        samples.add("supervisor.pss", kind, supervisor.pss);
        samples.add("supervisor.dirty", kind, supervisor.private_dirty);
        samples.add("infra.pss", kind, infra.pss);
        samples.add("infra.dirty", kind, infra.private_dirty);
        samples.add("pod.pss", kind, supervisor.pss + infra.pss);
        samples.add("pod.dirty", kind, supervisor.private_dirty + infra.private_dirty);
    }
    Ok(())
}

/// How much a supervisor grows by many execs. One exec goes before: the first touches pages that stay.
async fn growth(daemon: &Daemon, samples: &mut Samples) -> Result<()> {
    let client: &Client = daemon.client()?;
    let (container, sandbox) = client.running().await?.into_iter().next().context("no container runs")?;
    let supervisor = supervisor_of(&daemon.supervisors(), &sandbox)?;
    client.exec_true(&container).await?;
    let before = kernel::memory(supervisor)?.private_dirty;
    for _ in 0..EXECS {
        client.exec_true(&container).await?;
    }
    samples.add("growth", daemon.kind, kernel::memory(supervisor)?.private_dirty - before);
    Ok(())
}

fn supervisor_of(supervisors: &[Process], sandbox: &str) -> Result<i32> {
    let found = supervisors.iter().find(|process| process.command.contains(sandbox));
    Ok(found.with_context(|| format!("sandbox {sandbox} has no supervisor"))?.pid)
}
