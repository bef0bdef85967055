//! Carries out one action of a plan.
//!
//! In: the action, the pod, what is known of it. Out: it is done, or the reason users know and a message. Every action may
//! be carried out twice. The order of actions is the plan's; this module decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use pintle_core::ids::{ContainerId, PodUid, SandboxId};
use pintle_core::model::{Action, DesiredPod};
use pintle_core::{qos, resources};
use pintle_cri_api::v1::{self, ContainerState};
use tonic::{Code, Status};
use tracing::info;

use crate::cgroups::Cgroups;
use crate::container_config::{self, Ingredients};
use crate::hosts_file::{self, Identity};
use crate::mounts::Places;
use crate::pleg::RuntimeFacts;
use crate::runtime::SharedRuntime;
use crate::sandbox_config::{self, NodeFacts};
use crate::volumes::{self, PodDirs};
use crate::{checkpoint, pod_logs};

/// What actions are carried out with; the same for every pod.
#[derive(Clone)]
pub(crate) struct Tools {
    /// The container runtime.
    pub(crate) runtime: SharedRuntime,
    /// The pods' directories.
    pub(crate) dirs: PodDirs,
    /// The pods' cgroups.
    pub(crate) cgroups: Cgroups,
    /// The node.
    pub(crate) node: Arc<NodeFacts>,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// Whom an action is for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The pod's uid.
    pub(crate) uid: PodUid,
    /// The pod, unless it is one that this agent found without a manifest.
    pub(crate) pod: Option<Arc<DesiredPod>>,
    /// Whether it is going away altogether, and not only over: then its record, messages and logs go too.
    pub(crate) leaves: bool,
    /// What the runtime had of it when the action was planned.
    pub(crate) facts: Arc<RuntimeFacts>,
}

/// Why an action did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failed {
    /// The reason users know.
    pub(crate) reason: &'static str,
    /// What failed and why.
    pub(crate) message: String,
    /// The pod network had no address left; it tells when one is free again.
    pub(crate) lacks_address: bool,
}

impl Failed {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), lacks_address: false }
    }

    fn call(reason: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::new(reason, status.message())
    }
}

/// Carries the action out.
pub(crate) async fn apply(tools: &Tools, target: &Target, action: &Action) -> Result<(), Failed> {
    match action {
        Action::Prepare => prepare(tools, target).await,
        Action::PullImage { image, .. } => pull(tools, image).await,
        Action::CreateSandbox { attempt } => create_sandbox(tools, target, *attempt).await,
        Action::StartContainer { name, attempt, back_off_step, sandbox } => {
            let start = Start { name, attempt: *attempt, back_off_step: *back_off_step, sandbox };
            start_container(tools, target, start).await
        }
        Action::ResumeContainer { id, name } => {
            info!(container = %name, %id, "starting the container that was created before");
            tools.runtime.start_container(id.as_str()).await.map_err(Failed::call("RunContainerError"))
        }
        Action::StopContainer { id, grace, why } => stop_container(tools, id, *grace, why).await,
        Action::RemoveContainer { id } => {
            info!(%id, "removing the container");
            done_if_gone(tools.runtime.remove_container(id.as_str()).await)
                .map_err(Failed::call("FailedRemove"))
        }
        Action::StopSandbox { id } => {
            info!(%id, "stopping the sandbox and releasing its network");
            done_if_gone(tools.runtime.stop_pod_sandbox(id.as_str()).await)
                .map_err(Failed::call("FailedKillPod"))
        }
        Action::RemoveSandbox { id } => {
            info!(%id, "removing the sandbox");
            done_if_gone(tools.runtime.remove_pod_sandbox(id.as_str()).await)
                .map_err(Failed::call("FailedRemove"))
        }
        Action::CleanUp => clean_up(tools, target).await,
    }
}

fn wanted(target: &Target) -> Result<&Arc<DesiredPod>, Failed> {
    target
        .pod
        .as_ref()
        .ok_or_else(|| Failed::new("UnknownPod", "the pod's specification is not known any more"))
}

async fn prepare(tools: &Tools, target: &Target) -> Result<(), Failed> {
    let pod = Arc::clone(wanted(target)?);
    let Tools { dirs, cgroups, .. } = tools.clone();
    info!("making the pod's directory and cgroup, mounting its volumes");
    blocking(move || {
        let paths =
            volumes::ensure(&dirs, &pod.pod, &pod.uid).map_err(|e| Failed::new("FailedMount", chain(&e)))?;
        checkpoint::save_pod(&dirs, &pod).map_err(|e| Failed::new("FailedMount", chain(&e)))?;
        let values = resources::pod_cgroup(&pod.pod);
        cgroups
            .ensure_pod(qos::class(&pod.pod), &pod.uid, values)
            .map_err(|e| Failed::new("FailedCreatePodContainer", chain(&e)))?;
        info!(volumes = paths.len(), "volumes are mounted");
        Ok(())
    })
    .await
}

async fn pull(tools: &Tools, image: &str) -> Result<(), Failed> {
    info!(image, "pulling the image");
    let reason = |status: &Status| match status.message().split(':').next() {
        Some("SignatureValidationFailed") => "SignatureValidationFailed",
        _ if status.code() == Code::InvalidArgument => "InvalidImageName",
        _ => "ErrImagePull",
    };
    let pulled = tools.runtime.pull_image(image).await;
    let id = pulled.map_err(|status| Failed::new(reason(&status), status.message()))?;
    info!(image, id, "image pulled");
    Ok(())
}

async fn create_sandbox(tools: &Tools, target: &Target, attempt: u32) -> Result<(), Failed> {
    let pod = wanted(target)?;
    info!(attempt, "creating the sandbox: infra container, then network");
    let config = sandbox_config::of_pod(pod, attempt, &tools.node);
    let made = tools.runtime.run_pod_sandbox(config).await;
    let id = made.map_err(|status| Failed {
        lacks_address: status.code() == Code::ResourceExhausted,
        ..Failed::call("FailedCreatePodSandBox")(status)
    })?;
    info!(attempt, sandbox = id, "sandbox and network are ready");
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Start<'a> {
    name: &'a str,
    attempt: u32,
    back_off_step: u32,
    sandbox: &'a SandboxId,
}

async fn start_container(tools: &Tools, target: &Target, start: Start<'_>) -> Result<(), Failed> {
    let pod = wanted(target)?;
    info!(container = start.name, attempt = start.attempt, "creating the container");
    let spec = pod.pod.spec.as_ref().and_then(|spec| spec.containers.iter().find(|c| c.name == start.name));
    let config_error = |message: String| Failed::new("CreateContainerConfigError", message);
    let spec = spec.ok_or_else(|| config_error(format!("the pod has no container {:?}", start.name)))?;
    let image = spec.image.clone().unwrap_or_default();
    let found = tools.runtime.image_status(&image).await.map_err(Failed::call("ImageInspectError"))?;
    let found = found
        .ok_or_else(|| Failed::new("ErrImagePull", format!("image {image:?} is not on the node any more")))?;
    let config = {
        let (tools, target, spec) = (tools.clone(), target.clone(), spec.clone());
        let (attempt, step, sandbox) = (start.attempt, start.back_off_step, start.sandbox.clone());
        blocking(move || container_config(&tools, &target, &spec, &found, (attempt, step, &sandbox))).await?
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: start.sandbox.as_str().to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config::of_pod(
            pod,
            sandbox_attempt(target, start.sandbox),
            &tools.node,
        )),
    };
    let id = tools.runtime.create_container(request).await.map_err(Failed::call("CreateContainerError"))?;
    tools.runtime.start_container(&id).await.map_err(Failed::call("RunContainerError"))?;
    info!(container = start.name, attempt = start.attempt, id, "container started");
    Ok(())
}

/// Makes the files that the container mounts, and its configuration.
fn container_config(
    tools: &Tools,
    target: &Target,
    spec: &api::Container,
    image: &v1::Image,
    (attempt, back_off_step, sandbox): (u32, u32, &SandboxId),
) -> Result<v1::ContainerConfig, Failed> {
    let pod = wanted(target)?;
    let fail = |message: String| Failed::new("CreateContainerConfigError", message);
    let ips = pod_ips(tools, target, sandbox);
    let volumes: BTreeMap<String, PathBuf> = volumes::paths_if_ready(&tools.dirs, &pod.pod, &pod.uid)
        .ok_or_else(|| fail("the pod's volumes are not mounted".to_owned()))?;
    let hosts = tools.dirs.etc_hosts(&pod.uid);
    let domain = sandbox_config::domain(pod, &tools.node);
    let hostname = sandbox_config::hostname(pod, &tools.node);
    let who = Identity { hostname: &hostname, domain: domain.as_deref(), ips: &ips };
    let pod_spec = pod.pod.spec.clone().unwrap_or_default();
    hosts_file::ensure(&hosts, &pod_spec, who)
        .map_err(|e| fail(format!("write {}: {e}", hosts.display())))?;
    let message = tools.dirs.message(&pod.uid, &spec.name, attempt);
    make_message_file(&message).map_err(|e| fail(format!("make {}: {e}", message.display())))?;
    let sub_paths = tools.dirs.sub_paths(&pod.uid, &spec.name);
    let ingredients = Ingredients {
        pod,
        spec,
        attempt,
        back_off_step,
        places: Places { volumes: &volumes, sub_paths: &sub_paths },
        pod_ips: &ips,
        image,
        node: &tools.node,
        hosts: &hosts,
        message: &message,
    };
    container_config::of_container(&ingredients).map_err(|e| fail(chain(&e)))
}

/// Any user of the container may write it.
fn make_message_file(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
        // Only the latest incarnations' messages can still be asked for.
        for old in std::fs::read_dir(parent)?.flatten().filter(|old| is_older(old.path().as_path(), path)) {
            std::fs::remove_file(old.path())?;
        }
    }
    std::fs::File::create(path)?.set_permissions(std::fs::Permissions::from_mode(0o666))
}

fn is_older(old: &std::path::Path, new: &std::path::Path) -> bool {
    let number = |path: &std::path::Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    matches!((number(old), number(new)), (Some(old), Some(new)) if old + 1 < new)
}

fn pod_ips(tools: &Tools, target: &Target, sandbox: &SandboxId) -> Vec<String> {
    let own = target.facts.sandboxes.iter().find(|known| known.id == *sandbox).map(|known| known.ips.clone());
    own.filter(|ips| !ips.is_empty()).unwrap_or_else(|| tools.node.ips.clone())
}

fn sandbox_attempt(target: &Target, sandbox: &SandboxId) -> u32 {
    target.facts.sandboxes.iter().find(|known| known.id == *sandbox).map_or(0, |known| known.attempt)
}

async fn stop_container(tools: &Tools, id: &ContainerId, grace: Duration, why: &str) -> Result<(), Failed> {
    info!(%id, grace = ?grace, why, "stopping the container");
    let seconds = grace.as_millis().div_ceil(1000);
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let failed = || Failed::call("FailedKillPod");
    done_if_gone(tools.runtime.stop_container(id.as_str(), seconds).await).map_err(failed())?;
    match tools.runtime.container_status(id.as_str()).await {
        // Runtimes leave alone what was created and never started, or is in no known state: only its removal ends it.
        Ok(status)
            if matches!(
                status.state(),
                ContainerState::ContainerCreated | ContainerState::ContainerUnknown
            ) =>
        {
            info!(%id, "removing the container, which was not running");
            done_if_gone(tools.runtime.remove_container(id.as_str()).await).map_err(failed())
        }
        Ok(_) => Ok(()),
        Err(status) => done_if_gone(Err(status)).map_err(failed()),
    }
}

/// Removes all that can be removed and tells everything that could not. A pod that is over keeps what tells of it.
async fn clean_up(tools: &Tools, target: &Target) -> Result<(), Failed> {
    let (tools, uid, leaves) = (tools.clone(), target.uid.clone(), target.leaves);
    info!(
        "unmounting the pod's volumes, removing its cgroup{}",
        if leaves { ", directory and logs" } else { "" }
    );
    blocking(move || {
        let mut failures: Vec<String> = Vec::new();
        failures.extend(tools.cgroups.remove_pod(&uid).err().map(|e| chain(&e)));
        failures.extend(volumes::give_back(&tools.dirs, &uid).err().map(|e| chain(&e)));
        if leaves {
            failures.extend(pod_logs::remove(&tools.node.pod_logs, &uid).err().map(|e| chain(&e)));
        }
        // The directory last: while it is there, a next agent knows that something is left.
        if leaves && failures.is_empty() {
            failures.extend(volumes::tear_down(&tools.dirs, &uid).err().map(|e| chain(&e)));
        }
        if failures.is_empty() { Ok(()) } else { Err(Failed::new("FailedCleanUp", failures.join("; "))) }
    })
    .await
}

fn done_if_gone(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other,
    }
}

/// File system work may hang; it is done where it blocks no other pod. The span goes along.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(e) => Err(Failed::new("InternalError", e.to_string())),
    }
}

/// An error with all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
