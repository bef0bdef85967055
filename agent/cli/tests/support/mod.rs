//! A containerd of our own: private root, state, socket and runc directory, an image made from busybox, and a
//! cgroup of its own. Everything is gone when it is dropped, and the drop says so if it is not.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use pintle_cli::{Cli, CliError, Io, run_to};
use sha2::{Digest, Sha256};

pub(crate) const IMAGE: &str = "docker.io/library/cli-test:1";

pub(crate) struct Containerd {
    child: Child,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: String,
}

/// What a verb printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: ExitCode,
}

impl Containerd {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config.toml");
        fs::write(&config, configuration(dir.path())).expect("a configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let cgroup = format!("/pintle-cli-{}", child.id());
        let this = Self { child, dir, cgroup };
        this.wait_ready().await;
        this
    }

    async fn wait_ready(&self) {
        let end = Instant::now() + scaled(Duration::from_secs(30));
        while Instant::now() < end {
            if self.pintle(&["version"]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("containerd did not answer: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.path("containerd.sock").display())
    }

    /// Runs one command line against this containerd.
    pub(crate) async fn pintle(&self, args: &[&str]) -> Result<Ran, CliError> {
        let socket = self.socket();
        let all = ["pintle", "-r", &socket].into_iter().chain(args.iter().copied());
        let cli = Cli::try_parse_from(all).expect("arguments that parse");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut io = Io { out: Box::new(&mut out), err: Box::new(&mut err), terminal: false };
        let code = run_to(cli.command, cli.global, &mut io).await?;
        drop(io);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { out: text(out), err: text(err), code })
    }

    /// Like [`Self::pintle`], for commands that must succeed; their stdout without the last newline.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        match self.pintle(args).await {
            Ok(ran) => ran.out.trim_end().to_owned(),
            Err(error) => panic!("{args:?}: {}\n{}", error.report(), self.log()),
        }
    }

    /// Loads the test image.
    pub(crate) fn load_image(&self) {
        let archive = self.path("image.tar");
        fs::write(&archive, image_archive()).expect("an archive");
        let done = Command::new("ctr")
            .arg("--address")
            .arg(self.path("containerd.sock"))
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&archive)
            .output()
            .expect("ctr is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// Removes what a failed test left running. A thread of its own, because a test's runtime cannot wait in a drop.
    fn remove_pods(&self) {
        let done = std::thread::scope(|scope| scope.spawn(|| self.remove_pods_here()).join());
        assert!(done.is_ok() || std::thread::panicking(), "pods stay: {}", self.log());
    }

    fn remove_pods_here(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            self.ok(&["rm", "--all", "--force"]).await;
            self.ok(&["rmp", "--all", "--force"]).await;
        });
    }

    fn remove_cgroup(&self) {
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots
            .extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
        for root in roots {
            let dir = root.join(self.cgroup.trim_start_matches('/'));
            if dir.is_dir() {
                fs::remove_dir(&dir).unwrap_or_else(|error| eprintln!("{} stays: {error}", dir.display()));
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.remove_pods();
        let ended = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(ended.is_ok_and(|status| status.success()), "containerd was gone already: {}", self.log());
        self.child.wait().expect("containerd ends");
        self.remove_cgroup();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("our mounts");
        let dir = self.dir.path().display().to_string();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&dir)).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "mounts left behind: {left:?}");
        }
    }
}

/// `duration`, stretched on slow machines.
pub(crate) fn scaled(duration: Duration) -> Duration {
    let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse().ok());
    duration.mul_f64(scale.unwrap_or(1.0))
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni/bin"
    conf_dir = "{dir}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{dir}/runc"
"#
    )
}

/// A `docker save` archive with one busybox layer.
fn image_archive() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    append(&mut layer, "bin/busybox", &busybox);
    for name in ["sh", "sleep", "echo", "cat", "true", "seq"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").expect("a link");
    }
    let layer = layer.into_inner().expect("a layer");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Entrypoint":["/bin/sleep","100000"]}},
        "rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(&layer)
    );
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, &name, config.as_bytes());
    append(&mut archive, "layer.tar", &layer);
    append(&mut archive, "manifest.json", manifest.as_bytes());
    archive.into_inner().expect("an archive")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, data).expect("an entry");
}

fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Appends to a file, for tests that play a container.
pub(crate) fn append_line(path: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("a log file");
    writeln!(file, "{line}").expect("a line");
}
