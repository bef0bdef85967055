//! The wall clock is set forward and back by an hour under a node's feet. Only where `PINTLE_TEST_MAY_SET_CLOCK` allows it:
//! in a virtual machine, whose clock is nobody else's. What decisions make of it is tried in the scenarios `clock_*`.

use std::process::Command;
use std::time::Instant;

use pintle_integration::{Manifest, Node, condition, container_status, time_out, wait_until};

fn pod(name: &str, script: &str) -> Manifest {
    Manifest::sleeper(name).spec("terminationGracePeriodSeconds", "3").shell(script)
}

/// Sets the wall clock by so many seconds.
fn set_clock(seconds: i64) {
    let now = Command::new("date").arg("+%s").output().expect("date runs");
    let now: i64 = String::from_utf8_lossy(&now.stdout).trim().parse().expect("seconds");
    let set = Command::new("date").args(["-s", &format!("@{}", now + seconds)]).output().expect("date runs");
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
}

#[test]
fn a_clock_that_is_set_by_an_hour_disturbs_nothing() {
    if std::env::var_os("PINTLE_TEST_MAY_SET_CLOCK").is_none() {
        println!("not here: the clock is not ours");
        return;
    }
    let mut node = Node::prepare();
    node.set_config("restartBackOff: {initial: 3s, max: 6s}\n");
    node.start_agent();
    node.pintle(&["import", &pintle_integration::image_archive().to_string_lossy()]);
    node.manifest("steady.yaml", &pod("steady", "while true; do echo tick; sleep 1; done"));
    node.wait_ready("steady");
    let steady = node.container("steady", "app");
    for (name, seconds) in [("forward", 3600), ("back", -3600)] {
        let crashes = format!("crashes-{name}");
        node.manifest("crashes.yaml", &pod(&crashes, "sleep 0.2; exit 1"));
        let restarts = |pod: &serde_json::Value| container_status(pod, "app")["restartCount"].as_u64();
        let looping = node.wait_pod(&crashes, "crashing", |pod| restarts(pod) >= Some(2));
        set_clock(seconds);
        // It goes on restarting, and the pod that runs is as it was.
        let before = restarts(&looping);
        node.wait_pod(&crashes, "restarted again", |pod| restarts(pod) > before);
        assert_eq!(node.container("steady", "app"), steady, "{name}");
        assert_eq!(condition(&node.wait_ready("steady"), "Ready"), "True");

        // A pod starts, and one that does not obey goes when its grace period is over.
        let stubborn = format!("stubborn-{name}");
        node.manifest("stubborn.yaml", &pod(&stubborn, "trap '' TERM; while true; do sleep 1; done"));
        node.wait_ready(&stubborn);
        node.remove_manifest("stubborn.yaml");
        let began = Instant::now();
        set_clock(-seconds);
        node.wait_gone(&stubborn);
        let took = began.elapsed();
        assert!(took < time_out(30), "{name}: the grace period took {took:?}");
        set_clock(seconds);

        // Logs and lists make sense.
        let id = steady.id.as_str();
        let recent = || node.pintle(&["logs", "--since", "10s", id]).lines().count();
        wait_until("recent lines", || (recent() >= 2).then_some(()));
        let last = node.pintle(&["logs", "--timestamps", "--tail", "1", id]);
        assert!(last.trim_end().ends_with("Z tick"), "{last}");
        for list in [&["get", "pods", "-A"][..], &["ps", "-a"], &["pods"]] {
            node.pintle(list);
        }
        node.pintle(&["explain", &format!("pod/{crashes}")]);

        // So does the next agent.
        node.kill_agent();
        node.start_agent();
        node.wait_ready("steady");
        assert_eq!(node.container("steady", "app"), steady, "{name}");
    }
    node.finish();
}
