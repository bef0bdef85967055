//! Makes sandboxes: CRI's `RunPodSandbox`.
//!
//! In: CRI's configuration. Out: a sandbox that is READY, with addresses; or nothing at all, and every error met on the
//! way. The order: intent on disk; supervisor and bundle side by side; infra created; infra started and network
//! attached side by side; ready on disk. A crash in between leaves an intent, which the next engine removes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pintle_cni::{Attach, HostPort, Netns};
use pintle_cri_api::v1::{
    LinuxContainerResources, LinuxPodSandboxConfig, NamespaceMode as CriMode, PodSandboxConfig,
    RunPodSandboxRequest,
};
use pintle_shim_protocol::{Answer, ContainerState, CreateContainer, ErrorCode, Request};
use prost::Message as _;
use tracing::{Instrument as _, info_span};

use super::{
    Engine, blocking, detached,
    error::{Error, Failures, Result},
    host,
    identity::Identity,
    ids,
    launch::{self, SOCKET},
    layout,
    records::{self, NamespaceMode, SandboxConfig, SandboxPhase, SandboxRecord},
    resource_record::ResourcesRecord,
    sandbox_files,
    state::Sandbox,
    supervisor_client::{Connection, unexpected},
    view,
    watch::{self, SandboxListener},
};
use crate::{
    spec::{dns, infra, namespaces, ports, resource_change, resources, sysctls, user_namespace, validate},
    waterfall::stage,
};

/// How long making a container may take: less than a kubelet waits for an answer (two minutes), and less than the
/// supervisor waits for its helper, so that this is the limit that decides.
pub const CREATE_LIMIT: Duration = Duration::from_secs(100);
/// How long any other request to a supervisor may take.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(120);
/// What a supervisor's words about a kernel parameter begin with.
const SYSCTLS: &str = "linux.sysctls";
/// The infra container's oom_score_adj, as the kubelet sets it.
const INFRA_OOM_SCORE: i32 = -998;

impl Engine {
    /// Makes a sandbox and returns its id. The same request again, while the sandbox made for it is ready, returns the same
    /// id.
    ///
    /// # Errors
    /// When any step fails; nothing is left of it then.
    pub async fn run_pod_sandbox(self: &Arc<Self>, request: RunPodSandboxRequest) -> Result<String> {
        let config = request.config.unwrap_or_default();
        validate::sandbox(&config)?;
        // Not kept: its containers' creates look for it again.
        if self.handlers.external(&request.runtime_handler).await?.is_some() {
            refuse_user_namespace(&config, &request.runtime_handler)?;
        }
        let sum = records::sum(&config.encode_to_vec());
        let kept = kept_config(&config, request.runtime_handler)?;
        if kept.users.is_some() {
            self.check_user_namespaces(&kept.runtime_handler)?;
        }
        let resolv_conf = dns::resolv_conf(config.dns_config.as_ref(), &sandbox_files::node_resolv_conf())?;
        let host_ports = ports::host_ports(&config)?;
        let linux = config.linux.unwrap_or_default();
        for limits in [&linux.resources, &linux.overhead].into_iter().flatten() {
            resource_change::merged(&LinuxContainerResources::default(), limits, &self.host)?;
        }
        let options = linux.security_context.as_ref().and_then(|s| s.namespace_options.as_ref());
        let extras = Extras { resolv_conf, sysctls: sysctls::of_pod(&linux.sysctls, options)? };
        let engine = Arc::clone(self);
        let span = info_span!("run_pod_sandbox", namespace = %kept.namespace, name = %kept.name);
        let made = async move {
            let identity = Identity::of(&kept);
            let _claim = engine.identities.claim(identity.clone()).await;
            if let Some(id) = engine.same_sandbox(&identity, &sum).await? {
                return Ok(id);
            }
            engine.make_sandbox(Wishes { config: kept, request: sum, extras, linux, host_ports }).await
        };
        detached(made.instrument(span)).await
    }

    async fn make_sandbox(
        self: Arc<Self>,
        Wishes { config, request, extras, linux, host_ports }: Wishes,
    ) -> Result<String> {
        let id = ids::generate()?;
        let (cgroup_parent, owns_parent) = self.cgroup_parent(&linux.cgroup_parent, &id);
        let record = SandboxRecord {
            v: records::VERSION,
            id: id.clone(),
            boot: self.boot.clone(),
            phase: SandboxPhase::Intent,
            config,
            cgroup_parent,
            owns_parent,
            created_at: host::now(),
            infra_pid: None,
            supervisor_pid: None,
            resources: linux.resources.as_ref().map(ResourcesRecord::from),
            overhead: linux.overhead.as_ref().map(ResourcesRecord::from),
            host_ports,
            request,
            ips: Vec::new(),
        };
        let sandbox = Arc::new(Sandbox::new(record, self.layout.sandbox(&id)));
        let op = sandbox.op.lock().await;
        let operation = stage!("run_pod_sandbox", sandbox = %id);
        match self.bring_up(&sandbox, extras).instrument(operation).await {
            Ok(()) => {
                drop(op);
                self.publish_sandbox(&sandbox, view::CREATED);
                self.publish_sandbox(&sandbox, view::STARTED);
                Ok(id)
            }
            Err(error) => {
                let mut failures = Failures::default();
                failures.note::<()>(Err(error));
                failures.note(self.take_back(&sandbox).await);
                failures.into_result().map(|()| id)
            }
        }
    }

    async fn bring_up(self: &Arc<Self>, sandbox: &Arc<Sandbox>, extras: Extras) -> Result<()> {
        let has_sysctls = !extras.sysctls.is_empty();
        let record = sandbox.record();
        let dir = sandbox.dir.clone();
        blocking({
            let record = record.clone();
            move || {
                sandbox_files::make_dir(&dir)?;
                records::save_first(&dir, &record)
            }
        })
        .instrument(stage!("intent"))
        .await?;
        // Known, but not listed: events find it, callers do not.
        self.insert_sandbox(sandbox);
        let connect = self.start_supervisor(sandbox).instrument(stage!("supervisor"));
        let prepare = self.prepare_sandbox(sandbox, extras).instrument(stage!("bundle"));
        let (connected, prepared) = tokio::join!(connect, prepare);
        let (connection, bundle) = both(connected, prepared)?;
        // Before it is created: an end reported at any moment from now on turns this off again.
        sandbox.set_infra_alive(true);
        let pid = create_infra(&connection, sandbox, bundle, self.clamp_oom(INFRA_OOM_SCORE))
            .instrument(stage!("infra_create"))
            .await?;
        sandbox.update(|record| record.infra_pid = Some(pid));
        let start = start_infra(&connection, sandbox).instrument(stage!("infra_start"));
        let attach = self.attach_network(sandbox, pid).instrument(stage!("network"));
        let ips = if has_sysctls {
            // It sets them when it starts, and those of an interface need the interface.
            let ips = attach.await?;
            start.await.map_err(about_sysctls)?;
            ips
        } else {
            let (started, attached) = tokio::join!(start, attach);
            both(started, attached)?.1
        };
        let record = sandbox.update(|record| {
            record.phase = SandboxPhase::Ready;
            record.supervisor_pid = Some(connection.pid);
            record.ips = ips;
        });
        let dir = sandbox.dir.clone();
        blocking(move || records::save(&dir, &record)).instrument(stage!("record")).await?;
        match sandbox.is_ready() {
            true => Ok(()),
            false => Err(Error::Internal("the infra container ended at once".to_owned())),
        }
    }

    async fn start_supervisor(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<Connection> {
        let cgroup = self.supervisor_cgroup(&sandbox.id);
        let (launched, socket) =
            stage!("launch").in_scope(|| launch::launch(&self.shim, &sandbox.id, &sandbox.dir, &cgroup))?;
        let listener = SandboxListener::new(self, &sandbox.id);
        match Connection::over(socket, listener).instrument(stage!("connect")).await {
            Ok((connection, _)) => {
                launched.is_up();
                Ok(self.keep(sandbox, connection))
            }
            Err(error) => {
                Err(launched.failure(Error::supervisor("connecting to the supervisor")(error)).await)
            }
        }
    }

    /// Connects to a sandbox's supervisor and keeps the connection.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
    ) -> Result<(Connection, Vec<ContainerState>)> {
        let socket = sandbox.dir.join(SOCKET);
        let listener = SandboxListener::new(self, &sandbox.id);
        let (connection, known) = Connection::open(&socket, listener)
            .await
            .map_err(Error::supervisor("connecting to the supervisor"))?;
        Ok((self.keep(sandbox, connection), known))
    }

    fn keep(self: &Arc<Self>, sandbox: &Arc<Sandbox>, connection: Connection) -> Connection {
        sandbox.set_connection(Some(connection.clone()));
        if connection.is_closed() {
            // It ended before it was ours, and nobody has looked into it.
            watch::spawn_look_into(Arc::downgrade(self), Arc::clone(sandbox));
        }
        connection
    }

    async fn prepare_sandbox(self: &Arc<Self>, sandbox: &Sandbox, extras: Extras) -> Result<PathBuf> {
        let Extras { resolv_conf, sysctls } = extras;
        let record = sandbox.record();
        let dir = sandbox.dir.clone();
        let rootfs = self.layout.pause_rootfs();
        let engine = Arc::clone(self);
        let cgroup = layout::join_cgroup(&record.cgroup_parent, &record.id);
        let limits = LinuxContainerResources { cpu_shares: 2, ..Default::default() };
        let resources = resources::oci(&limits, &self.host)?;
        blocking(move || {
            if record.owns_parent {
                engine.cgroups.ensure(&record.cgroup_parent)?;
                engine.limit_pod(&record)?;
            }
            sandbox_files::prepare(&dir, &record.config, &resolv_conf)?;
            let bundle = dir.join(sandbox_files::INFRA);
            let input = infra::Input {
                config: &record.config,
                rootfs: &rootfs,
                cgroup: &cgroup,
                resources,
                sysctls: &sysctls,
            };
            sandbox_files::write_bundle(&bundle, &infra::spec(input)?)?;
            Ok(bundle)
        })
        .await
    }

    async fn attach_network(&self, sandbox: &Sandbox, pid: i32) -> Result<Vec<String>> {
        let record = sandbox.record();
        if record.config.network == NamespaceMode::Node {
            return Ok(Vec::new());
        }
        let network = Arc::clone(&self.network);
        blocking(move || {
            let path = format!("/proc/{pid}/ns/net");
            let netns = Netns::Path(Path::new(&path));
            let ports = &record.host_ports;
            let request = Attach { sandbox: &record.id, pod_uid: &record.config.uid, netns, ports };
            let attachment = network.attach(&request).map_err(Error::network("attaching the pod network"))?;
            Ok(vec![attachment.ip.to_string()])
        })
        .await
    }

    /// The pod's cgroup, and whether the engine makes it: it does when nobody else has.
    fn cgroup_parent(&self, asked: &str, id: &str) -> (String, bool) {
        if asked.is_empty() {
            return (self.layout.own_pod_cgroup(id), true);
        }
        let parent = layout::join_cgroup("/", asked);
        let owns = !self.cgroups.exists(&parent);
        (parent, owns)
    }

    /// An oom_score_adj that the engine can set: without CAP_SYS_RESOURCE not below its own.
    pub(crate) fn clamp_oom(&self, wanted: i32) -> i32 {
        let clamped = wanted.clamp(self.host.oom_floor, 1000);
        if clamped != wanted {
            tracing::debug!(wanted, clamped, "oom_score_adj cannot be lowered without CAP_SYS_RESOURCE");
        }
        clamped
    }
}

/// What a sandbox is made from.
struct Wishes {
    config: SandboxConfig,
    /// The sum of the request.
    request: String,
    extras: Extras,
    linux: LinuxPodSandboxConfig,
    host_ports: Vec<HostPort>,
}

/// What a sandbox is made from, beside what is kept of its configuration.
#[derive(Debug)]
struct Extras {
    resolv_conf: String,
    sysctls: BTreeMap<String, String>,
}

/// A kernel parameter that the kernel does not take is the caller's mistake.
fn about_sysctls(error: Error) -> Error {
    let failure = if let Error::Supervisor { source, .. } = &error { source.failure() } else { None };
    match failure.filter(|f| f.code == ErrorCode::ExecFailed && f.message.contains(SYSCTLS)) {
        Some(failure) => Error::InvalidArgument(failure.message.clone()),
        None => error,
    }
}

/// The outcomes of two steps that ran side by side. Both are waited for, also when one fails: what blocks cannot be given
/// up, and would make a mount or an address while it is being taken away.
fn both<A, B>(first: Result<A>, second: Result<B>) -> Result<(A, B)> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok((first, second)),
        (Err(first), Err(second)) => Err(Error::Several(vec![first, second])),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

async fn create_infra(
    connection: &Connection,
    sandbox: &Sandbox,
    bundle: PathBuf,
    oom_score_adj: i32,
) -> Result<i32> {
    let request = Request::Create(CreateContainer {
        container: sandbox.id.clone(),
        bundle: bundle.to_string_lossy().into_owned(),
        infra: true,
        log_path: None,
        stdin: false,
        kill_all_on_exit: false,
        seccomp: false,
        oom_score_adj: Some(oom_score_adj),
        runtime: None,
    });
    let answer = connection.request(request, CREATE_LIMIT).await;
    let answer = answer.map_err(Error::supervisor("creating the infra container"))?;
    let Answer::Created { pid } = answer else {
        return Err(Error::supervisor("creating the infra container")(unexpected(&answer)));
    };
    Ok(pid)
}

async fn start_infra(connection: &Connection, sandbox: &Sandbox) -> Result<()> {
    let request = Request::Start { container: sandbox.id.clone() };
    let answer = connection.request(request, REQUEST_LIMIT).await;
    answer.map(drop).map_err(Error::supervisor("starting the infra container"))
}

/// The ids of an external runtime's files are not mapped.
fn refuse_user_namespace(config: &PodSandboxConfig, handler: &str) -> Result<()> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    match options.and_then(|options| options.userns_options.as_ref()) {
        Some(users) if users.mode != CriMode::Node as i32 => Err(Error::InvalidArgument(format!(
            "userns_options: user namespaces are not supported with runtime handler {handler:?}"
        ))),
        Some(_) | None => Ok(()),
    }
}

fn kept_config(config: &PodSandboxConfig, runtime_handler: String) -> Result<SandboxConfig> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|s| s.namespace_options.clone()).unwrap_or_default();
    Ok(SandboxConfig {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        attempt: metadata.attempt,
        hostname: config.hostname.clone(),
        log_directory: config.log_directory.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler,
        network: namespaces::shared_mode(options.network, "namespace_options.network")?,
        pid: namespaces::mode(options.pid, "namespace_options.pid")?,
        ipc: namespaces::shared_mode(options.ipc, "namespace_options.ipc")?,
        privileged: security.is_some_and(|s| s.privileged),
        users: user_namespace::of_sandbox(security.and_then(|s| s.namespace_options.as_ref()))?,
    })
}
