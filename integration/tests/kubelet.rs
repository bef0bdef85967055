//! Checklist rows K05, K07, K08, K13, K31 and the ways people edit a manifest directory.

use std::fs;
use std::io::Write;
use std::time::Instant;

use pintle_integration::{Manifest, Node, container_status, wait_until};

fn sleeper(name: &str, seconds: &str) -> Manifest {
    let command = format!("[sleep, '{seconds}']");
    Manifest::sleeper(name).with("command", &command).volume("scratch", "emptyDir: {}", "/scratch")
}

fn command_line(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .replace('\0', " ")
        .trim()
        .to_owned()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
}

#[test]
fn k05_a_manifest_is_run_replaced_removed_and_left_alone_by_a_restart() {
    let mut node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    let first = node.container("a", "app");

    node.stop_agent();
    node.start_agent();
    node.wait_ready("a");
    assert_eq!(node.container("a", "app").pid, first.pid, "a restart of the agent touches nothing");

    node.manifest("a.yaml", &sleeper("a", "2000"));
    wait_until("the edited pod to run", || {
        let all = node.try_pintle(&["ps", "--name", "^app$", "-q", "--no-trunc"]);
        let ids = String::from_utf8_lossy(&all.stdout).trim().to_owned();
        (!ids.is_empty() && ids != first.id && command_line(node.container("a", "app").pid) == "sleep 2000")
            .then_some(())
    });

    node.remove_manifest("a.yaml");
    node.wait_gone("a");
    node.manifest("a.yaml", &sleeper("a", "2000"));
    node.wait_ready("a");
    node.finish();
}

#[test]
fn k05_editors_and_half_written_files_disturb_nothing() {
    let node = Node::start();
    let manifests = node.path("manifests");
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    let before = node.container("a", "app");

    let text = sleeper("a", "1000").to_string();
    for name in [".a.yaml.swp", "a.yaml~", "#a.yaml#", "4913", "notes.txt"] {
        fs::write(manifests.join(name), sleeper("intruder", "1").to_string()).expect("a file can be written");
    }
    // An editor that truncates and writes in pieces; then one that only adds a comment.
    let mut slow = fs::File::create(manifests.join("a.yaml")).expect("the manifest opens");
    slow.write_all(&text.as_bytes()[..60]).expect("it can be written");
    slow.sync_all().expect("it can be synced");
    drop(slow);
    wait_until("the broken file to be told", || node.agent_log().contains("a.yaml").then_some(()));
    fs::write(manifests.join("a.yaml"), format!("# a comment\n{text}")).expect("the manifest can be written");
    node.manifest("b.yaml", &sleeper("b", "1000"));
    node.wait_ready("b");

    assert_eq!(node.container("a", "app"), before, "the pod was not touched");
    assert!(node.pod("intruder").is_none());
    for name in [".a.yaml.swp", "a.yaml~", "#a.yaml#", "4913", "notes.txt"] {
        fs::remove_file(manifests.join(name)).expect("a file can be removed");
    }
    node.finish();
}

#[test]
fn k05_two_files_that_claim_one_pod_are_refused_by_name() {
    let node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    let before = node.container("a", "app");
    node.manifest("z.yaml", &sleeper("a", "2000"));
    wait_until("the conflict to be told", || {
        let log = node.agent_log();
        log.lines().any(|line| line.contains("a.yaml") && line.contains("z.yaml")).then_some(())
    });
    assert_eq!(node.container("a", "app"), before);
    node.remove_manifest("a.yaml");
    wait_until("the second file to take over", || {
        let pod = node.pod("a")?;
        (container_status(&pod, "app")["state"]["running"].is_object()
            && command_line(node.container("a", "app").pid) == "sleep 2000")
            .then_some(())
    });
    node.finish();
}

#[test]
fn k07_a_pods_directory_goes_with_the_pod() {
    let node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    let pod = node.wait_ready("a");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let dir = node.path("root/pods").join(uid);
    assert!(dir.join("volumes/kubernetes.io~empty-dir/scratch").is_dir());
    assert!(dir.join("etc-hosts").is_file());
    node.remove_manifest("a.yaml");
    node.wait_gone("a");
    assert!(!dir.exists());
    node.finish();
}

#[test]
fn k08_a_pod_starts_volumes_first_then_infra_then_network_then_containers() {
    let node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    let log = fs::read_to_string(node.path("agent.log")).expect("a log");
    let mut from = 0;
    for step in ["volumes", "infra", "network", "container"] {
        let at = log[from..]
            .to_lowercase()
            .find(step)
            .unwrap_or_else(|| panic!("{step} does not come next:\n{log}"));
        from += at;
    }
    node.finish();
}

#[test]
fn k13_a_dead_container_is_seen_by_event_and_restarted() {
    let node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    let before = node.container("a", "app");
    let killed = Instant::now();
    kill(before.pid);
    let pod = node.wait_pod("a", "restarted", |pod| {
        let status = container_status(pod, "app");
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    println!("restarted and seen after {:?}", killed.elapsed());
    let ended = &container_status(&pod, "app")["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 137, "{ended}");
    assert_ne!(node.container("a", "app").id, before.id);
    node.finish();
}

#[test]
fn k31_crashes_heal_with_nobody_else_on_the_network() {
    // There is no API server in this namespace at all; three crashes are healed, with the back-off in between.
    let node = Node::start();
    node.manifest("a.yaml", &sleeper("a", "1000"));
    node.wait_ready("a");
    kill(node.container("a", "app").pid);
    node.wait_pod("a", "restarted once", |pod| {
        let status = container_status(pod, "app");
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    kill(node.container("a", "app").pid);
    node.wait_pod("a", "backing off", |pod| {
        container_status(pod, "app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    node.wait_pod("a", "restarted twice", |pod| {
        let status = container_status(pod, "app");
        status["restartCount"] == 2 && status["state"]["running"].is_object()
    });
    node.finish();
}
