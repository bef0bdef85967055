//! The comparison, without a kernel: each surplus and lack is told once, and what is in order is not told of.

use super::*;
use crate::{
    EngineConfig,
    doctor::{Class, expected::ExpectedContainer, found::FoundSupervisor},
    engine::records::{ContainerRecord, SandboxRecord},
};
use pintle_cni::{FoundLease, FoundLink, Inspection, Table};

struct Node {
    layout: Layout,
    expected: Expected,
    found: Found,
    running: bool,
}

/// One pod with one container, with all that they should have, and nothing else.
fn healthy() -> Node {
    let layout = Layout::new(&EngineConfig::new("/r", "/s"));
    let mut record: SandboxRecord =
        serde_json::from_str(include_str!("../../tests/golden/sandbox.json")).unwrap();
    record.id = "a".repeat(64);
    record.phase = SandboxPhase::Ready;
    record.config.network = NamespaceMode::Pod;
    record.config.ipc = NamespaceMode::Pod;
    record.infra_pid = Some(7);
    let mut container: ContainerRecord =
        serde_json::from_str(include_str!("../../tests/golden/container.json")).unwrap();
    container.id = "c".repeat(64);
    container.sandbox.clone_from(&record.id);
    container.complete = true;
    container.pid = Some(8);
    let (sandbox, parent) = (record.id.clone(), record.cgroup_parent.clone());
    let (shm, root) = (layout.sandbox(&sandbox).join(SHM), format!("/r/snapshots/{}/rootfs", container.id));
    let group = |path: String| FoundGroup { path, hierarchies: 1, processes: 1, since: None };
    let groups = [
        format!("{}/{sandbox}", layout.supervisors_cgroup()),
        format!("{parent}/{sandbox}"),
        format!("{parent}/{}", container.id),
        format!("{}/kubepods", layout.cgroup_root),
    ];
    let supervisor = FoundSupervisor { pid: 6, started: 1, since: None, sandbox: sandbox.clone() };
    let lease = FoundLease {
        sandbox: sandbox.clone(),
        ip: "10.0.0.2".parse().unwrap(),
        interface: "pv0".into(),
        releasing: false,
        written: None,
    };
    let link = FoundLink { name: "pv0".into(), sandbox: Some(sandbox.clone()), ours: true, port: true };
    let found = Found {
        mounts: [(shm, 1), (PathBuf::from(root), 1)].into(),
        groups: groups.into_iter().map(group).collect(),
        supervisors: vec![supervisor],
        alive: [sandbox.clone(), container.id.clone()].into(),
        half_written: Vec::new(),
        network: Inspection {
            leases: vec![lease],
            void_leases: Vec::new(),
            links: vec![link],
            bridge: true,
            table: Table::Sound,
            opened: true,
        },
        images: pintle_image::Inspection { snapshots: vec![container.id.clone()], ..Default::default() },
        image_times: [].into(),
    };
    let expected = Expected {
        boot: record.boot.clone(),
        containers: [(container.id.clone(), ExpectedContainer { record: container, ended: false })].into(),
        sandboxes: [(sandbox, record)].into(),
        strays: Vec::new(),
    };
    Node { layout, expected, found, running: true }
}

impl Node {
    fn findings(&self) -> Vec<Finding> {
        compare(Case {
            layout: &self.layout,
            expected: &self.expected,
            found: &self.found,
            running: self.running,
            now: SystemTime::now(),
        })
    }

    fn kinds(&self) -> Vec<(Class, Kind)> {
        self.findings().iter().map(|finding| (finding.class, finding.kind)).collect()
    }

    fn sandbox(&mut self) -> &mut SandboxRecord {
        self.expected.sandboxes.values_mut().next().unwrap()
    }
}

const SURPLUS: Class = Class::Surplus;
const LACK: Class = Class::Lack;

#[test]
fn a_healthy_node_has_no_findings_with_and_without_an_engine() {
    let mut node = healthy();
    assert_eq!(node.findings(), []);
    node.running = false;
    assert_eq!(node.findings(), []);
}

#[test]
fn without_its_record_everything_of_a_pod_is_a_surplus() {
    let mut node = healthy();
    node.expected.sandboxes.clear();
    node.expected.containers.clear();
    let surplus =
        [Kind::Process, Kind::Cgroup, Kind::Mount, Kind::Mount, Kind::Interface, Kind::Lease, Kind::Snapshot];
    // The leaf groups are below a pod's group that no record names now: they go with that one.
    node.found.groups.truncate(1);
    assert_eq!(node.kinds(), surplus.map(|kind| (SURPLUS, kind)));
    assert!(node.findings().iter().all(|finding| !matches!(finding.remedy, Remedy::None(_))));
}

#[test]
fn a_stopped_sandbox_has_no_supervisor_no_address_and_no_shared_memory() {
    let mut node = healthy();
    node.sandbox().phase = SandboxPhase::Stopped;
    let surplus = [Kind::Process, Kind::Cgroup, Kind::Mount, Kind::Interface, Kind::Lease];
    assert_eq!(node.kinds(), surplus.map(|kind| (SURPLUS, kind)));
}

#[test]
fn of_another_boot_nothing_is_expected() {
    let mut node = healthy();
    node.expected.boot = "another".into();
    assert!(node.kinds().iter().all(|(class, _)| *class == SURPLUS));
    node.found.supervisors.clear();
    node.found.network.leases.clear();
    node.found.network.links.clear();
    node.found.groups.remove(0);
    node.found.mounts.clear();
    assert_eq!(node.findings(), []);
}

#[test]
fn what_a_living_pod_has_not_is_a_lack() {
    let mut node = healthy();
    node.found.supervisors.clear();
    node.found.alive.clear();
    node.found.mounts.clear();
    node.found.network.leases.clear();
    node.found.network.links.clear();
    node.found.images.snapshots.clear();
    let processes = [Kind::Process; 3];
    let others = [Kind::Mount, Kind::Mount, Kind::Lease, Kind::Snapshot];
    let wanted: Vec<_> = processes.into_iter().chain(others).map(|kind| (LACK, kind)).collect();
    assert_eq!(node.kinds(), wanted);
}

#[test]
fn a_container_that_has_ended_needs_no_process_and_no_mount() {
    let mut node = healthy();
    node.expected.containers.values_mut().for_each(|known| known.ended = true);
    let id = "c".repeat(64);
    node.found.alive.remove(&id);
    node.found.mounts.retain(|point, _| !point.ends_with("rootfs"));
    assert_eq!(node.findings(), []);
}

#[test]
fn a_half_made_sandbox_is_told_of_only_when_nobody_is_there_to_finish_it() {
    let mut node = healthy();
    node.sandbox().phase = SandboxPhase::Intent;
    assert_eq!(node.findings(), []);
    node.running = false;
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Record)]);
}

#[test]
fn what_a_running_engine_may_be_at_work_on_is_told_of_when_it_is_old() {
    let mut node = healthy();
    let layer = PathBuf::from("/r/layers/.tmp-1");
    let void = SystemTime::now() - IN_WORK * 2;
    node.found.images.unfinished = vec![layer.clone()];
    node.found.network.leases.push(FoundLease {
        sandbox: "gone".into(),
        ip: "10.0.0.3".parse().unwrap(),
        interface: "pv1".into(),
        releasing: true,
        written: Some(SystemTime::now()),
    });
    node.found.image_times = [(layer.clone(), SystemTime::now())].into();
    assert_eq!(node.findings(), []);
    node.found.image_times = [(layer, void)].into();
    node.found.network.leases[1].written = Some(void);
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Lease), (SURPLUS, Kind::File)]);
    node.found.image_times.values_mut().for_each(|time| *time = SystemTime::now());
    node.found.network.leases[1].written = Some(SystemTime::now());
    node.running = false;
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Lease), (SURPLUS, Kind::File)], "nobody is at work");
}

#[test]
fn what_is_mounted_twice_or_elsewhere_is_a_surplus() {
    let mut node = healthy();
    node.found.mounts.values_mut().for_each(|times| *times = 2);
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Mount), (SURPLUS, Kind::Mount)]);
    node.found.mounts.values_mut().for_each(|times| *times = 1);
    node.found.mounts.insert("/s/elsewhere".into(), 1);
    assert_eq!(node.findings()[0].name, "/s/elsewhere");
}

#[test]
fn an_interface_without_our_mark_is_told_of_and_left_alone() {
    let mut node = healthy();
    node.found.network.links.push(FoundLink { name: "x".into(), sandbox: None, ours: false, port: true });
    let findings = node.findings();
    assert!(findings.len() == 1 && matches!(findings[0].remedy, Remedy::None(_)), "{findings:?}");
}

#[test]
fn groups_that_are_not_named_by_an_id_of_ours_are_somebody_elses_except_below_our_own() {
    let mut node = healthy();
    let parent = node.sandbox().cgroup_parent.clone();
    let stray = "5".repeat(64);
    let supervisors = node.layout.supervisors_cgroup();
    let pods = node.layout.default_pods_cgroup();
    let root = node.layout.cgroup_root.clone();
    for (path, told) in [
        (format!("{parent}/systemd-nested"), false),
        (format!("{parent}/{stray}"), true),
        (format!("{supervisors}/odd"), true),
        (format!("{pods}/pod1234-5678"), false),
        (format!("{pods}/pod{stray}"), true),
        (format!("{root}/odd"), true),
    ] {
        let group = FoundGroup { path: path.clone(), hierarchies: 1, processes: 0, since: None };
        node.found.groups.push(group);
        assert_eq!(node.findings().len(), usize::from(told), "{path}");
        node.found.groups.pop();
    }
}

#[test]
fn bridge_and_table_of_a_network_that_was_taken_down_are_a_surplus() {
    let mut node = healthy();
    node.expected.sandboxes.clear();
    node.expected.containers.clear();
    let empty =
        Inspection { leases: Vec::new(), links: Vec::new(), opened: false, ..node.found.network.clone() };
    node.found = Found {
        network: empty,
        images: pintle_image::Inspection::default(),
        mounts: [].into(),
        groups: Vec::new(),
        supervisors: Vec::new(),
        ..node.found
    };
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Bridge)]);
    node.found.network.bridge = false;
    assert_eq!(node.kinds(), [(SURPLUS, Kind::Nftables)]);
    node.found.network.table = Table::Absent;
    assert_eq!(node.findings(), []);
}
