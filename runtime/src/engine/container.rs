//! Makes containers: CRI's `CreateContainer`.
//!
//! In: CRI's configuration and a ready sandbox. Out: a container whose process waits to be started; or nothing at all,
//! and every error met on the way. The order: intent on disk; snapshot, mount and bundle; created by the supervisor;
//! complete on disk. A crash in between leaves an incomplete record, which the next engine removes.

use std::{fs, path::Path, sync::Arc};

use pintle_cri_api::v1::{
    ContainerConfig, CreateContainerRequest, LinuxContainerResources, LinuxContainerSecurityContext,
    NamespaceMode as CriMode,
};
use pintle_image::Image;
use pintle_shim_protocol::{Answer, CreateContainer, Request};
use prost::Message as _;
use tracing::{Instrument as _, Span, field, info_span};

use super::{
    Engine, blocking, cdi, detached,
    error::{Error, Failures, Result},
    handlers::External,
    host, ids, layout,
    lifecycle::awaited,
    lookups::{self, Prepared},
    records::{self, ContainerRecord, MountRecord, NamespaceMode, SandboxRecord, UserRecord},
    resource_record::ResourcesRecord,
    sandbox::CREATE_LIMIT,
    sandbox_files,
    state::{Container, Phase, Sandbox},
    supervisor_client::unexpected,
    view,
};
use crate::{
    spec::{
        bounds,
        namespaces::{self, PidNamespace},
        process::ImageProcess,
        signal, user_namespace, validate,
    },
    waterfall::stage,
};

/// The request a container was made from, in its directory: a repeated one is compared with it.
pub const REQUEST: &str = "request.pb";

/// The oom_score_adj of containers that do not say otherwise.
const DEFAULT_OOM_SCORE: i32 = 0;

impl Engine {
    /// Makes a container in a sandbox and returns its id. The same request again, while the container made for it has
    /// not been started, returns the same id.
    ///
    /// # Errors
    /// When any step fails; nothing is left of it then.
    pub async fn create_container(self: &Arc<Self>, request: CreateContainerRequest) -> Result<String> {
        let config = request.config.unwrap_or_default();
        validate::container(&config)?;
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        let engine = Arc::clone(self);
        let name = config.metadata.clone().unwrap_or_default().name;
        let span = info_span!("create_container", sandbox = %sandbox.id, name);
        let operation = stage!("create_container", sandbox = %sandbox.id, container = field::Empty);
        let made = async move {
            let _op = sandbox.op.lock().await;
            engine.create_locked(&sandbox, config).await
        };
        detached(made.instrument(operation).instrument(span)).await
    }

    async fn create_locked(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<String> {
        if sandbox.is_awaited() {
            return Err(awaited(sandbox));
        }
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("sandbox {} is not ready", sandbox.id)));
        }
        if let Some(id) = self.same_container(sandbox, &config).await? {
            return Ok(id);
        }
        self.check_room(sandbox)?;
        let handler = sandbox.look(|record| record.config.runtime_handler.clone());
        let external = self.handlers.external(&handler).await?;
        let image = self.image_of(&config).instrument(stage!("image")).await?;
        let pid = self.pid_namespace(sandbox, &config)?;
        let record = self.new_record(sandbox, &config, &image)?;
        Span::current().record("container", &record.id);
        let dir = self.layout.container(&record.id);
        let container = Arc::new(Container::new(record, Arc::clone(sandbox), dir, Phase::Created));
        self.insert_container(&container);
        let parts = Parts { config, image, pid, external };
        match self.build(&container, parts).await {
            Ok(()) => {
                self.publish_container(&container, view::CREATED);
                Ok(container.id.clone())
            }
            Err(error) => {
                let mut failures = Failures::default();
                failures.note::<()>(Err(error));
                failures.note(self.remove_container_now(&container).await);
                failures.into_result().map(|()| container.id.clone())
            }
        }
    }

    fn check_room(&self, sandbox: &Sandbox) -> Result<()> {
        let full = if self.container_count() >= bounds::MAX_CONTAINERS {
            format!("there are {} containers", bounds::MAX_CONTAINERS)
        } else if self.containers_of(&sandbox.id).len() >= bounds::MAX_CONTAINERS_PER_SANDBOX {
            format!("the sandbox has {} containers", bounds::MAX_CONTAINERS_PER_SANDBOX)
        } else {
            return Ok(());
        };
        Err(Error::ResourceExhausted(format!(
            "{full}, and there may not be more: remove those that have ended"
        )))
    }

    /// The container that an earlier, equal request made, if it was never started.
    async fn same_container(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<String>> {
        let metadata = config.metadata.clone().unwrap_or_default();
        for container in self.containers_of(&sandbox.id) {
            let record = container.record();
            if record.name != metadata.name || record.attempt != metadata.attempt {
                continue;
            }
            let dir = container.dir.clone();
            let earlier = blocking(move || records::read_bounded(&dir.join(REQUEST))).await?;
            let earlier = earlier.and_then(|bytes| ContainerConfig::decode(bytes.as_slice()).ok());
            if container.phase() == Phase::Created && earlier.as_ref() == Some(config) {
                return Ok(Some(record.id));
            }
            let text = format!(
                "container {:?} attempt {} exists in the sandbox already, as {}",
                metadata.name, metadata.attempt, record.id
            );
            return Err(Error::AlreadyExists(text));
        }
        Ok(None)
    }

    async fn image_of(&self, config: &ContainerConfig) -> Result<Image> {
        let name = config.image.clone().unwrap_or_default().image;
        let images = self.images.clone();
        blocking(move || {
            let found = images.get(&name).map_err(Error::image(format!("looking for image {name:?}")))?;
            found.ok_or(Error::NotFound { kind: "image", id: name })
        })
        .await
    }

    fn pid_namespace(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<PidNamespace> {
        let record = sandbox.record();
        let infra = record.infra_pid.unwrap_or_default();
        let options = security(config).and_then(|s| s.namespace_options);
        user_namespace::check_container(options.as_ref(), record.config.users.as_ref())?;
        options.as_ref().map_or(Ok(()), |options| namespaces::check_container(options, &record.config))?;
        let Some(options) = options else {
            return Ok(match record.config.pid {
                NamespaceMode::Pod => PidNamespace::Joined(infra),
                NamespaceMode::Container => PidNamespace::Own,
                NamespaceMode::Node => PidNamespace::Node,
            });
        };
        match CriMode::try_from(options.pid) {
            Ok(CriMode::Pod) => Ok(PidNamespace::Joined(infra)),
            Ok(CriMode::Container) => Ok(PidNamespace::Own),
            Ok(CriMode::Node) => Ok(PidNamespace::Node),
            Ok(CriMode::Target) => self.target_pid(sandbox, &options.target_id).map(PidNamespace::Joined),
            Err(_) => Err(Error::InvalidArgument(format!("there is no namespace mode {}", options.pid))),
        }
    }

    fn target_pid(&self, sandbox: &Sandbox, target: &str) -> Result<i32> {
        let target = self.container(target)?;
        let running = matches!(target.phase(), Phase::Running { .. });
        match target.record().pid {
            Some(pid) if running && target.sandbox.id == sandbox.id => Ok(pid),
            _ => Err(Error::FailedPrecondition(format!("target {} does not run in this sandbox", target.id))),
        }
    }

    fn new_record(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &Image,
    ) -> Result<ContainerRecord> {
        let id = ids::generate()?;
        let SandboxRecord { cgroup_parent, config: pod, .. } = sandbox.record();
        let metadata = config.metadata.clone().unwrap_or_default();
        let asked = config.image.clone().unwrap_or_default();
        let stop_signal = signal::stop_signal(config.stop_signal, &image_process(image).stop_signal)?;
        let log_path = match (pod.log_directory.as_str(), config.log_path.as_str()) {
            ("", _) | (_, "") => String::new(),
            (directory, path) => Path::new(directory).join(path).to_string_lossy().into_owned(),
        };
        Ok(ContainerRecord {
            v: records::VERSION,
            sandbox: sandbox.id.clone(),
            boot: self.boot.clone(),
            complete: false,
            name: metadata.name,
            attempt: metadata.attempt,
            image: asked.image,
            user_specified_image: asked.user_specified_image,
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            image_id: image.id.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.iter().map(mount_record).collect(),
            log_path,
            cgroup: layout::join_cgroup(&cgroup_parent, &id),
            stop_signal,
            user: UserRecord::default(),
            created_at: host::now(),
            resources: asked_resources(config).map(ResourcesRecord::from),
            pid: None,
            end: None,
            id,
        })
    }

    async fn build(self: &Arc<Self>, container: &Arc<Container>, parts: Parts) -> Result<()> {
        let oom_score_adj = self.clamp_oom(oom_score(&parts.config));
        let kill_all_on_exit = parts.pid != PidNamespace::Own;
        let stdin = parts.config.stdin;
        let runtime = parts.external.as_ref().map(|external| external.runtime.clone());
        let engine = Arc::clone(self);
        let prepared = blocking({
            let container = Arc::clone(container);
            move || engine.prepare(&container, &parts)
        })
        .instrument(stage!("bundle"))
        .await?;
        let record = container.update(|record| record.user = prepared.user);
        let connection = container
            .sandbox
            .connection()
            .ok_or_else(|| Error::FailedPrecondition("the sandbox has no supervisor".to_owned()))?;
        let request = Request::Create(CreateContainer {
            container: container.id.clone(),
            bundle: container.dir.to_string_lossy().into_owned(),
            infra: false,
            seccomp: prepared.seccomp,
            log_path: Some(record.log_path).filter(|path| !path.is_empty()),
            stdin,
            kill_all_on_exit,
            oom_score_adj: Some(oom_score_adj),
            runtime,
        });
        let answer = connection.request(request, CREATE_LIMIT).instrument(stage!("create")).await;
        let answer = answer.map_err(Error::supervisor("creating the container"))?;
        let Answer::Created { pid } = answer else {
            return Err(Error::supervisor("creating the container")(unexpected(&answer)));
        };
        let record = container.update(|record| {
            record.pid = Some(pid);
            record.complete = true;
        });
        let dir = container.dir.clone();
        let engine = Arc::clone(self);
        blocking(move || {
            engine.finish_limits(&record)?;
            records::save(&dir, &record)
        })
        .instrument(stage!("record"))
        .await
    }

    /// Everything on disk that the supervisor needs: record, snapshot, mount points, bundle.
    fn prepare(&self, container: &Container, parts: &Parts) -> Result<Prepared> {
        let record = container.record();
        sandbox_files::make_dir(&container.dir)?;
        records::save_first(&container.dir, &record)?;
        let request = container.dir.join(REQUEST);
        records::write_private(&request, &parts.config.encode_to_vec())?;
        if let Some(directory) = Path::new(&record.log_path).parent() {
            fs::create_dir_all(directory).map_err(Error::io("making", directory))?;
        }
        let snapshot = format!("making a snapshot of {}", record.image_id);
        self.images.create_snapshot(&record.id, &record.image_id).map_err(Error::image(snapshot))?;
        let rootfs = self.images.mount_snapshot(&record.id).map_err(Error::image("mounting a snapshot"))?;
        let image = image_process(&parts.image);
        let with_volumes = self.mount_images(&record.id, &parts.config)?;
        let config = with_volumes.as_ref().unwrap_or(&parts.config);
        let injection = cdi::injection(&self.config.cdi_dirs, config)?;
        let prepared = lookups::prepare(&lookups::Request {
            config: injection.as_ref().map_or(config, |injection| &injection.config),
            injection: injection.as_ref(),
            image: &image,
            container,
            rootfs: &rootfs,
            pid: parts.pid,
            host: &self.host,
            filters: &self.filters,
            external: parts.external.as_ref(),
        })?;
        self.map_rootfs(container)?;
        Ok(prepared)
    }
}

/// What a container is built from, beside its record.
#[derive(Debug)]
struct Parts {
    config: ContainerConfig,
    image: Image,
    pid: PidNamespace,
    /// What makes it, if that is not the native engine.
    external: Option<External>,
}

/// The security context, if the request has one.
#[must_use]
pub fn security(config: &ContainerConfig) -> Option<LinuxContainerSecurityContext> {
    config.linux.as_ref()?.security_context.clone()
}

fn asked_resources(config: &ContainerConfig) -> Option<&LinuxContainerResources> {
    config.linux.as_ref()?.resources.as_ref()
}

fn oom_score(config: &ContainerConfig) -> i32 {
    let wanted = asked_resources(config).map(|resources| resources.oom_score_adj);
    wanted.and_then(|score| i32::try_from(score).ok()).unwrap_or(DEFAULT_OOM_SCORE)
}

fn mount_record(mount: &pintle_cri_api::v1::Mount) -> MountRecord {
    MountRecord {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation: mount.propagation,
        image: mount.image.as_ref().map(|image| image.image.clone()).filter(|image| !image.is_empty()),
        image_sub_path: mount.image_sub_path.clone(),
        options: mount.mount_options.clone(),
    }
}

fn image_process(image: &Image) -> ImageProcess {
    let Some(config) = image.config.config() else { return ImageProcess::default() };
    ImageProcess {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
    }
}
