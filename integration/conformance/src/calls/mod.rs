//! The cases, one file per call of both services.
//!
//! In: nothing. Out: [`all`], in the protocol's order.

#![allow(clippy::too_many_lines, reason = "lists of cases")]

mod attach;
mod checkpoint_container;
mod container_stats;
mod container_status;
mod create_container;
mod create_container_mounts;
mod create_container_process;
mod create_container_resources;
mod create_container_security;
mod exec;
mod exec_sync;
mod get_container_events;
mod image_fs_info;
mod image_status;
mod list_container_stats;
mod list_containers;
mod list_images;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod run_pod_sandbox_linux;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_containers;
mod stream_images;
mod stream_pod_sandbox_metrics;
mod stream_pod_sandbox_stats;
mod stream_pod_sandboxes;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::case::Case;

/// What most files need.
mod prelude {
    pub(super) use pintle_cri_api::v1;
    pub(super) use pintle_integration::IMAGE;
    pub(super) use tonic::Code;

    pub(super) use crate::{
        case::{Case, Failure, Outcome, case, ensure, fails, refused, same},
        config::{
            capabilities, image, labels, mount, namespaces, number, pod_namespaces, pod_security, profile,
            resources, security, shell, words,
        },
        run::{Pod, Run, file, pid_in},
    };
}

/// An id that nothing has.
const NOBODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Every call with its cases.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Case>)> {
    let mut creates = create_container::cases();
    creates.extend(create_container_process::cases());
    creates.extend(create_container_mounts::cases());
    creates.extend(create_container_security::cases());
    creates.extend(create_container_resources::cases());
    let mut runs = run_pod_sandbox::cases();
    runs.extend(run_pod_sandbox_linux::cases());
    vec![
        ("Version", version::cases()),
        ("RunPodSandbox", runs),
        ("StopPodSandbox", stop_pod_sandbox::cases()),
        ("RemovePodSandbox", remove_pod_sandbox::cases()),
        ("PodSandboxStatus", pod_sandbox_status::cases()),
        ("ListPodSandbox", list_pod_sandbox::cases()),
        ("StreamPodSandboxes", stream_pod_sandboxes::cases()),
        ("CreateContainer", creates),
        ("StartContainer", start_container::cases()),
        ("StopContainer", stop_container::cases()),
        ("RemoveContainer", remove_container::cases()),
        ("ListContainers", list_containers::cases()),
        ("StreamContainers", stream_containers::cases()),
        ("ContainerStatus", container_status::cases()),
        ("UpdateContainerResources", update_container_resources::cases()),
        ("ReopenContainerLog", reopen_container_log::cases()),
        ("ExecSync", exec_sync::cases()),
        ("Exec", exec::cases()),
        ("Attach", attach::cases()),
        ("PortForward", port_forward::cases()),
        ("ContainerStats", container_stats::cases()),
        ("ListContainerStats", list_container_stats::cases()),
        ("StreamContainerStats", stream_container_stats::cases()),
        ("PodSandboxStats", pod_sandbox_stats::cases()),
        ("ListPodSandboxStats", list_pod_sandbox_stats::cases()),
        ("StreamPodSandboxStats", stream_pod_sandbox_stats::cases()),
        ("UpdateRuntimeConfig", update_runtime_config::cases()),
        ("Status", status::cases()),
        ("CheckpointContainer", checkpoint_container::cases()),
        ("GetContainerEvents", get_container_events::cases()),
        ("ListMetricDescriptors", list_metric_descriptors::cases()),
        ("ListPodSandboxMetrics", list_pod_sandbox_metrics::cases()),
        ("StreamPodSandboxMetrics", stream_pod_sandbox_metrics::cases()),
        ("RuntimeConfig", runtime_config::cases()),
        ("UpdatePodSandboxResources", update_pod_sandbox_resources::cases()),
        ("ListImages", list_images::cases()),
        ("StreamImages", stream_images::cases()),
        ("ImageStatus", image_status::cases()),
        ("PullImage", pull_image::cases()),
        ("RemoveImage", remove_image::cases()),
        ("ImageFsInfo", image_fs_info::cases()),
    ]
}

/// The calls that the protocol has, by its descriptor.
///
/// # Panics
/// When the descriptor cannot be read.
#[must_use]
pub fn names_of_calls() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(pintle_cri_api::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let services = set.file.into_iter().filter(|file| file.package() == "runtime.v1").flat_map(|f| f.service);
    services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect()
}
