//! Pods whose containers an external OCI runtime makes (`PINTLE_TEST_OCI_RUNTIME`, else runc).

use std::{process::Command, time::Duration};

use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use pintle_runtime::RuntimeHandler;
use tonic::{Code, Request};

use crate::support::{EXTERNAL, HANDLER, Node, eventually, oci_runtime, on_a_node, security, shell};

/// What holds for pods of the native engine and does not depend on who makes their containers.
const ALSO_EXTERNAL: [&str; 17] = [
    "containers::a_shorter_grace_overtakes_a_longer_one",
    "containers::devices_are_closed_unless_they_are_asked_for_or_the_container_is_privileged",
    "containers::r02_limits_reach_the_cgroup_and_can_be_changed",
    "containers::r06_volumes_users_and_read_only_roots_are_as_asked_for",
    "containers::r12_a_container_that_takes_too_much_memory_is_oom_killed",
    "containers::the_image_gives_what_the_request_leaves_out",
    "containers::the_same_request_twice_makes_one_container_and_another_is_refused",
    "containers::the_stop_signal_is_heard_and_after_the_grace_comes_sigkill",
    "crash::a_dead_supervisors_pod_is_not_ready_and_nothing_of_it_runs_on",
    "crash::a_half_made_container_and_a_snapshot_without_one_are_removed_and_the_others_run_on",
    "crash::a_new_engine_adopts_what_runs_and_learns_how_the_rest_ended",
    "crash::a_supervisor_that_died_while_no_engine_ran_is_noticed_by_the_next",
    "crash::half_made_things_are_removed_when_the_engine_opens",
    "crash::the_end_of_the_infra_container_makes_the_sandbox_not_ready",
    "exec::a_command_that_takes_too_long_is_killed_with_all_it_started",
    "exec::output_is_bounded_and_a_daemon_left_behind_is_not_waited_for",
    "exec::r05_a_command_runs_in_the_containers_namespaces_and_its_code_comes_back",
];

#[test]
fn r11_what_holds_for_pods_of_the_native_engine_holds_for_those_of_an_external_runtime() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads", "2"])
        .args(ALSO_EXTERNAL)
        .env(EXTERNAL, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let all = format!("{} passed; 0 failed", ALSO_EXTERNAL.len());
    assert!(told.contains(&all), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The name that the runtime has given itself on disk: it is what made the container.
fn made_by_runtime(node: &Node, id: &str) -> bool {
    let state = node.path("state/containers").join(id).join("state").join(id);
    // The library keeps a socket there, external runtimes none.
    state.is_dir() && !state.join("notify.sock").exists()
}

#[test]
fn r11_a_pod_may_name_an_external_runtime_and_another_beside_it_be_native() {
    on_a_node(|node| async {
        let external = node.pod_of(HANDLER, "external").await;
        let native = node.pod_of("", "native").await;
        assert_eq!(node.pod_status(&external).await.0.runtime_handler, HANDLER);
        assert_eq!(node.pod_status(&native).await.0.runtime_handler, "");
        let mut seen = Vec::new();
        for (pod, name) in [(&external, "external"), (&native, "native")] {
            let id = node
                .script(pod, "c", "echo to the log; trap 'exit 7' TERM; while :; do sleep 0.1; done")
                .await;
            assert_eq!(made_by_runtime(&node, &id), name == "external");
            eventually("the log is written", || node.log(name, "c") == "to the log").await;
            // As strict as a native one.
            let status = "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status; grep -E 'Cap|Seccomp:' /proc/1/status; \
                          head -c 1 /proc/kcore | wc -c; ls /sys/firmware; \
                          grep -o ' /proc/[a-z/-]* r[ow]' /proc/self/mountinfo; \
                          cat /proc/1/oom_score_adj /proc/self/oom_score_adj; id";
            seen.push(node.output(&id, status).await);
            node.stop(&id, 20).await.unwrap();
            assert_eq!(node.status(&id).await.exit_code, 7);
        }
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&seen[0]), sorted(&seen[1]));
        assert!(seen[0].contains("Seccomp:\t2"), "{}", seen[0]);
        node.remove_pod(&external).await;
        node.remove_pod(&native).await;
        node
    });
}

#[test]
fn r11_a_seccomp_profile_binds_the_containers_of_an_external_runtime_and_their_execs() {
    on_a_node(|node| async {
        let pod = node.pod_of(HANDLER, "seccomp").await;
        let file = node.path("profile.json");
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        std::fs::write(&file, profile.to_string()).unwrap();
        let id = node
            .try_container(&pod, "c", |config| {
                config.command = shell("mkdir /tmp/a; sleep 1000");
                security(config).seccomp = Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::Localhost.into(),
                    localhost_ref: file.to_string_lossy().into_owned(),
                });
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        eventually("the first process is refused", || node.log("seccomp", "c").contains("not supported"))
            .await;
        let refused = node.exec(&id, "mkdir /tmp/b", 20).await.unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not supported"), "{refused:?}");
        let open = node
            .try_container(&pod, "open", |config| {
                config.command = shell("sleep 1000");
                security(config).seccomp = Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::Unconfined.into(),
                    ..Default::default()
                });
            })
            .await
            .unwrap();
        node.start(&open).await.unwrap();
        assert_eq!(node.output(&open, "grep Seccomp: /proc/self/status").await, "Seccomp:\t0");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn r11_the_status_tells_each_handler_and_what_it_can_do() {
    on_a_node(|node| async {
        let status = async || {
            let request = Request::new(cri::StatusRequest { verbose: true });
            node.engine().as_ref().status(request).await.unwrap().into_inner()
        };
        // Asked in the background.
        let deadline = std::time::Instant::now() + crate::support::limit();
        let handlers = loop {
            let handlers = status().await.runtime_handlers;
            if handlers.iter().all(|handler| handler.features.is_some()) {
                break handlers;
            }
            assert!(std::time::Instant::now() < deadline, "{handlers:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let names: Vec<_> = handlers.iter().map(|handler| handler.name.as_str()).collect();
        assert_eq!(names, ["", HANDLER]);
        let features = Command::new(oci_runtime().unwrap()).arg("features").output().unwrap().stdout;
        let rro = String::from_utf8_lossy(&features).contains("\"rro\"");
        assert_eq!(handlers[1].features.unwrap().recursive_read_only_mounts, rro);
        let info: serde_json::Value = serde_json::from_str(&status().await.info["config"]).unwrap();
        assert_eq!(info["runtimeHandlers"][0]["name"], HANDLER);
        assert_eq!(info["runtimeHandlers"][0]["trouble"], serde_json::Value::Null);
        node
    });
}

#[test]
fn a_handler_that_is_unknown_or_whose_program_is_missing_is_refused_and_disturbs_no_other() {
    on_a_node(|mut node| async {
        node.drop_engine().await;
        let late = node.path("late");
        let mut config = node.config();
        config.runtime_handlers.push(RuntimeHandler::new("late", &late));
        node.open_with(config).await;
        let unknown = node.try_pod_of("kata", "a", |_| {}).await.unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidArgument);
        assert!(unknown.message().contains("no runtime handler \"kata\""), "{unknown}");
        let missing = node.try_pod_of("late", "b", |_| {}).await.unwrap_err();
        assert_eq!(missing.code(), Code::FailedPrecondition);
        assert!(
            missing.message().contains("\"late\" is not available")
                && missing.message().contains("No such file")
        );
        let request = Request::new(cri::StatusRequest { verbose: true });
        let status = node.engine().as_ref().status(request).await.unwrap().into_inner();
        assert!(status.info["config"].contains("No such file"), "{:?}", status.info);
        let pod = node.pod_of("", "c").await;
        node.remove_pod(&pod).await;
        std::os::unix::fs::symlink(oci_runtime().unwrap(), &late).unwrap();
        let pod = node.pod_of("late", "d").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        // The program goes away, and then the handler: what runs is left alone and can be stopped and removed.
        std::fs::remove_file(&late).unwrap();
        let refused =
            node.try_container(&pod, "e", |config| config.command = shell("true")).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        node.drop_engine().await;
        node.open().await;
        assert_eq!(node.status(&id).await.state, cri::ContainerState::ContainerRunning as i32);
        let refused =
            node.try_container(&pod, "f", |config| config.command = shell("true")).await.unwrap_err();
        assert!(refused.message().contains("no runtime handler \"late\""), "{refused}");
        node.stop(&id, 0).await.unwrap();
        assert_eq!(node.status(&id).await.exit_code, 137);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pod_with_a_user_namespace_is_refused_by_an_external_runtimes_handler() {
    on_a_node(|node| async {
        let refused = node
            .try_pod_of(HANDLER, "users", |config| {
                let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                let line = cri::IdMapping { host_id: 200_000, container_id: 0, length: 65_536 };
                security.namespace_options.as_mut().unwrap().userns_options = Some(cri::UserNamespace {
                    mode: cri::NamespaceMode::Pod.into(),
                    uids: vec![line],
                    gids: vec![line],
                });
            })
            .await
            .unwrap_err();
        assert!(refused.message().contains("user namespaces are not supported"), "{refused}");
        node
    });
}

#[test]
fn a_program_that_an_external_runtime_does_not_find_is_told_when_the_container_is_made() {
    on_a_node(|node| async {
        let pod = node.pod_of(HANDLER, "broken").await;
        let made =
            node.try_container(&pod, "c", |config| config.command = vec!["/no/such/program".to_owned()]);
        let error = made.await.unwrap_err();
        assert!(error.message().contains("/no/such/program"), "{error}");
        assert!(node.engine().list_containers(None).is_empty());
        let id = node.script(&pod, "c", "sleep 1000").await;
        let request = cri::ExecSyncRequest { container_id: id, cmd: vec!["nothere".to_owned()], timeout: 20 };
        let error = node.engine().as_ref().exec_sync(Request::new(request)).await.unwrap_err();
        assert!(error.message().contains("nothere"), "{error}");
        node.remove_pod(&pod).await;
        node
    });
}
