//! Disks that are full, read-only or out of inodes; a pod range without a free address. What runs goes on running, what
//! cannot start says why and starts when the cause is gone, no exit code is lost, and nothing is left at the end.

#![allow(clippy::panic, reason = "helpers of tests fail by panicking")]

use std::fs;

use pintle_integration::{Container, Disk, Manifest, Node, condition, container_status, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const FULL: &str = "No space left on device";
const READ_ONLY: &str = "Read-only file system";

/// Ends with this code when it is told to.
fn ends_on_signal(code: u32) -> String {
    format!("trap 'exit {code}' USR1; while true; do sleep 1 & wait $!; done")
}

/// About a thousand lines a second.
const TALKS: &str = "n=0; while true; do i=0; while [ $i -lt 100 ]; do echo $n; n=$((n+1)); i=$((i+1)); done; sleep 0.1; done";

fn signal(container: &Container, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(container.pid).expect("it runs");
    rustix::process::kill_process(pid, signal).expect("it can be signalled");
}

fn start(node: &mut Node) {
    node.start_agent();
    node.pintle(&["import", &pintle_integration::image_archive().to_string_lossy()]);
}

/// What the pod's status says of why it does not start.
fn waits_because(pod: &Value) -> String {
    container_status(pod, "app")["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

/// Two pods that run, before the disaster.
struct Healthy {
    steady: Container,
    ends: Container,
}

fn healthy(node: &Node) -> Healthy {
    node.manifest("steady.yaml", &Manifest::sleeper("steady").shell(TALKS));
    let ends = Manifest::sleeper("ends").spec("restartPolicy", "Never").shell(&ends_on_signal(7));
    node.manifest("ends.yaml", &ends);
    node.wait_ready("steady");
    node.wait_ready("ends");
    // The trap has to be set before it is sprung.
    wait_until("a line", || (!node.logs("steady", "app").is_empty()).then_some(()));
    Healthy { steady: node.container("steady", "app"), ends: node.container("ends", "app") }
}

/// Everything that has to hold while `cause` reigns, and when `end_it` has ended it.
fn survive(node: &mut Node, cause: &str, healthy: &Healthy, end_it: impl FnOnce()) {
    node.manifest("late.yaml", &Manifest::sleeper("late"));
    let late = node.wait_pod("late", cause, |pod| waits_because(pod).contains(cause));
    assert_eq!(condition(&late, "Ready"), "False");
    let told = node.pintle(&["explain", "pod/late"]);
    assert!(told.contains(cause), "{told}");

    signal(&healthy.ends, Signal::USR1);
    let code = |pod: &Value| container_status(pod, "app")["state"]["terminated"]["exitCode"].clone();
    node.wait_pod("ends", "ended with its code", |pod| code(pod) == 7);
    assert_eq!(node.container("steady", "app"), healthy.steady, "a healthy container is not touched");
    // An exec is written down in the state directory first: where that is full it says so.
    let ran = node.try_exec("steady", "app", &["true"]);
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() || told.contains(cause), "{told}");

    // The next agent comes up all the same and knows what this one knew.
    node.kill_agent();
    node.start_agent();
    node.wait_pod("ends", "known to have ended with its code", |pod| code(pod) == 7);
    node.wait_ready("steady");
    assert_eq!(node.container("steady", "app"), healthy.steady, "a healthy container is not touched");
    node.wait_pod("late", cause, |pod| waits_because(pod).contains(cause));

    assert_told_once(node, cause);
    node.remove_manifest("ends.yaml");
    if cause == READ_ONLY {
        end_it();
        node.wait_gone("ends");
    } else {
        // Giving back needs no room.
        node.wait_gone("ends");
        end_it();
    }
    node.wait_ready("late");
    assert_eq!(node.container("steady", "app"), healthy.steady, "a healthy container is not touched");
}

/// Each agent logs why a pod waits once, however often it tries.
fn assert_told_once(node: &Node, cause: &str) {
    let log = fs::read_to_string(node.path("agent.log")).expect("the agent's log");
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("late") && line.contains(cause))
        .collect();
    assert!((1..=4).contains(&told.len()), "two agents told it {} times:\n{}", told.len(), told.join("\n"));
}

#[test]
fn a_full_root_holds_up_new_pods_only_and_lost_log_lines_are_counted() {
    let disk = Disk::ext4_or_tmpfs(64);
    let mut node = Node::prepare();
    node.set_root(&disk.path().join("root"));
    start(&mut node);
    let before = healthy(&node);
    let ballast = disk.fill();
    survive(&mut node, FULL, &before, || ballast.remove());
    // Its own log was on the full disk.
    wait_until("the lost lines to be told", || {
        let log = fs::read_to_string(before.steady.inspect["status"]["logPath"].as_str()?).ok()?;
        let after = log.rsplit_once("lines of output were lost here")?.1;
        (after.lines().count() > 100).then_some(())
    });
    node.finish();
}

#[test]
fn a_full_state_directory_holds_up_new_pods_only_and_no_exit_code_is_lost() {
    let disk = Disk::tmpfs("size=4m");
    let mut node = Node::prepare();
    node.set_state(&disk.path().join("state"));
    start(&mut node);
    let before = healthy(&node);
    let ballast = disk.fill();
    survive(&mut node, FULL, &before, || ballast.remove());
    node.finish();
}

#[test]
fn a_root_without_inodes_holds_up_new_pods_only() {
    let disk = Disk::tmpfs("size=64m,nr_inodes=1500");
    let mut node = Node::prepare();
    node.set_root(&disk.path().join("root"));
    start(&mut node);
    let before = healthy(&node);
    let ballast = disk.fill_inodes();
    survive(&mut node, FULL, &before, || ballast.remove());
    node.finish();
}

#[test]
fn a_root_that_became_read_only_holds_up_new_pods_only() {
    let disk = Disk::ext4_or_tmpfs(64);
    let mut node = Node::prepare();
    node.set_root(&disk.path().join("root"));
    // A file system with a file open for writing cannot be made read-only by mount.
    node.set_config(&format!("podLogsDir: {}\n", node.path("logs").display()));
    start(&mut node);
    let before = healthy(&node);
    disk.remount("ro");
    survive(&mut node, READ_ONLY, &before, || disk.remount("rw"));
    node.finish();
}

#[test]
fn a_full_log_disk_neither_blocks_nor_ends_a_container_and_the_gap_is_told_to_the_line() {
    // More than the container writes before the disk is filled, also where an exec takes seconds.
    let disk = Disk::tmpfs("size=32m");
    let mut node = Node::prepare();
    node.set_config(&format!("podLogsDir: {}\n", disk.path().display()));
    start(&mut node);
    let counts = "n=0; while true; do i=0; while [ $i -lt 100 ]; do echo $n; n=$((n+1)); i=$((i+1)); done; echo $n > /tmp/n; sleep 0.02; done";
    node.manifest("counts.yaml", &Manifest::sleeper("counts").shell(counts));
    node.wait_ready("counts");
    let container = node.container("counts", "app");
    let ballast = disk.fill();
    let written = || node.exec("counts", "app", &["cat", "/tmp/n"]).parse::<u64>().unwrap_or(0);
    let at_first = written();
    wait_until("it to go on writing", || (written() > at_first + 5000).then_some(()));
    ballast.remove();
    let gap = "lines of output were lost here";
    let log = wait_until("the gap to be told", || {
        let log = fs::read_to_string(container.inspect["status"]["logPath"].as_str()?).ok()?;
        let after = log.split(gap).nth(1)?.lines().count();
        (after > 10).then_some(log)
    });
    let lines: Vec<&str> =
        log.lines().map(|line| line.splitn(4, ' ').nth(3).expect("a CRI log line")).collect();
    let at = lines.iter().position(|line| line.contains(gap)).expect("the gap");
    let lost: u64 = lines[at].split_whitespace().nth(1).expect("a count").parse().expect("a number");
    let after: u64 = lines[at + 1].parse().expect("a number");
    assert!(lost > 1000, "{}", lines[at]);
    let before: u64 = lines[at - 1].parse().expect("a number");
    assert_eq!(before + lost + 1, after, "{}", lines[at]);
    assert_eq!(node.container("counts", "app"), container);
    node.finish();
}

#[test]
fn a_pod_without_an_address_says_so_and_starts_when_one_is_free() {
    let mut node = Node::prepare();
    node.set_agent_args(&["--pod-cidr", "10.213.7.0/29"]);
    start(&mut node);
    for index in 0..5 {
        let name = format!("p{index}");
        node.manifest(&format!("{name}.yaml"), &Manifest::sleeper(&name));
    }
    let running: Vec<Container> = (0..5)
        .map(|index| format!("p{index}"))
        .map(|name| {
            node.wait_ready(&name);
            node.container(&name, "app")
        })
        .collect();
    node.manifest("late.yaml", &Manifest::sleeper("late"));
    let late = node.wait_pod("late", "without an address", |pod| waits_because(pod).contains("address"));
    assert!(waits_because(&late).contains("10.213.7.0/29"), "{}", waits_because(&late));
    let told = node.pintle(&["explain", "pod/late"]);
    assert!(told.contains("no free address") || told.contains("address"), "{told}");
    println!("{}\n{told}", waits_because(&late));
    assert_told_once(&node, "address");
    node.remove_manifest("p0.yaml");
    node.wait_ready("late");
    for (index, before) in running.iter().enumerate().skip(1) {
        assert_eq!(node.container(&format!("p{index}"), "app"), *before);
    }
    node.finish();
}
