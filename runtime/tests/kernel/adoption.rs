//! What a new engine pays for many pods, and what a pod costs an engine in descriptors.

use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};

use crate::support::{Node, eventually, on_a_node};

async fn pods(node: &Node, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|i| format!("p{i}")).collect();
    let made = stream::iter(&names).map(|name| async move {
        let pod = node.pod(name).await;
        node.script(&pod, "c", "exec sleep 100000").await;
        pod
    });
    made.buffer_unordered(8).collect().await
}

async fn remove(node: &Node, pods: &[String]) {
    stream::iter(pods).for_each_concurrent(8, |pod| node.remove_pod(pod)).await;
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_pod_costs_the_engine_one_descriptor() {
    on_a_node(|mut node| async {
        // The first one brings with it what all share.
        let first = node.pod("first").await;
        let before = descriptors();
        let made = pods(&node, 5).await;
        eventually("what was opened meanwhile is closed", || descriptors() <= before + made.len()).await;
        node.drop_engine().await;
        node.open().await;
        eventually("nor does an adopted one cost more", || descriptors() <= before + made.len()).await;
        remove(&node, &made).await;
        node.remove_pod(&first).await;
        node
    });
}

/// A measurement: `PINTLE_BENCH_PODS=200 cargo nextest run -p pintle-runtime --run-ignored only --no-capture adopted`.
#[test]
#[ignore = "a measurement"]
fn many_pods_are_adopted() {
    on_a_node(|mut node| async {
        let count = std::env::var("PINTLE_BENCH_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
        let begun = Instant::now();
        let made = pods(&node, count).await;
        eprintln!("{count} pods made in {:?}", begun.elapsed());
        for _ in 0..5 {
            node.drop_engine().await;
            let begun = Instant::now();
            node.open().await;
            let opened = begun.elapsed();
            let engine = std::sync::Arc::clone(node.engine());
            let answered = |pod: &String| {
                engine.statuses_of(pod).iter().all(|status| status.started_at > 0 && status.reason.is_empty())
            };
            eventually("every supervisor has answered", || made.iter().all(answered)).await;
            eprintln!("{count} pods: open {opened:?}, all adopted {:?}", begun.elapsed());
        }
        let begun = Instant::now();
        remove(&node, &made).await;
        eprintln!("{count} pods removed in {:?}", begun.elapsed());
        node
    });
}
