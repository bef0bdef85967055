//! Calls about use of resources: ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats.

use pintle_cri_api::v1 as cri;

use crate::{Engine, Result};

pub(super) async fn container(
    engine: &Engine,
    request: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse> {
    let stats = engine.arc()?.container_stats(&request.container_id).await?;
    Ok(cri::ContainerStatsResponse { stats: Some(stats) })
}

pub(super) async fn containers(
    engine: &Engine,
    request: cri::ListContainerStatsRequest,
) -> Result<cri::ListContainerStatsResponse> {
    let stats = engine.arc()?.list_container_stats(request.filter).await?;
    Ok(cri::ListContainerStatsResponse { stats })
}

pub(super) async fn sandbox(
    engine: &Engine,
    request: cri::PodSandboxStatsRequest,
) -> Result<cri::PodSandboxStatsResponse> {
    let stats = engine.arc()?.sandbox_stats(&request.pod_sandbox_id).await?;
    Ok(cri::PodSandboxStatsResponse { stats: Some(stats) })
}

pub(super) async fn sandboxes(
    engine: &Engine,
    request: cri::ListPodSandboxStatsRequest,
) -> Result<cri::ListPodSandboxStatsResponse> {
    let stats = engine.arc()?.list_sandbox_stats(request.filter).await?;
    Ok(cri::ListPodSandboxStatsResponse { stats })
}
