//! PullImage: from a registry.

use super::{image_status::status, prelude::*};
use crate::registry::{ADDRESS, Registry};

pub(super) async fn pull(run: &Run, name: &str) -> Result<String, tonic::Status> {
    let request = v1::PullImageRequest { image: Some(image(name)), ..Default::default() };
    Ok(run.images().pull_image(request).await?.into_inner().image_ref)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a pulled image is there under its tag, its digest and the id that the pull gave",
            "image_ref, Image.id, Container.image_id and ContainerStatus.image_id are the same value",
            |run: Run| async move {
                let name = format!("{ADDRESS}/cri/demo:1");
                let id = pull(&run, &name).await?;
                let found = status(&run, &name, false).await?.image.unwrap_or_default();
                same("the id", &found.id, &id)?;
                let digest = format!("{ADDRESS}/cri/demo@{}", Registry::digest(&run.side().ground));
                ensure!(found.repo_digests.contains(&digest), "{:?} lacks {digest}", found.repo_digests);
                for other in [digest, id.clone()] {
                    same(
                        "found",
                        status(&run, &other, false).await?.image.unwrap_or_default().id,
                        id.clone(),
                    )?;
                }
                same("pulled again", pull(&run, &name).await?, id)
            },
        ),
        case("an image is pulled by digest", "the image's name may be a digest", |run: Run| async move {
            let name = format!("{ADDRESS}/cri/demo@{}", Registry::digest(&run.side().ground));
            let id = pull(&run, &name).await?;
            same("the id", status(&run, &name, false).await?.image.unwrap_or_default().id, id)
        }),
        case(
            "six pulls of one image at once all succeed",
            "a kubelet may pull in parallel",
            |run: Run| async move {
                let name = format!("{ADDRESS}/cri/demo:2");
                let pulls = (0..6).map(|_| pull(&run, &name));
                let mut ids = Vec::new();
                for answer in futures_util::future::join_all(pulls).await {
                    ids.push(answer?);
                }
                ids.dedup();
                same("the number of ids", ids.len(), 1)
            },
        ),
        case(
            "an image that the registry does not have is not found",
            "pulls an image",
            |run: Run| async move {
                refused(pull(&run, &format!("{ADDRESS}/cri/none:1")).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "a registry that is not there is an error, and nothing stays",
            "pulls an image",
            |run: Run| async move {
                let name = "127.0.0.1:5999/cri/none:1";
                let answer = pull(&run, name).await;
                ensure!(answer.is_err(), "it was pulled: {answer:?}");
                same("the image", status(&run, name, false).await?.image, None)
            },
        ),
        case(
            "an image for a handler that is unknown is not pulled",
            "if the runtime handler is unknown, the request should be rejected",
            |run: Run| async move {
                let runtime_handler = "no-such-handler".to_owned();
                let spec = v1::ImageSpec { runtime_handler, ..image(&format!("{ADDRESS}/cri/demo:1")) };
                let request = v1::PullImageRequest { image: Some(spec), ..Default::default() };
                fails(run.images().pull_image(request).await).map(drop)
            },
        )
        .containerd(
            "it was not refused",
            "the field came with Kubernetes 1.29; containerd 1.6 does not know it",
        ),
        case("a name that is none is a bad request", "spec of the image", |run: Run| async move {
            for name in ["", "UPPER/case:x y", "http://x/y"] {
                refused(pull(&run, name).await, &[Code::InvalidArgument])?;
            }
            Ok(())
        })
        .containerd("instead of", "containerd 1.6 answers Unknown; Pintle is right"),
    ]
}
