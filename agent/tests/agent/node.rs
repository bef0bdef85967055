//! An agent on a node of its own: private directories, network namespace and cgroup root.
//!
//! In: what a test wants on it. Out: what the command line says. Dropping it after a failure kills and unmounts what is
//! left, found by its directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pintle_cri_api::{ext, v1};
use serde_json::Value;
use tonic::transport::Channel;

/// What the daemon logs when it has no descriptor for a connection.
const STARVED: &str = "a connection cannot be taken";
const PINTLE: &str = env!("CARGO_BIN_EXE_pintle");

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    dir: tempfile::TempDir,
    holder: Child,
    daemon: Option<Child>,
    verb: &'static str,
}

impl Node {
    /// With an agent that reads this configuration, and the demo image.
    pub(crate) fn start(config: &str) -> Self {
        let mut node = Self::new("agent", config);
        node.spawn();
        node.pintle(&["import", &image().to_string_lossy()]);
        node
    }

    /// With the runtime alone.
    pub(crate) fn runtime() -> Self {
        let mut node = Self::new("runtime", "");
        node.spawn();
        node
    }

    fn new(verb: &'static str, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-agent-").tempdir().unwrap();
        for name in ["manifests", "root", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let holder = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let node = Self { dir, holder, daemon: None, verb };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", node.holder.id());
        node.wait("a network namespace", |_| fs::read_link(&theirs).ok().filter(|link| *link != own));
        assert!(node.command("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        node
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        self.daemon = Some(self.daemon_command().stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.wait("the daemon to serve", |node| node.serves().then_some(()));
    }

    /// Starts the daemon with so few descriptors, looks whether it serves or ends, and kills it.
    pub(crate) fn spawn_starved(&self, files: u32) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(PINTLE);
        self.add_arguments(&mut command);
        let mut daemon = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let before = self.log().matches(STARVED).count();
        self.wait("the starved daemon to serve, to end, or to say that it cannot", |node| {
            let ended = daemon.try_wait().unwrap().is_some();
            let says_so = node.log().matches(STARVED).count() > before;
            let connects = std::os::unix::net::UnixStream::connect(node.socket()).is_ok();
            (ended || says_so || (connects && node.serves_within_a_moment())).then_some(())
        });
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn serves_within_a_moment(&self) -> bool {
        let endpoint = format!("unix://{}", self.socket().display());
        let mut command = self.command("timeout");
        command.arg("1").arg(PINTLE).args(["--runtime-endpoint", &endpoint, "version"]);
        command.output().unwrap().status.success()
    }

    /// Changes how many files the daemon may open.
    pub(crate) fn limit_files(&self, files: u64) {
        let daemon = rustix::process::Pid::from_child(self.daemon.as_ref().unwrap());
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.as_raw_nonzero())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let maximum: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let limit = rustix::process::Rlimit { current: Some(files.min(maximum)), maximum: Some(maximum) };
        rustix::process::prlimit(Some(daemon), rustix::process::Resource::Nofile, limit).unwrap();
    }

    /// How many files the daemon has open.
    pub(crate) fn open_files(&self) -> u64 {
        let fds = format!("/proc/{}/fd", self.daemon.as_ref().unwrap().id());
        fs::read_dir(fds).unwrap().count() as u64
    }

    fn daemon_command(&self) -> Command {
        let mut command = self.command(PINTLE);
        self.add_arguments(&mut command);
        command
    }

    fn add_arguments(&self, command: &mut Command) {
        command.arg(self.verb).arg("--config").arg(self.path("config.yaml"));
        command.arg("--root").arg(self.path("root")).arg("--state").arg(self.path("state"));
        if self.verb == "agent" {
            command.arg("--manifests").arg(self.path("manifests")).args(["--node-name", "n1"]);
        }
        command.env("PINTLE_SHIM", shim());
    }

    /// Runs another agent with the same directories, which must end by itself.
    pub(crate) fn try_second_agent(&self) -> Output {
        self.daemon_command().output().unwrap()
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// As systemd would.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.wait("the daemon to end", |_| daemon.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }

    pub(crate) fn manifest(&self, file: &str, text: &str) {
        let beside = self.path("manifests").join(format!(".{file}"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path("manifests").join(file)).unwrap();
    }

    pub(crate) fn remove_manifest(&self, file: &str) {
        fs::remove_file(self.path("manifests").join(file)).unwrap();
    }

    /// What the command line prints; it must succeed.
    pub(crate) fn pintle(&self, args: &[&str]) -> String {
        let output = self.try_pintle(args);
        let told = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
        assert!(output.status.success(), "pintle {args:?}: {told}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_pintle(&self, args: &[&str]) -> Output {
        let endpoint = format!("unix://{}", self.socket().display());
        self.command(PINTLE).args(["--runtime-endpoint", &endpoint]).args(args).output().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("state/pintle.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The pod as `get pods` tells of it.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        let full = format!("{name}-n1");
        self.pods().into_iter().find(|pod| pod["metadata"]["name"] == full.as_str())
    }

    /// All pods, by the call that `get pods` makes. What is asked again and again starts no program: that would take the
    /// processors from the daemon that is being waited for.
    fn pods(&self) -> Vec<Value> {
        let answer = self.ask(async |channel| {
            pintle_cri_api::ext_agent_client(channel).pods(ext::PodsRequest::default()).await
        });
        let answer = answer.unwrap_or_else(|e| panic!("no pods: {e}\n{}", self.log()));
        let mut list: Value = serde_json::from_str(&answer.json).unwrap();
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    fn serves(&self) -> bool {
        let version = async |channel| {
            pintle_cri_api::runtime_client(channel).version(v1::VersionRequest::default()).await
        };
        self.ask(version).is_ok()
    }

    fn has_sandboxes(&self) -> bool {
        let answer = self.ask(async |channel| {
            let request = v1::ListPodSandboxRequest::default();
            pintle_cri_api::runtime_client(channel).list_pod_sandbox(request).await
        });
        !answer.unwrap_or_else(|e| panic!("no sandboxes: {e}\n{}", self.log())).items.is_empty()
    }

    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, String> {
        let endpoint = format!("unix://{}", self.socket().display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = async {
                let channel = pintle_cri_api::connect(&endpoint).await.map_err(|e| e.to_string())?;
                question(channel).await.map(tonic::Response::into_inner).map_err(|status| status.to_string())
            };
            let limit = Duration::from_secs_f64(60.0 * scale());
            tokio::time::timeout(limit, answer).await.map_err(|_| "no answer in time".to_owned())?
        })
    }

    /// The id of the pod's running container.
    pub(crate) fn container(&self, pod: &str) -> String {
        let pod = self.pod(pod).unwrap();
        pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned()
    }

    pub(crate) fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, |pod| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    }

    pub(crate) fn wait_pod(&self, name: &str, reached: impl Fn(&Value) -> bool) -> Value {
        self.wait(&format!("pod {name}"), |node| node.pod(name).filter(|pod| reached(pod)))
    }

    pub(crate) fn wait_gone(&self, name: &str) {
        self.wait(&format!("pod {name} to be gone"), |node| node.pod(name).is_none().then_some(()));
    }

    pub(crate) fn wait_log(&self, text: &str) {
        self.wait(text, |node| node.log().contains(text).then_some(()));
    }

    pub(crate) fn wait<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs_f64(40.0 * scale());
        loop {
            let began = Instant::now();
            if let Some(found) = ready(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}\n{}", self.log());
            // As long as the look took, so that whoever is waited for has half of the time.
            std::thread::sleep(began.elapsed().max(Duration::from_millis(20)));
        }
    }

    /// The names in a directory of the state directory.
    pub(crate) fn state_dir_entries(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("state").join(dir)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The log files of a pod's container, the oldest first.
    pub(crate) fn pod_logs(&self, name: &str) -> Vec<(PathBuf, String)> {
        let prefix = format!("default_{name}-n1_");
        let pods = fs::read_dir(self.path("root/log/pods")).into_iter().flatten().flatten();
        let dirs = pods.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let files = dirs.flat_map(|dir| fs::read_dir(dir.path().join("app")).into_iter().flatten().flatten());
        let mut found: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        // Rotated names sort by time; the current file comes last.
        found.sort_by_key(|path| (path.extension().is_some_and(|ext| ext == "log"), path.clone()));
        found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default())).collect()
    }

    /// Ends every pod, stops the daemon and asserts that nothing is left.
    pub(crate) fn finish(mut self) {
        for entry in fs::read_dir(self.path("manifests")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        if self.daemon.is_some() {
            self.wait("every pod to be gone", |node| (!node.has_sandboxes()).then_some(()));
            if self.verb == "agent" {
                self.wait("every pod to be forgotten", |node| node.pods().is_empty().then_some(()));
            }
            self.stop();
        }
        let (root, state) = (self.path("root"), self.path("state"));
        let config = self.path("config.yaml");
        let [root_text, state_text, config] = [&root, &state, &config].map(|path| path.to_string_lossy());
        self.pintle(&["doctor", "--root", &root_text, "--state", &state_text, "--config", &config]);
        self.pintle(&["cleanup", "--root", &root.to_string_lossy(), "--state", &state.to_string_lossy()]);
        let left = self.residue();
        assert!(left.is_empty(), "left behind: {left:?}\n{}", self.log());
        for dir in ["root/pods", "root/snapshots", "root/log/pods", "state/sandboxes", "state/containers"] {
            let entries: Vec<_> = fs::read_dir(self.path(dir)).into_iter().flatten().flatten().collect();
            assert!(entries.is_empty(), "left in {dir}: {entries:?}");
        }
    }

    /// Mounts below the node's directory, cgroups of its instance.
    fn residue(&self) -> Vec<String> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = table.lines().filter(|line| line.contains(&dir)).map(str::to_owned);
        let tag = self.tag();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let groups =
            hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|dir| dir.join(format!("pintle-{tag}")));
        mounts.chain(groups.filter(|group| group.exists()).map(|group| group.display().to_string())).collect()
    }

    /// What the instance's names on the host carry.
    pub(crate) fn tag(&self) -> String {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(self.path("state").to_string_lossy().as_bytes());
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        self.take_down();
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

impl Node {
    /// After a failure: the supervisors (they name the directory) end with their containers, then mounts and cgroups go.
    fn take_down(&self) {
        let dir = self.dir.path().to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let pid =
                entry.file_name().to_string_lossy().parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid.filter(|_| command.contains("pintle-shim") && command.contains(&dir)) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
        }
        for _ in 0..50 {
            let left = self.residue();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
            for line in left {
                match line.split(' ').nth(4) {
                    Some(mount) => {
                        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).ok();
                    }
                    None => remove_groups(Path::new(&line)),
                }
            }
        }
    }
}

fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    fs::remove_dir(dir).ok();
}

/// How a pod's container ended.
pub(crate) fn terminated(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

/// How much slower this machine is than a usual one.
pub(crate) fn scale() -> f64 {
    std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

fn shim() -> PathBuf {
    let shim = Path::new(PINTLE).with_file_name("pintle-shim");
    assert!(shim.exists(), "{} is not built: `cargo build -p pintle-shim` first", shim.display());
    shim
}

/// The demo image's archive, made once.
pub(crate) fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let made = Path::new(PINTLE).ancestors().nth(2).unwrap().join("tmp/demo-image.tar");
        if made.exists() {
            return made;
        }
        let target =
            Path::new(PINTLE).parent().unwrap().join(format!("agent-demo-{}.tar", std::process::id()));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../integration/make-demo-image");
        assert!(Command::new(script).arg(&target).arg("localhost/pintle-demo:1").status().unwrap().success());
        let shared = target.with_file_name("agent-demo.tar");
        fs::rename(target, &shared).unwrap();
        shared
    })
}
