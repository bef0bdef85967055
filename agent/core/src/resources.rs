//! What a pod's resources mean for the kernel: shares, weights, quotas, limits, the OOM score and the cgroup's path.
//!
//! In: a pod or container with its defaults filled in. Out: plain numbers for cgroup v1 and v2. It touches no cgroup.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::ids::PodUid;
use crate::qos::{self, QosClass};
use crate::quantity::Quantity;

/// The name of the resource that is counted in processors.
pub const CPU: &str = "cpu";
/// The name of the resource that is counted in bytes.
pub const MEMORY: &str = "memory";

/// The CFS period: 100 ms, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The smallest quota that the kernel takes: 1 ms, in microseconds.
pub const MIN_CPU_QUOTA_US: u64 = 1_000;
/// The smallest cpu.shares.
pub const MIN_CPU_SHARES: u64 = 2;
/// The largest cpu.shares.
pub const MAX_CPU_SHARES: u64 = 262_144;

/// The OOM score adjustment of a sandbox's infra container.
pub const INFRA_OOM_SCORE_ADJ: i32 = -998;
/// The OOM score adjustment of guaranteed and of node-critical pods.
pub const GUARANTEED_OOM_SCORE_ADJ: i32 = -997;
/// The OOM score adjustment of best-effort pods.
pub const BEST_EFFORT_OOM_SCORE_ADJ: i32 = 1000;

/// From this priority on a pod is critical to its node (`system-node-critical`).
pub const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// Thousandths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MilliCpu(pub u64);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Add for MilliCpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for MilliCpu {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self(0), Add::add)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self(0), Add::add)
    }
}

/// What one container asks for and may use. An absent request counts as the limit if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerResources {
    /// `requests.cpu`.
    pub cpu_request: Option<MilliCpu>,
    /// `limits.cpu`.
    pub cpu_limit: Option<MilliCpu>,
    /// `requests.memory`.
    pub memory_request: Option<Bytes>,
    /// `limits.memory`.
    pub memory_limit: Option<Bytes>,
}

/// Values for a container's or a pod's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupValues {
    /// v1 `cpu.shares`.
    pub cpu_shares: u64,
    /// v2 `cpu.weight`.
    pub cpu_weight: u64,
    /// Microseconds of processor time in a [`CPU_PERIOD_US`]; absent for no limit.
    pub cpu_quota_us: Option<u64>,
    /// `memory.limit_in_bytes` or `memory.max`; absent for no limit.
    pub memory_limit: Option<Bytes>,
}

/// A container's resources as numbers.
pub fn of_container(container: &api::Container) -> ContainerResources {
    let Some(resources) = &container.resources else { return ContainerResources::default() };
    let (requests, limits) = (resources.requests.as_ref(), resources.limits.as_ref());
    let cpu_limit = amount(limits, CPU).map(milli_cpu);
    let memory_limit = amount(limits, MEMORY).map(bytes);
    ContainerResources {
        cpu_request: requested(requests, CPU).map(milli_cpu).or(cpu_limit),
        cpu_limit,
        memory_request: requested(requests, MEMORY).map(bytes).or(memory_limit),
        memory_limit,
    }
}

/// The cgroup values of one container.
pub fn container_cgroup(container: &api::Container) -> CgroupValues {
    let resources = of_container(container);
    let shares = cpu_shares(resources.cpu_request.unwrap_or_default());
    CgroupValues {
        cpu_shares: shares,
        cpu_weight: cpu_weight(shares),
        cpu_quota_us: resources.cpu_limit.map(cpu_quota_us),
        memory_limit: resources.memory_limit,
    }
}

/// The cgroup values of a whole pod: sums of its containers; limited only if every container is.
pub fn pod_cgroup(pod: &api::Pod) -> CgroupValues {
    let containers: Vec<ContainerResources> =
        pod.spec.iter().flat_map(|spec| &spec.containers).map(of_container).collect();
    let request: MilliCpu = containers.iter().filter_map(|c| c.cpu_request).sum();
    let shares = match qos::class(pod) {
        QosClass::BestEffort => MIN_CPU_SHARES,
        QosClass::Guaranteed | QosClass::Burstable => cpu_shares(request),
    };
    let cpu_limit: Option<MilliCpu> =
        all(&containers, |c| c.cpu_limit).map(|limits| limits.into_iter().sum());
    let memory_limit: Option<Bytes> =
        all(&containers, |c| c.memory_limit).map(|limits| limits.into_iter().sum());
    CgroupValues {
        cpu_shares: shares,
        cpu_weight: cpu_weight(shares),
        cpu_quota_us: cpu_limit.map(cpu_quota_us),
        memory_limit,
    }
}

fn all<T>(
    containers: &[ContainerResources],
    limit: impl Fn(&ContainerResources) -> Option<T>,
) -> Option<Vec<T>> {
    if containers.is_empty() { None } else { containers.iter().map(limit).collect() }
}

/// v1 `cpu.shares`: 1024 for a processor, at least 2.
pub fn cpu_shares(request: MilliCpu) -> u64 {
    (request.0.saturating_mul(1024) / 1000).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES)
}

/// v2 `cpu.weight` from v1 shares by the formula of 2025, with which 2 shares are 1, 1024 are 100 and 262144 are 10000.
pub fn cpu_weight(shares: u64) -> u64 {
    let shares = u32::try_from(shares.clamp(MIN_CPU_SHARES, MAX_CPU_SHARES)).unwrap_or(u32::MAX);
    let log = f64::from(shares).log2();
    let exponent = log.mul_add(log, 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Between 1 and 10000 by the clamps, before and after: it can neither be negative nor be cut off.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let weight = 10_f64.powf(exponent).ceil().clamp(1.0, 10_000.0) as u64;
    weight
}

/// The CFS quota in microseconds for a limit, at least 1 ms.
pub fn cpu_quota_us(limit: MilliCpu) -> u64 {
    (limit.0.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_CPU_QUOTA_US)
}

/// How readily the kernel kills a container's processes when `capacity` bytes of the node's memory run out.
pub fn oom_score_adj(pod: &api::Pod, container: &api::Container, capacity: Bytes) -> i32 {
    if is_node_critical(pod) {
        return GUARANTEED_OOM_SCORE_ADJ;
    }
    match qos::class(pod) {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => {
            let request = of_container(container).memory_request.unwrap_or_default();
            let share = u128::from(request.0) * 1000 / u128::from(capacity.0.max(1));
            let score = 1000 - i32::try_from(share).unwrap_or(i32::MAX).min(1000);
            score.clamp(3, 999)
        }
    }
}

/// Whether the pod has the priority of `system-node-critical`.
pub fn is_node_critical(pod: &api::Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.priority.is_some_and(|priority| priority >= SYSTEM_NODE_CRITICAL)
        || spec.priority_class_name.as_deref() == Some("system-node-critical")
}

/// The cgroup of a pod below the instance's cgroup root: `/kubepods[/burstable|/besteffort]/pod<uid>`.
pub fn cgroup_parent(class: QosClass, uid: &PodUid) -> String {
    match class {
        QosClass::Guaranteed => format!("/kubepods/pod{uid}"),
        QosClass::Burstable => format!("/kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// A resource of a list, if it is written, well formed and more than zero.
pub(crate) fn amount(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    requested(list, name).filter(|quantity| !quantity.is_zero())
}

/// A resource of a list, if it is written and well formed; also zero.
fn requested(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok().filter(|quantity| !quantity.is_negative())
}

fn milli_cpu(quantity: Quantity) -> MilliCpu {
    MilliCpu(u64::try_from(quantity.milli_value()).unwrap_or(0))
}

fn bytes(quantity: Quantity) -> Bytes {
    Bytes(u64::try_from(quantity.value()).unwrap_or(0))
}

/// A list of resources, for tests.
#[cfg(test)]
pub(crate) fn list(items: &[(&str, &str)]) -> Option<BTreeMap<String, ApiQuantity>> {
    Some(items.iter().map(|(name, text)| ((*name).to_owned(), ApiQuantity((*text).to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> api::Container {
        let resources = api::ResourceRequirements {
            requests: list(requests),
            limits: list(limits),
            ..Default::default()
        };
        api::Container { resources: Some(resources), ..Default::default() }
    }

    fn pod(containers: Vec<api::Container>) -> api::Pod {
        api::Pod { spec: Some(api::PodSpec { containers, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn shares_and_weights_follow_the_table() {
        for (milli, shares, weight) in [
            (0, 2, 1),
            (1, 2, 1),
            (2, 2, 1),
            (10, 10, 4),
            (50, 51, 11),
            (100, 102, 17),
            (250, 256, 35),
            (500, 512, 59),
            (1000, 1024, 100),
            (2000, 2048, 174),
            (4000, 4096, 303),
            (64_000, 65_536, 3023),
            (256_000, 262_144, 10_000),
            (1_000_000, 262_144, 10_000),
        ] {
            assert_eq!(cpu_shares(MilliCpu(milli)), shares, "{milli}m");
            assert_eq!(cpu_weight(shares), weight, "{milli}m");
        }
    }

    #[test]
    fn a_weight_never_falls_when_shares_rise() {
        let weights: Vec<u64> = (MIN_CPU_SHARES..=MAX_CPU_SHARES).map(cpu_weight).collect();
        assert!(weights.is_sorted());
        assert_eq!((weights.first(), weights.last()), (Some(&1), Some(&10_000)));
    }

    #[test]
    fn a_quota_is_at_least_a_millisecond() {
        assert_eq!(cpu_quota_us(MilliCpu(1)), 1000);
        assert_eq!(cpu_quota_us(MilliCpu(10)), 1000);
        assert_eq!(cpu_quota_us(MilliCpu(250)), 25_000);
        assert_eq!(cpu_quota_us(MilliCpu(2000)), 200_000);
    }

    #[test]
    fn a_pods_cgroup_is_the_sum_of_its_containers() {
        let a = container(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")]);
        let b = container(&[], &[("cpu", "1"), ("memory", "64Mi")]);
        let values = pod_cgroup(&pod(vec![a.clone(), b]));
        assert_eq!(values.cpu_shares, 1280);
        assert_eq!(values.cpu_quota_us, Some(150_000));
        assert_eq!(values.memory_limit, Some(Bytes(128 << 20)));
        let values = pod_cgroup(&pod(vec![a, container(&[], &[])]));
        assert_eq!((values.cpu_quota_us, values.memory_limit), (None, None));
        assert_eq!(pod_cgroup(&pod(vec![container(&[], &[])])).cpu_shares, 2);
    }

    #[test]
    fn the_oom_score_follows_class_and_request() {
        let capacity = Bytes(4 << 30);
        let best_effort = pod(vec![container(&[], &[])]);
        assert_eq!(oom_score_adj(&best_effort, &container(&[], &[]), capacity), 1000);
        let full = container(&[], &[("cpu", "1"), ("memory", "1Gi")]);
        assert_eq!(oom_score_adj(&pod(vec![full.clone()]), &full, capacity), -997);
        let quarter = container(&[("memory", "1Gi")], &[]);
        assert_eq!(oom_score_adj(&pod(vec![quarter.clone()]), &quarter, capacity), 750);
        let everything = container(&[("memory", "64Gi")], &[]);
        assert_eq!(oom_score_adj(&pod(vec![everything.clone()]), &everything, capacity), 3);
        let hardly = container(&[("memory", "1Ki")], &[]);
        assert_eq!(oom_score_adj(&pod(vec![hardly.clone()]), &hardly, capacity), 999);
        let mut critical = best_effort;
        if let Some(spec) = &mut critical.spec {
            spec.priority_class_name = Some("system-node-critical".to_owned());
        }
        assert_eq!(oom_score_adj(&critical, &container(&[], &[]), capacity), -997);
    }

    #[test]
    fn the_cgroup_path_says_the_class() {
        let uid = PodUid::new("u-1");
        assert_eq!(cgroup_parent(QosClass::Guaranteed, &uid), "/kubepods/podu-1");
        assert_eq!(cgroup_parent(QosClass::Burstable, &uid), "/kubepods/burstable/podu-1");
        assert_eq!(cgroup_parent(QosClass::BestEffort, &uid), "/kubepods/besteffort/podu-1");
    }
}
