//! What a wait asks an agent again and again, asked over its socket.
//!
//! In: the socket's address. Out: the answers of the same calls that `pintle get pods` and `pintle pods` make. Nothing is
//! started for it: in an emulated machine a program costs a third of a second of a processor, and tests that wait by
//! starting one after another leave too little of it to the agents that they wait for.

use pintle_cri_api::{ext, v1};
use serde_json::Value;
use tonic::transport::Channel;

use crate::host::time_out;

/// How long an answer may take, in seconds.
const ANSWER_LIMIT: u32 = 60;

/// Whether something serves there.
pub(crate) fn serves(endpoint: &str) -> bool {
    let version =
        async |channel| pintle_cri_api::runtime_client(channel).version(v1::VersionRequest::default()).await;
    ask(endpoint, version).is_ok()
}

/// Every pod that the agent knows, with its status.
///
/// # Errors
/// In words, when the agent does not answer.
pub fn pods(endpoint: &str) -> Result<Vec<Value>, String> {
    let pods =
        async |channel| pintle_cri_api::ext_agent_client(channel).pods(ext::PodsRequest::default()).await;
    let mut list: Value = serde_json::from_str(&ask(endpoint, pods)?.json).map_err(|e| e.to_string())?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// The names of all pods that the engine has a sandbox of, once for each sandbox.
///
/// # Errors
/// In words, when the engine does not answer.
pub fn sandboxes(endpoint: &str) -> Result<Vec<String>, String> {
    let list = async |channel| {
        pintle_cri_api::runtime_client(channel).list_pod_sandbox(v1::ListPodSandboxRequest::default()).await
    };
    let sandboxes = ask(endpoint, list)?.items.into_iter();
    Ok(sandboxes.map(|sandbox| sandbox.metadata.unwrap_or_default().name).collect())
}

/// How many bytes of its heap the daemon uses.
///
/// # Errors
/// In words, when the engine does not answer or does not know.
pub fn heap_in_use(endpoint: &str) -> Result<u64, String> {
    let request = v1::StatusRequest { verbose: true };
    let status = async |channel| pintle_cri_api::runtime_client(channel).status(request).await;
    let info = ask(endpoint, status)?.info.remove("config").unwrap_or_default();
    let info: Value = serde_json::from_str(&info).map_err(|e| e.to_string())?;
    info["heapInUse"].as_u64().ok_or_else(|| format!("no heap in {info}"))
}

/// How many bytes and inodes images occupy.
///
/// # Errors
/// In words, when the engine does not answer.
pub fn image_fs(endpoint: &str) -> Result<(u64, u64), String> {
    let info = async |channel| {
        pintle_cri_api::image_client(channel).image_fs_info(v1::ImageFsInfoRequest::default()).await
    };
    let usage = ask(endpoint, info)?.image_filesystems.into_iter().next().unwrap_or_default();
    Ok((usage.used_bytes.unwrap_or_default().value, usage.inodes_used.unwrap_or_default().value))
}

/// Removes an image, whether it is there or not.
///
/// # Errors
/// In words, when the engine refuses.
pub fn remove_image(endpoint: &str, name: &str) -> Result<(), String> {
    let spec = v1::ImageSpec { image: name.to_owned(), ..v1::ImageSpec::default() };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    let remove = async |channel| pintle_cri_api::image_client(channel).remove_image(request).await;
    ask(endpoint, remove).map(drop)
}

/// The URL for a command in a container.
///
/// # Errors
/// In words, when the engine refuses.
pub fn exec(endpoint: &str, request: v1::ExecRequest) -> Result<String, String> {
    ask(endpoint, async |channel| pintle_cri_api::runtime_client(channel).exec(request).await)
        .map(|answer| answer.url)
}

/// The URL for a container's own process.
///
/// # Errors
/// In words, when the engine refuses.
pub(crate) fn attach(endpoint: &str, request: v1::AttachRequest) -> Result<String, String> {
    ask(endpoint, async |channel| pintle_cri_api::runtime_client(channel).attach(request).await)
        .map(|answer| answer.url)
}

/// The URL for ports of the ready sandbox of a pod.
///
/// # Errors
/// In words, when there is none or the engine refuses.
pub fn port_forward(endpoint: &str, pod: &str, port: Vec<i32>) -> Result<String, String> {
    let list = async |channel| {
        pintle_cri_api::runtime_client(channel).list_pod_sandbox(v1::ListPodSandboxRequest::default()).await
    };
    let is_ready = |sandbox: &v1::PodSandbox| sandbox.state == v1::PodSandboxState::SandboxReady as i32;
    let named = |sandbox: &v1::PodSandbox| sandbox.metadata.as_ref().is_some_and(|known| known.name == pod);
    let sandboxes = ask(endpoint, list)?.items;
    let sandbox = sandboxes.into_iter().find(|sandbox| is_ready(sandbox) && named(sandbox));
    let pod_sandbox_id = sandbox.ok_or_else(|| format!("pod {pod} has no sandbox"))?.id;
    let request = v1::PortForwardRequest { pod_sandbox_id, port };
    ask(endpoint, async |channel| pintle_cri_api::runtime_client(channel).port_forward(request).await)
        .map(|answer| answer.url)
}

fn ask<T>(
    endpoint: &str,
    question: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    runtime.block_on(async {
        let answer = async {
            let channel = pintle_cri_api::connect(endpoint).await.map_err(|e| e.to_string())?;
            question(channel).await.map(tonic::Response::into_inner).map_err(|status| status.to_string())
        };
        let answer = tokio::time::timeout(time_out(ANSWER_LIMIT), answer).await;
        answer.map_err(|_| "no answer in time".to_owned())?
    })
}
