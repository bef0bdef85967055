//! ListContainerStats: what many containers use.

use super::{NOBODY, list_containers::three, prelude::*};

pub(super) async fn list(
    run: &Run,
    filter: Option<v1::ContainerStatsFilter>,
) -> Outcome<Vec<v1::ContainerStats>> {
    let request = v1::ListContainerStatsRequest { filter };
    Ok(run.cri().list_container_stats(request).await?.into_inner().stats)
}

pub(super) fn ids(list: &[v1::ContainerStats]) -> Vec<String> {
    list.iter().map(|stats| stats.attributes.clone().unwrap_or_default().id).collect()
}

pub(super) fn by_label(mine: &str) -> v1::ContainerStatsFilter {
    v1::ContainerStatsFilter { label_selector: labels(&[("mine", mine)]), ..Default::default() }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "the running containers are in the list, each once",
            "stats of all running containers",
            |run: Run| async move {
                let (_, [_, running, ended]) = three(&run).await?;
                let found = ids(&list(&run, None).await?);
                same("how often it is in", found.iter().filter(|id| *id == &running).count(), 1)?;
                ensure!(!found.contains(&ended), "an ended one is in");
                Ok(())
            },
        )
        .containerd("an ended one is in", "containerd lists all containers; the text says the running ones"),
        case(
            "an id, a sandbox and labels select statistics, and all of them together",
            "all those fields are combined with AND",
            |run: Run| async move {
                let (mine, [_, running, _]) = three(&run).await?;
                let pod = run.shared().await?.id;
                let id = v1::ContainerStatsFilter { id: running.clone(), ..Default::default() };
                same("by id", ids(&list(&run, Some(id)).await?), vec![running.clone()])?;
                same("by label", ids(&list(&run, Some(by_label(&mine))).await?), vec![running.clone()])?;
                let all =
                    v1::ContainerStatsFilter { id: running.clone(), pod_sandbox_id: pod, ..by_label(&mine) };
                same("by all", ids(&list(&run, Some(all)).await?), vec![running])?;
                let other = v1::ContainerStatsFilter { pod_sandbox_id: NOBODY.to_owned(), ..by_label(&mine) };
                same("in another sandbox", list(&run, Some(other)).await?.len(), 0)
            },
        )
        .containerd(
            "by label is",
            "containerd lists those too that do not run; the text says the running ones",
        ),
    ]
}
