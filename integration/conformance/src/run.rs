//! What a case has while it runs: a runtime, short words for calls, and the removal of what it made.
//!
//! In: a side, the case's name. Out: pods and containers with names of the case's own. Whatever was made is removed when
//! the case is over, also when it failed.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pintle_cri_api::{
    image_client, runtime_client,
    v1::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use pintle_integration::time_out;
use tonic::transport::Channel;

use crate::{
    case::{Failure, Kind, Outcome},
    config,
    side::Side,
};

/// How long, in seconds, anything that is waited for may take.
const LIMIT: u32 = 30;

/// A case under way.
#[derive(Clone)]
pub(crate) struct Run(Arc<Inner>);

struct Inner {
    side: Arc<Side>,
    slug: String,
    number: AtomicUsize,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    sandboxes: Vec<String>,
    containers: Vec<String>,
}

/// A pod.
#[derive(Clone)]
pub(crate) struct Pod {
    run: Run,
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Run {
    pub(crate) fn new(side: &Arc<Side>, slug: impl Into<String>) -> Self {
        let (number, made) = (AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Inner { side: Arc::clone(side), slug: slug.into(), number, made }))
    }

    /// The runtime's services for pods and containers.
    pub(crate) fn cri(&self) -> RuntimeServiceClient<Channel> {
        runtime_client(self.0.side.channel.clone())
    }

    /// The runtime's service for images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        image_client(self.0.side.channel.clone())
    }

    pub(crate) fn side(&self) -> &Arc<Side> {
        &self.0.side
    }

    /// A directory of the case's own.
    pub(crate) fn dir(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.0.side.dir.join("cases").join(self.name(name));
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A name that no other case and no other call of this has.
    pub(crate) fn name(&self, of: &str) -> String {
        format!("{}-{of}{}", self.0.slug, self.0.number.fetch_add(1, Ordering::Relaxed))
    }

    /// The configuration of a pod on the node's network, which costs no runtime much.
    pub(crate) fn config(&self) -> v1::PodSandboxConfig {
        let side = &self.0.side;
        config::pod(&self.name("pod"), &side.dir.join("logs"), &side.cgroup)
    }

    /// A pod on the node's network.
    pub(crate) async fn pod(&self) -> Outcome<Pod> {
        self.pod_with(|_| {}).await
    }

    /// The same, changed.
    pub(crate) async fn pod_with(&self, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Outcome<Pod> {
        let mut config = self.config();
        change(&mut config);
        self.run_pod(config).await
    }

    /// A pod with a network of its own.
    pub(crate) async fn networked(&self, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Outcome<Pod> {
        self.pod_with(|wanted| {
            config::pod_namespaces(wanted).network = v1::NamespaceMode::Pod.into();
            "cri".clone_into(&mut wanted.hostname);
            change(wanted);
        })
        .await
    }

    /// A pod that is configured like that.
    pub(crate) async fn run_pod(&self, config: v1::PodSandboxConfig) -> Outcome<Pod> {
        let id = self.try_pod(config.clone()).await?;
        Ok(Pod { run: self.clone(), id, config })
    }

    /// RunPodSandbox; what it makes is removed at the end.
    pub(crate) async fn try_pod(&self, config: v1::PodSandboxConfig) -> Result<String, tonic::Status> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let id = self.cri().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        self.note(|made| made.sandboxes.push(id.clone()));
        Ok(id)
    }

    /// The pod that all cases share: containers may be made in it, and nothing of it be changed. With words of our own.
    pub(crate) async fn shared(&self) -> Outcome<Pod> {
        let (id, config) = self.0.side.shared().await?.clone();
        Ok(Pod { run: self.clone(), id, config })
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri().stop_pod_sandbox(request).await.map(drop)
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri().remove_pod_sandbox(request).await.map(drop)
    }

    pub(crate) async fn pod_answer(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::PodSandboxStatusResponse, tonic::Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose };
        Ok(self.cri().pod_sandbox_status(request).await?.into_inner())
    }

    pub(crate) async fn pod_status(&self, id: &str) -> Result<v1::PodSandboxStatus, tonic::Status> {
        Ok(self.pod_answer(id, false).await?.status.unwrap_or_default())
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.cri().start_container(request).await.map(drop)
    }

    pub(crate) async fn stop(&self, id: &str, timeout: i64) -> Result<(), tonic::Status> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.cri().stop_container(request).await.map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.cri().remove_container(request).await.map(drop)
    }

    pub(crate) async fn answer(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::ContainerStatusResponse, tonic::Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        Ok(self.cri().container_status(request).await?.into_inner())
    }

    pub(crate) async fn status(&self, id: &str) -> Result<v1::ContainerStatus, tonic::Status> {
        Ok(self.answer(id, false).await?.status.unwrap_or_default())
    }

    /// Waits for the end of a container.
    pub(crate) async fn ended(&self, id: &str) -> Outcome<v1::ContainerStatus> {
        let what = format!("the end of container {id}");
        self.until(&what, async || {
            let status = self.status(id).await?;
            Ok((status.state() == v1::ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// Asks again until there is something.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Outcome<Option<T>>,
    ) -> Outcome<T> {
        let end = Instant::now() + time_out(LIMIT);
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(Failure(format!("waited in vain for {what}")));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// ExecSync of a script.
    pub(crate) async fn exec(
        &self,
        id: &str,
        script: &str,
        timeout: i64,
    ) -> Result<v1::ExecSyncResponse, tonic::Status> {
        let cmd = config::shell(script);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        Ok(self.cri().exec_sync(request).await?.into_inner())
    }

    /// What a script prints in a container; it must succeed.
    pub(crate) async fn says(&self, id: &str, script: &str) -> Outcome<String> {
        let answer = self.exec(id, script, 0).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if answer.exit_code != 0 {
            let (code, stderr) = (answer.exit_code, text(&answer.stderr));
            return Err(Failure(format!("{script:?} ended with {code}: {stderr} {}", text(&answer.stdout))));
        }
        Ok(text(&answer.stdout))
    }

    /// The first process of a container, as the host sees it.
    pub(crate) async fn pid(&self, id: &str) -> Outcome<i32> {
        pid_in(&self.answer(id, true).await?.info)
    }

    /// Removes what the case made; says what could not be.
    pub(crate) async fn clean(&self) -> Vec<String> {
        let made = std::mem::take(&mut *self.0.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = Vec::new();
        for id in made.containers {
            left.extend(self.remove(&id).await.err().map(|e| format!("removing container {id}: {e}")));
        }
        for id in made.sandboxes {
            left.extend(self.stop_pod(&id).await.err().map(|e| format!("stopping sandbox {id}: {e}")));
            left.extend(self.remove_pod(&id).await.err().map(|e| format!("removing sandbox {id}: {e}")));
        }
        if self.0.side.kind == Kind::Containerd { Vec::new() } else { left }
    }

    fn note(&self, note: impl FnOnce(&mut Made)) {
        note(&mut self.0.made.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Pod {
    /// A container's configuration; it sleeps.
    pub(crate) fn container(&self) -> v1::ContainerConfig {
        config::container(&self.run.name("c"))
    }

    /// CreateContainer; what it makes is removed at the end.
    pub(crate) async fn try_create(&self, config: v1::ContainerConfig) -> Result<String, tonic::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.run.cri().create_container(request).await?.into_inner().container_id;
        self.run.note(|made| made.containers.push(id.clone()));
        Ok(id)
    }

    /// A container that has not been started.
    pub(crate) async fn create(&self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Outcome<String> {
        let mut config = self.container();
        change(&mut config);
        Ok(self.try_create(config).await?)
    }

    /// A container that runs.
    pub(crate) async fn start(&self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Outcome<String> {
        let id = self.create(change).await?;
        self.run.start(&id).await?;
        Ok(id)
    }

    /// What a container prints whose program is a script, which must succeed.
    pub(crate) async fn prints(
        &self,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Outcome<String> {
        let id = self
            .start(|config| {
                config.command = config::shell(script);
                change(config);
            })
            .await?;
        let status = self.run.ended(&id).await?;
        let text = self.log_text(&status)?;
        if status.exit_code != 0 {
            return Err(Failure(format!("{script:?} ended with {}: {text}", status.exit_code)));
        }
        Ok(text)
    }

    /// What a container has logged, without times and streams.
    pub(crate) fn log_text(&self, status: &v1::ContainerStatus) -> Outcome<String> {
        let text = std::fs::read_to_string(&status.log_path)?;
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        Ok(lines.join("\n"))
    }
}

/// Both runtimes put a JSON object with the process id into a verbose status.
pub(crate) fn pid_in(info: &std::collections::BTreeMap<String, String>) -> Outcome<i32> {
    let text = info.get("info").ok_or_else(|| Failure("the status carries no info".to_owned()))?;
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| Failure(format!("the status's info is no JSON: {e}")))?;
    let pid = value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
    pid.ok_or_else(|| Failure("the status's info names no process".to_owned()))
}

/// A file below a directory, with text in it.
pub(crate) fn file(dir: &Path, name: &str, text: &str) -> Outcome<PathBuf> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, text)?;
    Ok(path)
}
