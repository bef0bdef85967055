//! StreamImages: the list, in pieces.

use super::{list_images::list, prelude::*, stream_pod_sandboxes::NEWER};
use crate::images::FULL;

async fn stream(run: &Run, name: &str) -> Outcome<Vec<v1::Image>> {
    let filter = Some(v1::ImageFilter { image: Some(image(name)) }).filter(|_| !name.is_empty());
    let mut answers = run.images().stream_images(v1::StreamImagesRequest { filter }).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        ensure!(!answer.images.is_empty(), "there is a piece with nothing in it");
        all.extend(answer.images);
    }
    Ok(all)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "StreamImages gives each image once, filters and ends",
            "this is an alternative to ListImages; the server closes the stream after all items",
            |run: Run| async move {
                let all = stream(&run, "").await?;
                for wanted in [IMAGE, FULL] {
                    let count = all.iter().filter(|i| i.repo_tags.iter().any(|tag| tag == wanted)).count();
                    same(wanted, count, 1)?;
                }
                same("by name", stream(&run, FULL).await?, list(&run, FULL).await?)?;
                same("unknown", stream(&run, "localhost/no-such-image:1").await?.len(), 0)
            },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
