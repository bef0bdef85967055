//! Containers: how they end, what limits them, what they see.

use std::time::{Duration, Instant};

use pintle_cri_api::v1 as cri;
use tonic::Code;

use crate::support::{on_a_node, security, shell};

#[test]
fn r12_a_container_that_takes_too_much_memory_is_oom_killed() {
    on_a_node(|node| async {
        let pod = node.pod("oom").await;
        let id = node
            .try_container(&pod, "hog", |config| {
                config.command =
                    shell("x=$(dd if=/dev/zero bs=1M count=200 2>/dev/null | cat -v); echo survived");
                config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: 24 << 20,
                    ..Default::default()
                });
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        let status = node.ended(&id).await;
        assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137), "{status:?}");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn r02_limits_reach_the_cgroup_and_can_be_changed() {
    on_a_node(|node| async {
        let pod = node.pod("limits").await;
        let limits = |cpu_quota: i64| cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        let id = node
            .try_container(&pod, "c", |config| {
                config.command = shell("sleep 1000");
                config.linux.as_mut().unwrap().resources = Some(limits(50_000));
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        let cgroup = node.info(&id).await["cgroup"].as_str().unwrap().to_owned();
        let read = |v1: &str, v2: &str| {
            let v2_file = format!("/sys/fs/cgroup{cgroup}/{v2}");
            let path = if std::path::Path::new(&v2_file).exists() {
                v2_file
            } else {
                let controller = v1.split('.').next().unwrap();
                format!("/sys/fs/cgroup/{controller}{cgroup}/{v1}")
            };
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
        };
        assert!(["50000", "50000 100000"].contains(&read("cpu.cfs_quota_us", "cpu.max").as_str()));
        assert_eq!(read("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
        assert!(["512", "59"].contains(&read("cpu.shares", "cpu.weight").as_str()));
        node.engine().update_container_resources(&id, limits(20_000)).await.unwrap();
        assert!(["20000", "20000 100000"].contains(&read("cpu.cfs_quota_us", "cpu.max").as_str()));
        let stats = node.engine().container_stats(&id).await.unwrap();
        assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn the_stop_signal_is_heard_and_after_the_grace_comes_sigkill() {
    on_a_node(|node| async {
        let pod = node.pod("stop").await;
        let polite =
            node.script(&pod, "polite", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done").await;
        let stubborn =
            node.script(&pod, "stubborn", "trap '' TERM; echo up; while :; do sleep 0.1; done").await;
        crate::support::eventually("both have set their traps", || {
            node.log("stop", "polite") == "up" && node.log("stop", "stubborn") == "up"
        })
        .await;
        node.stop(&polite, 20).await.unwrap();
        assert_eq!(node.status(&polite).await.exit_code, 3);
        let begun = Instant::now();
        node.stop(&stubborn, 1).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(node.status(&stubborn).await.exit_code, 137);
        node.stop(&stubborn, 1).await.unwrap();
        node.stop("no-such-container", 1).await.unwrap();
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn the_containers_own_stop_signal_is_sent_and_told_and_one_that_hangs_is_killed_after_its_grace() {
    on_a_node(|node| async {
        let pod = node.pod("signals").await;
        let make = |name: &'static str, signal: cri::Signal| {
            let script = "trap 'exit 5' USR1; echo up; while :; do sleep 0.1; done";
            node.try_container(&pod, name, move |config| {
                config.command = shell(script);
                config.stop_signal = signal.into();
            })
        };
        for (name, signal, told, code) in [
            ("own", cri::Signal::Sigusr1, cri::Signal::Sigusr1, 5),
            ("usual", cri::Signal::RuntimeDefault, cri::Signal::Sigterm, 137),
        ] {
            let id = make(name, signal).await.unwrap();
            assert_eq!(node.status(&id).await.stop_signal, told as i32);
            node.start(&id).await.unwrap();
            crate::support::eventually("it has set its trap", || node.log("signals", name) == "up").await;
            // The usual one is not heard by a first process that has no trap for it.
            node.stop(&id, 1).await.unwrap();
            assert_eq!(node.status(&id).await.exit_code, code, "{name}");
        }
        let hung = node.script(&pod, "hung", "sleep 1000").await;
        let pid = i32::try_from(node.info(&hung).await["pid"].as_i64().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        node.stop(&hung, 1).await.unwrap();
        assert_eq!(node.status(&hung).await.exit_code, 137);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_shorter_grace_overtakes_a_longer_one() {
    on_a_node(|node| async {
        let pod = node.pod("grace").await;
        let id = node.script(&pod, "c", "trap '' TERM; while :; do sleep 0.1; done").await;
        let begun = Instant::now();
        let (long, short) = tokio::join!(node.stop(&id, 600), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            node.stop(&id, 0).await
        });
        long.unwrap();
        short.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60));
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_program_that_does_not_exist_is_told_as_container_cannot_run() {
    on_a_node(|node| async {
        let pod = node.pod("broken").await;
        let made =
            node.try_container(&pod, "c", |config| config.command = vec!["/no/such/program".to_owned()]);
        match made.await {
            Ok(id) => {
                let error = node.start(&id).await.unwrap_err();
                assert!(error.message().contains("/no/such/program"), "{error}");
                let status = node.ended(&id).await;
                assert_eq!(status.reason, "ContainerCannotRun");
                assert_ne!(status.exit_code, 0);
            }
            Err(error) => panic!("creating it failed already: {error}"),
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn the_image_gives_what_the_request_leaves_out() {
    on_a_node(|node| async {
        let pod = node.pod("defaults").await;
        let id = node.try_container(&pod, "c", |_| {}).await.unwrap();
        node.start(&id).await.unwrap();
        assert_eq!(node.ended(&id).await.reason, "Completed");
        assert_eq!(node.log("defaults", "c"), "from the image");
        let id = node.script(&pod, "d", "sleep 1000").await;
        assert_eq!(node.output(&id, "pwd; echo $FROM_IMAGE; echo $HOSTNAME").await, "/work\nyes\ndefaults");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn r06_volumes_users_and_read_only_roots_are_as_asked_for() {
    on_a_node(|node| async {
        let pod = node.pod("mounts").await;
        let data = node.path("data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(data.join("file"), "from the node").unwrap();
        let mount = |inside: &str, readonly: bool| cri::Mount {
            container_path: inside.to_owned(),
            host_path: data.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        };
        let id = node
            .try_container(&pod, "c", |config| {
                config.command = shell("sleep 1000");
                config.mounts =
                    vec![mount("/rw", false), mount("/var/run/ro", true), mount("/escape/x", true)];
                let security = security(config);
                security.readonly_rootfs = true;
                security.run_as_username = "web".to_owned();
                security.supplemental_groups = vec![3000];
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(node.output(&id, "cat /run/ro/file").await, "from the node");
        assert_eq!(node.output(&id, "cat /tmp/x/file").await, "from the node");
        node.output(&id, "echo hi > /rw/new").await;
        assert_eq!(std::fs::read_to_string(data.join("new")).unwrap(), "hi\n");
        for forbidden in ["touch /run/ro/new", "touch /work/new", "touch /proc/sys/kernel/hostname"] {
            assert_ne!(node.exec(&id, forbidden, 5).await.unwrap().exit_code, 0, "{forbidden}");
        }
        assert_eq!(node.output(&id, "id -u; id -g; id -G").await, "1000\n1000\n1000 2000 3000");
        let user = node.status(&id).await.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (1000, 1000));
        assert!(!std::path::Path::new("/tmp/x").exists(), "the image's link led out of its root");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_is_not_supported_yet_is_refused_and_leaves_nothing() {
    on_a_node(|node| async {
        let pod = node.pod("refused").await;
        let seccomp = node.try_container(&pod, "c", |config| {
            let localhost = cri::security_profile::ProfileType::Localhost as i32;
            let file = "/no/such/profile.json".to_owned();
            security(config).seccomp =
                Some(cri::SecurityProfile { profile_type: localhost, localhost_ref: file });
        });
        let refused = seccomp.await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("/no/such/profile.json: No such file"), "{refused}");
        let image = node.try_container(&pod, "c", |config| {
            config.image =
                Some(cri::ImageSpec { image: "test.invalid/none".to_owned(), ..Default::default() });
        });
        assert_eq!(image.await.unwrap_err().code(), Code::NotFound);
        let user =
            node.try_container(&pod, "c", |config| security(config).run_as_username = "nobody".to_owned());
        assert_eq!(user.await.unwrap_err().code(), Code::InvalidArgument);
        let container = node.try_container("no-such-sandbox", "c", |_| {});
        assert_eq!(container.await.unwrap_err().code(), Code::NotFound);
        assert!(node.engine().list_containers(None).is_empty());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn the_same_request_twice_makes_one_container_and_another_is_refused() {
    on_a_node(|node| async {
        let pod = node.pod("twice").await;
        let first =
            node.try_container(&pod, "c", |config| config.command = shell("sleep 1000")).await.unwrap();
        let again =
            node.try_container(&pod, "c", |config| config.command = shell("sleep 1000")).await.unwrap();
        assert_eq!(first, again);
        let other = node.try_container(&pod, "c", |config| config.command = shell("sleep 1")).await;
        assert_eq!(other.unwrap_err().code(), Code::AlreadyExists);
        node.start(&first).await.unwrap();
        node.remove(&first).await.unwrap();
        node.remove(&first).await.unwrap();
        assert_eq!(node.try_status(&first).await.unwrap_err().code(), Code::NotFound);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn devices_are_closed_unless_they_are_asked_for_or_the_container_is_privileged() {
    on_a_node(|node| async {
        let pod = node
            .try_pod("devices", |config| {
                let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                security.privileged = true;
            })
            .await
            .unwrap();
        // Minor 11 of memory's devices is the kernel's log: everywhere there, and not on the usual list.
        let open =
            "mknod /tmp/kmsg c 1 11 2>/dev/null; dd if=/tmp/kmsg of=/dev/null bs=8k count=1 2>/dev/null";
        let plain = node.script(&pod, "plain", "sleep 1000").await;
        assert_ne!(node.exec(&plain, open, 10).await.unwrap().exit_code, 0);
        node.output(&plain, "echo x > /dev/null && dd if=/dev/urandom of=/dev/zero bs=8 count=1 2>&1").await;
        let asked = node
            .try_container(&pod, "asked", |config| {
                config.command = shell("sleep 1000");
                config.devices = vec![cri::Device {
                    container_path: "/dev/log-of-the-kernel".to_owned(),
                    host_path: "/dev/kmsg".to_owned(),
                    permissions: "r".to_owned(),
                }];
            })
            .await
            .unwrap();
        node.start(&asked).await.unwrap();
        node.output(&asked, "test -c /dev/log-of-the-kernel").await;
        let privileged = node
            .try_container(&pod, "privileged", |config| {
                config.command = shell("sleep 1000");
                security(config).privileged = true;
            })
            .await
            .unwrap();
        node.start(&privileged).await.unwrap();
        for seen in
            ["test -c /dev/kmsg", "test -w /sys/kernel", "! grep -q \" /proc/sys ro\" /proc/self/mountinfo"]
        {
            node.output(&privileged, seen).await;
        }
        node.remove_pod(&pod).await;
        let modest = node.pod("modest").await;
        let refused = node.try_container(&modest, "c", |config| security(config).privileged = true).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        node.remove_pod(&modest).await;
        node
    });
}
