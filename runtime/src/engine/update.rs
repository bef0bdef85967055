//! Changes the limits of containers and pods that are there: CRI's `UpdateContainerResources` and `UpdatePodSandboxResources`.
//!
//! In: an id and the values that change. Out: the new limits in the cgroup and in the record, or the old ones in both. A pod's
//! own group is written to only where the engine made it: otherwise it is the caller's, who has changed it already (a kubelet
//! has), and what is told is kept for those who ask.

use std::{fs, os::fd::AsFd as _, sync::Arc};

use pintle_cri_api::v1::{LinuxContainerResources, UpdatePodSandboxResourcesRequest};
use rustix::fs::{Mode, OFlags};

use super::{
    Engine, blocking, detached,
    error::{Error, Result},
    records::{self, ContainerRecord, SandboxRecord},
    resource_record::ResourcesRecord,
    state::{Container, Phase, Sandbox},
};
use crate::spec::resource_change::{left_by_the_library, merged, of_pod, writes};

/// How often the processes of a container are looked through, for those that were forked meanwhile.
const PASSES: usize = 3;

impl Engine {
    /// Changes a container's limits. Those not given stay.
    ///
    /// # Errors
    /// When the kernel does not take a value; then all is as before.
    pub async fn update_container_resources(
        self: &Arc<Self>,
        id: &str,
        change: LinuxContainerResources,
    ) -> Result<()> {
        let container = self.container(id)?;
        let engine = Arc::clone(self);
        detached(async move {
            let _op = container.op.lock().await;
            if matches!(container.phase(), Phase::Exited(_)) {
                return Err(Error::FailedPrecondition(format!("container {} has ended", container.id)));
            }
            let changed = Arc::clone(&container);
            blocking(move || engine.update_now(&changed, &change)).await
        })
        .await
    }

    fn update_now(&self, container: &Container, change: &LinuxContainerResources) -> Result<()> {
        let record = container.record();
        let before = limits(record.resources.as_ref());
        let after = merged(&before, change, &self.host)?;
        self.cgroups.write_all(&record.cgroup, &writes(&before, &after, &self.host))?;
        if after.oom_score_adj != before.oom_score_adj {
            self.change_oom_score(&record, after.oom_score_adj)?;
        }
        let record = container.update(|record| record.resources = Some(ResourcesRecord::from(&after)));
        records::save(&container.dir, &record)
    }

    /// Every process of the container, so that those it forks have the value too.
    fn change_oom_score(&self, record: &ContainerRecord, wanted: i64) -> Result<()> {
        let wanted = self.clamp_oom(i32::try_from(wanted).unwrap_or_default()).to_string();
        let mut done = std::collections::BTreeSet::new();
        for _ in 0..PASSES {
            let pids = self.cgroups.processes(&record.cgroup);
            let fresh: Vec<i32> = pids.into_iter().filter(|pid| done.insert(*pid)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            fresh.into_iter().try_for_each(|pid| set_oom_score(pid, &record.cgroup, &wanted))?;
        }
        Ok(())
    }

    /// Sets, in a container's group just made, the limits that the library cannot set.
    pub(crate) fn finish_limits(&self, record: &ContainerRecord) -> Result<()> {
        let writes = left_by_the_library(&limits(record.resources.as_ref()), &self.host);
        if writes.is_empty() {
            return Ok(());
        }
        self.cgroups.hand_down_hugetlb(&record.cgroup)?;
        self.cgroups.write_all(&record.cgroup, &writes)
    }

    /// Notes a pod's limits, and sets them where the pod's group is the engine's.
    ///
    /// # Errors
    /// When there is no such sandbox, it is not ready, or the kernel does not take a value; then all is as before.
    pub async fn update_pod_sandbox_resources(
        self: &Arc<Self>,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<()> {
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        let engine = Arc::clone(self);
        detached(async move {
            let _op = sandbox.op.lock().await;
            if !sandbox.is_ready() {
                return Err(Error::FailedPrecondition(format!("sandbox {} is not ready", sandbox.id)));
            }
            let changed = Arc::clone(&sandbox);
            blocking(move || engine.update_pod_now(&changed, &request)).await
        })
        .await
    }

    fn update_pod_now(&self, sandbox: &Sandbox, request: &UpdatePodSandboxResourcesRequest) -> Result<()> {
        let record = sandbox.record();
        let empty = LinuxContainerResources::default();
        let mut changed = record.clone();
        for (field, change) in
            [(&mut changed.resources, &request.resources), (&mut changed.overhead, &request.overhead)]
        {
            let before = limits(field.as_ref());
            let after = merged(&before, change.as_ref().unwrap_or(&empty), &self.host)?;
            *field = (after != empty).then(|| ResourcesRecord::from(&after));
        }
        if record.owns_parent {
            let all = writes(&limits_of_pod(&record), &limits_of_pod(&changed), &self.host);
            self.cgroups.write_all(&record.cgroup_parent, &all)?;
        }
        let record = sandbox.update(|record| {
            record.resources = changed.resources;
            record.overhead = changed.overhead;
        });
        records::save(&sandbox.dir, &record)
    }

    /// Sets the limits of a pod's group that the engine has just made.
    pub(crate) fn limit_pod(&self, record: &SandboxRecord) -> Result<()> {
        let wanted = limits_of_pod(record);
        let all = writes(&LinuxContainerResources::default(), &wanted, &self.host);
        if all.iter().any(|(file, _)| file.starts_with("hugetlb.")) && !self.host.cgroup_v2 {
            self.cgroups.hand_down_hugetlb(&record.cgroup_parent)?;
        }
        self.cgroups.write_all(&record.cgroup_parent, &all)
    }
}

/// The limits of a record in CRI's words.
pub(crate) fn limits(record: Option<&ResourcesRecord>) -> LinuxContainerResources {
    record.map(LinuxContainerResources::from).unwrap_or_default()
}

fn limits_of_pod(record: &SandboxRecord) -> LinuxContainerResources {
    of_pod(&limits(record.resources.as_ref()), &limits(record.overhead.as_ref()))
}

/// Of a process that is known to be in the group: its number may have been given to another since it was read. One that
/// has ended needs nothing.
fn set_oom_score(pid: i32, cgroup: &str, value: &str) -> Result<()> {
    let path = format!("/proc/{pid}");
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(path.as_str(), flags, Mode::empty()) else { return Ok(()) };
    let open = |file: &str, flags| {
        rustix::fs::openat(dir.as_fd(), file, flags | OFlags::CLOEXEC, Mode::empty()).map(fs::File::from)
    };
    let Ok(groups) = open("cgroup", OFlags::RDONLY) else { return Ok(()) };
    if !std::io::read_to_string(groups).is_ok_and(|groups| super::cgroups::is_in(&groups, cgroup)) {
        return Ok(());
    }
    let Ok(mut file) = open("oom_score_adj", OFlags::WRONLY) else { return Ok(()) };
    match std::io::Write::write_all(&mut file, value.as_bytes()) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        written => written.map_err(Error::io("writing the oom_score_adj of", path)),
    }
}
