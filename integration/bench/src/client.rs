//! One kept connection to a runtime, and the CRI calls that are measured.
//!
//! In: a socket and what a pod is to look like. Out: ids, and how long each call took. Every call has a time-out, so that
//! a runtime that hangs fails the run. It measures from just before a request is sent until its answer is here; making
//! the connection is no part of it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pintle_cri_api::v1;
use pintle_cri_api::v1::image_service_client::ImageServiceClient;
use pintle_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use pintle_cri_api::{connect, image_client, runtime_client};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// The longest that a call may take before the run is given up.
const CALL_LIMIT: Duration = Duration::from_secs(180);

/// What the pods of one runtime have of their own.
#[derive(Debug, Clone)]
pub(crate) struct PodPlace {
    /// Where pods' logs go.
    pub(crate) logs: PathBuf,
    /// The cgroup above the pods.
    pub(crate) cgroup_parent: String,
    /// The image that containers run.
    pub(crate) image: String,
}

/// A pod with one container.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) sandbox: String,
    pub(crate) container: String,
}

/// How long each call of a pod's start took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartTimes {
    pub(crate) run_sandbox: Duration,
    pub(crate) create: Duration,
    pub(crate) start: Duration,
}

/// A runtime's services over one connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    place: PodPlace,
}

impl Client {
    /// Connects and asks for the version, so that the connection is warm.
    pub(crate) async fn open(socket: &Path, place: PodPlace) -> Result<Self> {
        let channel = connect(&format!("unix://{}", socket.display())).await?;
        let mut runtime = runtime_client(channel.clone());
        limited("Version", runtime.version(v1::VersionRequest::default())).await?;
        Ok(Self { runtime, images: image_client(channel.clone()), channel, place })
    }

    /// The connection, for services beside CRI.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Name and version of the runtime.
    pub(crate) async fn version(&self) -> Result<String> {
        let mut runtime = self.runtime.clone();
        let version = limited("Version", runtime.version(v1::VersionRequest::default())).await?;
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// Starts a pod: sandbox, container, program.
    pub(crate) async fn start_pod(&self, name: &str) -> Result<(Pod, StartTimes)> {
        let config = self.sandbox_config(name);
        // What a kubelet does before it calls the runtime.
        std::fs::create_dir_all(Path::new(&config.log_directory).join("main"))
            .with_context(|| format!("making {}", config.log_directory))?;
        let mut runtime = self.runtime.clone();
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let begin = Instant::now();
        let sandbox = limited("RunPodSandbox", runtime.run_pod_sandbox(request)).await?.pod_sandbox_id;
        let run_sandbox = begin.elapsed();
        let (container, create, start) = self.start_container(&sandbox, &config, 0).await?;
        Ok((Pod { config, sandbox, container }, StartTimes { run_sandbox, create, start }))
    }

    /// Creates a container in a sandbox and starts it.
    pub(crate) async fn start_container(
        &self,
        sandbox: &str,
        config: &v1::PodSandboxConfig,
        attempt: u32,
    ) -> Result<(String, Duration, Duration)> {
        let mut runtime = self.runtime.clone();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(self.container_config(attempt)),
            sandbox_config: Some(config.clone()),
        };
        let begin = Instant::now();
        let id = limited("CreateContainer", runtime.create_container(request)).await?.container_id;
        let create = begin.elapsed();
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let begin = Instant::now();
        limited("StartContainer", runtime.start_container(request)).await?;
        Ok((id, create, begin.elapsed()))
    }

    /// Runs `true` in a container.
    pub(crate) async fn exec_true(&self, container: &str) -> Result<Duration> {
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: vec!["/bin/true".to_owned()],
            timeout: 0,
        };
        let mut runtime = self.runtime.clone();
        let begin = Instant::now();
        let answer = limited("ExecSync", runtime.exec_sync(request)).await?;
        let took = begin.elapsed();
        if answer.exit_code != 0 {
            bail!("`true` ended with {}: {}", answer.exit_code, String::from_utf8_lossy(&answer.stderr));
        }
        Ok(took)
    }

    /// Stops a sandbox with all that runs in it.
    pub(crate) async fn stop_sandbox(&self, sandbox: &str) -> Result<Duration> {
        let mut runtime = self.runtime.clone();
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        let begin = Instant::now();
        limited("StopPodSandbox", runtime.stop_pod_sandbox(request)).await?;
        Ok(begin.elapsed())
    }

    /// Removes a sandbox with its containers.
    pub(crate) async fn remove_sandbox(&self, sandbox: &str) -> Result<Duration> {
        let mut runtime = self.runtime.clone();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        let begin = Instant::now();
        limited("RemovePodSandbox", runtime.remove_pod_sandbox(request)).await?;
        Ok(begin.elapsed())
    }

    /// Stops and removes a pod.
    pub(crate) async fn remove_pod(&self, sandbox: &str) -> Result<Duration> {
        Ok(self.stop_sandbox(sandbox).await? + self.remove_sandbox(sandbox).await?)
    }

    /// Removes a container that has ended.
    pub(crate) async fn remove_container(&self, container: &str) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        limited("RemoveContainer", runtime.remove_container(request)).await?;
        Ok(())
    }

    /// The first process of a container.
    pub(crate) async fn container_pid(&self, container: &str) -> Result<i32> {
        let mut runtime = self.runtime.clone();
        let request = v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let answer = limited("ContainerStatus", runtime.container_status(request)).await?;
        pid_in(answer.info.get("info")).with_context(|| format!("container {container}"))
    }

    /// The infra process of a sandbox.
    pub(crate) async fn infra_pid(&self, sandbox: &str) -> Result<i32> {
        let mut runtime = self.runtime.clone();
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        let answer = limited("PodSandboxStatus", runtime.pod_sandbox_status(request)).await?;
        pid_in(answer.info.get("info")).with_context(|| format!("sandbox {sandbox}"))
    }

    /// The sandboxes that are ready.
    pub(crate) async fn ready_sandboxes(&self) -> Result<Vec<String>> {
        let all = self.sandboxes().await?;
        let ready = v1::PodSandboxState::SandboxReady as i32;
        Ok(all.into_iter().filter(|sandbox| sandbox.state == ready).map(|sandbox| sandbox.id).collect())
    }

    /// All sandboxes.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        let mut runtime = self.runtime.clone();
        Ok(limited("ListPodSandbox", runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()))
            .await?
            .items)
    }

    /// The containers that run, each with its sandbox.
    pub(crate) async fn running(&self) -> Result<Vec<(String, String)>> {
        let mut runtime = self.runtime.clone();
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
        let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let all = limited("ListContainers", runtime.list_containers(request)).await?.containers;
        Ok(all.into_iter().map(|container| (container.id, container.pod_sandbox_id)).collect())
    }

    /// Pulls an image.
    pub(crate) async fn pull(&self, name: &str) -> Result<Duration> {
        let mut images = self.images.clone();
        let request = v1::PullImageRequest { image: Some(image_spec(name)), ..Default::default() };
        let begin = Instant::now();
        limited("PullImage", images.pull_image(request)).await?;
        Ok(begin.elapsed())
    }

    /// Whether an image is there.
    pub(crate) async fn has_image(&self, name: &str) -> Result<bool> {
        let mut images = self.images.clone();
        let request = v1::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        Ok(limited("ImageStatus", images.image_status(request)).await?.image.is_some())
    }

    /// Removes an image.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<()> {
        let mut images = self.images.clone();
        let request = v1::RemoveImageRequest { image: Some(image_spec(name)) };
        limited("RemoveImage", images.remove_image(request)).await?;
        Ok(())
    }

    fn sandbox_config(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.place.logs.join(name).display().to_string(),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["bench.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.place.cgroup_parent.clone(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(default_profile()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container_config(&self, attempt: u32) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".to_owned(), attempt }),
            image: Some(image_spec(&self.place.image)),
            log_path: format!("main/{attempt}.log"),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_shares: 102,
                    memory_limit_in_bytes: 64 << 20,
                    ..Default::default()
                }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(default_profile()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }
}

/// Awaits an answer, but not for ever.
pub(crate) async fn limited<T>(
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => bail!("{what}: {:?}: {}", status.code(), status.message()),
        Err(_) => bail!("{what}: no answer within {CALL_LIMIT:?}"),
    }
}

fn namespaces() -> v1::NamespaceOption {
    let (pod, container) = (v1::NamespaceMode::Pod as i32, v1::NamespaceMode::Container as i32);
    v1::NamespaceOption { network: pod, ipc: pod, pid: container, ..Default::default() }
}

/// As a kubelet asks for it; by name, so that it does not matter what either side does unasked.
fn default_profile() -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
        localhost_ref: String::new(),
    }
}

fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

/// Both runtimes put a JSON object with the process id into a status's `info`.
fn pid_in(info: Option<&String>) -> Result<i32> {
    let text = info.context("the status carries no `info`")?;
    let value: serde_json::Value = serde_json::from_str(text).context("the status's `info` is no JSON")?;
    let pid = value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.filter(|pid| *pid > 1).context("the status's `info` names no process")
}
