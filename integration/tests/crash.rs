//! The agent dies at any moment and comes back: no container is touched, no exit code and no log line is lost. A
//! supervisor dies: its pod is rebuilt.

#![allow(clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pintle_integration::{Manifest, Node, condition, container_status, time_out, wait_until};

/// Prints a growing number, about ten thousand lines a second.
const COUNTER: &str = "n=0; while true; do i=0; while [ $i -lt 1000 ]; do echo $n; n=$((n+1)); i=$((i+1)); done; sleep 0.09; done";

fn kills() -> u32 {
    std::env::var("PINTLE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// A small generator, so that a failing run can be repeated: its seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Pids by container id.
fn running(node: &Node) -> BTreeMap<String, i32> {
    ["steady", "counter"]
        .iter()
        .map(|name| node.container(name, "app"))
        .map(|found| (found.id, found.pid))
        .collect()
}

#[test]
fn the_agent_killed_at_random_moments_disturbs_and_loses_nothing() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut node = Node::start();
    node.manifest("steady.yaml", &Manifest::sleeper("steady"));
    node.manifest("counter.yaml", &Manifest::sleeper("counter").shell(COUNTER));
    let addresses: Vec<_> =
        ["steady", "counter"].iter().map(|name| node.wait_ready(name)["status"]["podIP"].clone()).collect();
    let before = running(&node);

    let mut codes = BTreeMap::new();
    for round in 0..kills() {
        // A pod that ends with a code of its own while the agent is being killed.
        let code = 1 + round % 200;
        let name = format!("ends{round}");
        let script = format!("sleep 0.0{}; exit {code}", random.below(10));
        let manifest = Manifest::sleeper(&name).spec("restartPolicy", "Never").shell(&script);
        node.manifest(&format!("{name}.yaml"), &manifest);
        codes.insert(name, code);
        std::thread::sleep(Duration::from_millis(random.below(120)));
        node.kill_agent();
        std::thread::sleep(Duration::from_millis(random.below(30)));
        node.start_agent();
        if round % 10 == 9 {
            assert_ended(&node, &mut codes);
            assert_eq!(running(&node), before, "round {round}");
        }
    }
    assert_ended(&node, &mut codes);
    for (name, address) in ["steady", "counter"].iter().zip(&addresses) {
        let pod = node.wait_ready(name);
        assert_eq!(&pod["status"]["podIP"], address);
        assert_eq!(container_status(&pod, "app")["restartCount"], 0);
    }
    assert_eq!(running(&node), before);

    // The oldest files of a long run were rotated out of existence: what is left must be without a gap.
    let log = whole_log(&mut node, "counter");
    let numbers: Vec<u64> = log
        .lines()
        .map(|line| line.splitn(4, ' ').nth(3).expect("a CRI log line").parse().expect("a number"))
        .collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "a gap in the log");
    }
    println!("{} lines without a gap", numbers.len());
    assert!(numbers.len() > 1000, "the counter hardly counted: {}", numbers.len());
    node.finish();
}

/// Every one of these pods ends with its code, told to whichever agent; then they go.
fn assert_ended(node: &Node, codes: &mut BTreeMap<String, u32>) {
    while let Some((name, code)) = codes.pop_first() {
        let ended = node.wait_pod(&name, "ended", |pod| pod["status"]["phase"] == "Failed");
        let status = container_status(&ended, "app");
        assert_eq!(status["state"]["terminated"]["exitCode"], code, "{name}: {status}");
        assert_eq!(status["restartCount"], 0, "{name}: {status}");
        node.remove_manifest(&format!("{name}.yaml"));
    }
}

/// Every line that the pod's container has logged, from its rotated files too; read while no agent rotates them.
fn whole_log(node: &mut Node, pod: &str) -> String {
    let inspect = node.container(pod, "app").inspect;
    node.stop_agent();
    let newest = Path::new(inspect["status"]["logPath"].as_str().expect("a log path")).to_owned();
    let name = newest.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let mut rotated: Vec<PathBuf> = fs::read_dir(newest.parent().expect("a directory"))
        .expect("the log directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            *path != newest && path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name))
        })
        .collect();
    // Their suffix is the time of the rotation.
    rotated.sort();
    // It is not there when the agent was stopped before the supervisor opened it anew.
    rotated.extend(newest.exists().then_some(newest));
    let log = rotated.iter().map(|path| fs::read_to_string(path).expect("a log can be read")).collect();
    node.start_agent();
    log
}

#[test]
fn the_agent_aborted_after_each_action_converges_to_the_same_end() {
    let mut node = Node::start();
    node.manifest("steady.yaml", &Manifest::sleeper("steady"));
    node.wait_ready("steady");
    let before = node.container("steady", "app");
    for after in 1..=12 {
        node.stop_agent();
        let name = format!("fresh{after}");
        node.manifest("fresh.yaml", &Manifest::sleeper(&name));
        node.set_agent_env("PINTLE_FAILPOINT", &format!("after-action:{after}"));
        node.spawn_agent();
        // It either dies at the fail point, or had fewer actions than that to do and is killed here.
        let died = wait_for_death_or_ready(&mut node, &name);
        assert!(died || after > 2, "no pod is ready after {after} actions: built without fail points?");
        if !died {
            node.kill_agent();
        }
        node.set_agent_env("PINTLE_FAILPOINT", "");
        node.start_agent();
        let pod = node.wait_ready(&name);
        assert_eq!(container_status(&pod, "app")["restartCount"], 0, "after {after}: {pod:#}");
        let sandboxes = node.pintle(&["pods", "--name", &format!("{name}-node1"), "--state", "ready", "-q"]);
        assert_eq!(sandboxes.lines().count(), 1, "after {after}");
        assert_eq!(node.container("steady", "app"), before, "after {after}");
    }
    node.finish();
}

fn wait_for_death_or_ready(node: &mut Node, name: &str) -> bool {
    let deadline = std::time::Instant::now() + time_out(20);
    while std::time::Instant::now() < deadline {
        if node.agent_has_ended() {
            return true;
        }
        if node.try_pod(name).is_some_and(|pod| condition(&pod, "Ready") == "True") {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("neither died nor became ready:\n{}", node.agent_log())
}

#[test]
fn a_killed_supervisor_means_a_rebuilt_pod_and_no_leak() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.wait_ready("a");
    for round in 0..3 {
        let app = node.container("a", "app").pid;
        let (infra, _) = node.sandbox("a");
        let supervisor = parent(app);
        assert_eq!(supervisor, parent(infra), "one supervisor for the pod");
        kill(supervisor);
        node.wait_pod("a", "rebuilt", |pod| {
            let status = container_status(pod, "app");
            status["restartCount"].as_u64() >= Some(1) && condition(pod, "Ready") == "True"
        });
        wait_until("the old processes to be gone", || (!alive(app) && !alive(infra)).then_some(()));
        // A second loss of the same pod would wait for the back-off: a pod that is added anew has none.
        node.remove_manifest("a.yaml");
        node.wait_gone("a");
        assert!(node.residue().processes().iter().all(|(pid, _)| *pid == node.agent_pid()), "round {round}");
        node.manifest("a.yaml", &Manifest::sleeper("a"));
        node.wait_ready("a");
    }
    node.finish();
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(1))
        .expect("a parent")
        .parse()
        .expect("a pid")
}

fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
}
