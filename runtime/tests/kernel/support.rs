//! A node for one test: network namespace, directories, engine; short words for CRI's calls; the look for leftovers.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use pintle_runtime::{
    Engine, EngineConfig, Layout, RuntimeHandler,
    doctor::{Doctor, Finding, Stopped},
};
use tonic::{Request, Status};

use crate::image;

/// Set: pods' containers are made by the external runtime.
pub(crate) const EXTERNAL: &str = "PINTLE_TEST_EXTERNAL";
/// The handler for it.
pub(crate) const HANDLER: &str = "oci";

/// The external runtime under test, `PINTLE_TEST_OCI_RUNTIME` or runc, if it is there.
pub(crate) fn oci_runtime() -> Option<PathBuf> {
    let name = std::env::var("PINTLE_TEST_OCI_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let places = ["/", "/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin", "/usr/local/bin"];
    places.iter().map(|place| Path::new(place).join(&name)).find(|path| path.is_file())
}

/// How long anything in a test may take.
pub(crate) fn limit() -> Duration {
    let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse::<f64>().ok());
    Duration::from_secs(30).mul_f64(scale.unwrap_or(1.0))
}

/// Runs a test on a node of its own and asserts that it leaves nothing.
pub(crate) fn on_a_node<F: Future<Output = Node>>(test: impl FnOnce(Node) -> F) {
    // Threads inherit the namespace of the thread that makes them, so this is the node's for everything below.
    #[expect(deprecated, reason = "the test's thread is meant to change its namespace for good")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("the tests run as root");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let spans = tracing_subscriber::fmt::format::FmtSpan::CLOSE;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_span_events(spans)
            .with_test_writer()
            .try_init()
            .unwrap_or(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = test(Node::new().await).await;
        node.close().await;
    });
}

/// A node with an engine.
pub(crate) struct Node {
    dir: tempfile::TempDir,
    engine: Option<Arc<Engine>>,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-engine-").tempdir().unwrap();
        let mut node = Self { dir, engine: None };
        node.open().await;
        node.import();
        node
    }

    /// The configuration of the node's engine.
    pub(crate) fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::new(self.path("root"), self.path("state"));
        config.shim = shim();
        config.runtime_handlers =
            oci_runtime().map(|path| RuntimeHandler::new(HANDLER, path)).into_iter().collect();
        config.cdi_dirs = vec![self.path("cdi")];
        config
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    /// Opens the engine, which adopts what is there.
    pub(crate) async fn open(&mut self) {
        self.engine = Some(Engine::open(self.config()).await.unwrap());
    }

    /// Opens the engine with another supervisor's program.
    pub(crate) async fn open_with_shim(&mut self, shim: PathBuf) {
        self.open_with(EngineConfig { shim, ..self.config() }).await;
    }

    /// Opens the engine with another configuration.
    pub(crate) async fn open_with(&mut self, config: EngineConfig) {
        self.engine = Some(Engine::open(config).await.unwrap());
    }

    /// Ends the engine as a SIGKILL would: nothing is told to anybody.
    pub(crate) async fn drop_engine(&mut self) {
        let engine = self.engine.take().unwrap();
        eventually("the engine is gone", || Arc::strong_count(&engine) == 1).await;
    }

    fn import(&self) {
        let options = pintle_image::ImportOptions::default();
        let images = self.engine().images().import(image::archive().as_slice(), options).unwrap();
        assert_eq!(images.len(), 1);
    }

    /// Makes a pod with the configuration changed as wished.
    pub(crate) async fn try_pod(
        &self,
        name: &str,
        change: impl FnOnce(&mut cri::PodSandboxConfig),
    ) -> Result<String, Status> {
        let handler = if std::env::var_os(EXTERNAL).is_some() { HANDLER } else { "" };
        self.try_pod_of(handler, name, change).await
    }

    /// Makes a pod of a runtime handler with the configuration changed as wished.
    pub(crate) async fn try_pod_of(
        &self,
        handler: &str,
        name: &str,
        change: impl FnOnce(&mut cri::PodSandboxConfig),
    ) -> Result<String, Status> {
        let mut config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "test".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.path("logs").join(name).to_string_lossy().into_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let reply = self.engine().run_pod_sandbox_call(request).await?;
        Ok(reply)
    }

    /// Makes a pod.
    pub(crate) async fn pod(&self, name: &str) -> String {
        self.try_pod(name, |_| {}).await.unwrap()
    }

    /// Makes a pod of a runtime handler.
    pub(crate) async fn pod_of(&self, handler: &str, name: &str) -> String {
        self.try_pod_of(handler, name, |_| {}).await.unwrap()
    }

    /// Makes a container with the configuration changed as wished.
    pub(crate) async fn try_container(
        &self,
        pod: &str,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String, Status> {
        let mut config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: image::NAME.to_owned(), ..Default::default() }),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        let reply = self.engine().create_container_call(request).await?;
        Ok(reply)
    }

    /// Makes and starts a container that runs a shell script.
    pub(crate) async fn script(&self, pod: &str, name: &str, script: &str) -> String {
        let id = self.try_container(pod, name, |config| config.command = shell(script)).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    /// Starts a container.
    pub(crate) async fn start(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.engine().as_ref().start_container(Request::new(request)).await.map(drop)
    }

    /// Stops a container.
    pub(crate) async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.engine().as_ref().stop_container(Request::new(request)).await.map(drop)
    }

    /// Removes a container.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        self.engine().as_ref().remove_container(Request::new(request)).await.map(drop)
    }

    /// Stops and removes a pod, each twice.
    pub(crate) async fn remove_pod(&self, id: &str) {
        for _ in 0..2 {
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
            self.engine().as_ref().stop_pod_sandbox(Request::new(request)).await.unwrap();
        }
        for _ in 0..2 {
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
            self.engine().as_ref().remove_pod_sandbox(Request::new(request)).await.unwrap();
        }
    }

    /// A container's status.
    pub(crate) async fn status(&self, id: &str) -> cri::ContainerStatus {
        self.try_status(id).await.unwrap()
    }

    /// A container's status, if there is one.
    pub(crate) async fn try_status(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply = self.engine().as_ref().container_status(Request::new(request)).await?;
        Ok(reply.into_inner().status.unwrap())
    }

    /// What `verbose` says about a container.
    pub(crate) async fn info(&self, id: &str) -> serde_json::Value {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let reply = self.engine().as_ref().container_status(Request::new(request)).await.unwrap();
        serde_json::from_str(&reply.into_inner().info["info"]).unwrap()
    }

    /// A sandbox's status, and what `verbose` says about it.
    pub(crate) async fn pod_status(&self, id: &str) -> (cri::PodSandboxStatus, serde_json::Value) {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let reply =
            self.engine().as_ref().pod_sandbox_status(Request::new(request)).await.unwrap().into_inner();
        (reply.status.unwrap(), serde_json::from_str(&reply.info["info"]).unwrap())
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&self, id: &str) -> cri::ContainerStatus {
        let deadline = Instant::now() + limit();
        loop {
            let status = self.status(id).await;
            if status.state == cri::ContainerState::ContainerExited as i32 {
                return status;
            }
            assert!(Instant::now() < deadline, "container {id} does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in a container.
    pub(crate) async fn exec(
        &self,
        id: &str,
        script: &str,
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: shell(script), timeout };
        self.engine().as_ref().exec_sync(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    /// What a command in a container writes.
    pub(crate) async fn output(&self, id: &str, script: &str) -> String {
        let done = self.exec(id, script, 20).await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.exit_code, 0, "{script}: {out}{err}");
        out.trim_end().to_owned()
    }

    /// The text that a container has written, without the log's columns.
    pub(crate) fn log(&self, pod: &str, name: &str) -> String {
        let path = self.path("logs").join(pod).join(format!("{name}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect::<Vec<_>>().join("\n")
    }

    /// What the doctor finds, with the engine's help if there is one.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        self.with_doctor(async |doctor| doctor.examine().await.unwrap().findings).await
    }

    /// What the doctor finds and repairs.
    pub(crate) async fn repaired(&self) -> Vec<Finding> {
        self.with_doctor(async |doctor| {
            let mut report = doctor.examine().await.unwrap();
            doctor.repair(&mut report).await.unwrap();
            report.findings
        })
        .await
    }

    async fn with_doctor<T>(&self, work: impl AsyncFnOnce(Doctor<'_>) -> T) -> T {
        let config = self.config();
        match &self.engine {
            Some(engine) => work(Doctor { config: &config, engine, agent: None }).await,
            None => {
                let stopped = Stopped::lock(&Layout::new(&config)).unwrap().expect("no engine runs");
                work(Doctor { config: &config, engine: &stopped, agent: None }).await
            }
        }
    }

    /// Takes the node down and asserts that nothing is left of it.
    async fn close(mut self) {
        assert_eq!(self.findings().await, [], "the doctor finds something beside the engine");
        self.engine().remove_all_resources().await.unwrap();
        let layout = self.engine().layout().clone();
        self.drop_engine().await;
        assert_eq!(self.findings().await, [], "the doctor finds something without an engine");
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&dir), "mounts are left");
        let tag = layout.cgroup_root.trim_matches('/').to_owned();
        eventually("no cgroup is left", || cgroups_named(&tag).is_empty()).await;
        eventually("no process is left", || processes_of(&dir, &tag).is_empty()).await;
        for kind in ["sandboxes", "containers"] {
            let left = std::fs::read_dir(self.path("state").join(kind)).unwrap().count();
            assert_eq!(left, 0, "{kind} are left");
        }
        let snapshots = std::fs::read_dir(self.path("root/snapshots")).unwrap().count();
        assert_eq!(snapshots, 0, "snapshots are left");
        let links = Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
        let links = String::from_utf8(links).unwrap();
        assert_eq!(links.lines().count(), 1, "interfaces are left: {links}");
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
        assert!(tables.is_empty(), "tables are left");
    }
}

/// A node's engine on its socket.
pub(crate) struct Served {
    path: PathBuf,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<pintle_runtime::Result<()>>,
}

impl Served {
    /// Serves from now on.
    pub(crate) async fn start(node: &Node) -> Self {
        let path = node.path("pintle.sock");
        let listener = pintle_runtime::bind(&path).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let engine = Arc::clone(node.engine());
        let serving = tokio::spawn(engine.serve(listener, async { stopped.await.unwrap_or(()) }));
        Self { path, stop, serving }
    }

    /// The socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to it.
    pub(crate) async fn channel(&self) -> tonic::transport::Channel {
        pintle_cri_api::connect(&format!("unix://{}", self.path.display())).await.unwrap()
    }

    /// Ends serving.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
    }
}

/// The calls whose names the engine's own operations have, in CRI's clothes.
trait Calls {
    async fn run_pod_sandbox_call(&self, request: cri::RunPodSandboxRequest) -> Result<String, Status>;
    async fn create_container_call(&self, request: cri::CreateContainerRequest) -> Result<String, Status>;
}

impl Calls for Arc<Engine> {
    async fn run_pod_sandbox_call(&self, request: cri::RunPodSandboxRequest) -> Result<String, Status> {
        self.run_pod_sandbox(request).await.map_err(|error| pintle_runtime::cri::to_status(&error))
    }

    async fn create_container_call(&self, request: cri::CreateContainerRequest) -> Result<String, Status> {
        self.create_container(request).await.map_err(|error| pintle_runtime::cri::to_status(&error))
    }
}

/// Containers with pid namespaces of their own, as a kubelet asks for.
pub(crate) fn own_pids() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

/// A shell script as a command.
pub(crate) fn shell(script: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()]
}

/// The container's security context, to be changed.
pub(crate) fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// Waits until something is true.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + limit();
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The supervisor's program: PINTLE_SHIM, else beside the test's, built if it is missing.
pub(crate) fn shim() -> PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        if let Some(path) = std::env::var_os("PINTLE_SHIM") {
            return PathBuf::from(path);
        }
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().and_then(Path::parent).unwrap().to_owned();
        let path = profile.join("pintle-shim");
        if !path.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let target = profile.parent().unwrap();
            let built = Command::new(cargo)
                .args(["build", "-p", "pintle-shim", "--target-dir"])
                .arg(target)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status();
            assert!(built.unwrap().success(), "the supervisor cannot be built");
        }
        path
    })
    .clone()
}

/// Changes a record on disk, as one who knows what he does.
pub(crate) fn edit_record(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let (text, _) = text.rsplit_once("\n# sha256 ").expect("a record ends with its sum");
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// Every cgroup directory whose path holds a name.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut mounts = vec![PathBuf::from("/sys/fs/cgroup")];
    mounts.extend(std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()));
    for mount in mounts {
        let path = mount.join(name);
        if path.exists() {
            found.push(path);
        }
    }
    found
}

/// Every process that has a word in its command line, or is in a cgroup of that name.
pub(crate) fn processes_of(word: &str, cgroup: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let command = read("cmdline");
        if command.contains(word) || read("cgroup").contains(cgroup) {
            found.push(format!("{name} {command}"));
        }
    }
    found
}
