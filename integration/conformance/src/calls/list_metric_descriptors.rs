//! ListMetricDescriptors: what the metrics of pods are called.

use std::collections::BTreeSet;

use super::prelude::*;

/// Why containerd has no metrics.
pub(super) const NEWER: &str =
    "the metric calls came with Kubernetes 1.26; containerd 1.6 does not know them";

pub(super) async fn descriptors(run: &Run) -> Outcome<Vec<v1::MetricDescriptor>> {
    let request = v1::ListMetricDescriptorsRequest::default();
    Ok(run.cri().list_metric_descriptors(request).await?.into_inner().descriptors)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "metrics have names of their own, a help and keys",
            "the name is a unique identifier of the descriptor",
            |run: Run| async move {
                let all = descriptors(&run).await?;
                ensure!(!all.is_empty(), "there are none");
                let names: BTreeSet<_> = all.iter().map(|one| one.name.clone()).collect();
                same("the number of names", names.len(), all.len())?;
                for one in all {
                    ensure!(!one.name.is_empty() && !one.help.is_empty(), "{one:?} has no name or no help");
                    let keys: BTreeSet<_> = one.label_keys.iter().collect();
                    same("the number of keys", keys.len(), one.label_keys.len())?;
                }
                Ok(())
            },
        )
        .containerd("Unimplemented", NEWER),
        case("the list is always the same", "this list should be static at startup", |run: Run| async move {
            let before = descriptors(&run).await?;
            run.pod().await?;
            same("the list", descriptors(&run).await?, before)
        })
        .containerd("Unimplemented", NEWER),
    ]
}
