//! What containers use: processor time and memory, read from their cgroups when asked for.
//!
//! In: a container. Out: CRI's statistics. Nothing is sampled in the background.

use std::{fs, path::PathBuf, sync::Arc};

use pintle_cri_api::v1 as cri;

use super::{
    Engine, blocking,
    error::{Error, Result},
    host, layout,
    state::{Container, Phase, Sandbox},
    view,
};

/// Processor time and memory of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    cpu_nanoseconds: u64,
    memory: u64,
    working_set: u64,
    rss: u64,
    faults: u64,
    major_faults: u64,
    processes: u64,
}

impl Engine {
    /// A container's statistics.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn container_stats(self: &Arc<Self>, id: &str) -> Result<cri::ContainerStats> {
        let container = self.container(id)?;
        let engine = Arc::clone(self);
        blocking(move || Ok(engine.stats_of(&container))).await
    }

    /// The statistics of the running containers that a filter lets through.
    ///
    /// # Errors
    /// Not at present.
    pub async fn list_container_stats(
        self: &Arc<Self>,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>> {
        let filter = filter.unwrap_or_default();
        let mut containers = self.all_containers();
        containers.retain(|container| {
            let record = container.record();
            record.complete
                && matches!(container.phase(), Phase::Running { .. })
                && record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && view::labels_fit(&record.labels, &filter.label_selector)
        });
        let engine = Arc::clone(self);
        blocking(move || Ok(containers.iter().map(|container| engine.stats_of(container)).collect())).await
    }

    /// A sandbox's statistics.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub async fn sandbox_stats(self: &Arc<Self>, id: &str) -> Result<cri::PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        let engine = Arc::clone(self);
        blocking(move || Ok(engine.pod_stats(&sandbox))).await
    }

    /// The statistics of the ready sandboxes that a filter lets through.
    ///
    /// # Errors
    /// Not at present.
    pub async fn list_sandbox_stats(
        self: &Arc<Self>,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>> {
        let filter = filter.unwrap_or_default();
        let mut sandboxes = self.all_sandboxes();
        sandboxes.retain(|sandbox| {
            sandbox.is_ready()
                && sandbox.id.starts_with(&filter.id)
                && view::labels_fit(&sandbox.record().config.labels, &filter.label_selector)
        });
        let engine = Arc::clone(self);
        blocking(move || Ok(sandboxes.iter().map(|sandbox| engine.pod_stats(sandbox)).collect())).await
    }

    fn pod_stats(&self, sandbox: &Sandbox) -> cri::PodSandboxStats {
        let status = view::sandbox_status(sandbox);
        let record = sandbox.record();
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|c| matches!(c.phase(), Phase::Running { .. }));
        let leaf = layout::join_cgroup(&record.cgroup_parent, &record.id);
        let usage = running
            .clone()
            .fold(self.usage(&leaf), |sum, container| sum.plus(self.usage(&container.record().cgroup)));
        let now = host::now();
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(usage.cpu(now)),
                memory: Some(usage.memory(now)),
                process: Some(cri::ProcessUsage { timestamp: now, process_count: value(usage.processes) }),
                containers: running.map(|container| self.stats_of(container)).collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn stats_of(&self, container: &Container) -> cri::ContainerStats {
        let status = view::container_status(container);
        let usage = self.usage(&container.record().cgroup);
        let now = host::now();
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            cpu: Some(usage.cpu(now)),
            memory: Some(usage.memory(now)),
            ..Default::default()
        }
    }

    fn usage(&self, cgroup: &str) -> Usage {
        let number = |file: &str| -> u64 {
            let text = self.cgroups.file(cgroup, file).and_then(|path| fs::read_to_string(path).ok());
            text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
        };
        let stat =
            |file: &str| self.cgroups.file(cgroup, file).and_then(|path| fs::read_to_string(path).ok());
        let memory_stat = stat("memory.stat").unwrap_or_default();
        let (cpu_nanoseconds, memory, inactive, rss) = if self.host.cgroup_v2 {
            let micros = keyed(&stat("cpu.stat").unwrap_or_default(), "usage_usec");
            (micros.saturating_mul(1000), number("memory.current"), "inactive_file", "anon")
        } else {
            (number("cpuacct.usage"), number("memory.usage_in_bytes"), "total_inactive_file", "total_rss")
        };
        Usage {
            cpu_nanoseconds,
            memory,
            working_set: memory.saturating_sub(keyed(&memory_stat, inactive)),
            rss: keyed(&memory_stat, rss),
            faults: keyed(&memory_stat, "pgfault"),
            major_faults: keyed(&memory_stat, "pgmajfault"),
            processes: number("pids.current"),
        }
    }
}

/// What image content occupies, for `ImageFsInfo`.
pub(crate) async fn image_fs(engine: &Arc<Engine>) -> Result<(PathBuf, u64, u64)> {
    let images = engine.images.clone();
    blocking(move || {
        let usage = images.fs_usage().map_err(Error::image("measuring the image store"))?;
        Ok((usage.mountpoint, usage.bytes, usage.inodes))
    })
    .await
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu_nanoseconds: self.cpu_nanoseconds + other.cpu_nanoseconds,
            memory: self.memory + other.memory,
            working_set: self.working_set + other.working_set,
            rss: self.rss + other.rss,
            faults: self.faults + other.faults,
            major_faults: self.major_faults + other.major_faults,
            processes: self.processes + other.processes,
        }
    }

    fn cpu(self, timestamp: i64) -> cri::CpuUsage {
        let usage_core_nano_seconds = value(self.cpu_nanoseconds);
        cri::CpuUsage { timestamp, usage_core_nano_seconds, ..Default::default() }
    }

    fn memory(self, timestamp: i64) -> cri::MemoryUsage {
        cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(self.working_set),
            usage_bytes: value(self.memory),
            rss_bytes: value(self.rss),
            page_faults: value(self.faults),
            major_page_faults: value(self.major_faults),
            ..Default::default()
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "CRI's fields are optional")]
fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// The number after a key in a file of `key number` lines.
fn keyed(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(have, _)| *have == key)
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_file_is_read_by_whole_keys() {
        let text = "total_rss_huge 5\nrss 1\ntotal_rss 7\n";
        assert_eq!(keyed(text, "total_rss"), 7);
        assert_eq!(keyed(text, "cache"), 0);
    }
}
