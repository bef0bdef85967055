//! StreamPodSandboxes: the list, in pieces.

use super::{
    list_pod_sandbox::{by_label, in_state, two},
    prelude::*,
};

/// Why containerd has none of the Stream calls.
pub(super) const NEWER: &str =
    "the Stream calls came with Kubernetes 1.36; containerd 1.6 does not know them";

async fn stream(run: &Run, filter: Option<v1::PodSandboxFilter>) -> Outcome<Vec<v1::PodSandbox>> {
    let request = v1::StreamPodSandboxesRequest { filter };
    let mut answers = run.cri().stream_pod_sandboxes(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        ensure!(!answer.pod_sandboxes.is_empty(), "there is a piece with nothing in it");
        all.extend(answer.pod_sandboxes);
    }
    Ok(all)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamPodSandboxes gives each sandbox once and ends",
            "each item must appear in exactly one response; the server closes the stream after all items",
            |run: Run| async move {
                let (mine, ready, stopped) = two(&run).await?;
                let mut ids: Vec<String> = stream(&run, None).await?.into_iter().map(|pod| pod.id).collect();
                let count = ids.len();
                ids.sort();
                ids.dedup();
                same("the number of different ids", ids.len(), count)?;
                ensure!(ids.contains(&ready.id) && ids.contains(&stopped.id), "some are missing");
                let mut found: Vec<String> =
                    stream(&run, Some(by_label(&mine))).await?.into_iter().map(|pod| pod.id).collect();
                let mut wanted = vec![ready.id, stopped.id];
                found.sort();
                wanted.sort();
                same("by label", found, wanted)
            },
        )
        .containerd("Unimplemented", NEWER),
        case(
            "StreamPodSandboxes filters and tells as ListPodSandbox does",
            "this is an alternative to ListPodSandbox",
            |run: Run| async move {
                let (mine, ..) = two(&run).await?;
                let filter = in_state(v1::PodSandboxState::SandboxReady, by_label(&mine));
                let streamed = stream(&run, Some(filter.clone())).await?;
                same("the list", streamed, super::list_pod_sandbox::list(&run, Some(filter)).await?)
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
