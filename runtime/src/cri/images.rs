//! Calls about images: ListImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo.
//!
//! All runtime handlers share one store: an image that was pulled for one is there for all, and the handler a caller names is
//! told back to it. One that there is not is refused.

use pintle_cri_api::v1 as cri;

use super::stream::{self, Streamed};
use crate::{
    Engine, Error, Result,
    engine::{images, stats},
    spec::bounds,
};

pub(super) async fn list(
    engine: &Engine,
    request: cri::ListImagesRequest,
) -> Result<cri::ListImagesResponse> {
    Ok(cri::ListImagesResponse { images: engine.images_matching(request.filter).await? })
}

pub(super) async fn stream(
    engine: &Engine,
    request: cri::StreamImagesRequest,
) -> Result<Streamed<cri::StreamImagesResponse>> {
    let images = engine.images_matching(request.filter).await?;
    Ok(stream::messages(images.into_iter(), |images| cri::StreamImagesResponse { images }))
}

pub(super) async fn status(
    engine: &Engine,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse> {
    let asked = spec(request.image)?;
    let found = engine.find_image(&asked.image).await?;
    let mut info = std::collections::BTreeMap::new();
    if let Some(image) = found.as_ref().filter(|_| request.verbose) {
        info.insert("info".to_owned(), images::image_info(image));
    }
    let image = found.as_ref().map(|image| {
        let mut image = engine.cri_image(image);
        if let Some(spec) = &mut image.spec {
            spec.user_specified_image = asked.user_specified_image;
            spec.runtime_handler = asked.runtime_handler;
        }
        image
    });
    Ok(cri::ImageStatusResponse { image, info })
}

pub(super) async fn pull(engine: &Engine, request: cri::PullImageRequest) -> Result<cri::PullImageResponse> {
    let spec = spec(request.image)?;
    engine.handlers.external(&spec.runtime_handler).await?;
    let asked = images::asked(request.auth, spec.annotations.into_iter().collect())?;
    let image_ref = engine.arc()?.pull_image(&spec.image, asked, None).await?;
    Ok(cri::PullImageResponse { image_ref })
}

pub(super) async fn remove(
    engine: &Engine,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse> {
    engine.delete_image(&spec(request.image)?.image).await?;
    Ok(cri::RemoveImageResponse {})
}

pub(super) async fn fs_info(engine: &Engine) -> Result<cri::ImageFsInfoResponse> {
    stats::file_systems(&engine.arc()?).await
}

/// The image that is asked for, within bounds.
fn spec(image: Option<cri::ImageSpec>) -> Result<cri::ImageSpec> {
    let spec = image.unwrap_or_default();
    if spec.image.is_empty() {
        return Err(Error::InvalidArgument("image: is missing".to_owned()));
    }
    bounds::image(&spec)?;
    Ok(spec)
}
