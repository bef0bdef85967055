//! Limits of containers and pods, as they stand in the cgroup files: at creation, after a change, after a new engine.

use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use tonic::{Code, Request, Status};

use crate::support::{Node, on_a_node, shell};

const MIB: i64 = 1 << 20;

/// A file of a group in whatever hierarchy has it, by its name on v1 and on v2.
fn file(cgroup: &str, v1: &str, v2: &str) -> String {
    let controller = v1.split('.').next().unwrap();
    let paths = [
        format!("/sys/fs/cgroup{cgroup}/{v2}"),
        format!("/sys/fs/cgroup/unified{cgroup}/{v2}"),
        format!("/sys/fs/cgroup/{controller}{cgroup}/{v1}"),
    ];
    let found = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.unwrap_or_else(|| panic!("none of {paths:?}")).trim().to_owned()
}

fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

async fn cgroup_of(node: &Node, id: &str) -> String {
    node.info(id).await["cgroup"].as_str().unwrap().to_owned()
}

/// A container that sleeps, with limits; not started.
async fn limited(
    node: &Node,
    pod: &str,
    name: &str,
    limits: cri::LinuxContainerResources,
) -> Result<String, Status> {
    let change = |config: &mut cri::ContainerConfig| {
        config.command = shell("sleep 1000");
        config.linux.as_mut().unwrap().resources = Some(limits);
    };
    node.try_container(pod, name, change).await
}

async fn update(node: &Node, id: &str, limits: cri::LinuxContainerResources) -> Result<(), Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..Default::default()
    };
    node.engine().as_ref().update_container_resources(Request::new(request)).await.map(drop)
}

async fn reported(node: &Node, id: &str) -> cri::LinuxContainerResources {
    node.status(id).await.resources.unwrap().linux.unwrap()
}

fn memory(limit: i64, swap: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: limit * MIB,
        memory_swap_limit_in_bytes: swap * MIB,
        ..Default::default()
    }
}

#[test]
fn memory_and_swap_are_raised_and_lowered_while_it_runs_and_told_also_by_a_new_engine() {
    on_a_node(|mut node| async {
        let pod = node.pod("memory").await;
        let id = limited(&node, &pod, "c", memory(32, 32)).await.unwrap();
        let cgroup = cgroup_of(&node, &id).await;
        let check = |limit: i64, swap: i64| {
            assert_eq!(file(&cgroup, "memory.limit_in_bytes", "memory.max"), (limit * MIB).to_string());
            let swap = if is_v2() { swap - limit } else { swap };
            let found = file(&cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max");
            assert_eq!(found, (swap * MIB).to_string());
        };
        check(32, 32);
        let silent = limited(&node, &pod, "silent", memory(32, 0)).await.unwrap();
        update(&node, &silent, memory(64, 0)).await.unwrap();
        let (of_silent, none) = (cgroup_of(&node, &silent).await, if is_v2() { 0 } else { 64 * MIB });
        let found = file(&of_silent, "memory.memsw.limit_in_bytes", "memory.swap.max");
        assert_eq!(found, none.to_string(), "who says nothing of swap has none");
        // Before it is started, up; then running, further up, down, and only one of the two.
        update(&node, &id, memory(64, 64)).await.unwrap();
        check(64, 64);
        node.start(&id).await.unwrap();
        for (limit, swap) in [(128, 160), (48, 48), (0, 96)] {
            update(&node, &id, memory(limit, swap)).await.unwrap();
            check(if limit == 0 { 48 } else { limit }, swap);
        }
        let refused = update(&node, &id, memory(200, 0)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("memory_swap_limit"), "{refused}");
        check(48, 96);
        node.drop_engine().await;
        node.open().await;
        let now = reported(&node, &id).await;
        assert_eq!((now.memory_limit_in_bytes, now.memory_swap_limit_in_bytes), (48 * MIB, 96 * MIB));
        update(&node, &id, memory(50, 100)).await.unwrap();
        check(50, 100);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn processors_shares_sets_and_the_oom_score_stand_in_the_kernel_and_change() {
    on_a_node(|node| async {
        let pod = node.pod("cpu").await;
        let limits = cri::LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 20_000,
            cpu_shares: 2048,
            cpuset_cpus: "0".to_owned(),
            cpuset_mems: "0".to_owned(),
            oom_score_adj: 500,
            ..Default::default()
        };
        let id = limited(&node, &pod, "c", limits.clone()).await.unwrap();
        node.start(&id).await.unwrap();
        let cgroup = cgroup_of(&node, &id).await;
        let bandwidth = || match is_v2() {
            true => file(&cgroup, "", "cpu.max"),
            false => {
                let of = |name: &str| file(&cgroup, name, "none");
                format!("{} {}", of("cpu.cfs_quota_us"), of("cpu.cfs_period_us"))
            }
        };
        assert_eq!(bandwidth(), "20000 50000");
        assert_eq!(file(&cgroup, "cpu.shares", "cpu.weight"), if is_v2() { "174" } else { "2048" });
        assert_eq!(file(&cgroup, "cpuset.cpus", "cpuset.cpus"), "0");
        assert_eq!(node.output(&id, "grep Cpus_allowed_list /proc/1/status").await, "Cpus_allowed_list:\t0");
        assert_eq!(node.output(&id, "cat /proc/1/oom_score_adj").await, "500");
        assert_eq!(reported(&node, &id).await, limits);
        let change = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 150_000,
            cpu_shares: 1024,
            cpuset_cpus: "0-1".to_owned(),
            oom_score_adj: 700,
            ..Default::default()
        };
        update(&node, &id, change).await.unwrap();
        assert_eq!(bandwidth(), "150000 100000");
        assert_eq!(file(&cgroup, "cpu.shares", "cpu.weight"), if is_v2() { "100" } else { "1024" });
        let allowed = node.output(&id, "grep Cpus_allowed_list /proc/1/status").await;
        assert_eq!(allowed, "Cpus_allowed_list:\t0-1");
        assert_eq!(node.output(&id, "cat /proc/1/oom_score_adj").await, "700");
        let now = reported(&node, &id).await;
        assert_eq!((now.cpu_quota, now.cpuset_mems.as_str(), now.oom_score_adj), (150_000, "0", 700));
        let unlimited = cri::LinuxContainerResources { cpu_quota: -1, ..Default::default() };
        update(&node, &id, unlimited).await.unwrap();
        assert_eq!(bandwidth(), if is_v2() { "max 100000" } else { "-1 100000" });
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_change_of_which_the_kernel_refuses_a_part_changes_nothing() {
    on_a_node(|node| async {
        let pod = node.pod("parts").await;
        let id = limited(&node, &pod, "c", memory(32, 0)).await.unwrap();
        node.start(&id).await.unwrap();
        let cgroup = cgroup_of(&node, &id).await;
        let former = file(&cgroup, "cpuset.mems", "cpuset.mems");
        // The memory nodes are written first and would be taken; no node has as many processors.
        let nowhere = cri::LinuxContainerResources {
            cpuset_mems: "0".to_owned(),
            cpuset_cpus: "4095".to_owned(),
            ..memory(64, 0)
        };
        let refused = update(&node, &id, nowhere).await.unwrap_err();
        assert!(refused.message().contains("cpuset.cpus"), "{refused}");
        assert_eq!(file(&cgroup, "cpuset.mems", "cpuset.mems"), former);
        assert_eq!(reported(&node, &id).await, memory(32, 0));
        assert_eq!(file(&cgroup, "memory.limit_in_bytes", "memory.max"), (32 * MIB).to_string());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn huge_pages_are_limited_on_hybrid_nodes_too() {
    on_a_node(|node| async {
        let limit = |limit: u64| cri::LinuxContainerResources {
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit }],
            ..Default::default()
        };
        let pod = node.pod("huge").await;
        let id = limited(&node, &pod, "c", limit(4 << 20)).await.unwrap();
        node.start(&id).await.unwrap();
        let cgroup = cgroup_of(&node, &id).await;
        let read = || file(&cgroup, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
        assert_eq!(read(), (4 << 20).to_string());
        update(&node, &id, limit(0)).await.unwrap();
        assert_eq!(read(), "0");
        assert_eq!(node.output(&id, "echo still runs").await, "still runs");
        let mut odd = limit(0);
        odd.hugepage_limits[0].page_size = "3MB".to_owned();
        let refused = limited(&node, &pod, "odd", odd).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn keys_of_cgroup_v2_stand_in_its_files_and_are_refused_without_it() {
    on_a_node(|node| async {
        let pod = node.pod("unified").await;
        let high = |value: i64| cri::LinuxContainerResources {
            unified: [
                ("memory.high".to_owned(), value.to_string()),
                ("memory.oom.group".to_owned(), "0".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        let made = limited(&node, &pod, "c", high(64 * MIB)).await;
        if is_v2() {
            let id = made.unwrap();
            node.start(&id).await.unwrap();
            let cgroup = cgroup_of(&node, &id).await;
            assert_eq!(file(&cgroup, "", "memory.high"), (64 * MIB).to_string());
            assert_eq!(file(&cgroup, "", "memory.oom.group"), "0");
            update(&node, &id, high(32 * MIB)).await.unwrap();
            assert_eq!(file(&cgroup, "", "memory.high"), (32 * MIB).to_string());
            let plain = limited(&node, &pod, "plain", memory(0, 0)).await.unwrap();
            assert_eq!(file(&cgroup_of(&node, &plain).await, "", "memory.oom.group"), "1");
        } else {
            let refused = made.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains("resources.unified"), "{refused}");
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pods_own_group_has_its_containers_limits_and_its_overhead_and_is_changed() {
    on_a_node(|mut node| async {
        let limits = |megabytes: i64, shares: i64| {
            Some(cri::LinuxContainerResources { cpu_shares: shares, ..memory(megabytes, 0) })
        };
        let pod = node
            .try_pod("sized", |config| {
                let linux = config.linux.as_mut().unwrap();
                linux.resources = limits(64, 500);
                linux.overhead = limits(16, 12);
            })
            .await
            .unwrap();
        let parent = node.pod_status(&pod).await.1["cgroupParent"].as_str().unwrap().to_owned();
        let memory_of = |parent: &str| file(parent, "memory.limit_in_bytes", "memory.max");
        assert_eq!(memory_of(&parent), (80 * MIB).to_string());
        assert_eq!(file(&parent, "cpu.shares", "cpu.weight"), if is_v2() { "59" } else { "512" });
        let update = |resources| cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.clone(),
            resources,
            overhead: None,
        };
        let call = |request| node.engine().as_ref().update_pod_sandbox_resources(Request::new(request));
        call(update(limits(128, 0))).await.unwrap();
        assert_eq!(memory_of(&parent), (144 * MIB).to_string());
        let refused = call(update(limits(-7, 0))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let unknown = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: "no-such-sandbox".to_owned(),
            ..Default::default()
        };
        assert_eq!(call(unknown).await.unwrap_err().code(), Code::NotFound);
        node.drop_engine().await;
        node.open().await;
        let info = node.pod_status(&pod).await.1;
        assert_eq!(info["resources"]["memoryLimit"], 128 * MIB);
        assert_eq!(info["overhead"]["memoryLimit"], 16 * MIB);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_group_that_the_caller_made_for_the_pod_is_left_to_the_caller() {
    on_a_node(|node| async {
        let cgroups = pintle_runtime::engine::cgroups::Cgroups::discover().unwrap();
        let parent = format!("{}/callers", node.engine().layout().cgroup_root);
        cgroups.ensure(&parent).unwrap();
        let before = file(&parent, "memory.limit_in_bytes", "memory.max");
        let pod = node
            .try_pod("kubelets", |config| {
                let linux = config.linux.as_mut().unwrap();
                linux.cgroup_parent = parent.clone();
                linux.resources = Some(memory(64, 0));
            })
            .await
            .unwrap();
        let id = node.script(&pod, "c", "sleep 1000").await;
        assert!(cgroup_of(&node, &id).await.starts_with(&format!("{parent}/")));
        let groups = node.output(&id, "cat /proc/1/cgroup").await;
        assert!(groups.contains(&parent) || groups.contains("0::/"), "{groups}");
        assert_eq!(file(&parent, "memory.limit_in_bytes", "memory.max"), before);
        let slice = node.try_pod("slice", |config| {
            config.linux.as_mut().unwrap().cgroup_parent = "kubepods-podx.slice".to_owned();
        });
        let refused = slice.await.unwrap_err();
        assert!(refused.message().contains("cgroup_parent") && refused.message().contains("cgroupfs"));
        node.remove_pod(&pod).await;
        cgroups.remove_if_empty(&parent);
        node
    });
}
