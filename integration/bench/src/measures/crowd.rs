//! Many pods, eight at a time.
//!
//! In: both sides, running, with the pods' image. Out: how long it takes until all are started, and until all are removed.
//! One client with one connection does it on each side.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{AT_ONCE, Amount, in_turn};
use crate::client::Client;
use crate::daemon::Daemon;
use crate::samples::Samples;

pub(crate) async fn measure(pair: [&Daemon; 2], amount: Amount, samples: &mut Samples) -> Result<()> {
    for round in 0..amount.long_rounds {
        for daemon in in_turn(pair, round) {
            let client = daemon.client()?;
            let (sandboxes, took) = start(client, &format!("crowd-{round}"), amount.pods).await?;
            samples.add_time("crowd.start", daemon.kind, took);
            samples.add_time("crowd.removal", daemon.kind, remove(client, sandboxes).await?);
        }
    }
    Ok(())
}

/// Starts pods; gives their sandboxes and the time it took.
pub(crate) async fn start(client: &Client, name: &str, pods: usize) -> Result<(Vec<String>, Duration)> {
    let begin = Instant::now();
    let one = |number| async move {
        let (pod, _) = client.start_pod(&format!("{name}-{number}")).await?;
        anyhow::Ok(pod.sandbox)
    };
    let sandboxes = stream::iter(0..pods).map(one).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok((sandboxes, begin.elapsed()))
}

/// Removes pods; gives the time it took.
pub(crate) async fn remove(client: &Client, sandboxes: Vec<String>) -> Result<Duration> {
    let begin = Instant::now();
    stream::iter(sandboxes)
        .map(|sandbox| async move { client.remove_pod(&sandbox).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(begin.elapsed())
}
