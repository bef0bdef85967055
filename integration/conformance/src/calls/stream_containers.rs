//! StreamContainers: the list, in pieces.

use super::{
    list_containers::{by_label, list, three},
    prelude::*,
    stream_pod_sandboxes::NEWER,
};

async fn stream(run: &Run, filter: Option<v1::ContainerFilter>) -> Outcome<Vec<v1::Container>> {
    let request = v1::StreamContainersRequest { filter };
    let mut answers = run.cri().stream_containers(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        ensure!(!answer.containers.is_empty(), "there is a piece with nothing in it");
        all.extend(answer.containers);
    }
    Ok(all)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamContainers gives each container once and ends",
            "each item must appear in exactly one response; the server closes the stream after all items",
            |run: Run| async move {
                let (_, mine) = three(&run).await?;
                let mut ids: Vec<String> = stream(&run, None).await?.into_iter().map(|c| c.id).collect();
                let count = ids.len();
                ids.sort();
                ids.dedup();
                same("the number of different ids", ids.len(), count)?;
                ensure!(mine.iter().all(|id| ids.contains(id)), "some are missing");
                Ok(())
            },
        )
        .containerd("Unimplemented", NEWER),
        case(
            "StreamContainers filters and tells as ListContainers does",
            "this is an alternative to ListContainers",
            |run: Run| async move {
                let (mine, _) = three(&run).await?;
                let streamed = stream(&run, Some(by_label(&mine))).await?;
                same("the list", streamed, list(&run, Some(by_label(&mine))).await?)
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
