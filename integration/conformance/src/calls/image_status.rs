//! ImageStatus: one image.

use super::prelude::*;

pub(super) async fn status(run: &Run, name: &str, verbose: bool) -> Outcome<v1::ImageStatusResponse> {
    let request = v1::ImageStatusRequest { image: Some(image(name)), verbose };
    Ok(run.images().image_status(request).await?.into_inner())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "an image is found by name and by id, and is the same",
            "status of the image",
            |run: Run| async move {
                let by_name = status(&run, IMAGE, false).await?.image.unwrap_or_default();
                ensure!(!by_name.id.is_empty() && by_name.size > 0, "{by_name:?}");
                let by_id = status(&run, &by_name.id, false).await?.image.unwrap_or_default();
                same("by id", by_id.id, by_name.id)
            },
        ),
        case(
            "an image that is not there is no error and no image",
            "if the image is not present, image is not set",
            |run: Run| async move {
                let answer = status(&run, "localhost/no-such-image:1", true).await?;
                same("the image", answer.image, None)?;
                same("info", answer.info.len(), 0)
            },
        ),
        case(
            "more is told of an image only when it is asked for",
            "info is JSON, and only not empty when verbose is true",
            |run: Run| async move {
                same("info", status(&run, IMAGE, false).await?.info.len(), 0)?;
                let info = status(&run, IMAGE, true).await?.info;
                let json = |value: &String| serde_json::from_str::<serde_json::Value>(value).is_ok();
                ensure!(!info.is_empty() && info.values().all(json), "info is {info:?}");
                Ok(())
            },
        ),
        case("no name is a bad request", "spec of the image", |run: Run| async move {
            let answer = run.images().image_status(v1::ImageStatusRequest::default()).await;
            refused(answer, &[Code::InvalidArgument]).map(drop)
        })
        .containerd("instead of", "containerd 1.6 answers Unknown; Pintle is right"),
    ]
}
