//! Engines and supervisors that go away at any moment.

use pintle_cri_api::v1 as cri;
use pintle_runtime::{Engine, Error};

use crate::support::{edit_record, eventually, limit, on_a_node, shell};

#[test]
fn a_new_engine_adopts_what_runs_and_learns_how_the_rest_ended() {
    on_a_node(|mut node| async {
        let pod = node.pod("adopt").await;
        let running = node.script(&pod, "running", "while :; do echo tick; sleep 0.1; done").await;
        let ending = node.script(&pod, "ending", "sleep 0.5; exit 9").await;
        let created =
            node.try_container(&pod, "created", |config| config.command = shell("exit 4")).await.unwrap();
        let before = (node.status(&running).await, node.pod_status(&pod).await.0, node.info(&running).await);
        node.drop_engine().await;
        tokio::time::sleep(std::time::Duration::from_millis(800)).await;
        node.open().await;
        let after = (node.status(&running).await, node.pod_status(&pod).await.0, node.info(&running).await);
        assert_eq!(before, after);
        let ended = node.status(&ending).await;
        assert_eq!((ended.state, ended.exit_code), (cri::ContainerState::ContainerExited as i32, 9));
        node.start(&created).await.unwrap();
        assert_eq!(node.ended(&created).await.exit_code, 4);
        assert_eq!(node.output(&running, "echo alive").await, "alive");
        node.stop(&running, 0).await.unwrap();
        assert_eq!(node.status(&running).await.exit_code, 137);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_dead_supervisors_pod_is_not_ready_and_nothing_of_it_runs_on() {
    on_a_node(|node| async {
        let pod = node.pod("orphan").await;
        let id = node.script(&pod, "c", "sleep 54321").await;
        let (_, info) = node.pod_status(&pod).await;
        let (supervisor, infra) = (info["supervisorPid"].as_i64().unwrap(), info["pid"].as_i64().unwrap());
        let child = node.info(&id).await["pid"].as_i64().unwrap();
        kill(supervisor);
        let status = node.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
        assert!(status.message.contains("supervisor died"), "{}", status.message);
        let state = node.pod_status(&pod).await.0.state;
        assert_eq!(state, cri::PodSandboxState::SandboxNotready as i32);
        for pid in [infra, child] {
            eventually("its processes are gone", || !is_alive(pid)).await;
        }
        let refused = node.try_container(&pod, "d", |_| {}).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::FailedPrecondition);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_supervisor_that_died_while_no_engine_ran_is_noticed_by_the_next() {
    on_a_node(|mut node| async {
        let pod = node.pod("late").await;
        let id = node.script(&pod, "c", "sleep 54322").await;
        let (_, info) = node.pod_status(&pod).await;
        let supervisor = info["supervisorPid"].as_i64().unwrap();
        node.drop_engine().await;
        kill(supervisor);
        eventually("the supervisor is gone", || !is_alive(supervisor)).await;
        node.open().await;
        assert_eq!(node.status(&id).await.exit_code, 255);
        assert_eq!(node.pod_status(&pod).await.0.state, cri::PodSandboxState::SandboxNotready as i32);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn the_end_of_the_infra_container_makes_the_sandbox_not_ready() {
    on_a_node(|node| async {
        let pod = node.pod("infra").await;
        let (_, info) = node.pod_status(&pod).await;
        kill(info["pid"].as_i64().unwrap());
        let engine = node.engine().clone();
        eventually("the sandbox is not ready", || {
            engine.list_sandboxes(None)[0].state == cri::PodSandboxState::SandboxNotready as i32
        })
        .await;
        drop(engine);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn half_made_things_are_removed_when_the_engine_opens() {
    on_a_node(|mut node| async {
        let pod = node.pod("half").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        node.drop_engine().await;
        let sandbox = node.path("state/sandboxes").join(&pod).join("sandbox.json");
        edit_record(&sandbox, "\"phase\": \"ready\"", "\"phase\": \"intent\"");
        node.open().await;
        assert!(node.engine().list_sandboxes(None).is_empty());
        assert!(node.try_status(&id).await.is_err());
        node
    });
}

#[test]
fn a_half_made_container_and_a_snapshot_without_one_are_removed_and_the_others_run_on() {
    on_a_node(|mut node| async {
        let pod = node.pod("partly").await;
        let whole = node.script(&pod, "whole", "sleep 1000").await;
        let half =
            node.try_container(&pod, "half", |config| config.command = shell("sleep 1000")).await.unwrap();
        let pid = node.info(&half).await["pid"].as_i64().unwrap();
        let image = node.status(&whole).await.image_id;
        node.engine().images().create_snapshot("nobody", &image).unwrap();
        node.drop_engine().await;
        let record = node.path("state/containers").join(&half).join("container.json");
        edit_record(&record, "\"complete\": true", "\"complete\": false");
        node.open().await;
        assert!(node.try_status(&half).await.is_err() && !is_alive(pid));
        assert_eq!(node.engine().images().snapshots().unwrap(), std::slice::from_ref(&whole));
        assert_eq!(node.output(&whole, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_container_whose_exit_record_cannot_be_read_is_known_and_what_its_supervisor_says_counts() {
    on_a_node(|mut node| async {
        let pod = node.pod("torn").await;
        let id = node.script(&pod, "c", "exit 7").await;
        node.ended(&id).await;
        node.drop_engine().await;
        std::fs::write(node.path("state/containers").join(&id).join("exit.json"), "{").unwrap();
        node.open().await;
        assert_eq!(node.status(&id).await.exit_code, 7);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_belonged_to_a_record_whose_both_versions_are_damaged_is_removed_and_they_are_kept() {
    on_a_node(|mut node| async {
        let parent = format!("{}/elsewhere/pod-x", node.engine().layout().cgroup_root);
        let broken = node
            .try_pod("broken", |config| config.linux.as_mut().unwrap().cgroup_parent.clone_from(&parent))
            .await
            .unwrap();
        let id = node.script(&broken, "c", "sleep 1000").await;
        let other = node.pod("other").await;
        let (infra, child) =
            (node.pod_status(&broken).await.1["pid"].clone(), node.info(&id).await["pid"].clone());
        node.drop_engine().await;
        for file in ["sandbox.json", "sandbox.first.json"] {
            std::fs::write(node.path("state/sandboxes").join(&broken).join(file), "{").unwrap();
        }
        node.open().await;
        assert_eq!(node.engine().list_sandboxes(None).len(), 1);
        assert_eq!(std::fs::read_dir(node.path("state/damaged")).unwrap().count(), 2);
        for pid in [infra, child] {
            eventually("its processes are gone", || !is_alive(pid.as_i64().unwrap())).await;
        }
        node.remove_pod(&other).await;
        // The parents were not the engine's to remove.
        for mount in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()) {
            for parent in [&parent, &parent.replace("/pod-x", "")] {
                std::fs::remove_dir(mount.join(parent.trim_start_matches('/'))).unwrap_or(());
                std::fs::remove_dir(format!("/sys/fs/cgroup{parent}")).unwrap_or(());
            }
        }
        node
    });
}

#[test]
fn what_another_boot_left_is_dead() {
    on_a_node(|mut node| async {
        let pod = node.pod("boot").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let (_, info) = node.pod_status(&pod).await;
        let boot = info["boot"].as_str().unwrap().to_owned();
        node.drop_engine().await;
        // As after a power cut: the records say another boot, and the supervisor is gone.
        kill(info["supervisorPid"].as_i64().unwrap());
        let files = [
            node.path("state/sandboxes").join(&pod).join("sandbox.json"),
            node.path("state/containers").join(&id).join("container.json"),
        ];
        for file in files {
            edit_record(&file, &boot, "another-boot");
        }
        node.open().await;
        let status = node.status(&id).await;
        assert_eq!((status.exit_code, status.state), (255, cri::ContainerState::ContainerExited as i32));
        assert_eq!(node.pod_status(&pod).await.0.state, cri::PodSandboxState::SandboxNotready as i32);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pod_whose_records_are_damaged_runs_on_and_is_known_as_before() {
    on_a_node(|mut node| async {
        let pod = node.pod("damaged").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let ended = node.script(&pod, "ended", "exit 5").await;
        node.ended(&ended).await;
        let before = (node.pod_status(&pod).await.0, node.status(&id).await, node.status(&ended).await);
        let pids = (node.info(&id).await["pid"].clone(), node.pod_status(&pod).await.1["pid"].clone());
        node.drop_engine().await;
        let sandbox = node.path("state/sandboxes").join(&pod).join("sandbox.json");
        let mut bytes = std::fs::read(&sandbox).unwrap();
        bytes[200] ^= 4;
        std::fs::write(&sandbox, &bytes).unwrap();
        for container in [&id, &ended] {
            let record = node.path("state/containers").join(container).join("container.json");
            let bytes = std::fs::read(&record).unwrap();
            std::fs::write(&record, &bytes[..bytes.len() / 2]).unwrap();
        }
        node.open().await;
        let after = (node.pod_status(&pod).await.0, node.status(&id).await, node.status(&ended).await);
        assert_eq!(before, after);
        let now = (node.info(&id).await["pid"].clone(), node.pod_status(&pod).await.1["pid"].clone());
        assert_eq!(pids, now);
        assert_eq!(std::fs::read_dir(node.path("state/damaged")).unwrap().count(), 3);
        // What was put together again is on disk.
        node.drop_engine().await;
        node.open().await;
        assert_eq!(node.pod_status(&pod).await.0, before.0);
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pod_whose_supervisor_does_not_answer_a_new_engine_is_left_alone_until_it_does() {
    on_a_node(|mut node| async {
        let hung = node.pod("hung").await;
        let id = node.script(&hung, "c", "while :; do echo tick; sleep 0.1; done").await;
        let free = node.pod("free").await;
        let supervisor = node.pod_status(&hung).await.1["supervisorPid"].as_i64().unwrap();
        let pid = node.info(&id).await["pid"].as_i64().unwrap();
        node.drop_engine().await;
        signal(supervisor, rustix::process::Signal::STOP);
        let begun = std::time::Instant::now();
        node.open().await;
        assert!(begun.elapsed() < limit() / 3, "{:?}", begun.elapsed());
        let (status, info) = node.pod_status(&hung).await;
        assert_eq!(
            (status.state, &info["supervisorAnswers"]),
            (cri::PodSandboxState::SandboxReady as i32, &serde_json::json!(false))
        );
        let status = node.status(&id).await;
        assert_eq!(
            (status.state, status.reason.as_str()),
            (cri::ContainerState::ContainerRunning as i32, "SupervisorSilent")
        );
        let refused = [
            node.exec(&id, "true", 1).await.map(drop),
            node.stop(&id, 0).await,
            node.start(&id).await,
            node.try_container(&hung, "d", |_| {}).await.map(drop),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);
        }
        node.script(&free, "c", "sleep 1000").await;
        assert!(is_alive(pid));
        signal(supervisor, rustix::process::Signal::CONT);
        let engine = node.engine().clone();
        eventually("it is adopted", || {
            engine.list_containers(None).iter().filter(|c| c.pod_sandbox_id == hung).count() == 1
                && engine.statuses_of(&hung)[0].reason.is_empty()
        })
        .await;
        drop(engine);
        assert_eq!(node.info(&id).await["pid"], pid);
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&hung).await;
        node.remove_pod(&free).await;
        node
    });
}

#[test]
fn a_pod_whose_supervisor_does_not_answer_can_be_removed_and_one_whose_supervisor_dies_then_is_noticed() {
    on_a_node(|mut node| async {
        let mut pids = Vec::new();
        for name in ["removed", "dying"] {
            let pod = node.pod(name).await;
            let id = node.script(&pod, "c", "sleep 1000").await;
            let supervisor = node.pod_status(&pod).await.1["supervisorPid"].as_i64().unwrap();
            pids.push((pod, supervisor, node.info(&id).await["pid"].as_i64().unwrap(), id));
        }
        node.drop_engine().await;
        pids.iter().for_each(|(_, supervisor, ..)| signal(*supervisor, rustix::process::Signal::STOP));
        node.open().await;
        node.remove_pod(&pids[0].0).await;
        assert!(!is_alive(pids[0].1) && !is_alive(pids[0].2));
        assert!(is_alive(pids[1].2));
        kill(pids[1].1);
        assert_eq!(node.ended(&pids[1].3).await.exit_code, 255);
        let pid = pids[1].2;
        eventually("its processes are gone", || !is_alive(pid)).await;
        assert_eq!(node.pod_status(&pids[1].0).await.0.state, cri::PodSandboxState::SandboxNotready as i32);
        node.remove_pod(&pids[1].0).await;
        node
    });
}

#[test]
fn a_second_engine_on_the_same_state_directory_is_refused() {
    on_a_node(|node| async {
        assert!(matches!(Engine::open(node.config()).await, Err(Error::Locked(_))));
        node
    });
}

fn kill(pid: i64) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: i64, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}
