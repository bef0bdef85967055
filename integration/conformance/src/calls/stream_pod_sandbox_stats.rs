//! StreamPodSandboxStats: the list, in pieces.

use super::{
    list_pod_sandbox_stats::{ids, labelled},
    prelude::*,
    stream_pod_sandboxes::NEWER,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamPodSandboxStats gives each pod once, filters and ends",
            "this is an alternative to ListPodSandboxStats; the server closes the stream after all items",
            |run: Run| async move {
                let (mine, pod) = labelled(&run).await?;
                for filter in [None, Some(mine)] {
                    let request = v1::StreamPodSandboxStatsRequest { filter };
                    let mut answers = run.cri().stream_pod_sandbox_stats(request).await?.into_inner();
                    let mut all = Vec::new();
                    while let Some(answer) = answers.message().await? {
                        ensure!(!answer.pod_sandbox_stats.is_empty(), "there is a piece with nothing in it");
                        all.extend(answer.pod_sandbox_stats);
                    }
                    let found = ids(&all);
                    same("how often it is in", found.iter().filter(|id| *id == &pod.id).count(), 1)?;
                }
                Ok(())
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
