//! Many pods on one node: all become ready, an agent that is started again finds them as they are, and nobody is busy
//! while nothing happens.
//!
//! `PINTLE_TEST_PODS` says how many (`make churn`: 200).

#![allow(clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use pintle_integration::{Manifest, Memory, Node, condition, container_status, time_out};
use serde_json::Value;

/// How long the use of the processor is watched.
const QUIET: Duration = Duration::from_secs(2);

fn pods() -> usize {
    std::env::var("PINTLE_TEST_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// What must not change of a container: its processes and since when it runs.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    id: Value,
    started: Value,
    restarts: Value,
    address: Value,
}

fn seen(pods: &[Value]) -> BTreeMap<String, Seen> {
    let of = |pod: &Value| {
        let status = container_status(pod, "app");
        let seen = Seen {
            id: status["containerID"].clone(),
            started: status["state"]["running"]["startedAt"].clone(),
            restarts: status["restartCount"].clone(),
            address: pod["status"]["podIP"].clone(),
        };
        (pod["metadata"]["name"].to_string(), seen)
    };
    pods.iter().map(of).collect()
}

/// Every process of the node's containers, with the moment it was started at.
fn processes(node: &Node) -> BTreeMap<i32, String> {
    let agent = node.agent_pid();
    let all = node.residue().processes().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != agent);
    all.filter_map(|pid| Some((pid, start_time(pid)?))).collect()
}

fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}

/// Waits until so many pods are listed as ready and gives them.
fn wait_all_ready(node: &Node, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + time_out(40) + time_out(1) * u32::try_from(count).unwrap_or(1);
    loop {
        let pods = node.try_pods().unwrap_or_default();
        let ready = pods.iter().filter(|pod| condition(pod, "Ready") == "True").count();
        if ready == count {
            return pods;
        }
        assert!(Instant::now() < deadline, "{ready} of {count} pods are ready:\n{}", node.agent_log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processor time that a process has used, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .expect("a state")
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|text| text.parse().expect("a number"))
        .collect();
    fields.iter().sum()
}

#[test]
fn a_crowd_of_pods_is_adopted_by_the_next_agent_without_touching_one() {
    let count = pods();
    let mut node = Node::prepare();
    node.set_config("maxPods: 250\n");
    node.start_agent();
    node.pintle(&["import", &pintle_integration::image_archive().to_string_lossy()]);
    println!("agent without a pod: {}", Memory::of(node.agent_pid()));
    let began = Instant::now();
    for index in 0..count {
        node.manifest(&format!("crowd{index}.yaml"), &Manifest::sleeper(&format!("crowd{index}")));
    }
    let pods = wait_all_ready(&node, count);
    println!("{count} pods ready after {:.2?}; agent: {}", began.elapsed(), Memory::of(node.agent_pid()));
    let (before, running) = (seen(&pods), processes(&node));
    assert!(running.len() >= 3 * count, "supervisor, infra and app of every pod: {}", running.len());
    report_idle(&node, &running);

    for (name, stop) in [("SIGKILL", Node::kill_agent as fn(&mut Node)), ("SIGTERM", Node::stop_agent)] {
        stop(&mut node);
        let began = Instant::now();
        node.spawn_agent();
        let pods = wait_all_ready(&node, count);
        println!("after {name}: {count} pods ready again {:.0?} after the start", began.elapsed());
        assert_eq!(seen(&pods), before, "after {name}");
        assert_eq!(processes(&node), running, "after {name}");
    }
    let began = Instant::now();
    for index in 0..count {
        node.remove_manifest(&format!("crowd{index}.yaml"));
    }
    node.finish();
    println!("{count} pods gone after {:.2?}", began.elapsed());
}

/// Prints how much processor time the agent and the supervisors use while nothing happens.
fn report_idle(node: &Node, running: &BTreeMap<i32, String>) {
    let used = || -> (u64, u64) {
        let agent = ticks(node.agent_pid());
        (agent, running.keys().map(|pid| ticks(*pid)).sum())
    };
    // What followed from the start has to settle first.
    std::thread::sleep(Duration::from_secs(1));
    let before = used();
    std::thread::sleep(QUIET);
    let after = used();
    println!(
        "idle for {QUIET:?}: agent {} ticks, everything else {} ticks of processor time",
        after.0 - before.0,
        after.1 - before.1
    );
}
