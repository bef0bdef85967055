//! Whether a pod fits on this node. Decided once for a pod, when its manifest is first seen.
//!
//! In: the pod, the pods that were admitted before, the node's capacity less what is kept back. Out: yes, or the reason
//! users know (`OutOfpods`, `OutOfcpu`, `OutOfmemory`). What runs is never looked at again.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use pintle_core::model::DesiredPod;
use pintle_core::qos::{self, QosClass};
use pintle_core::resources::{self, Bytes, MilliCpu};

/// What the node can give to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// So many of them.
    pub(crate) pods: u32,
    /// Processors.
    pub(crate) cpu: MilliCpu,
    /// Memory.
    pub(crate) memory: Bytes,
}

/// Why a pod is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `status.reason`.
    pub(crate) reason: &'static str,
    /// `status.message`.
    pub(crate) message: String,
}

impl Refusal {
    /// The status of a pod that is not run.
    pub(crate) fn status(&self) -> api::PodStatus {
        api::PodStatus {
            phase: Some("Failed".into()),
            reason: Some(self.reason.into()),
            message: Some(format!("Pod was rejected: {}", self.message)),
            ..Default::default()
        }
    }
}

/// Decides.
pub(crate) fn admit<'a>(
    pod: &DesiredPod,
    admitted: impl Iterator<Item = &'a Arc<DesiredPod>>,
    capacity: &Capacity,
) -> Result<(), Refusal> {
    let (mut count, mut used) = (0_u32, requests(pod));
    let asked = used;
    for other in admitted {
        count += 1;
        let other = requests(other);
        used = (used.0 + other.0, used.1 + other.1);
    }
    let lacks = |reason, resource: &str, asked: u64, used: u64, capacity: u64| {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}"
        );
        Err(Refusal { reason, message })
    };
    if count >= capacity.pods {
        return lacks("OutOfpods", "pods", 1, count.into(), capacity.pods.into());
    }
    if asked.0.0 > 0 && used.0 > capacity.cpu {
        return lacks("OutOfcpu", "cpu", asked.0.0, used.0.0 - asked.0.0, capacity.cpu.0);
    }
    if asked.1.0 > 0 && used.1 > capacity.memory {
        return lacks("OutOfmemory", "memory", asked.1.0, used.1.0 - asked.1.0, capacity.memory.0);
    }
    Ok(())
}

/// The shares of the burstable class: what its pods ask for together.
pub(crate) fn burstable_shares<'a>(admitted: impl Iterator<Item = &'a Arc<DesiredPod>>) -> u64 {
    let burstable = admitted.filter(|pod| qos::class(&pod.pod) == QosClass::Burstable);
    resources::cpu_shares(burstable.map(|pod| requests(pod).0).sum())
}

fn requests(pod: &DesiredPod) -> (MilliCpu, Bytes) {
    let containers = || pod.pod.spec.iter().flat_map(|spec| &spec.containers).map(resources::of_container);
    (
        containers().filter_map(|container| container.cpu_request).sum(),
        containers().filter_map(|container| container.memory_request).sum(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox_config::tests::desired;

    fn pod(requests: &str) -> Arc<DesiredPod> {
        Arc::new(desired(&format!(
            r#"{{"metadata":{{"name":"a"}},"spec":{{"containers":[{{"name":"c","resources":{{"requests":{requests}}}}}]}}}}"#
        )))
    }

    const NODE: Capacity = Capacity { pods: 3, cpu: MilliCpu(2000), memory: Bytes(1 << 30) };

    fn reason(pod: &DesiredPod, others: &[Arc<DesiredPod>]) -> Option<&'static str> {
        admit(pod, others.iter(), &NODE).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn a_pod_is_refused_for_what_the_node_lacks() {
        let (none, cpu, memory) = (pod("{}"), pod(r#"{"cpu":"1500m"}"#), pod(r#"{"memory":"600Mi"}"#));
        assert_eq!(reason(&cpu, &[]), None);
        assert_eq!(reason(&cpu, std::slice::from_ref(&cpu)), Some("OutOfcpu"));
        assert_eq!(reason(&memory, std::slice::from_ref(&memory)), Some("OutOfmemory"));
        assert_eq!(reason(&none, &[cpu.clone(), memory.clone()]), None);
        assert_eq!(reason(&none, &[none.clone(), none.clone(), none.clone()]), Some("OutOfpods"));
    }

    #[test]
    fn the_burstable_class_gets_what_its_pods_ask_for_together() {
        let pods = [pod(r#"{"cpu":"500m"}"#), pod(r#"{"cpu":"1"}"#), pod("{}")];
        assert_eq!(burstable_shares(pods.iter()), 1536);
        assert_eq!(burstable_shares([].iter()), 2);
    }
}
