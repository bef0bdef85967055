//! Calls about images: ListImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo.

use pintle_cri_api::v1 as cri;

use super::stream::{self, Streamed};
use crate::{
    Engine, Error, Result,
    engine::{host, images, stats},
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
    let found = engine.find_image(&name(request.image)?).await?;
    let mut info = std::collections::BTreeMap::new();
    if let Some(image) = found.as_ref().filter(|_| request.verbose) {
        info.insert("info".to_owned(), images::image_info(image));
    }
    Ok(cri::ImageStatusResponse { image: found.as_ref().map(images::cri_image), info })
}

pub(super) async fn pull(engine: &Engine, request: cri::PullImageRequest) -> Result<cri::PullImageResponse> {
    let auth = images::auth(request.auth)?;
    let image_ref = engine.arc()?.pull_image(&name(request.image)?, auth, None).await?;
    Ok(cri::PullImageResponse { image_ref })
}

pub(super) async fn remove(
    engine: &Engine,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse> {
    engine.delete_image(&name(request.image)?).await?;
    Ok(cri::RemoveImageResponse {})
}

pub(super) async fn fs_info(engine: &Engine) -> Result<cri::ImageFsInfoResponse> {
    let (mountpoint, bytes, inodes) = stats::image_fs(&engine.arc()?).await?;
    let usage = cri::FilesystemUsage {
        timestamp: host::now(),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.to_string_lossy().into_owned() }),
        used_bytes: Some(cri::UInt64Value { value: bytes }),
        inodes_used: Some(cri::UInt64Value { value: inodes }),
    };
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}

fn name(image: Option<cri::ImageSpec>) -> Result<String> {
    let name = image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() { Err(Error::InvalidArgument("image: is missing".to_owned())) } else { Ok(name) }
}
