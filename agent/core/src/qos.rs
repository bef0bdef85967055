//! A pod's quality-of-service class, from the resources of its containers.
//!
//! In: a pod with its defaults filled in. Out: [`QosClass`]. Only cpu and memory count, and a quantity of zero counts as
//! not written, as in Kubernetes.

use std::fmt;

use k8s_openapi::api::core::v1 as api;

use crate::resources::{CPU, MEMORY, amount};

/// How well the node treats a pod under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container has limits equal to its requests, for cpu and for memory.
    Guaranteed,
    /// Neither of the others.
    Burstable,
    /// No container has requests or limits.
    BestEffort,
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// The class of a pod (`status.qosClass`).
pub fn class(pod: &api::Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if containers().all(asks_for_nothing) {
        QosClass::BestEffort
    } else if containers().all(is_guaranteed) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

fn asks_for_nothing(container: &api::Container) -> bool {
    let Some(resources) = &container.resources else { return true };
    [&resources.requests, &resources.limits]
        .into_iter()
        .all(|list| [CPU, MEMORY].into_iter().all(|name| amount(list.as_ref(), name).is_none()))
}

fn is_guaranteed(container: &api::Container) -> bool {
    let Some(resources) = &container.resources else { return false };
    [CPU, MEMORY].into_iter().all(|name| {
        let limit = amount(resources.limits.as_ref(), name);
        // A request that is not written is the limit.
        let request = amount(resources.requests.as_ref(), name).or(limit);
        limit.is_some() && limit == request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type List<'a> = &'a [(&'a str, &'a str)];

    fn pod(containers: &[(List<'_>, List<'_>)]) -> api::Pod {
        let containers = containers
            .iter()
            .map(|(requests, limits)| api::Container {
                resources: Some(api::ResourceRequirements {
                    requests: crate::resources::list(requests),
                    limits: crate::resources::list(limits),
                    ..Default::default()
                }),
                ..Default::default()
            })
            .collect();
        api::Pod { spec: Some(api::PodSpec { containers, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_best_effort() {
        assert_eq!(class(&pod(&[(&[], &[]), (&[], &[])])), QosClass::BestEffort);
        assert_eq!(class(&pod(&[(&[("cpu", "0")], &[])])), QosClass::BestEffort);
        assert_eq!(class(&pod(&[(&[("ephemeral-storage", "1Gi")], &[])])), QosClass::BestEffort);
    }

    #[test]
    fn limits_equal_to_requests_in_every_container_are_guaranteed() {
        let full: List<'_> = &[("cpu", "1"), ("memory", "1Gi")];
        let same: List<'_> = &[("cpu", "1000m"), ("memory", "1024Mi")];
        assert_eq!(class(&pod(&[(full, same), (&[], full)])), QosClass::Guaranteed);
    }

    #[test]
    fn anything_between_is_burstable() {
        let full: List<'_> = &[("cpu", "1"), ("memory", "1Gi")];
        assert_eq!(class(&pod(&[(full, full), (&[], &[])])), QosClass::Burstable);
        assert_eq!(class(&pod(&[(&[], &[("cpu", "1")])])), QosClass::Burstable);
        assert_eq!(class(&pod(&[(&[("memory", "1Mi")], &[])])), QosClass::Burstable);
        assert_eq!(class(&pod(&[(&[("cpu", "500m"), ("memory", "1Gi")], full)])), QosClass::Burstable);
    }
}
