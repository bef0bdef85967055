//! Calls about use of resources: ContainerStats, PodSandboxStats, the metrics, and the lists and streams of them.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pintle_cri_api::v1 as cri;
use prost::Message;

use super::{
    status::to_status,
    stream::{self as lists, Streamed},
};
use crate::{Engine, Result};

/// How many are measured at once for a stream: what is measured and not sent yet is held in memory.
const AT_ONCE: usize = 32;

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
    let containers = engine.containers_to_measure(request.filter);
    Ok(cri::ListContainerStatsResponse { stats: engine.arc()?.stats_of_all(containers).await? })
}

pub(super) fn stream_containers(
    engine: &Engine,
    request: cri::StreamContainerStatsRequest,
) -> Result<Streamed<cri::StreamContainerStatsResponse>> {
    let (containers, engine) = (engine.containers_to_measure(request.filter), engine.arc()?);
    Ok(measured(
        containers,
        move |some| Arc::clone(&engine).stats_of_all(some),
        |container_stats| cri::StreamContainerStatsResponse { container_stats },
    ))
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
    let sandboxes = engine.sandboxes_to_measure(request.filter);
    Ok(cri::ListPodSandboxStatsResponse { stats: engine.arc()?.pod_stats_of_all(sandboxes).await? })
}

pub(super) fn stream_sandboxes(
    engine: &Engine,
    request: cri::StreamPodSandboxStatsRequest,
) -> Result<Streamed<cri::StreamPodSandboxStatsResponse>> {
    let (sandboxes, engine) = (engine.sandboxes_to_measure(request.filter), engine.arc()?);
    Ok(measured(
        sandboxes,
        move |some| Arc::clone(&engine).pod_stats_of_all(some),
        |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats },
    ))
}

pub(super) async fn descriptors(engine: &Engine) -> Result<cri::ListMetricDescriptorsResponse> {
    Ok(cri::ListMetricDescriptorsResponse { descriptors: engine.arc()?.metric_descriptors().await? })
}

pub(super) async fn metrics(engine: &Engine) -> Result<cri::ListPodSandboxMetricsResponse> {
    let sandboxes = engine.sandboxes_to_measure(None);
    Ok(cri::ListPodSandboxMetricsResponse { pod_metrics: engine.arc()?.metrics_of_all(sandboxes).await? })
}

pub(super) fn stream_metrics(engine: &Engine) -> Result<Streamed<cri::StreamPodSandboxMetricsResponse>> {
    let (sandboxes, engine) = (engine.sandboxes_to_measure(None), engine.arc()?);
    Ok(measured(
        sandboxes,
        move |some| Arc::clone(&engine).metrics_of_all(some),
        |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics },
    ))
}

/// What is measured of each, some at a time, at the reader's pace.
fn measured<S, T, R, F>(
    sources: Vec<S>,
    measure: impl FnMut(Vec<S>) -> F + Send + 'static,
    message: fn(Vec<T>) -> R,
) -> Streamed<R>
where
    S: Send + 'static,
    T: Message + 'static,
    R: Send + 'static,
    F: Future<Output = Result<Vec<T>>> + Send + 'static,
{
    let mut sources = sources.into_iter();
    let parts = std::iter::from_fn(move || {
        let part: Vec<S> = sources.by_ref().take(AT_ONCE).collect();
        (!part.is_empty()).then_some(part)
    });
    let answers = stream::iter(parts).then(measure).map_err(|error| to_status(&error));
    Box::pin(answers.map_ok(move |found| lists::messages(found.into_iter(), message)).try_flatten())
}
