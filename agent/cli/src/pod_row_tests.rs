//! Pods in every state that kubectl has a word for.

#![allow(clippy::needless_pass_by_value, reason = "json values read best in place")]

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-02T00:10:00Z".parse().unwrap()
}

fn cells(status: Value) -> (String, String, String) {
    cells_of(json!({"spec": {"containers": [{"name": "a"}]}, "status": status}))
}

fn cells_of(pod: Value) -> (String, String, String) {
    let mut whole = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    for (key, value) in pod.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let row = row(&serde_json::from_value(whole).unwrap(), now());
    (row.ready, row.status, row.restarts)
}

fn three(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
    (ready.to_owned(), status.to_owned(), restarts.to_owned())
}

fn container(name: &str, ready: bool, restarts: i32, state: Value) -> Value {
    json!({"name": name, "ready": ready, "restartCount": restarts, "state": state, "image": "", "imageID": ""})
}

#[test]
fn a_running_pod_is_running() {
    let status =
        json!({"phase": "Running", "containerStatuses": [container("a", true, 0, json!({"running": {}}))]});
    assert_eq!(cells(status), three("1/1", "Running", "0"));
}

#[test]
fn a_pod_without_containers_yet_shows_its_phase() {
    assert_eq!(cells(json!({"phase": "Pending"})), three("0/1", "Pending", "0"));
}

#[test]
fn a_waiting_container_gives_its_reason() {
    for reason in ["ContainerCreating", "ImagePullBackOff", "CreateContainerConfigError"] {
        let state = json!({"waiting": {"reason": reason}});
        let status = json!({"phase": "Pending", "containerStatuses": [container("a", false, 0, state)]});
        assert_eq!(cells(status), three("0/1", reason, "0"));
    }
}

#[test]
fn a_crash_loop_tells_when_it_last_restarted() {
    let mut crashed = container("a", false, 2, json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    crashed["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T00:05:00Z"}});
    let status = json!({"phase": "Running", "containerStatuses": [crashed]});
    assert_eq!(cells(status), three("0/1", "CrashLoopBackOff", "2 (5m ago)"));
}

#[test]
fn ended_containers_are_completed_or_in_error() {
    for (ended, expected) in [
        (json!({"exitCode": 0, "reason": "Completed"}), "Completed"),
        (json!({"exitCode": 1, "reason": "Error"}), "Error"),
        (json!({"exitCode": 137, "reason": "OOMKilled"}), "OOMKilled"),
        (json!({"exitCode": 3}), "ExitCode:3"),
        (json!({"exitCode": 137, "signal": 9}), "Signal:9"),
    ] {
        let state = json!({"terminated": ended});
        let status = json!({"phase": "Failed", "containerStatuses": [container("a", false, 0, state)]});
        assert_eq!(cells(status).1, expected);
    }
}

#[test]
fn a_completed_container_beside_a_running_one_does_not_hide_it() {
    let statuses = json!([
        container("a", false, 0, json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
        container("b", true, 0, json!({"running": {}})),
    ]);
    for (ready, expected) in [("True", "Running"), ("False", "NotReady")] {
        let pod = json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Running", "containerStatuses": statuses,
                "conditions": [{"type": "Ready", "status": ready}]},
        });
        assert_eq!(cells_of(pod), three("1/2", expected, "0"));
    }
}

#[test]
fn init_containers_are_counted_until_they_are_done() {
    let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    for (state, expected) in [
        (json!({"running": {}}), "Init:1/2"),
        (json!({"waiting": {"reason": "PodInitializing"}}), "Init:1/2"),
        (json!({"waiting": {"reason": "CrashLoopBackOff"}}), "Init:CrashLoopBackOff"),
        (json!({"terminated": {"exitCode": 2, "reason": "Error"}}), "Init:Error"),
        (json!({"terminated": {"exitCode": 2}}), "Init:ExitCode:2"),
        (json!({"terminated": {"exitCode": 2, "signal": 15}}), "Init:Signal:15"),
    ] {
        let done = container("i", false, 1, json!({"terminated": {"exitCode": 0}}));
        let status = json!({"phase": "Pending", "initContainerStatuses": [done, container("j", false, 2, state)],
            "containerStatuses": [container("a", false, 0, json!({"waiting": {"reason": "PodInitializing"}}))]});
        assert_eq!(cells_of(json!({"spec": spec, "status": status})), three("0/1", expected, "3"));
    }
}

#[test]
fn init_restarts_are_forgotten_once_the_pod_runs() {
    let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
    let done = container("i", false, 4, json!({"terminated": {"exitCode": 0}}));
    let status = json!({"phase": "Running", "initContainerStatuses": [done],
        "containerStatuses": [container("a", true, 1, json!({"running": {}}))]});
    assert_eq!(cells_of(json!({"spec": spec, "status": status})), three("1/1", "Running", "1"));
}

#[test]
fn a_sidecar_counts_as_a_container_of_the_pod() {
    let spec =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let mut sidecar = container("s", true, 2, json!({"running": {}}));
    sidecar["started"] = json!(true);
    let status = json!({"phase": "Running", "initContainerStatuses": [sidecar],
        "containerStatuses": [container("a", true, 1, json!({"running": {}}))]});
    assert_eq!(cells_of(json!({"spec": spec, "status": status})), three("2/2", "Running", "3"));
}

#[test]
fn a_deleted_pod_is_terminating_until_it_has_ended() {
    for (phase, reason, expected) in [
        ("Running", Value::Null, "Terminating"),
        ("Succeeded", Value::Null, "Succeeded"),
        ("Running", json!("NodeLost"), "Unknown"),
    ] {
        let pod = json!({
            "metadata": {"name": "p", "deletionTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}]}, "status": {"phase": phase, "reason": reason},
        });
        assert_eq!(cells_of(pod).1, expected);
    }
}

#[test]
fn an_evicted_pod_says_so() {
    assert_eq!(cells(json!({"phase": "Failed", "reason": "Evicted"})).1, "Evicted");
}

#[test]
fn the_wide_columns_say_none_when_there_is_nothing() {
    let pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}});
    let row = row(&serde_json::from_value(pod).unwrap(), now());
    assert_eq!((row.ip.as_str(), row.node.as_str(), row.age.as_str()), ("<none>", "<none>", "24h"));
    assert_eq!((row.nominated_node.as_str(), row.readiness_gates.as_str()), ("<none>", "<none>"));
}
