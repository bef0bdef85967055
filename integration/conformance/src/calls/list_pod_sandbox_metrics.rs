//! ListPodSandboxMetrics: the metrics of all pods.

use super::{
    list_metric_descriptors::{NEWER, descriptors},
    prelude::*,
};

/// Checks that a pod's metrics are as their descriptors say.
pub(super) async fn check(run: &Run, all: Vec<v1::PodSandboxMetrics>, pod: &str, container: &str) -> Outcome {
    let known = descriptors(run).await?;
    let mut own = all.into_iter().filter(|metrics| metrics.pod_sandbox_id == pod);
    let found = own.next().ok_or_else(|| Failure(format!("{pod} has no metrics")))?;
    ensure!(own.next().is_none(), "{pod} stands twice");
    let of_container = found.container_metrics.iter().find(|metrics| metrics.container_id == container);
    let of_container = of_container.ok_or_else(|| Failure(format!("{container} has no metrics")))?;
    ensure!(!of_container.metrics.is_empty(), "{container} has no metrics");
    for metric in found.metrics.iter().chain(&of_container.metrics) {
        let descriptor = known.iter().find(|one| one.name == metric.name);
        let descriptor = descriptor.ok_or_else(|| Failure(format!("{} has no descriptor", metric.name)))?;
        same(&metric.name, metric.label_values.len(), descriptor.label_keys.len())?;
        ensure!(metric.value.is_some(), "{} has no value", metric.name);
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "every metric has a descriptor and as many values as that has keys",
            "a name must match one that the descriptors call returned; values correspond to the keys",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|_| {}).await?;
                let request = v1::ListPodSandboxMetricsRequest::default();
                let all = run.cri().list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics;
                check(&run, all, &pod.id, &id).await
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
