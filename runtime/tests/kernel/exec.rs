//! Commands in running containers.

use tonic::Code;

use crate::support::{eventually, on_a_node, processes_of};

#[test]
fn r05_a_command_runs_in_the_containers_namespaces_and_its_code_comes_back() {
    on_a_node(|node| async {
        let pod = node.pod("exec").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let pid = node.info(&id).await["pid"].as_i64().unwrap();
        for kind in ["net", "pid", "mnt", "uts", "ipc"] {
            let own = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(
                node.output(&id, &format!("readlink /proc/self/ns/{kind}")).await,
                own.to_string_lossy()
            );
        }
        let done = node.exec(&id, "echo out; echo err >&2; exit 42", 10).await.unwrap();
        assert_eq!(
            (done.exit_code, done.stdout.as_slice(), done.stderr.as_slice()),
            (42, &b"out\n"[..], &b"err\n"[..])
        );
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_it_started() {
    on_a_node(|node| async {
        let pod = node.pod("slow").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let late = node.exec(&id, "sleep 98765 & sleep 98765 & wait", 1).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        eventually("the command's tree is gone", || {
            !processes_of("98765", "no cgroup has this name").iter().any(|process| process.contains("sleep"))
        })
        .await;
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn output_is_bounded_and_a_daemon_left_behind_is_not_waited_for() {
    on_a_node(|node| async {
        let pod = node.pod("output").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let much = node.exec(&id, "dd if=/dev/zero bs=1M count=20 2>/dev/null", 60).await.unwrap();
        assert_eq!(much.exit_code, 0);
        assert!(much.stdout.len() < 16 * 1024 * 1024 && much.stdout.len() > 15 * 1024 * 1024);
        assert!(much.stdout.ends_with(b"more bytes]\n"));
        let begun = std::time::Instant::now();
        let left = node.exec(&id, "sleep 1000 & echo done", 60).await.unwrap();
        assert_eq!(left.stdout, b"done\n");
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        let missing = node.exec("no-such-container", "true", 1).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
        node.remove_pod(&pod).await;
        node
    });
}
