//! RemoveImage: with all its names, however often it is asked for.

use super::{image_status::status, prelude::*};

async fn remove(run: &Run, name: &str) -> Result<(), tonic::Status> {
    let request = v1::RemoveImageRequest { image: Some(image(name)) };
    run.images().remove_image(request).await.map(drop)
}

/// Gives the runtime an image of the case's own under a name.
async fn give(run: &Run, tags: &[&str]) -> Outcome<String> {
    let archive = run.dir("image")?.join("image.tar");
    crate::images::write_own(&archive, tags, run.name("content").as_str());
    run.side().import(&archive);
    let name = tags.first().copied().unwrap_or_default();
    run.until("the image", async || Ok(status(run, name, false).await?.image.map(|image| image.id))).await
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "an image is removed by its name, and by its id",
            "removes the image; the next call of ListImages or ImageStatus will not return it",
            |run: Run| async move {
                let name = format!("localhost/{}:1", run.name("own"));
                give(&run, &[&name]).await?;
                remove(&run, &name).await?;
                same("the image", status(&run, &name, false).await?.image, None)?;
                let id = give(&run, &[&name]).await?;
                remove(&run, &id).await?;
                same("by name", status(&run, &name, false).await?.image, None)?;
                same("by id", status(&run, &id, false).await?.image, None)
            },
        ),
        case(
            "removed by one of its names, an image goes with all of them",
            "removing the image by a single tag will remove all of its tags",
            |run: Run| async move {
                let (one, two) =
                    (format!("localhost/{}:1", run.name("own")), format!("localhost/{}:1", run.name("own")));
                give(&run, &[&one, &two]).await?;
                ensure!(status(&run, &two, false).await?.image.is_some(), "the second name is missing");
                remove(&run, &one).await?;
                same("the first", status(&run, &one, false).await?.image, None)?;
                same("the second", status(&run, &two, false).await?.image, None)
            },
        ),
        case(
            "an image that is gone, or never was, can be removed",
            "idempotent: no error if the image has already been removed",
            |run: Run| async move {
                let name = format!("localhost/{}:1", run.name("own"));
                give(&run, &[&name]).await?;
                for _ in 0..2 {
                    remove(&run, &name).await?;
                }
                Ok(remove(&run, "localhost/never-was:1").await?)
            },
        ),
        case("without a name it is a bad request", "spec of the image to remove", |run: Run| async move {
            let answer = run.images().remove_image(v1::RemoveImageRequest::default()).await;
            refused(answer, &[Code::InvalidArgument]).map(drop)
        })
        .containerd("instead of", "containerd 1.6 answers Unknown; Pintle is right"),
    ]
}
