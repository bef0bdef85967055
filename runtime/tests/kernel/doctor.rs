//! The doctor: every kind of leftover, planted, is explained and repaired; a healthy node has none; neighbours are not touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use pintle_runtime::{
    doctor::{Class, Finding, Kind, Outcome},
    engine::cgroups::Cgroups,
};

use crate::support::{Node, edit_record, eventually, on_a_node, shell};

/// An id that nothing has.
fn stray_id() -> String {
    "5".repeat(64)
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(rule: &str) {
    assert!(Command::new("nft").arg(rule).status().unwrap().success(), "{rule}");
}

/// The hierarchies' directories of a group.
fn group_dirs(group: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = table.lines().filter(|line| line.contains(" cgroup") && line.contains("/sys/fs/cgroup"));
    let mounts = mounts.filter_map(|line| line.split(' ').nth(1));
    mounts.map(|mount| Path::new(mount).join(group.trim_start_matches('/'))).collect()
}

/// A group that takes processes: on v1 a cpuset needs values first, on v2 none may be handed down.
fn make_group(group: &str) {
    let cgroups = Cgroups::discover().unwrap();
    match cgroups.is_v2() {
        true => group_dirs(group).iter().for_each(|dir| fs::create_dir_all(dir).unwrap()),
        false => cgroups.ensure(group).unwrap(),
    }
}

fn is_there(group: &str) -> bool {
    group_dirs(group).iter().any(|dir| dir.exists())
}

/// The only finding of a kind.
fn only(findings: &[Finding], kind: Kind) -> &Finding {
    let of_kind: Vec<_> = findings.iter().filter(|finding| finding.kind == kind).collect();
    assert_eq!(of_kind.len(), 1, "{kind:?} in {findings:#?}");
    of_kind[0]
}

/// Asserts that there are these surpluses and no other findings, each with its explanation; repairs them; asserts that they are gone.
async fn assert_found_and_repaired(node: &Node, kinds: &[Kind]) {
    let found = node.findings().await;
    let mut seen: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    seen.sort();
    let mut wanted = kinds.to_vec();
    wanted.sort();
    assert_eq!(seen, wanted, "{found:#?}");
    for finding in &found {
        assert_eq!(finding.class, Class::Surplus, "{finding:?}");
        assert!(
            !finding.ours.is_empty() && !finding.step.is_empty() && !finding.what.is_empty(),
            "{finding:?}"
        );
    }
    let repaired = node.repaired().await;
    assert_eq!(repaired.len(), kinds.len(), "{repaired:#?}");
    assert!(repaired.iter().all(|finding| finding.outcome == Outcome::Repaired), "{repaired:#?}");
    assert_eq!(node.findings().await, []);
}

/// A process that calls itself a supervisor, in a supervisor's group.
fn plant_supervisor(node: &Node, id: &str) -> Child {
    let child = Command::new("sh")
        .args(["-c", "read x", "pintle-shim", "--sandbox", id, "--dir"])
        .arg(node.path("state/sandboxes").join(id))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let group = format!("{}/{id}", node.engine().layout().supervisors_cgroup());
    make_group(&group);
    for dir in group_dirs(&group) {
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child
}

#[test]
fn a_healthy_node_has_no_findings_also_while_pods_come_and_go() {
    on_a_node(|node| async {
        let stays = node.pod("stays").await;
        node.script(&stays, "c", "sleep 1000").await;
        let ended = node.script(&stays, "e", "exit 3").await;
        node.ended(&ended).await;
        assert_eq!(node.findings().await, []);
        let churn = async {
            for round in 0..4 {
                let names: Vec<String> = (0..3).map(|i| format!("p{round}-{i}")).collect();
                let pods = names.iter().map(async |name| {
                    let pod = node.pod(name).await;
                    node.script(&pod, "c", "sleep 1000").await;
                    node.remove_pod(&pod).await;
                });
                futures_util::future::join_all(pods).await;
            }
        };
        let look = async {
            for _ in 0..4 {
                assert_eq!(node.findings().await, []);
            }
        };
        tokio::join!(churn, look);
        node.remove_pod(&stays).await;
        node
    });
}

#[test]
fn a_stray_mount_below_the_state_directory_is_found_and_taken_away() {
    on_a_node(|node| async {
        let point = node.path("state/sandboxes").join("..").join("stray mount");
        let point = point.parent().unwrap().canonicalize().unwrap().join("stray mount");
        fs::create_dir(&point).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &point, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
        let found = node.findings().await;
        assert_eq!(only(&found, Kind::Mount).name, point.display().to_string());
        assert_found_and_repaired(&node, &[Kind::Mount]).await;
        fs::remove_dir(point).unwrap();
        node
    });
}

#[test]
fn interfaces_on_the_bridge_are_told_apart_and_only_ours_is_deleted() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let bridge = node.engine().layout().bridge.clone();
        ip(&["link", "add", "pv0123456789ab", "type", "veth", "peer", "name", "pv-peer"]);
        ip(&["link", "set", "pv0123456789ab", "master", &bridge]);
        ip(&["link", "set", "pv0123456789ab", "alias", &format!("pintle:{bridge}:{}", stray_id())]);
        assert_found_and_repaired(&node, &[Kind::Interface]).await;
        ip(&["link", "add", "theirs", "type", "veth", "peer", "name", "their-peer"]);
        ip(&["link", "set", "theirs", "master", &bridge]);
        ip(&["link", "add", "pvaaaaaaaaaaaa", "type", "veth", "peer", "name", "pv-peer"]);
        ip(&["link", "set", "pvaaaaaaaaaaaa", "alias", &format!("pintle:ptl-other:{}", stray_id())]);
        let found = node.repaired().await;
        let finding = only(&found, Kind::Interface);
        assert_eq!(finding.name, "theirs");
        assert!(matches!(&finding.outcome, Outcome::NotRepaired(why) if why.contains("somebody else's")));
        // Both are there still; to remove them fails otherwise.
        ip(&["link", "del", "theirs"]);
        ip(&["link", "del", "pvaaaaaaaaaaaa"]);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn an_address_without_a_pod_is_given_back_with_and_without_an_engine() {
    on_a_node(|mut node| async {
        let pod = node.pod("p").await;
        let leases = node.path("state/network/leases");
        let text = || {
            let file = fs::read_dir(&leases).unwrap().next().unwrap().unwrap().path();
            let lease: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            lease
        };
        let plant = |ip: &str| {
            let mut lease = text();
            lease["ip"] = ip.into();
            lease["sandbox"] = stray_id().into();
            lease["interface"] = "pv000000000000".into();
            fs::write(leases.join(ip), lease.to_string()).unwrap();
        };
        let own = text()["ip"].as_str().unwrap().to_owned();
        let (net, _) = own.rsplit_once('.').unwrap();
        node.drop_engine().await;
        plant(&format!("{net}.200"));
        fs::write(leases.join("half"), "{").unwrap();
        assert_found_and_repaired(&node, &[Kind::Lease, Kind::File]).await;
        node.open().await;
        // As one that the engine took and lost the sandbox of: it has it in memory.
        node.drop_engine().await;
        plant(&format!("{net}.201"));
        node.open().await;
        eventually("opening frees it", || fs::read_dir(&leases).unwrap().count() == 1).await;
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn groups_and_processes_of_a_supervisor_without_a_record_are_found_and_ended() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let id = stray_id();
        let mut child = plant_supervisor(&node, &id);
        let pods = node.engine().layout().default_pods_cgroup();
        let (own_pod, leaf) = (format!("{pods}/pod{id}"), format!("{pods}/pod{pod}/{id}"));
        make_group(&own_pod);
        make_group(&leaf);
        let found = node.findings().await;
        let process = only(&found, Kind::Process);
        assert!(process.name.starts_with(&format!("{}@", child.id())), "{process:?}");
        // It reads until this is closed, which waiting for it would do.
        let stdin = child.stdin.take();
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_found_and_repaired(&node, &[Kind::Process, Kind::Cgroup, Kind::Cgroup, Kind::Cgroup]).await;
        assert!(!reaper.join().unwrap().success());
        drop(stdin);
        assert!(!is_there(&own_pod) && !is_there(&leaf));
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn directories_snapshots_layers_blobs_and_half_written_files_are_found_and_removed_without_an_engine() {
    on_a_node(|mut node| async {
        let pod = node.pod("p").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        node.drop_engine().await;
        let stray = stray_id();
        for dir in ["state/sandboxes", "state/containers", "root/layers"] {
            fs::create_dir_all(node.path(dir).join(&stray).join("fs")).unwrap();
        }
        fs::create_dir_all(node.path("root/snapshots").join(&stray).join("rootfs")).unwrap();
        fs::create_dir(node.path("root/layers/.tmp-9")).unwrap();
        fs::write(node.path("root/images/blobs/sha256").join(&stray), "x").unwrap();
        fs::write(node.path("root/images/ingest/77"), "x").unwrap();
        fs::write(node.path("state/containers").join(&id).join("container.tmp"), "{").unwrap();
        let kinds = [Kind::Directory, Kind::Directory, Kind::Layer, Kind::Snapshot, Kind::Blob];
        let files = [Kind::File, Kind::File, Kind::File];
        assert_found_and_repaired(&node, &[&kinds[..], &files].concat()).await;
        node.open().await;
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_a_running_engine_has_lost_sight_of_is_found_and_given_back_by_it() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let (stray, images) = (stray_id(), node.engine().images().clone());
        let image = images.list().unwrap().remove(0).id;
        images.create_snapshot(&stray, &image).unwrap();
        images.mount_snapshot(&stray).unwrap();
        fs::create_dir(node.path("state/containers").join(&stray)).unwrap();
        let found = node.findings().await;
        assert!(only(&found, Kind::Snapshot).what.contains("no record"), "{found:?}");
        assert_found_and_repaired(&node, &[Kind::Mount, Kind::Snapshot, Kind::Directory]).await;
        assert!(!images.snapshots().unwrap().contains(&stray));
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_does_not_belong_into_the_packet_filters_table_goes_and_a_lost_table_comes_back() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let table = node.engine().layout().nft_table.clone();
        nft(&format!("add chain ip {table} planted"));
        nft("add table ip neighbour; add chain ip neighbour c");
        assert_found_and_repaired(&node, &[Kind::Nftables]).await;
        nft(&format!("delete table ip {table}"));
        let found = node.repaired().await;
        let finding = only(&found, Kind::Nftables);
        assert_eq!((finding.class, &finding.outcome), (Class::Lack, &Outcome::Repaired));
        assert_eq!(node.findings().await, []);
        nft("delete table ip neighbour");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_a_recorded_pod_lacks_is_told() {
    on_a_node(|mut node| async {
        let pod = node.pod("p").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        node.drop_engine().await;
        let shm = node.path("state/sandboxes").join(&pod).join("shm");
        rustix::mount::unmount(&shm, rustix::mount::UnmountFlags::DETACH).unwrap();
        let lease = fs::read_dir(node.path("state/network/leases")).unwrap().next().unwrap().unwrap().path();
        let kept = fs::read(&lease).unwrap();
        fs::remove_file(&lease).unwrap();
        let found = node.findings().await;
        let lacks: Vec<Kind> = found.iter().filter(|f| f.class == Class::Lack).map(|f| f.kind).collect();
        assert_eq!(lacks, [Kind::Mount, Kind::Lease], "{found:#?}");
        // Its interface is nobody's without the lease.
        assert_eq!(only(&found, Kind::Interface).owner.as_deref(), Some(pod.as_str()));
        fs::write(&lease, kept).unwrap();
        node.open().await;
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_killed_supervisors_pod_is_told_of_with_what_it_lacks() {
    on_a_node(|mut node| async {
        let pod = node.pod("p").await;
        node.script(&pod, "c", "sleep 1000").await;
        let supervisor = node.pod_status(&pod).await.1["supervisorPid"].as_i64().unwrap();
        node.drop_engine().await;
        let supervisor = rustix::process::Pid::from_raw(i32::try_from(supervisor).unwrap()).unwrap();
        rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
        let found = node.findings().await;
        let names: Vec<&str> = found.iter().map(|finding| finding.name.as_str()).collect();
        assert!(names.contains(&format!("supervisor of {pod}").as_str()), "{found:#?}");
        assert!(found.iter().all(|finding| finding.class == Class::Lack), "{found:#?}");
        node.open().await;
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_neighbours_things_are_neither_told_of_nor_touched() {
    on_a_node(|node| async {
        let neighbour = tempfile::tempdir().unwrap();
        let mut config = node.config();
        config.root = neighbour.path().join("root");
        config.state = neighbour.path().join("state");
        config.pod_cidr = Some("10.99.0.0/24".to_owned());
        let other = pintle_runtime::Engine::open(config).await.unwrap();
        let id = stray_id();
        let group = format!("{}/{id}", other.layout().supervisors_cgroup());
        make_group(&group);
        fs::create_dir(neighbour.path().join("state/sandboxes").join(&id)).unwrap();
        // Ours, beside it.
        fs::create_dir(node.path("state/sandboxes").join(&id)).unwrap();
        assert_found_and_repaired(&node, &[Kind::Directory]).await;
        assert!(is_there(&group) && neighbour.path().join("state/sandboxes").join(&id).is_dir());
        group_dirs(&group).iter().for_each(|dir| fs::remove_dir(dir).unwrap());
        other.remove_all_resources().await.unwrap();
        node
    });
}

#[test]
fn a_sandbox_that_was_being_made_when_the_engine_ended_is_told_of_and_left_to_the_next_one() {
    on_a_node(|mut node| async {
        let pod = node.try_container("none", "c", |config| config.command = shell("true")).await;
        assert!(pod.is_err());
        let pod = node.pod("p").await;
        node.drop_engine().await;
        let path = node.path("state/sandboxes").join(&pod).join("sandbox.json");
        edit_record(&path, "\"phase\": \"ready\"", "\"phase\": \"intent\"");
        let found = node.repaired().await;
        assert!(
            matches!(&only(&found, Kind::Record).outcome, Outcome::NotRepaired(why) if why.contains("next start"))
        );
        node.open().await;
        eventually("the next engine removes it", || !path.exists()).await;
        node
    });
}
