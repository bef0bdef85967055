//! Calls about sandboxes: RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus, ListPodSandbox,
//! UpdatePodSandboxResources.

use pintle_cri_api::v1 as cri;

use super::stream::{self, Streamed};
use crate::{
    Engine, Result,
    engine::{host, view},
};

pub(super) async fn run(
    engine: &Engine,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse> {
    let pod_sandbox_id = engine.arc()?.run_pod_sandbox(request).await?;
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id })
}

pub(super) async fn stop(
    engine: &Engine,
    request: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse> {
    engine.arc()?.stop_pod_sandbox(&request.pod_sandbox_id).await?;
    Ok(cri::StopPodSandboxResponse {})
}

pub(super) async fn remove(
    engine: &Engine,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse> {
    engine.arc()?.remove_pod_sandbox(&request.pod_sandbox_id).await?;
    Ok(cri::RemovePodSandboxResponse {})
}

pub(super) async fn update_resources(
    engine: &Engine,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse> {
    engine.arc()?.update_pod_sandbox_resources(request).await?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}

pub(super) fn status(
    engine: &Engine,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse> {
    let sandbox = engine.sandbox(&request.pod_sandbox_id)?;
    Ok(cri::PodSandboxStatusResponse {
        status: Some(view::sandbox_status(&sandbox)),
        info: if request.verbose { view::sandbox_info(&sandbox) } else { [].into() },
        containers_statuses: engine.statuses_of(&sandbox.id),
        timestamp: host::now(),
    })
}

pub(super) fn list(engine: &Engine, request: cri::ListPodSandboxRequest) -> cri::ListPodSandboxResponse {
    cri::ListPodSandboxResponse { items: engine.sandboxes_matching(request.filter).collect() }
}

pub(super) fn stream(
    engine: &Engine,
    request: cri::StreamPodSandboxesRequest,
) -> Streamed<cri::StreamPodSandboxesResponse> {
    let sandboxes = engine.sandboxes_matching(request.filter);
    stream::messages(sandboxes, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes })
}
