//! One pod at a time: its start, execs in it, its removal.
//!
//! In: both sides, running, with the pods' image. Out: samples. Each round makes a pod on each side and removes it.

use anyhow::Result;

use super::{Amount, in_turn};
use crate::daemon::Daemon;
use crate::samples::Samples;

/// Execs in each round.
const EXECS: usize = 3;

pub(crate) async fn measure(pair: [&Daemon; 2], amount: Amount, samples: &mut Samples) -> Result<()> {
    for round in 0..amount.warm_ups + amount.rounds {
        for daemon in in_turn(pair, round) {
            let mut ignored = Samples::default();
            let counted = round >= amount.warm_ups;
            one_pod(daemon, round, if counted { samples } else { &mut ignored }).await?;
        }
    }
    Ok(())
}

async fn one_pod(daemon: &Daemon, round: usize, samples: &mut Samples) -> Result<()> {
    let (client, kind) = (daemon.client()?, daemon.kind);
    let (pod, times) = client.start_pod(&format!("single-{round}")).await?;
    samples.add_time("start", kind, times.run_sandbox + times.create + times.start);
    samples.add_time("start.sandbox", kind, times.run_sandbox);
    samples.add_time("start.create", kind, times.create);
    samples.add_time("start.start", kind, times.start);
    for _ in 0..EXECS {
        samples.add_time("exec", kind, client.exec_true(&pod.container).await?);
    }
    let stop = client.stop_sandbox(&pod.sandbox).await?;
    let remove = client.remove_sandbox(&pod.sandbox).await?;
    samples.add_time("removal", kind, stop + remove);
    samples.add_time("removal.stop", kind, stop);
    samples.add_time("removal.remove", kind, remove);
    Ok(())
}
