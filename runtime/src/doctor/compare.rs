//! What was expected against what was found. Pure.
//!
//! In: [`Expected`], [`Found`], the instance's names, whether an engine runs, the time. Out: [`Finding`]s with their explanations. It
//! does not know which ids an engine works on right now: [`super::examine`] leaves those out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Expected, Finding, Kind, Remedy,
    expected::Stray,
    found::{Found, FoundGroup},
    network, store,
};
use crate::engine::{
    ids,
    image_volumes::container_of,
    layout::Layout,
    records::{NamespaceMode, SandboxPhase},
    sandbox_files::SHM,
};

/// How long an engine may take over work that no id names: interfaces in its queue, files of a pull, trees being removed.
pub const IN_WORK: Duration = Duration::from_secs(60);

/// What a comparison is made of.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The instance's directories and names.
    pub layout: &'a Layout,
    /// What there should be.
    pub expected: &'a Expected,
    /// What there is.
    pub found: &'a Found,
    /// Whether an engine runs, which may be at work.
    pub running: bool,
    /// The time of the look.
    pub now: SystemTime,
}

impl Case<'_> {
    /// Whether a running engine may be at work on something of this age.
    pub(super) fn in_work(&self, since: Option<SystemTime>) -> bool {
        let young = |since| self.now.duration_since(since).unwrap_or_default() < IN_WORK;
        self.running && since.is_some_and(young)
    }
}

/// Everything that is too much or too little.
#[must_use]
pub fn compare(case: Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(supervisors(case));
    findings.extend(groups(case));
    findings.extend(mounts(case));
    findings.extend(network::compare(case));
    findings.extend(store::compare(case));
    findings.extend(records(case));
    findings.extend(lacks(case));
    findings.extend(case.expected.strays.iter().map(stray));
    findings.sort_by(|a, b| (a.class, a.kind, &a.name).cmp(&(b.class, b.kind, &b.name)));
    findings
}

fn supervisors(case: Case<'_>) -> impl Iterator<Item = Finding> {
    let surplus = case.found.supervisors.iter().filter(move |found| !case.expected.may_run(&found.sandbox));
    surplus.map(|found| {
        let what = format!("supervisor of sandbox {}, which has no record or was stopped", found.sandbox);
        Finding::surplus(Kind::Process, format!("{}@{}", found.pid, found.started), what)
            .ours("its command line names a sandbox's directory below the state directory")
            .step("StopPodSandbox ends the supervisor, or RunPodSandbox when it fails")
            .since(found.since)
            .owner(&found.sandbox)
            .remedy(Remedy::Kill { pid: found.pid, started: found.started })
    })
}

fn groups(case: Case<'_>) -> impl Iterator<Item = Finding> {
    case.found.groups.iter().filter_map(move |group| {
        let (parent, name) = group.path.rsplit_once('/')?;
        let layout = case.layout;
        if parent == layout.supervisors_cgroup() {
            return supervisors_group(case, group, name);
        }
        if parent == layout.default_pods_cgroup() && name.starts_with("pod") {
            return own_pods_group(case, group, name);
        }
        if layout.cgroup_root != "/" && parent == layout.cgroup_root.trim_end_matches('/') {
            return unknown_group(group, name);
        }
        leaf_group(case, group, name)
    })
}

fn supervisors_group(case: Case<'_>, group: &FoundGroup, name: &str) -> Option<Finding> {
    (!case.expected.may_run(name)).then(|| {
        surplus_group(group, "group of the supervisor of a sandbox that has no record or was stopped")
            .ours(format!("it is below the supervisors' cgroup {}", case.layout.supervisors_cgroup()))
            .step("StopPodSandbox kills what is left of the supervisor and removes its group")
            .owner(name)
    })
}

/// A group that the engine made for a pod whose owner named none; anything else with such a name is the agent's.
fn own_pods_group(case: Case<'_>, group: &FoundGroup, name: &str) -> Option<Finding> {
    let id = name.strip_prefix("pod").filter(|id| ids::is_id(id))?;
    (!case.expected.sandboxes.contains_key(id)).then(|| {
        surplus_group(group, "group of a pod whose sandbox has no record")
            .ours("it is named by a sandbox's id, below the engine's default group for pods")
            .step("RemovePodSandbox removes it once it is empty")
            .owner(id)
    })
}

fn unknown_group(group: &FoundGroup, name: &str) -> Option<Finding> {
    (!matches!(name, "pintle-shims" | "kubepods")).then(|| {
        surplus_group(group, "group that no part of Pintle makes")
            .ours("it is below the cgroup that carries this instance's tag")
            .step("none: it is not Pintle's work")
    })
}

/// Below a pod's group: one of the pod's containers, by its id.
fn leaf_group(case: Case<'_>, group: &FoundGroup, name: &str) -> Option<Finding> {
    let known = case.expected.sandboxes.contains_key(name) || case.expected.containers.contains_key(name);
    (ids::is_id(name) && !known).then(|| {
        surplus_group(group, "group of a container that has no record, in the group of a pod that has one")
            .ours("the group above it is in a sandbox's record")
            .step("RemoveContainer removes it with the container")
            .owner(name)
    })
}

fn surplus_group(group: &FoundGroup, what: &str) -> Finding {
    let what = format!("{what}; in {} hierarchies, {} processes", group.hierarchies, group.processes);
    Finding::surplus(Kind::Cgroup, &group.path, what)
        .since(group.since)
        .remedy(Remedy::RemoveGroup(group.path.clone()))
}

fn mounts(case: Case<'_>) -> impl Iterator<Item = Finding> {
    case.found.mounts.iter().filter_map(move |(point, times)| {
        let place = place(case, point);
        if place.expected && *times == 1 {
            return None;
        }
        let what = match place.expected {
            true => format!("{}, mounted {times} times instead of once", place.what),
            false => place.what.to_owned(),
        };
        // What is mounted twice cannot be taken away once by its path without a moment in which it is not there at all.
        let remedy = match place.expected {
            true => Remedy::None("it goes with its pod".to_owned()),
            false => Remedy::Unmount(point.clone()),
        };
        let mut finding = Finding::surplus(Kind::Mount, point.display().to_string(), what)
            .ours("it is below the instance's own directory")
            .step(place.step)
            .remedy(remedy);
        finding.owner = place.owner;
        Some(finding)
    })
}

/// What a mount point is.
struct Place {
    what: &'static str,
    step: &'static str,
    expected: bool,
    owner: Option<String>,
}

fn place(case: Case<'_>, point: &Path) -> Place {
    let name =
        |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let (above, twice_above) = (point.parent(), point.parent().and_then(Path::parent));
    if twice_above == Some(&case.layout.sandboxes()) && point.ends_with(SHM) {
        let id = name(above).unwrap_or_default();
        let record = case.expected.sandboxes.get(&id);
        let shares = record.is_some_and(|record| record.config.ipc == NamespaceMode::Node);
        return Place {
            what: "shared memory of a sandbox",
            step: "StopPodSandbox unmounts it",
            expected: case.expected.may_run(&id) && !shares,
            owner: Some(id),
        };
    }
    if twice_above == Some(&case.layout.root.join("snapshots")) && point.ends_with("rootfs") {
        let key = name(above).unwrap_or_default();
        let id = container_of(&key).to_owned();
        return Place {
            what: if id == key { "root file system of a container" } else { "image volume of a container" },
            step: "RemoveContainer unmounts it",
            expected: case.expected.containers.contains_key(&id),
            owner: Some(id),
        };
    }
    Place {
        what: "mount where Pintle makes none",
        step: "none: it is not Pintle's work, or was moved",
        expected: false,
        owner: None,
    }
}

/// Records that say that something was never finished, while nobody is there to finish it.
fn records(case: Case<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = half_written(case).collect();
    if case.running {
        return findings;
    }
    let later =
        || Remedy::None("the next start of the agent or runtime removes it with all it has".to_owned());
    let sandboxes = case.expected.sandboxes.values().filter(|record| record.phase == SandboxPhase::Intent);
    findings.extend(sandboxes.map(|record| {
        Finding::surplus(
            Kind::Record,
            &record.id,
            "sandbox that was being made or taken back when the engine ended",
        )
        .ours("its record is below the state directory")
        .step("RunPodSandbox, which did not come to its end")
        .since(made(record.created_at))
        .owner(&record.id)
        .remedy(later())
    }));
    let containers = case.expected.containers.values().filter(|known| !known.record.complete);
    findings.extend(containers.map(|known| {
        let what = "container that was being made when the engine ended";
        Finding::surplus(Kind::Record, &known.record.id, what)
            .ours("its record is below the state directory")
            .step("CreateContainer, which did not come to its end")
            .since(made(known.record.created_at))
            .owner(&known.record.id)
            .remedy(later())
    }));
    findings
}

fn half_written(case: Case<'_>) -> impl Iterator<Item = Finding> {
    let files = case.found.half_written.iter().filter(move |(_, since)| !case.in_work(*since));
    files.map(|(path, since)| {
        Finding::surplus(Kind::File, path.display().to_string(), "half-written record")
            .ours("it is below the state directory")
            .step("writing a record renames it when it is whole")
            .since(*since)
            .remedy(Remedy::RemoveFile(path.clone()))
    })
}

/// What the processes of sandboxes and containers that are recorded as living lack.
fn lacks(case: Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for record in case.expected.must_run() {
        let of = |kind, what: &str| {
            Finding::lack(
                kind,
                &record.id,
                format!("sandbox of pod {}/{} {what}", record.config.namespace, record.config.name),
            )
            .ours("its record is below the state directory")
            .owner(&record.id)
            .remedy(Remedy::None("the agent replaces the pod; `pintle rmp` removes it".to_owned()))
        };
        if case.found.supervisors.iter().all(|found| found.sandbox != record.id) {
            let finding =
                of(Kind::Process, "has no supervisor").step("RunPodSandbox started it; it was killed");
            findings.push(Finding { name: format!("supervisor of {}", record.id), ..finding });
        }
        if !case.found.alive.contains(&record.id) {
            let finding =
                of(Kind::Process, "has no infra process").step("RunPodSandbox started it; it was killed");
            findings.push(Finding { name: format!("infra of {}", record.id), ..finding });
        }
        let shm = case.layout.sandbox(&record.id).join(SHM);
        if record.config.ipc != NamespaceMode::Node && !case.found.mounts.contains_key(&shm) {
            findings.push(of(Kind::Mount, "has no shared memory").step("RunPodSandbox mounted it"));
        }
        findings.extend(container_lacks(case, &record.id));
    }
    findings
}

fn container_lacks(case: Case<'_>, sandbox: &str) -> Vec<Finding> {
    let of_sandbox = case.expected.containers.values().filter(|known| known.record.sandbox == sandbox);
    let living = of_sandbox.filter(|known| known.record.complete && !known.ended);
    let lack = |known: &super::expected::ExpectedContainer, kind, what: &str| {
        let record = &known.record;
        Finding::lack(kind, &record.id, format!("container {} {what}", record.name))
            .ours("its record is below the state directory")
            .owner(&record.id)
            .remedy(Remedy::None("the agent replaces the container; `pintle rm` removes it".to_owned()))
    };
    let mut findings = Vec::new();
    for known in living {
        let id = &known.record.id;
        let root: PathBuf = case.layout.root.join("snapshots").join(id).join("rootfs");
        if !case.found.mounts.contains_key(&root) {
            let finding = lack(known, Kind::Mount, "has no root file system mounted");
            findings.push(finding.step("CreateContainer mounted it"));
        }
        if known.record.pid.is_some() && !case.found.alive.contains(id) {
            let finding = lack(known, Kind::Process, "has no process and no exit record");
            findings.push(finding.step("its supervisor records how it ended"));
        }
    }
    findings
}

fn stray(stray: &Stray) -> Finding {
    let finding = Finding::surplus(
        Kind::Directory,
        stray.path.display().to_string(),
        format!("not a sandbox's or container's directory: {}", stray.reason),
    );
    let finding = finding
        .ours("it is among the records in the state directory")
        .step("RemovePodSandbox or RemoveContainer removes it as the last thing")
        .since(stray.since)
        .remedy(Remedy::RemoveDirectory(stray.path.clone()));
    if ids::is_id(&stray.name) { finding.owner(&stray.name) } else { finding }
}

fn made(nanoseconds: i64) -> Option<SystemTime> {
    let since = u64::try_from(nanoseconds).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(since))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
