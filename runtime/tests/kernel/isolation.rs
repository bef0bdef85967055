//! Many at once, callers who go away, and one pod that hangs: nobody else notices.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pintle_cri_api::v1 as cri;
use rustix::process::{Pid, Signal};

use crate::support::{eventually, limit, on_a_node, shell};

#[test]
fn a_hung_supervisor_delays_nobody_but_its_own_pod() {
    on_a_node(|node| async {
        let hung = node.pod("hung").await;
        let (_, info) = node.pod_status(&hung).await;
        let pid = Pid::from_raw(i32::try_from(info["supervisorPid"].as_i64().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let late = node.try_container(&hung, "late", |config| config.command = shell("sleep 1000"));
        let others = async {
            let begun = Instant::now();
            let pod = node.pod("free").await;
            let id = node.script(&pod, "c", "exit 0").await;
            node.ended(&id).await;
            assert_eq!(node.engine().list_sandboxes(None).len(), 2);
            node.remove_pod(&pod).await;
            let took = begun.elapsed();
            rustix::process::kill_process(pid, Signal::CONT).unwrap();
            took
        };
        let (late, took) = tokio::join!(late, others);
        assert!(took < limit() * 2 / 3, "{took:?}");
        node.start(&late.unwrap()).await.unwrap();
        node.remove_pod(&hung).await;
        node
    });
}

#[test]
fn twelve_pods_are_made_and_removed_at_once() {
    on_a_node(|node| async {
        let begun = Instant::now();
        let names: Vec<String> = (0..12).map(|i| format!("p{i}")).collect();
        let pods = futures_util::future::join_all(names.iter().map(|name| async {
            let pod = node.pod(name).await;
            let id = node.script(&pod, "c", "sleep 1000").await;
            (pod, id)
        }))
        .await;
        let mut ips = std::collections::HashSet::new();
        for (pod, _) in &pods {
            assert!(ips.insert(node.pod_status(pod).await.0.network.unwrap().ip));
        }
        eprintln!("twelve pods with a container each: {:?}", begun.elapsed());
        futures_util::future::join_all(pods.iter().map(|(pod, _)| node.remove_pod(pod))).await;
        eprintln!("and removed: {:?}", begun.elapsed());
        node
    });
}

#[test]
fn a_caller_who_goes_away_leaves_a_whole_pod_or_none() {
    on_a_node(|node| async {
        for delay in [0, 5, 20, 60, 120] {
            let engine = Arc::clone(node.engine());
            let call = tokio::spawn(async move {
                let metadata = cri::PodSandboxMetadata {
                    name: format!("left-after-{delay}"),
                    uid: "u".to_owned(),
                    ..Default::default()
                };
                let config = cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
                let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
                engine.run_pod_sandbox(request).await.map(drop)
            });
            tokio::time::sleep(Duration::from_millis(delay)).await;
            call.abort();
        }
        // Those that were begun are finished, and can be found and removed.
        let engine = Arc::clone(node.engine());
        let directories = || std::fs::read_dir(node.path("state/sandboxes")).unwrap().count();
        eventually("what was begun is finished", || {
            let list = engine.list_sandboxes(None);
            let ready = list.iter().filter(|s| s.state == cri::PodSandboxState::SandboxReady as i32).count();
            ready > 0 && ready == directories()
        })
        .await;
        for sandbox in engine.list_sandboxes(None) {
            node.remove_pod(&sandbox.id).await;
        }
        drop(engine);
        node
    });
}

#[test]
fn a_log_goes_on_in_a_new_file_after_it_was_renamed() {
    on_a_node(|node| async {
        let pod = node.pod("log").await;
        let id = node.script(&pod, "c", "while :; do echo tick; sleep 0.05; done").await;
        let (path, old) = (node.path("logs/log/c.log"), node.path("logs/log/c.log.1"));
        eventually("it writes", || node.log("log", "c").contains("tick")).await;
        std::fs::rename(&path, &old).unwrap();
        node.engine().reopen_container_log(&id).await.unwrap();
        eventually("it writes to the new file", || node.log("log", "c").contains("tick")).await;
        node.remove_pod(&pod).await;
        node
    });
}
