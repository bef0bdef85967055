//! `runtime.v1.ImageService` on the engine.

use pintle_cri_api::v1::{self as cri, image_service_server::ImageService};
use tonic::Request;

use super::{Reply, image_reply, images, pull_reply, reply, stream::Streamed};
use crate::Engine;

#[tonic::async_trait]
impl ImageService for Engine {
    type StreamImagesStream = Streamed<cri::StreamImagesResponse>;

    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Reply<cri::ListImagesResponse> {
        reply(images::list(self, request.into_inner()).await)
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        reply(images::stream(self, request.into_inner()).await)
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Reply<cri::ImageStatusResponse> {
        image_reply(images::status(self, request.into_inner()).await)
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Reply<cri::PullImageResponse> {
        pull_reply(images::pull(self, request.into_inner()).await)
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Reply<cri::RemoveImageResponse> {
        image_reply(images::remove(self, request.into_inner()).await)
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Reply<cri::ImageFsInfoResponse> {
        reply(images::fs_info(self).await)
    }
}
