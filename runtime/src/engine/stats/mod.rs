//! What pods and containers use: CRI's statistics, read from their cgroups and network namespaces when asked for.
//!
//! In: a container or sandbox, or a filter. Out: CRI's statistics, the newest first. Nothing is sampled in the
//! background: `usage_nano_cores` comes of two askings ([`rate`]), the use of disk of a walk that nobody waits for
//! ([`disk`]). Lists hold what runs; one that has ended and
//! is asked for by its id has attributes and its writable layer, and nothing of a cgroup. A pod's figures
//! are those of its cgroup, which counts what has ended in it too. What the kernel does not tell is left out.

pub(crate) mod disk;
pub(crate) mod group;
pub(crate) mod network;
pub(crate) mod rate;

use std::{path::PathBuf, sync::Arc, time::Duration};

use pintle_cri_api::v1 as cri;

use self::{
    disk::Measured,
    group::{Group, Memory, Swap},
    network::{Interface, Interfaces},
    rate::Rate,
};
use super::{
    Engine, blocking, cgroups,
    error::{Error, Result},
    host, layout,
    records::NamespaceMode,
    state::{Container, Phase, Sandbox},
    view,
};

/// How long a call waits for the first walk of a container's writable layer.
const PATIENCE: Duration = Duration::from_millis(20);

impl Engine {
    /// A container's statistics.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn container_stats(self: &Arc<Self>, id: &str) -> Result<cri::ContainerStats> {
        let container = self.container(id)?;
        let stats = Arc::clone(self).stats_of_all(vec![container]).await?;
        stats.into_iter().next().ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })
    }

    /// The containers that a filter lets through and that run, as far as is known, the newest first.
    pub(crate) fn containers_to_measure(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<Arc<Container>> {
        let filter = filter.unwrap_or_default();
        let mut containers = self.all_containers();
        containers.retain(|container| {
            let runs = matches!(container.phase(), Phase::Running { .. } | Phase::Unknown);
            runs && container.look(|record| {
                record.complete
                    && record.id.starts_with(&filter.id)
                    && record.sandbox.starts_with(&filter.pod_sandbox_id)
                    && view::labels_fit(&record.labels, &filter.label_selector)
            })
        });
        containers.sort_by_cached_key(|container| std::cmp::Reverse(container.look(|r| r.created_at)));
        containers
    }

    /// The statistics of several containers.
    ///
    /// # Errors
    /// When the engine is going away.
    pub(crate) async fn stats_of_all(
        self: Arc<Self>,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<cri::ContainerStats>> {
        self.measure_disk(&containers, PATIENCE).await;
        let engine = self;
        blocking(move || {
            let mountpoint = engine.layers_mountpoint();
            Ok(containers.iter().map(|container| engine.stats_of(container, &mountpoint)).collect())
        })
        .await
    }

    /// A sandbox's statistics.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub async fn sandbox_stats(self: &Arc<Self>, id: &str) -> Result<cri::PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        let stats = Arc::clone(self).pod_stats_of_all(vec![sandbox]).await?;
        stats.into_iter().next().ok_or_else(|| Error::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    /// The ready sandboxes that a filter lets through, the newest first.
    pub(crate) fn sandboxes_to_measure(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<Arc<Sandbox>> {
        let filter = filter.unwrap_or_default();
        let mut sandboxes = self.all_sandboxes();
        sandboxes.retain(|sandbox| {
            sandbox.is_ready()
                && sandbox.id.starts_with(&filter.id)
                && sandbox.look(|record| view::labels_fit(&record.config.labels, &filter.label_selector))
        });
        sandboxes.sort_by_cached_key(|sandbox| std::cmp::Reverse(sandbox.look(|r| r.created_at)));
        sandboxes
    }

    /// The statistics of several sandboxes.
    ///
    /// # Errors
    /// When the engine is going away.
    pub(crate) async fn pod_stats_of_all(
        self: Arc<Self>,
        sandboxes: Vec<Arc<Sandbox>>,
    ) -> Result<Vec<cri::PodSandboxStats>> {
        let pods: Vec<_> = sandboxes.into_iter().map(|s| (self.running_in(&s.id), s)).collect();
        let containers: Vec<_> = pods.iter().flat_map(|(containers, _)| containers).cloned().collect();
        self.measure_disk(&containers, PATIENCE).await;
        let engine = self;
        blocking(move || {
            let mountpoint = engine.layers_mountpoint();
            let stats = pods.iter().map(|(containers, s)| engine.pod_stats(s, containers, &mountpoint));
            Ok(stats.collect())
        })
        .await
    }

    /// The containers of a sandbox that have not ended.
    pub(crate) fn running_in(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let mut containers = self.containers_of(sandbox);
        containers.retain(|c| c.look(|record| record.complete) && !matches!(c.phase(), Phase::Exited(_)));
        containers
    }

    fn pod_stats(
        &self,
        sandbox: &Sandbox,
        containers: &[Arc<Container>],
        mountpoint: &str,
    ) -> cri::PodSandboxStats {
        let status = view::sandbox_status(sandbox);
        let parent = sandbox.look(|record| record.cgroup_parent.clone());
        let group = Group::new(&self.cgroups, &parent);
        let timestamp = host::now();
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: cpu(&group, &sandbox.rate, age(status.created_at, timestamp), timestamp),
                memory: memory(&group, timestamp),
                network: self.interfaces(sandbox).map(|found| network(&found, timestamp)),
                process: group
                    .tasks()
                    .map(|tasks| cri::ProcessUsage { timestamp, process_count: value(tasks) }),
                containers: containers.iter().map(|container| self.stats_of(container, mountpoint)).collect(),
                io: io(&group, timestamp),
            }),
            ..Default::default()
        }
    }

    /// The interfaces of a pod that has some of its own.
    pub(crate) fn interfaces(&self, sandbox: &Sandbox) -> Option<Interfaces> {
        let (pid, parent, mode) =
            sandbox.look(|record| (record.infra_pid, record.cgroup_parent.clone(), record.config.network));
        let leaf = layout::join_cgroup(&parent, &sandbox.id);
        let own = mode != NamespaceMode::Node && sandbox.is_ready();
        network::read(pid.filter(|_| own)?, |groups| cgroups::is_in(groups, &leaf))
    }

    fn stats_of(&self, container: &Container, mountpoint: &str) -> cri::ContainerStats {
        let status = view::container_status(container);
        let mut stats = cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            writable_layer: container.figures.last().map(|found| writable_layer(&found, mountpoint)),
            ..Default::default()
        };
        if !matches!(container.phase(), Phase::Exited(_)) {
            let path = container.look(|record| record.cgroup.clone());
            let group = Group::new(&self.cgroups, &path);
            let timestamp = host::now();
            stats.cpu = cpu(&group, &container.rate, age(status.started_at, timestamp), timestamp);
            stats.memory = memory(&group, timestamp);
            stats.swap = group.swap().map(|found| swap(&found, timestamp));
            stats.io = io(&group, timestamp);
        }
        stats
    }

    /// What names the file system of the writable layers: the images' if they share it, so that nobody counts it twice.
    pub(crate) fn layers_mountpoint(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let (images, layers) = self.images.mountpoints();
        let device = |path: &PathBuf| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let shared = device(&images) == device(&layers);
        (if shared { images } else { layers }).to_string_lossy().into_owned()
    }
}

/// How long ago something began; very long when that is not known.
fn age(begun: i64, now: i64) -> Duration {
    match u64::try_from(now.saturating_sub(begun)) {
        Ok(nanos) if begun > 0 => Duration::from_nanos(nanos),
        Ok(_) | Err(_) => Duration::MAX,
    }
}

fn cpu(group: &Group<'_>, rate: &Rate, age: Duration, timestamp: i64) -> Option<cri::CpuUsage> {
    let used = group.cpu()?.used;
    Some(cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: rate.nano_cores(used, age).and_then(value),
        psi: group.pressure("cpu"),
    })
}

fn memory(group: &Group<'_>, timestamp: i64) -> Option<cri::MemoryUsage> {
    let found: Memory = group.memory()?;
    let available = found.limit.map(|limit| limit.saturating_sub(found.working_set()));
    Some(cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(found.working_set()),
        available_bytes: available.and_then(value),
        usage_bytes: value(found.used),
        rss_bytes: value(found.rss),
        page_faults: value(found.faults),
        major_page_faults: value(found.major_faults),
        psi: group.pressure("memory"),
    })
}

fn swap(found: &Swap, timestamp: i64) -> cri::SwapUsage {
    cri::SwapUsage {
        timestamp,
        swap_available_bytes: found.limit.and_then(|limit| value(limit.saturating_sub(found.used))),
        swap_usage_bytes: value(found.used),
    }
}

fn io(group: &Group<'_>, timestamp: i64) -> Option<cri::IoUsage> {
    group.pressure("io").map(|psi| cri::IoUsage { timestamp, psi: Some(psi) })
}

fn network(found: &Interfaces, timestamp: i64) -> cri::NetworkUsage {
    let usage = |interface: &Interface| cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    };
    cri::NetworkUsage {
        timestamp,
        default_interface: found.default.as_ref().map(usage),
        interfaces: found.others.iter().map(usage).collect(),
    }
}

fn writable_layer(found: &Measured, mountpoint: &str) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: found.at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: value(found.layer.bytes),
        inodes_used: value(found.layer.inodes),
    }
}

/// What image content occupies and what the writable layers do, for `ImageFsInfo`.
pub(crate) async fn file_systems(engine: &Arc<Engine>) -> Result<cri::ImageFsInfoResponse> {
    let mut containers = engine.all_containers();
    containers.retain(|container| container.look(|record| record.complete));
    engine.measure_disk(&containers, PATIENCE).await;
    let engine = Arc::clone(engine);
    blocking(move || {
        let usage = engine.images.fs_usage().map_err(Error::image("measuring the image store"))?;
        let timestamp = host::now();
        let info = |timestamp, mountpoint, bytes, inodes| cri::FilesystemUsage {
            timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: value(bytes),
            inodes_used: value(inodes),
        };
        let images =
            info(timestamp, usage.mountpoint.to_string_lossy().into_owned(), usage.bytes, usage.inodes);
        let found: Vec<Measured> =
            containers.iter().filter_map(|container| container.figures.last()).collect();
        // As true as the oldest of them.
        let oldest = found.iter().map(|found| found.at).min().unwrap_or(timestamp);
        let bytes = found.iter().map(|found| found.layer.bytes).sum();
        let inodes = found.iter().map(|found| found.layer.inodes).sum();
        Ok(cri::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![info(oldest, engine.layers_mountpoint(), bytes, inodes)],
        })
    })
    .await
}

#[expect(clippy::unnecessary_wraps, reason = "CRI's fields are optional")]
fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}
