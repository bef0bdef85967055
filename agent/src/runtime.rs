//! The container runtime as the agent sees it: the calls of CRI v1 that it makes, without transport.
//!
//! In: CRI messages. Out: CRI messages, or a [`tonic::Status`]. Whatever implements CRI's services (the built-in engine)
//! is a [`Runtime`]; the agent knows nothing else of it.

#[cfg(test)]
pub(crate) mod fake;

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _};
use pintle_cri_api::v1;
use pintle_cri_api::v1::image_service_server::ImageService;
use pintle_cri_api::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Status};

/// The runtime, shared by everything that talks to it.
pub(crate) type SharedRuntime = Arc<dyn Runtime>;
/// What happens to containers and sandboxes.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;

/// The calls the agent makes; each is the CRI call of the same name.
#[async_trait]
pub(crate) trait Runtime: Send + Sync + 'static {
    async fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, Status>;
    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Status>;
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, Status>;
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Status>;
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Status>;
    async fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, Status>;
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Status>;
    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<String, Status>;
    async fn start_container(&self, id: &str) -> Result<(), Status>;
    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> Result<(), Status>;
    async fn remove_container(&self, id: &str) -> Result<(), Status>;
    async fn reopen_container_log(&self, id: &str) -> Result<(), Status>;
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Status>;
    async fn pull_image(&self, image: &str) -> Result<String, Status>;
    async fn container_events(&self) -> Result<Events, Status>;
}

fn image_spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..Default::default()
    })
}

/// An answer that CRI's messages leave optional and every runtime gives.
fn given<T>(answer: Option<T>, what: &str) -> Result<T, Status> {
    answer.ok_or_else(|| Status::internal(format!("the runtime's answer lacks the {what}")))
}

#[async_trait]
impl<T: RuntimeService + ImageService> Runtime for T {
    async fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, Status> {
        let request = Request::new(v1::ListPodSandboxRequest { filter });
        Ok(RuntimeService::list_pod_sandbox(self, request).await?.into_inner().items)
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = RuntimeService::pod_sandbox_status(self, Request::new(request)).await?;
        given(answer.into_inner().status, "sandbox status")
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, Status> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(RuntimeService::run_pod_sandbox(self, Request::new(request)).await?.into_inner().pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        RuntimeService::stop_pod_sandbox(self, Request::new(request)).await.map(drop)
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        RuntimeService::remove_pod_sandbox(self, Request::new(request)).await.map(drop)
    }

    async fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, Status> {
        let request = Request::new(v1::ListContainersRequest { filter });
        Ok(RuntimeService::list_containers(self, request).await?.into_inner().containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = RuntimeService::container_status(self, Request::new(request)).await?;
        given(answer.into_inner().status, "container status")
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<String, Status> {
        Ok(RuntimeService::create_container(self, Request::new(request)).await?.into_inner().container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        RuntimeService::start_container(self, Request::new(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: timeout_seconds };
        RuntimeService::stop_container(self, Request::new(request)).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        RuntimeService::remove_container(self, Request::new(request)).await.map(drop)
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), Status> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        RuntimeService::reopen_container_log(self, Request::new(request)).await.map(drop)
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Status> {
        let request = v1::ImageStatusRequest { image: image_spec(image), verbose: false };
        Ok(ImageService::image_status(self, Request::new(request)).await?.into_inner().image)
    }

    async fn pull_image(&self, image: &str) -> Result<String, Status> {
        let request = v1::PullImageRequest { image: image_spec(image), ..Default::default() };
        Ok(ImageService::pull_image(self, Request::new(request)).await?.into_inner().image_ref)
    }

    async fn container_events(&self) -> Result<Events, Status> {
        let request = Request::new(v1::GetEventsRequest::default());
        let events = RuntimeService::get_container_events(self, request).await?.into_inner();
        Ok(events.boxed())
    }
}
