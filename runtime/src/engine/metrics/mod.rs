//! CRI's metrics: what cAdvisor tells at a kubelet's `/metrics/cadvisor`, told by the runtime.
//!
//! In: a sandbox. Out: its metrics and those of its containers that have not ended, taken when asked for; the use of disk is
//! that of the last walk, with its time. The names are in [`catalogue`], where the values come from in [`values`].

mod catalogue;
mod values;

use std::{sync::Arc, time::Duration};

use pintle_cri_api::v1 as cri;

use self::values::Metrics;
use super::{
    Engine, blocking,
    error::Result,
    host,
    state::{Container, Phase, Sandbox},
    stats::group::Group,
};

/// How long a call waits for the first walk of a container's writable layer: nobody waits for a scrape.
const PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// What is measured on this node.
    ///
    /// # Errors
    /// When the engine is going away.
    pub(crate) async fn metric_descriptors(self: &Arc<Self>) -> Result<Vec<cri::MetricDescriptor>> {
        let engine = Arc::clone(self);
        blocking(move || {
            // Any group tells; this one is always there.
            let path = engine.layout.supervisors_cgroup();
            let offers = values::offers(&Group::new(&engine.cgroups, &path), &values::page_sizes());
            Ok(catalogue::descriptors(offers))
        })
        .await
    }

    /// The metrics of several sandboxes.
    ///
    /// # Errors
    /// When the engine is going away.
    pub(crate) async fn metrics_of_all(
        self: Arc<Self>,
        sandboxes: Vec<Arc<Sandbox>>,
    ) -> Result<Vec<cri::PodSandboxMetrics>> {
        let pods: Vec<_> = sandboxes.into_iter().map(|s| (self.running_in(&s.id), s)).collect();
        let containers: Vec<_> = pods.iter().flat_map(|(containers, _)| containers).cloned().collect();
        self.measure_disk(&containers, PATIENCE).await;
        let engine = self;
        blocking(move || {
            let sizes = values::page_sizes();
            Ok(pods.iter().map(|(containers, s)| engine.pod_metrics(s, containers, &sizes)).collect())
        })
        .await
    }

    fn pod_metrics(
        &self,
        sandbox: &Sandbox,
        containers: &[Arc<Container>],
        sizes: &[String],
    ) -> cri::PodSandboxMetrics {
        let record = sandbox.record();
        let (pod, namespace) = (&record.config.name, &record.config.namespace);
        let group = Group::new(&self.cgroups, &record.cgroup_parent);
        let mut metrics = Metrics::new([&record.cgroup_parent, "", "", "", pod, namespace]);
        metrics.group(&group, sizes);
        metrics.limits(&group);
        metrics.put("container_last_seen", seconds(host::now()));
        metrics.put("container_start_time_seconds", seconds(record.created_at));
        for interface in
            self.interfaces(sandbox).iter().flat_map(|found| found.default.iter().chain(&found.others))
        {
            metrics.interface(interface);
        }
        let container_metrics =
            containers.iter().map(|container| self.container_metrics(container, (pod, namespace), sizes));
        cri::PodSandboxMetrics {
            pod_sandbox_id: record.id.clone(),
            metrics: metrics.into_taken(),
            container_metrics: container_metrics.collect(),
        }
    }

    fn container_metrics(
        &self,
        container: &Container,
        (pod, namespace): (&str, &str),
        sizes: &[String],
    ) -> cri::ContainerMetrics {
        let record = container.record();
        let image =
            if record.user_specified_image.is_empty() { &record.image } else { &record.user_specified_image };
        let group = Group::new(&self.cgroups, &record.cgroup);
        let mut metrics = Metrics::new([&record.cgroup, &record.id, image, &record.name, pod, namespace]);
        metrics.group(&group, sizes);
        metrics.limits(&group);
        metrics.processes(&self.cgroups, &group, record.pid);
        metrics.disk(container.figures.last(), &self.images.mountpoints().1);
        metrics.put("container_last_seen", seconds(host::now()));
        let started = match container.phase() {
            Phase::Running { started_at } => started_at,
            Phase::Created | Phase::Unknown | Phase::Exited(_) => record.created_at,
        };
        metrics.put("container_start_time_seconds", seconds(started));
        cri::ContainerMetrics { container_id: record.id.clone(), metrics: metrics.into_taken() }
    }
}

fn seconds(nanos: i64) -> Option<u64> {
    u64::try_from(nanos / 1_000_000_000).ok()
}
