//! One runtime on the ground: its daemon, a connection to it, images in it, and what is left at the end.
//!
//! In: which one. Out: a running daemon behind a channel. What is special to each is in `pintle.rs` and `containerd.rs`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use pintle_cri_api::{connect, runtime_client, v1};
use pintle_integration::{image_archive, time_out};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;
use tonic::transport::Channel;

use crate::{
    case::{Kind, Outcome},
    containerd,
    ground::Ground,
    images, pintle,
    run::Run,
};

/// A runtime.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) kind: Kind,
    pub(crate) dir: PathBuf,
    pub(crate) channel: Channel,
    pub(crate) ground: Arc<Ground>,
    /// The cgroup above all its pods.
    pub(crate) cgroup: String,
    /// By id and configuration: a pod would hold the side that holds it.
    shared: OnceCell<(String, v1::PodSandboxConfig)>,
    child: std::sync::Mutex<Child>,
}

impl Side {
    /// Starts it and gives it its images.
    pub(crate) async fn start(kind: Kind, ground: &Arc<Ground>) -> Self {
        let dir = ground.path(&kind.to_string());
        for name in ["root", "state", "logs"] {
            fs::create_dir_all(dir.join(name)).expect("a directory");
        }
        let log = fs::File::create(dir.join("log")).expect("a log");
        let mut command = match kind {
            Kind::Pintle => pintle::daemon(ground, &dir),
            Kind::Containerd => containerd::daemon(ground, &dir),
        };
        let child = command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let channel = wait(&dir).await;
        import_all(kind, ground, &dir);
        Self {
            kind,
            channel,
            ground: Arc::clone(ground),
            cgroup: format!("pintle-cri-{}-{kind}", std::process::id()),
            shared: OnceCell::new(),
            child: std::sync::Mutex::new(child),
            dir,
        }
    }

    /// The id and configuration of a pod that all cases share, for those that change nothing of it.
    pub(crate) async fn shared(self: &Arc<Self>) -> Outcome<&(String, v1::PodSandboxConfig)> {
        let make = async || {
            let pod = Run::new(self, "shared").networked(|_| {}).await?;
            Ok((pod.id, pod.config))
        };
        self.shared.get_or_try_init(make).await
    }

    /// Gives it the images of an archive.
    pub(crate) fn import(&self, archive: &Path) {
        import(self.kind, &self.ground, &self.dir, archive);
    }

    /// Removes the shared pod, ends the daemon and says what it left.
    pub(crate) async fn close(&self) -> Vec<String> {
        let mut left = self.remove_pods().await;
        if self.kind == Kind::Pintle {
            left.extend(pintle::findings(&self.ground, &self.dir, "while it runs"));
        }
        left.extend(self.end());
        match self.kind {
            Kind::Pintle => {
                left.extend(pintle::findings(&self.ground, &self.dir, "while it does not run"));
                left.extend(pintle::leftovers(&self.ground, &self.dir));
            }
            // Not ours to judge: what it leaves is taken away.
            Kind::Containerd => self.kill_the_rest(),
        }
        remove_cgroups(&self.cgroup);
        left
    }

    /// The last that it logged.
    pub(crate) fn log(&self) -> String {
        tail(&self.dir)
    }

    /// All that are left: a case removes its own.
    async fn remove_pods(&self) -> Vec<String> {
        let mut client = runtime_client(self.channel.clone());
        let all = client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await;
        let mut left = Vec::new();
        for sandbox in all.map(|answer| answer.into_inner().items).unwrap_or_default() {
            let shared = self.shared.get().is_some_and(|(id, _)| *id == sandbox.id);
            let id = sandbox.id;
            if !shared {
                left.push(format!("sandbox {id} of {:?}", sandbox.metadata.unwrap_or_default().name));
            }
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            left.extend(client.stop_pod_sandbox(stop).await.err().map(|e| format!("stopping {id}: {e}")));
            let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
            left.extend(client.remove_pod_sandbox(remove).await.err().map(|e| format!("removing {id}: {e}")));
        }
        // What containerd's cases leave, because a call of theirs went wrong, is no fault of the suite's.
        if self.kind == Kind::Containerd { Vec::new() } else { left }
    }

    fn end(&self) -> Option<String> {
        let mut child = self.child.lock().expect("nobody panics with it");
        kill_process(Pid::from_child(&child), Signal::TERM).ok();
        let end = Instant::now() + time_out(30);
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                return (self.kind == Kind::Pintle && !status.success())
                    .then(|| format!("it ended with {status}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().ok();
        child.wait().ok();
        Some("it did not end".to_owned())
    }

    fn kill_the_rest(&self) {
        let end = Instant::now() + time_out(20);
        while Instant::now() < end {
            let rest = self.processes();
            if rest.is_empty() {
                return;
            }
            for pid in rest.into_iter().filter_map(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processes that name our directory on their command line or live in our cgroup.
    fn processes(&self) -> BTreeSet<i32> {
        let dir = format!("{}/", self.dir.display());
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let ours = read("cmdline").contains(&dir) || read("cgroup").contains(&self.cgroup);
            if ours && !read("stat").contains(") Z ") {
                found.insert(pid);
            }
        }
        found
    }
}

impl Drop for Side {
    /// After a failed run.
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut()
            && child.try_wait().is_ok_and(|status| status.is_none())
        {
            child.kill().ok();
            child.wait().ok();
            self.kill_the_rest();
            remove_cgroups(&self.cgroup);
        }
    }
}

async fn wait(dir: &Path) -> Channel {
    let end = Instant::now() + time_out(30);
    let endpoint = format!("unix://{}", dir.join("sock").display());
    loop {
        if let Ok(channel) = connect(&endpoint).await
            && runtime_client(channel.clone()).version(v1::VersionRequest::default()).await.is_ok()
        {
            return channel;
        }
        assert!(Instant::now() < end, "{} does not answer:\n{}", dir.display(), tail(dir));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn import_all(kind: Kind, ground: &Ground, dir: &Path) {
    let full = ground.path("full.tar");
    images::write_full(&full);
    import(kind, ground, dir, image_archive());
    import(kind, ground, dir, &full);
    if kind == Kind::Containerd {
        let pause = ground.path("pause.tar");
        images::write_pause(&pause);
        import(kind, ground, dir, &pause);
    }
}

fn import(kind: Kind, ground: &Ground, dir: &Path, archive: &Path) {
    let mut command = match kind {
        Kind::Pintle => pintle::import(ground, dir, archive),
        Kind::Containerd => containerd::import(ground, dir, archive),
    };
    let done = command.output().expect("the program runs");
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "importing {} into {kind}: {words}", archive.display());
}

fn tail(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Removes the cgroups of that name in every hierarchy, deepest first.
fn remove_cgroups(name: &str) {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let ours = folder.to_string_lossy().contains(name);
        if ours {
            found.push(folder.clone());
        }
        if ours || folder.components().count() <= 5 {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(entries.filter(is_dir).map(|entry| entry.path()));
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in found {
        fs::remove_dir(path).ok();
    }
}
