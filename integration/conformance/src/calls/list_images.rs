//! ListImages: what is there.

use super::prelude::*;
use crate::images::FULL;

pub(super) async fn list(run: &Run, name: &str) -> Outcome<Vec<v1::Image>> {
    let filter = Some(v1::ImageFilter { image: Some(image(name)) }).filter(|_| !name.is_empty());
    Ok(run.images().list_images(v1::ListImagesRequest { filter }).await?.into_inner().images)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "every image is listed once, with id, names and size",
            "id, names and digests of the image; its size must be > 0",
            |run: Run| async move {
                let all = list(&run, "").await?;
                let mut ids: Vec<&String> = all.iter().map(|image| &image.id).collect();
                ids.sort();
                ids.dedup();
                same("the number of ids", ids.len(), all.len())?;
                for wanted in [IMAGE, FULL] {
                    let found = all.iter().find(|image| image.repo_tags.iter().any(|tag| tag == wanted));
                    let found = found.ok_or_else(|| Failure(format!("{wanted} is missing")))?;
                    ensure!(!found.id.is_empty() && found.size > 0, "{found:?}");
                }
                Ok(())
            },
        ),
        case(
            "a name selects an image, and an unknown one none",
            "filter to list images",
            |run: Run| async move {
                let found = list(&run, IMAGE).await?;
                same("the number of images", found.len(), 1)?;
                ensure!(found[0].repo_tags.iter().any(|tag| tag == IMAGE), "{:?}", found[0]);
                same("by id", list(&run, &found[0].id).await?.len(), 1)?;
                same("unknown", list(&run, "localhost/no-such-image:1").await?.len(), 0)
            },
        )
        .containerd(
            "the number of images is",
            "containerd ignores the filter of images, in all versions; Pintle is right",
        ),
        case(
            "the user of an image is told by number or by name",
            "uid and username are mutually exclusive",
            |run: Run| async move {
                let all = list(&run, "").await?;
                let found = all.iter().find(|image| image.repo_tags.iter().any(|tag| tag == FULL));
                let found = found.ok_or_else(|| Failure("the image is missing".to_owned()))?;
                same("user", (found.uid, found.username.as_str()), (None, "web"))
            },
        ),
    ]
}
