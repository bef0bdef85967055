//! One agent on a node of its own, and what a test does with it.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ask;
use crate::host::time_out;
use crate::residue::Residue;

/// The image that every test's pods use.
pub const IMAGE: &str = "localhost/pintle-demo:1";
/// The name of every test's node, which static pods carry as a suffix.
pub const NODE: &str = "node1";

/// A running agent with its own directories, network namespace and cgroups.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    holder: Child,
    agent: Option<Child>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    root: PathBuf,
    state: PathBuf,
    finished: bool,
}

/// A container as `pintle ps` and `pintle inspect` tell of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its first process, as the host sees it; 0 when it does not run.
    pub pid: i32,
    /// The how-manieth incarnation.
    pub attempt: u64,
    /// All that `inspect` says.
    pub inspect: Value,
}

impl Node {
    /// A node with the test image and no pods.
    pub fn start() -> Self {
        let node = Self::prepare();
        let mut node = node;
        node.start_agent();
        node.pintle(&["import", &image_archive().to_string_lossy()]);
        node
    }

    /// A node whose agent has not been started.
    pub fn prepare() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pintle-it-")
            .tempdir_in("/tmp")
            .expect("a directory can be made");
        for name in ["manifests", "root", "state"] {
            fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        let holder =
            Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().expect("unshare runs");
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        let (environment, arguments) = (Vec::new(), Vec::new());
        let node = Self { dir, holder, agent: None, environment, arguments, root, state, finished: false };
        let own = fs::read_link("/proc/self/ns/net").expect("the test has a network namespace");
        let theirs = format!("/proc/{}/ns/net", node.holder.id());
        wait_until("a network namespace", || fs::read_link(&theirs).ok().filter(|link| *link != own));
        node.in_netns("ip", &["link", "set", "lo", "up"]);
        node
    }

    /// Sets a variable for the agents started from now on.
    pub fn set_agent_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Gives more arguments to the agents started from now on.
    pub fn set_agent_args(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
    }

    /// Configures the agents started from now on, in the words of the configuration file.
    pub fn set_config(&mut self, text: &str) {
        let file = self.path("config.yaml");
        fs::write(&file, text).expect("a configuration can be written");
        self.set_agent_args(&["--config", &file.to_string_lossy()]);
    }

    /// Puts the persistent directory elsewhere, on a file system of the test's own.
    pub fn set_root(&mut self, root: &Path) {
        self.root = root.to_owned();
    }

    /// Puts the directory that does not outlive a boot elsewhere.
    pub fn set_state(&mut self, state: &Path) {
        self.state = state.to_owned();
    }

    /// Starts the agent and waits until it serves.
    pub fn start_agent(&mut self) {
        self.spawn_agent();
        self.wait_for_agent();
    }

    /// Starts the agent, with a key in its session keyring, and waits until it serves.
    pub fn start_agent_with_key(&mut self, name: &str) {
        let attacker = self.path("attacker");
        crate::write_attacker(&attacker);
        let program = program("pintle");
        self.spawn_agent_as(&attacker, &["with-key", name, &program.to_string_lossy()]);
        self.wait_for_agent();
    }

    /// Starts the agent without waiting for it.
    pub fn spawn_agent(&mut self) {
        self.spawn_agent_as(&program("pintle"), &[]);
    }

    fn wait_for_agent(&mut self) {
        wait_until("the agent to serve", || {
            assert!(!self.agent_has_ended(), "the agent does not start:\n{}", self.agent_log());
            ask::serves(&self.endpoint()).then_some(())
        });
    }

    fn spawn_agent_as(&mut self, program_or_starter: &Path, before: &[&str]) {
        assert!(self.agent.is_none(), "the agent runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .expect("agent.log opens");
        let child = self
            .netns_command(program_or_starter)
            .args(before)
            .arg("agent")
            .arg("--manifests")
            .arg(self.path("manifests"))
            .arg("--root")
            .arg(&self.root)
            .arg("--state")
            .arg(&self.state)
            .args(["--listen", &self.endpoint(), "--node-name", NODE])
            .args(&self.arguments)
            .env("PINTLE_SHIM", program("pintle-shim"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("pintle starts");
        self.agent = Some(child);
    }

    /// Kills the agent at once, as a crash would.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        agent.kill().expect("the agent can be killed");
        agent.wait().expect("the agent can be waited for");
    }

    /// Stops the agent the way systemd does and checks that it ends well.
    pub fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("the agent can be signalled");
        let status =
            wait_until("the agent to end", || agent.try_wait().expect("the agent can be waited for"));
        assert!(status.success(), "the agent ended with {status}:\n{}", self.agent_log());
    }

    /// Whether the agent has ended by itself (at a fail point).
    pub fn agent_has_ended(&mut self) -> bool {
        let ended = self
            .agent
            .as_mut()
            .is_none_or(|agent| agent.try_wait().expect("the agent can be waited for").is_some());
        if ended {
            self.agent = None;
        }
        ended
    }

    /// Writes a manifest the way careful tools do: beside, then renamed.
    pub fn manifest(&self, file: &str, text: &(impl Display + ?Sized)) {
        let beside = self.path("manifests").join(format!(".{file}.new"));
        fs::write(&beside, text.to_string()).expect("a manifest can be written");
        fs::rename(&beside, self.path("manifests").join(file)).expect("a manifest can be renamed");
    }

    /// Removes a manifest.
    pub fn remove_manifest(&self, file: &str) {
        fs::remove_file(self.path("manifests").join(file)).expect("a manifest can be removed");
    }

    /// Runs the command line against this node and gives what it prints; panics when it fails.
    pub fn pintle(&self, args: &[&str]) -> String {
        let output = self.try_pintle(args);
        assert!(
            output.status.success(),
            "pintle {args:?}: {}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.agent_log()
        );
        String::from_utf8(output.stdout).expect("pintle prints text")
    }

    /// Runs the command line against this node.
    pub fn try_pintle(&self, args: &[&str]) -> Output {
        self.netns_command(&program("pintle"))
            .args(args)
            .env("CONTAINER_RUNTIME_ENDPOINT", self.endpoint())
            .stdin(Stdio::null())
            .output()
            .expect("pintle runs")
    }

    /// A program to be run in the node's network namespace.
    pub fn command(&self, program: &str) -> Command {
        self.netns_command(Path::new(program))
    }

    /// Runs a program in the node's network namespace; panics when it fails.
    pub fn in_netns(&self, program: &str, args: &[&str]) -> String {
        let output = self.netns_command(Path::new(program)).args(args).output().expect("the program runs");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The pod that a manifest named `name`, with its status, if the agent knows it.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let full = format!("{name}-{NODE}");
        self.answered(ask::pods).into_iter().find(|pod| pod["metadata"]["name"] == full.as_str())
    }

    /// Like [`Node::pod`], but an agent that does not answer is no failure.
    pub fn try_pod(&self, name: &str) -> Option<Value> {
        let full = format!("{name}-{NODE}");
        self.try_pods()?.into_iter().find(|pod| pod["metadata"]["name"] == full.as_str())
    }

    /// Every pod that the agent knows, with its status; nothing if it does not answer.
    pub fn try_pods(&self) -> Option<Vec<Value>> {
        ask::pods(&self.endpoint()).ok()
    }

    fn answered<T>(&self, question: impl FnOnce(&str) -> Result<T, String>) -> T {
        question(&self.endpoint())
            .unwrap_or_else(|e| panic!("the agent does not answer: {e}\n{}", self.agent_log()))
    }

    /// Waits until the pod is Ready and gives it.
    pub fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, "Ready", |pod| condition(pod, "Ready") == "True")
    }

    /// Waits until `reached` holds of the pod and gives it.
    pub fn wait_pod(&self, name: &str, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + time_out(40);
        loop {
            let began = Instant::now();
            let pod = self.pod(name);
            if let Some(pod) = pod.as_ref().filter(|pod| reached(pod)) {
                return pod.clone();
            }
            assert!(Instant::now() < deadline, "pod {name} never was {what}: {pod:#?}\n{}", self.agent_log());
            pause_after(began);
        }
    }

    /// Waits until nothing of the pod is known to the agent or the engine.
    pub fn wait_gone(&self, name: &str) {
        let full = format!("{name}-{NODE}");
        wait_until(&format!("pod {name} to be gone"), || {
            let known = self.pod(name).is_some() || self.answered(ask::sandboxes).contains(&full);
            (!known).then_some(())
        });
    }

    /// The newest incarnation of a pod's container.
    pub fn container(&self, pod: &str, container: &str) -> Container {
        wait_until(&format!("container {container} of {pod}"), || self.try_container(pod, container))
    }

    /// The newest incarnation of a pod's container; nothing if there is none or it goes while being looked at.
    fn try_container(&self, pod: &str, container: &str) -> Option<Container> {
        let full = format!("{pod}-{NODE}");
        let list: Value = serde_json::from_str(&self.pintle(&["ps", "-a", "-o", "json"])).expect("JSON");
        let newest = list["containers"]
            .as_array()
            .expect("a list of containers")
            .iter()
            .filter(|row| {
                row["metadata"]["name"] == container
                    && row["labels"]["io.kubernetes.pod.name"] == full.as_str()
            })
            .max_by_key(|row| row["createdAt"].as_str().map_or(0, |text| text.parse::<i64>().unwrap_or(0)))?;
        let id = newest["id"].as_str().expect("an id").to_owned();
        let inspect: Value = serde_json::from_slice(&self.try_pintle(&["inspect", &id]).stdout).ok()?;
        Some(Container {
            pid: inspect["info"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0),
            attempt: newest["metadata"]["attempt"].as_u64().unwrap_or(0),
            id,
            inspect,
        })
    }

    /// The ready sandbox of a pod: its infra process and all that `inspectp` says.
    pub fn sandbox(&self, pod: &str) -> (i32, Value) {
        let full = format!("{pod}-{NODE}");
        let id = self.pintle(&["pods", "--name", &full, "--state", "ready", "-q", "--no-trunc"]);
        let inspect: Value = serde_json::from_str(&self.pintle(&["inspectp", id.trim()])).expect("JSON");
        let pid = inspect["info"]["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("the infra process");
        (pid, inspect)
    }

    /// Runs a command in a container and gives what it prints; panics when it fails.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> String {
        let output = self.try_exec(pod, container, command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs a command in a container.
    pub fn try_exec(&self, pod: &str, container: &str, command: &[&str]) -> Output {
        let id = self.container(pod, container).id;
        let mut args = vec!["exec", "-s", id.as_str()];
        args.extend(command);
        self.try_pintle(&args)
    }

    /// What a container has logged, without the times.
    pub fn logs(&self, pod: &str, container: &str) -> String {
        self.pintle(&["logs", &self.container(pod, container).id])
    }

    /// A path below the node's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the agents of this node have logged.
    pub fn agent_log(&self) -> String {
        let text = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let from = text.len().saturating_sub(6000);
        text.get(from..).unwrap_or(&text).to_owned()
    }

    /// The address its services are reached at.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path("state/pintle.sock").display())
    }

    /// The node's network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> i32 {
        self.agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok()).expect("the agent runs")
    }

    /// Removes every manifest, waits until the pods are gone, stops the agent and checks that nothing is left.
    pub fn finish(mut self) {
        for entry in fs::read_dir(self.path("manifests")).expect("the manifests can be listed") {
            fs::remove_file(entry.expect("an entry").path()).expect("a manifest can be removed");
        }
        wait_until("every pod to be gone", || {
            let gone = self.answered(ask::sandboxes).is_empty() && self.answered(ask::pods).is_empty();
            gone.then_some(())
        });
        self.assert_nothing_found("while the agent runs");
        self.stop_agent();
        self.assert_nothing_found("while no agent runs");
        // What a cleanup could leave is looked for here in the kernel's own words: a doctor would find no more.
        self.assert_clean();
        self.finished = true;
    }

    /// Runs `pintle doctor` and gives its exit code and its report.
    pub fn doctor(&self, args: &[&str]) -> (i32, Value) {
        let (root, state) = (self.path("root"), self.path("state"));
        let (root, state) = (root.to_string_lossy(), state.to_string_lossy());
        let own = ["doctor", "--output", "json", "--root", &root, "--state", &state];
        let output = self.try_pintle(&[&own, args].concat());
        let code = output.status.code().expect("the doctor ends by itself");
        let told = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        (code, report.unwrap_or_else(|e| panic!("pintle doctor: {e}: {told}\n{}", self.agent_log())))
    }

    /// Checks that `pintle doctor` finds nothing too much and nothing missing.
    pub fn assert_nothing_found(&self, when: &str) {
        let (code, report) = self.doctor(&[]);
        assert!(code == 0, "the doctor finds something {when}: {report:#}\n{}", self.agent_log());
    }

    /// Takes down what an instance keeps between pods and checks that nothing of it is left.
    fn assert_clean(&self) {
        let (root, state) = (&self.root, &self.state);
        self.pintle(&["cleanup", "--root", &root.to_string_lossy(), "--state", &state.to_string_lossy()]);
        let mut left = self.residue().lines();
        let links = self.in_netns("ip", &["-o", "link"]);
        left.extend(links.lines().filter(|line| !line.contains(": lo:")).map(|line| format!("link {line}")));
        left.extend(self.in_netns("nft", &["list", "tables"]).lines().map(|line| format!("nft {line}")));
        for name in ["pods", "snapshots"] {
            let entries = fs::read_dir(root.join(name)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        for name in ["sandboxes", "containers", "network/leases"] {
            let entries = fs::read_dir(state.join(name)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        assert!(left.is_empty(), "left on the host:\n  {}\n{}", left.join("\n  "), self.agent_log());
    }

    /// What an instance could leave on the host.
    pub fn residue(&self) -> Residue {
        let digest = Sha256::digest(self.state.to_string_lossy().as_bytes());
        let tag = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
        Residue::of(self.dir.path(), &tag)
    }

    fn netns_command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg("--").arg(program);
        command
    }
}

impl Drop for Node {
    /// After a failed test: kills what is left of the node, by pid, and takes its mounts and cgroups away.
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
        if !self.finished {
            let residue = self.residue();
            let deadline = Instant::now() + time_out(5);
            while Instant::now() < deadline {
                let left = residue.processes();
                if left.is_empty() {
                    break;
                }
                for (pid, _) in left {
                    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            for mount in residue.mounts() {
                rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).ok();
            }
            for cgroup in residue.cgroups() {
                fs::remove_dir(cgroup).ok();
            }
        }
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// The status of a pod's condition.
pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    pod["status"]["conditions"]
        .as_array()
        .and_then(|conditions| conditions.iter().find(|condition| condition["type"] == kind))
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("")
}

/// The status of one of a pod's containers.
pub fn container_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    pod["status"]["containerStatuses"]
        .as_array()
        .and_then(|all| all.iter().find(|status| status["name"] == name))
        .unwrap_or(&Value::Null)
}

/// Polls until there is something; tests only.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time_out(40);
    loop {
        let began = Instant::now();
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        pause_after(began);
    }
}

/// Before the next look: as long as the last one took, so that whoever is waited for has half of the time.
fn pause_after(began: Instant) {
    std::thread::sleep(began.elapsed().max(Duration::from_millis(20)));
}

/// A program of this workspace, built beside the test.
///
/// `PINTLE_TEST_PROGRAMS` names a directory with others, for figures from a release build.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("PINTLE_TEST_PROGRAMS") {
        return Path::new(&dir).join(name);
    }
    let deps = std::env::current_exe().expect("the test has a path");
    let path = deps.parent().and_then(Path::parent).expect("the test lies in target/*/deps").join(name);
    assert!(path.exists(), "{} is not built: `make kernel` builds it first", path.display());
    path
}

/// The archive of the test image, made once per process.
pub fn image_archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let exe = std::env::current_exe().expect("the test has a path");
        let target = exe.ancestors().nth(3).expect("the test lies in target/*/deps");
        let shared = target.join("tmp/demo-image.tar");
        if shared.exists() {
            return shared;
        }
        fs::create_dir_all(target.join("tmp")).expect("a directory can be made");
        let own = shared.with_extension(std::process::id().to_string());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("make-demo-image");
        let status = Command::new(script).arg(&own).arg(IMAGE).status().expect("make-demo-image runs");
        assert!(status.success(), "make-demo-image: {status}");
        fs::rename(&own, &shared).expect("the archive can be renamed");
        shared
    })
}
