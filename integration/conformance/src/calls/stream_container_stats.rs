//! StreamContainerStats: the list, in pieces.

use super::{
    list_container_stats::{by_label, ids},
    list_containers::three,
    prelude::*,
    stream_pod_sandboxes::NEWER,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamContainerStats gives each container once, filters and ends",
            "this is an alternative to ListContainerStats; the server closes the stream after all items",
            |run: Run| async move {
                let (mine, [_, running, _]) = three(&run).await?;
                for filter in [None, Some(by_label(&mine))] {
                    let request = v1::StreamContainerStatsRequest { filter };
                    let mut answers = run.cri().stream_container_stats(request).await?.into_inner();
                    let mut all = Vec::new();
                    while let Some(answer) = answers.message().await? {
                        ensure!(!answer.container_stats.is_empty(), "there is a piece with nothing in it");
                        all.extend(answer.container_stats);
                    }
                    let found = ids(&all);
                    same("how often it is in", found.iter().filter(|id| *id == &running).count(), 1)?;
                }
                Ok(())
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
