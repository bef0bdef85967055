//! The real `pintle` binary with the real engine and supervisor: what a restarted agent finds and does, and what it says
//! about manifests, refused pods and ended containers.
//!
//! Each test has its own directories, network namespace and cgroup root, and leaves nothing. Needs `pintle-shim` built
//! beside `pintle` (`make kernel` builds all binaries first).

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

mod doctor;
mod node;

use std::time::{Duration, Instant};

use node::{Node, scale, terminated};

fn pod(name: &str, spec: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}\
         \n  containers:\n  - name: app\n    image: localhost/pintle-demo:1\n    command: [sh, -c, {script:?}]\n"
    )
}

#[test]
fn a_pod_whose_manifest_vanished_while_the_agent_was_away_is_ended_and_others_are_not_touched() {
    let mut node = Node::start("");
    node.manifest("goes.yaml", &pod("goes", "", "exec sleep infinity"));
    node.manifest("stays.yaml", &pod("stays", "", "exec sleep infinity"));
    node.wait_ready("goes");
    node.wait_ready("stays");
    let stays = node.container("stays");
    node.kill();
    node.remove_manifest("goes.yaml");
    node.spawn();
    node.wait_gone("goes");
    assert_eq!(node.container("stays"), stays);
    node.finish();
}

#[test]
fn a_daemon_without_descriptors_disturbs_no_pod_neither_running_nor_starting() {
    let mut node = Node::start("");
    node.manifest("a.yaml", &pod("a", "", "ulimit -n; exec sleep infinity"));
    node.wait_ready("a");
    let before = node.container("a");
    // The daemon raised its own limit; the container has the one that the daemon was started with.
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    let told = node.pintle(&["exec", before.trim_start_matches("pintle://"), "sh", "-c", "ulimit -n"]);
    assert_eq!(told.trim(), own.to_string());
    node.limit_files(node.open_files());
    node.manifest("b.yaml", &pod("b", "", "exec sleep infinity"));
    std::thread::sleep(Duration::from_secs_f64(scale()));
    node.limit_files(100_000);
    node.wait_ready("b");
    assert_eq!(node.container("a"), before);
    node.stop();
    for files in [12, 16, 20, 24, 32, 48] {
        node.spawn_starved(files);
    }
    node.spawn();
    node.wait_ready("a");
    assert_eq!(node.container("a"), before);
    node.finish();
}

#[test]
fn a_manifest_that_broke_while_the_agent_was_away_keeps_its_pod_and_is_explained() {
    let mut node = Node::start("");
    node.manifest("a.yaml", &pod("a", "", "exec sleep infinity"));
    node.wait_ready("a");
    let before = node.container("a");
    node.stop();
    node.manifest("a.yaml", &pod("a", "  restartPolcy: Never", "exec sleep infinity"));
    node.spawn();
    node.wait_ready("a");
    assert_eq!(node.container("a"), before);
    // What was written just now has a moment to become whole before it is said to be wrong.
    let told = node.wait("the mistake to be told", |node| {
        let told = node.pintle(&["explain", "manifests"]);
        told.contains("a.yaml:6:3: spec.restartPolcy: unknown field").then_some(told)
    });
    assert!(told.contains("default/a-n1 keeps running"), "{told}");
    assert!(node.log().contains("a.yaml:6:3: spec.restartPolcy"), "{}", node.log());
    let told = node.pintle(&["explain", "pod/a"]);
    assert!(told.contains("a-n1 is Ready") && told.contains("a.yaml:6:3: spec.restartPolcy"), "{told}");
    let unknown = String::from_utf8(node.try_pintle(&["explain", "pod/nosuch"]).stderr).unwrap();
    assert!(unknown.contains("no pod \"nosuch\"") && unknown.contains("a.yaml:6:3"), "{unknown}");
    node.finish();
}

#[test]
fn a_grace_period_does_not_begin_anew_when_the_agent_restarts() {
    let mut node = Node::start("");
    // On a slow machine the restart takes seconds, which must stay few beside the grace period.
    let slow = if scale() < 2.0 { 1 } else { 4 };
    let grace = Duration::from_secs(8 * slow);
    let stubborn = pod("a", "", "trap : TERM; while :; do sleep 1; done")
        .replace("Seconds: 1", &format!("Seconds: {}", grace.as_secs()));
    node.manifest("a.yaml", &stubborn);
    node.wait_ready("a");
    node.remove_manifest("a.yaml");
    let begun = Instant::now();
    node.wait_log("stopping the container");
    std::thread::sleep(grace / 2);
    node.kill();
    // Wanted again, as it was: it has to end all the same before it starts afresh.
    let before = node.state_dir_entries("containers");
    node.manifest("a.yaml", &stubborn);
    node.spawn();
    node.wait("the old container to be gone", |_| {
        let now = node.state_dir_entries("containers");
        (!now.iter().any(|id| before.contains(id))).then_some(())
    });
    let took = begun.elapsed();
    assert!(took > grace * 3 / 4 && took < grace * 3 / 2, "{took:?}");
    node.wait_ready("a");
    node.manifest("a.yaml", &pod("a", "", "exec sleep infinity"));
    node.wait("the replacement", |node| {
        let pod = node.pod("a")?;
        (pod["spec"]["terminationGracePeriodSeconds"] == 1).then_some(())
    });
    node.wait_ready("a");
    assert_eq!(node.pintle(&["explain", "manifests"]), "every manifest is accepted\n");
    node.finish();
}

#[test]
fn a_container_says_why_it_ended() {
    let mut node = Node::start("");
    node.manifest(
        "own.yaml",
        &pod("own", "  restartPolicy: Never", "echo mine > /dev/termination-log; exit 3"),
    );
    let fallback = pod("logs", "  restartPolicy: Never", "echo first; echo last; exit 4")
        + "    terminationMessagePolicy: FallbackToLogsOnError\n";
    node.manifest("logs.yaml", &fallback);
    let own = node.wait_pod("own", |pod| pod["status"]["phase"] == "Failed");
    let logs = node.wait_pod("logs", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!((&terminated(&own)["exitCode"], &terminated(&own)["message"]), (&3.into(), &"mine\n".into()));
    assert_eq!(terminated(&logs)["message"], "first\nlast\n");
    // What tells of a pod that is over outlives its volumes and cgroup, and the agent.
    node.wait_log("unmounting the pod's volumes");
    node.kill();
    node.spawn();
    let own = node.wait_pod("own", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(terminated(&own)["message"], "mine\n");
    assert_eq!(node.pintle(&["logs", "logs-n1"]), "first\nlast\n");
    node.finish();
}

#[test]
fn a_pod_that_does_not_fit_is_refused_and_explained_and_a_restart_evicts_nobody() {
    let mut node = Node::start("maxPods: 1\n");
    node.manifest("first.yaml", &pod("first", "", "exec sleep infinity"));
    node.wait_ready("first");
    let first = node.container("first");
    node.manifest("a-second.yaml", &pod("second", "", "exec sleep infinity"));
    let refused = node.wait_pod("second", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(refused["status"]["reason"], "OutOfpods");
    let told = node.pintle(&["explain", "pod/second"]);
    assert!(told.starts_with("default/second-n1 is not Ready\n"), "{told}");
    assert!(told.contains("pods, requested: 1, used: 1"), "{told}");
    assert!(!node.pintle(&["get", "pods", "second-n1"]).contains("<unknown>"), "its age is known");
    node.kill();
    node.spawn();
    node.wait_pod("second", |pod| pod["status"]["reason"] == "OutOfpods");
    node.wait_ready("first");
    assert_eq!(node.container("first"), first);
    node.finish();
}

#[test]
fn explain_names_the_first_cause() {
    let node = Node::start("");
    let absent = pod("a", "", "true").replace("pintle-demo:1", "nowhere:1");
    node.manifest("a.yaml", &(absent + "    imagePullPolicy: Never\n"));
    node.wait_pod("a", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    let text = node.wait("the sandbox, and then the cause", |node| {
        let text = node.pintle(&["explain", "pod/a"]);
        text.contains("imagePullPolicy is Never").then_some(text)
    });
    assert!(text.contains("default/a-n1 is not Ready"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&node.pintle(&["explain", "pod/a-n1", "-o", "json"])).unwrap();
    assert_eq!(json["ready"], false);
    node.finish();
}

#[test]
fn an_image_that_is_imported_starts_the_pods_that_wait_for_it() {
    let node = Node::start("");
    // The policies that nothing but an arrival helps: no time is set for another look.
    let waiting = pod("a", "", "exec sleep infinity").replace("pintle-demo:1", "later:1");
    node.manifest("a.yaml", &(waiting + "    imagePullPolicy: Never\n"));
    node.wait("the pod to wait for its image", |node| {
        // At first the agent does not know the pod.
        let told = node.try_pintle(&["explain", "pod/a"]).stdout;
        String::from_utf8_lossy(&told).contains("imagePullPolicy is Never").then_some(())
    });
    node.pintle(&["import", "--tag", "localhost/later:1", &node::image().to_string_lossy()]);
    node.wait_ready("a");
    node.finish();
}

#[test]
fn logs_are_rotated_and_none_of_their_lines_is_lost() {
    let node = Node::start("containerLogMaxSize: 16Ki\ncontainerLogMonitorInterval: 200ms\n");
    node.manifest(
        "a.yaml",
        &pod("a", "", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; exec sleep 1000"),
    );
    let done = node.wait("a rotated log", |node| {
        let files = node.pod_logs("a");
        let text: String = files.iter().map(|(_, text)| text.as_str()).collect();
        (files.len() > 1 && text.contains(" F 1999\n")).then_some(text)
    });
    let numbers: Vec<u32> =
        done.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..2000), "{} lines", numbers.len());
    node.finish();
}

#[test]
fn the_runtime_alone_serves_cri_and_knows_no_pods_of_kubernetes() {
    let mut node = Node::runtime();
    assert!(node.pintle(&["version"]).contains("pintle"));
    let refused = node.try_pintle(&["explain", "pod/a"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("only `pintle agent` can explain pods"));
    assert!(node.log().contains("pintle runtime: serving on unix://"));
    node.stop();
    assert!(!node.socket().exists(), "the socket is taken away");
    node.finish();
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let node = Node::start("");
    let output = node.try_second_agent();
    assert!(!output.status.success());
    assert!(node.pintle(&["version"]).contains("pintle"), "the first one still serves");
    node.finish();
}

#[test]
fn a_wrong_configuration_is_refused_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "maxPods: 3\nmaxPodz: 4\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pintle"))
        .args(["agent", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("config.yaml:2: ") && told.contains("maxPodz"), "{told}");
}
