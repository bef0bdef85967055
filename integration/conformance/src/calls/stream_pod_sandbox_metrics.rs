//! StreamPodSandboxMetrics: the list, in pieces.

use super::{list_pod_sandbox_metrics::check, prelude::*, stream_pod_sandboxes::NEWER};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamPodSandboxMetrics gives each pod once and ends",
            "this is an alternative to ListPodSandboxMetrics; the server closes the stream after all items",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|_| {}).await?;
                let request = v1::StreamPodSandboxMetricsRequest::default();
                let mut answers = run.cri().stream_pod_sandbox_metrics(request).await?.into_inner();
                let mut all = Vec::new();
                while let Some(answer) = answers.message().await? {
                    ensure!(!answer.pod_sandbox_metrics.is_empty(), "there is a piece with nothing in it");
                    all.extend(answer.pod_sandbox_metrics);
                }
                check(&run, all, &pod.id, &id).await
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
