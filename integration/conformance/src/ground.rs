//! A network and a mount namespace for the runtimes, so that nothing of the host is touched.
//!
//! In: directories to be hidden behind an empty one. Out: commands that run inside. A child of ours holds the namespaces;
//! with it and what was started inside, links, packet filters and mounts are gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pintle_integration::time_out;

/// What containerd and the CNI plug-ins use whatever they are told.
const PRIVATE: [&str; 2] = ["/run/containerd", "/var/lib/cni"];
/// A directory whose mounts travel, for what is said about that.
const SHARED: &str = "shared";

/// The namespaces.
#[derive(Debug)]
pub(crate) struct Ground {
    holder: Child,
    /// Directories that were made on the host to be mounted over.
    made: Vec<PathBuf>,
    pub(crate) dir: tempfile::TempDir,
}

impl Ground {
    /// Makes them, and a directory.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-cri-").tempdir_in("/tmp").expect("a directory");
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let mut ground = Self { holder, made: Vec::new(), dir };
        ground.wait();
        ground.run("ip", &["link", "set", "lo", "up"]);
        for dir in PRIVATE {
            ground.make(Path::new(dir));
            ground.run("mount", &["-t", "tmpfs", "pintle-cri", dir]);
        }
        let shared = ground.shared();
        fs::create_dir(&shared).expect("a directory");
        let shared = shared.to_string_lossy().into_owned();
        ground.run("mount", &["-t", "tmpfs", "pintle-cri", &shared]);
        ground.run("mount", &["--make-shared", &shared]);
        ground
    }

    /// A path of the ground's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory whose mounts travel. It is mounted inside only.
    pub(crate) fn shared(&self) -> PathBuf {
        self.path(SHARED)
    }

    /// A program to be run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let ns = format!("/proc/{}/ns", self.holder.id());
        command.arg(format!("--net={ns}/net")).arg(format!("--mount={ns}/mnt")).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program inside to its end; gives what it printed.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().expect("nsenter runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {}: {words}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Mount points inside that lie below `dir`.
    pub(crate) fn mounts_below(&self, dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
    }

    /// Waits until the holder has left the host's namespaces: `sleep` runs only after unshare has done all it was asked for.
    fn wait(&mut self) {
        let program = format!("/proc/{}/comm", self.holder.id());
        let end = Instant::now() + time_out(20);
        while fs::read_to_string(&program).is_ok_and(|comm| comm.trim() != "sleep") {
            assert!(Instant::now() < end, "no namespaces in time");
            assert!(self.holder.try_wait().expect("unshare can be waited for").is_none(), "unshare ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn make(&mut self, dir: &Path) {
        let missing: Vec<&Path> = dir.ancestors().take_while(|part| !part.exists()).collect();
        for part in missing.into_iter().rev() {
            fs::create_dir(part).expect("a directory");
            self.made.push(part.to_owned());
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
        while let Some(dir) = self.made.pop() {
            fs::remove_dir(dir).ok();
        }
    }
}
