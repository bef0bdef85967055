//! Calls about containers: Create, Start, Stop, Remove, List, Status, UpdateContainerResources, ReopenContainerLog.

use pintle_cri_api::v1 as cri;

use super::stream::{self, Streamed};
use crate::{
    Engine, Result,
    engine::{blocking, records, sandbox_files::OCI_CONFIG, view},
    spec::not_here,
};

pub(super) async fn create(
    engine: &Engine,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse> {
    let container_id = engine.arc()?.create_container(request).await?;
    Ok(cri::CreateContainerResponse { container_id })
}

pub(super) async fn start(
    engine: &Engine,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse> {
    engine.arc()?.start_container(&request.container_id).await?;
    Ok(cri::StartContainerResponse {})
}

pub(super) async fn stop(
    engine: &Engine,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse> {
    engine.arc()?.stop_container(&request.container_id, request.timeout).await?;
    Ok(cri::StopContainerResponse {})
}

pub(super) async fn remove(
    engine: &Engine,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse> {
    engine.arc()?.remove_container(&request.container_id).await?;
    Ok(cri::RemoveContainerResponse {})
}

pub(super) fn list(engine: &Engine, request: cri::ListContainersRequest) -> cri::ListContainersResponse {
    cri::ListContainersResponse { containers: engine.containers_matching(request.filter).collect() }
}

pub(super) fn stream(
    engine: &Engine,
    request: cri::StreamContainersRequest,
) -> Streamed<cri::StreamContainersResponse> {
    let containers = engine.containers_matching(request.filter);
    stream::messages(containers, |containers| cri::StreamContainersResponse { containers })
}

pub(super) async fn status(
    engine: &Engine,
    request: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse> {
    let container = engine.container(&request.container_id)?;
    let mut info = [].into();
    if request.verbose {
        let path = container.dir.join(OCI_CONFIG);
        let text = blocking(move || records::read_bounded(&path)).await?;
        let oci = text.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        info = view::container_info(&container, oci.as_ref());
    }
    Ok(cri::ContainerStatusResponse { status: Some(view::container_status(&container)), info })
}

pub(super) async fn update_resources(
    engine: &Engine,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse> {
    // Its annotations are hints, of which none is known.
    not_here::resources(request.windows.as_ref())?;
    let wanted = request.linux.unwrap_or_default();
    engine.arc()?.update_container_resources(&request.container_id, wanted).await?;
    Ok(cri::UpdateContainerResourcesResponse {})
}

pub(super) async fn reopen_log(
    engine: &Engine,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse> {
    engine.arc()?.reopen_container_log(&request.container_id).await?;
    Ok(cri::ReopenContainerLogResponse {})
}
