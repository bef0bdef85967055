//! Pods: what their containers share, what they have of their own, and how long making one takes.

use std::time::{Duration, Instant};

use pintle_cri_api::v1 as cri;

use crate::support::{eventually, limit, on_a_node, own_pids, security, shell};

#[test]
fn a_pod_is_made_in_time_runs_a_container_and_leaves_nothing() {
    on_a_node(|node| async {
        let mut times = Vec::new();
        for round in 0..5 {
            let begun = Instant::now();
            let pod = node.pod(&format!("p{round}")).await;
            let ran = begun.elapsed();
            let container = node.script(&pod, "c", "echo hello; echo sorry >&2; exit 7").await;
            let started = begun.elapsed();
            let status = node.ended(&container).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
            assert!(status.created_at < status.started_at && status.started_at <= status.finished_at);
            assert_eq!(node.log(&format!("p{round}"), "c"), "hello\nsorry");
            let begun = Instant::now();
            node.remove_pod(&pod).await;
            times.push((ran, started, begun.elapsed()));
        }
        eprintln!("run pod, until container started, stop+remove: {times:?}");
        // Far above what it takes, far below what a poll or a time-out in the way would take.
        let best = |time: fn(&(Duration, Duration, Duration)) -> Duration| times.iter().map(time).min();
        let allowed = limit() / 20;
        assert!(best(|times| times.1) < Some(allowed) && best(|times| times.2) < Some(allowed), "{times:?}");
        node
    });
}

#[test]
fn p03_containers_of_a_pod_share_network_host_name_and_ipc_but_not_pids() {
    on_a_node(|node| async {
        let pod = node.pod("web").await;
        let a = node.script(&pod, "a", "touch /dev/shm/mark; sleep 1000").await;
        let b = node.script(&pod, "b", "sleep 1000").await;
        let other = node.pod("other").await;
        let c = node.script(&other, "c", "sleep 1000").await;
        for kind in ["net", "uts", "ipc"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            assert_eq!(node.output(&a, &link).await, node.output(&b, &link).await, "{kind}");
            assert_ne!(node.output(&a, &link).await, node.output(&c, &link).await, "{kind}");
        }
        for kind in ["pid", "mnt"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            assert_ne!(node.output(&a, &link).await, node.output(&b, &link).await, "{kind}");
        }
        assert_eq!(node.output(&a, "hostname").await, "web");
        assert_eq!(node.output(&b, "cat /etc/hostname").await, "web");
        node.output(&b, "test -e /dev/shm/mark").await;
        assert!(node.exec(&c, "test -e /dev/shm/mark", 5).await.unwrap().exit_code != 0);
        node.remove_pod(&pod).await;
        node.remove_pod(&other).await;
        node
    });
}

#[test]
fn p06_every_pod_has_an_address_of_its_own_and_reaches_the_others() {
    on_a_node(|node| async {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        let ip = |status: cri::PodSandboxStatus| status.network.unwrap().ip;
        let (ip_a, ip_b) = (ip(node.pod_status(&a).await.0), ip(node.pod_status(&b).await.0));
        assert!(!ip_a.is_empty() && ip_a != ip_b);
        let server = node.script(&a, "server", "echo found > /tmp/x; httpd -f -p 8080 -h /tmp").await;
        let client = node.script(&b, "client", "sleep 1000").await;
        assert!(node.output(&server, "ip -o -4 addr").await.contains(&ip_a));
        let fetch = format!(
            "for i in 1 2 3 4 5; do wget -q -O - http://{ip_a}:8080/x && exit; sleep 0.2; done; exit 1"
        );
        assert_eq!(node.output(&client, &fetch).await, "found");
        node.remove_pod(&a).await;
        node.remove_pod(&b).await;
        node
    });
}

#[test]
fn p04_pids_are_shared_when_the_pod_asks_for_it_and_pause_is_the_first() {
    on_a_node(|node| async {
        let share = |options: &mut cri::NamespaceOption| options.pid = cri::NamespaceMode::Pod.into();
        let pod = node
            .try_pod("shared", |config| {
                let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                share(security.namespace_options.as_mut().unwrap());
            })
            .await
            .unwrap();
        let id = node
            .try_container(&pod, "c", |config| {
                config.command = shell("sleep 1000");
                let mut options = own_pids();
                share(&mut options);
                security(config).namespace_options = Some(options);
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        assert_eq!(node.output(&id, "cat /proc/1/comm").await, "pause");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pod_on_the_nodes_network_has_its_namespace_and_name_and_no_address() {
    on_a_node(|node| async {
        let pod = node
            .try_pod("host", |config| {
                let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
            })
            .await
            .unwrap();
        assert_eq!(node.pod_status(&pod).await.0.network.unwrap().ip, "");
        let id = node.script(&pod, "c", "sleep 1000").await;
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(node.output(&id, "readlink /proc/self/ns/net").await, own.to_string_lossy());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn dns_settings_reach_every_container() {
    on_a_node(|node| async {
        let pod = node
            .try_pod("dns", |config| {
                config.dns_config = Some(cri::DnsConfig {
                    servers: vec!["10.96.0.10".to_owned()],
                    searches: vec!["test.svc".to_owned()],
                    options: vec!["ndots:5".to_owned()],
                });
            })
            .await
            .unwrap();
        let id = node.script(&pod, "c", "sleep 1000").await;
        let text = node.output(&id, "cat /etc/resolv.conf").await;
        assert_eq!(text, "search test.svc\nnameserver 10.96.0.10\noptions ndots:5");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pod_that_cannot_be_made_leaves_nothing_and_says_why() {
    on_a_node(|node| async {
        let userns = node.try_pod("u", |config| {
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.namespace_options.as_mut().unwrap().userns_options = Some(cri::UserNamespace::default());
        });
        let error = userns.await.unwrap_err();
        assert!(error.message().contains("userns_options"), "{error}");
        let handler = cri::RunPodSandboxRequest { runtime_handler: "kata".to_owned(), ..Default::default() };
        assert!(node.engine().run_pod_sandbox(handler).await.is_err());
        node
    });
}

#[test]
fn pods_whose_supervisor_does_not_start_leave_nothing_and_say_so() {
    on_a_node(|mut node| async {
        node.drop_engine().await;
        node.open_with_shim("/bin/false".into()).await;
        let names: Vec<String> = (0..8).map(|i| format!("p{i}")).collect();
        let pods = futures_util::future::join_all(names.iter().map(|name| node.try_pod(name, |_| {}))).await;
        for pod in pods {
            assert!(pod.unwrap_err().message().contains("supervisor"));
        }
        // That nothing is left, mounts included, is looked for when the node is taken down.
        node
    });
}

#[test]
fn pods_whose_infra_container_does_not_start_leave_no_address_that_was_being_given_to_them() {
    on_a_node(|node| async {
        std::fs::write(node.path("root/pause/rootfs/pause"), "no program").unwrap();
        let names: Vec<String> = (0..24).map(|i| format!("p{i}")).collect();
        let pods = futures_util::future::join_all(names.iter().map(|name| node.try_pod(name, |_| {}))).await;
        assert!(pods.iter().all(Result::is_err));
        let leases = || std::fs::read_dir(node.path("state/network/leases")).unwrap().count();
        // The interfaces of those that got one take a moment to go.
        eventually("no address is left", || leases() == 0).await;
        node
    });
}

#[test]
fn a_sandbox_that_cannot_be_taken_back_keeps_its_record_until_its_cgroups_are_gone() {
    on_a_node(|mut node| async {
        // A group that something is mounted on cannot be removed.
        let shim = node.path("shim");
        let script = "#!/bin/sh\nfor top in /sys/fs/cgroup/unified /sys/fs/cgroup; do [ -e $top/cgroup.procs ] && break; done\n\
            mkdir -p $top$6/pin && mount -t tmpfs tmpfs $top$6/pin && echo error: $top$6/pin\n";
        std::fs::write(&shim, script).unwrap();
        std::fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        node.drop_engine().await;
        node.open_with_shim(shim).await;
        let error = node.try_pod("p", |_| {}).await.unwrap_err();
        let (_, said) = error.message().split_once("error: ").unwrap_or_else(|| panic!("{error}"));
        let pin = said.split(';').next().unwrap().trim().to_owned();
        let sandboxes = || std::fs::read_dir(node.path("state/sandboxes")).unwrap().count();
        assert_eq!(sandboxes(), 1, "the record is gone before the cgroup: {error}");
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        eventually("the engine tries again", || sandboxes() == 0).await;
        assert!(!std::path::Path::new(&pin).parent().unwrap().exists(), "{pin} is left");
        node
    });
}

#[test]
fn groups_of_supervisors_and_pods_without_a_record_are_gone_when_the_engine_has_opened() {
    on_a_node(|mut node| async {
        let id = "5".repeat(64);
        let layout = node.engine().layout().clone();
        node.drop_engine().await;
        let groups = [format!("{}/{id}", layout.supervisors_cgroup()), layout.own_pod_cgroup(&id)];
        let cgroups = pintle_runtime::engine::cgroups::Cgroups::discover().unwrap();
        groups.iter().for_each(|group| cgroups.ensure(group).unwrap());
        node.open().await;
        for group in &groups {
            assert!(!cgroups.exists(group), "{group} is left");
        }
        node
    });
}

#[test]
fn only_root_can_look_into_what_the_engine_keeps_and_the_supervisor_has_nothing_of_its_environment() {
    use std::os::unix::fs::PermissionsExt as _;
    on_a_node(|node| async {
        let pod = node.pod("secret").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let dir = node.path("state/containers").join(&id);
        let files = ["container.json", "config.json", "request.pb"].map(|name| dir.join(name));
        let dirs = ["state/sandboxes", "state/containers", "state/network"].into_iter();
        let dirs = dirs.chain(["root/images", "root/layers", "root/snapshots"]).map(|name| node.path(name));
        for path in files.into_iter().chain(dirs) {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        }
        let supervisor = node.pod_status(&pod).await.1["supervisorPid"].clone();
        assert_eq!(std::fs::read_to_string(format!("/proc/{supervisor}/environ")).unwrap(), "");
        node.remove_pod(&pod).await;
        node
    });
}
