//! ListPodSandboxStats: what many pods use.

use super::{NOBODY, prelude::*};

/// A pod with a label of its own.
pub(super) async fn labelled(run: &Run) -> Outcome<(v1::PodSandboxStatsFilter, Pod)> {
    let mine = run.name("label");
    let pod = run.pod_with(|config| drop(config.labels.insert("mine".to_owned(), mine.clone()))).await?;
    pod.start(|_| {}).await?;
    let label_selector = labels(&[("mine", &mine)]);
    Ok((v1::PodSandboxStatsFilter { label_selector, ..Default::default() }, pod))
}

pub(super) fn ids(list: &[v1::PodSandboxStats]) -> Vec<String> {
    list.iter().map(|stats| stats.attributes.clone().unwrap_or_default().id).collect()
}

async fn list(run: &Run, filter: Option<v1::PodSandboxStatsFilter>) -> Outcome<Vec<String>> {
    let request = v1::ListPodSandboxStatsRequest { filter };
    Ok(ids(&run.cri().list_pod_sandbox_stats(request).await?.into_inner().stats))
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "an id and labels select pods' statistics, and both together",
            "all those fields are combined with AND",
            |run: Run| async move {
                let (by_label, pod) = labelled(&run).await?;
                let id = v1::PodSandboxStatsFilter { id: pod.id.clone(), ..Default::default() };
                same("by id", list(&run, Some(id)).await?, vec![pod.id.clone()])?;
                same("by label", list(&run, Some(by_label.clone())).await?, vec![pod.id.clone()])?;
                let other = v1::PodSandboxStatsFilter { id: NOBODY.to_owned(), ..by_label };
                same("another id", list(&run, Some(other)).await?.len(), 0)
            },
        ),
        case(
            "without a filter every ready pod is in the list, once",
            "stats of the pod sandboxes matching a filter",
            |run: Run| async move {
                let (_, pod) = labelled(&run).await?;
                let all = list(&run, None).await?;
                same("how often it is in", all.iter().filter(|id| *id == &pod.id).count(), 1)
            },
        )
        .containerd_at_times(
            "sandbox",
            "containerd 1.6 fails when a pod goes while it lists; Pintle is right",
        ),
    ]
}
