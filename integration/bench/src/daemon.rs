//! One side of the comparison: a daemon with directories, namespaces and cgroups of its own.
//!
//! In: which one, a directory, programs. Out: a running daemon, a client, its supervisors' pids; at the end what it left
//! behind. `containerd.rs` and `pintle.rs` say what is special to each; nothing here measures but the start.
//!
//! ```text
//!  prepared ── start ──► running ── stop ──► prepared      (pods stay)
//!      └──────────────────── close ──► gone, checked
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use rustix::process::Signal;

use crate::client::{Client, PodPlace};
use crate::disk::Disk;
use crate::image::POD_IMAGE;
use crate::kernel::{self, Process};
use crate::place::{Place, run};
use crate::{containerd, pintle};

/// How long a daemon may take to start or to stop.
const DAEMON_LIMIT: Duration = Duration::from_secs(60);
/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a daemon that starts or stops.
const LOOK: Duration = Duration::from_millis(1);
/// Pods removed at once when a side is closed.
const REMOVED_AT_ONCE: usize = 8;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's containerd with runc and CNI plug-ins.
    Containerd,
    /// `pintle runtime`.
    Runtime,
    /// `pintle agent`, whose pods come from manifests.
    Agent,
}

impl Kind {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Runtime => "pintle runtime",
            Self::Agent => "pintle agent",
        }
    }

    /// For files.
    fn slug(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Runtime => "runtime",
            Self::Agent => "agent",
        }
    }
}

/// A daemon on its own ground.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) kind: Kind,
    pub(crate) dir: PathBuf,
    pub(crate) place: Place,
    program: PathBuf,
    cgroup: String,
    child: Option<Child>,
    client: Option<Client>,
    disk: Option<Disk>,
}

/// The directory of what outlives the boot, images before all.
const ROOT: &str = "root";
/// The directory of what does not outlive the boot: a tmpfs, as `/run` is on every host.
const STATE: &str = "state";

impl Daemon {
    /// Prepares the ground below `top`; `pintle` is the binary of that name.
    pub(crate) fn prepare(kind: Kind, top: &Path, pintle: &Path) -> Result<Self> {
        let dir = top.join(kind.slug());
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let (private, program) = match kind {
            Kind::Containerd => (containerd::PRIVATE, PathBuf::from("containerd")),
            Kind::Runtime | Kind::Agent => (&[][..], pintle.to_owned()),
        };
        let place = Place::new(private)?;
        let cgroup = format!("pintle-bench-{}-{}", std::process::id(), kind.slug());
        match kind {
            Kind::Containerd => containerd::configure(&dir)?,
            Kind::Runtime | Kind::Agent => pintle::configure(&dir)?,
        }
        place.cover(&dir.join(STATE))?;
        Ok(Self { kind, dir, place, program, cgroup, child: None, client: None, disk: None })
    }

    /// Starts it; says how long that took from exec until it answered and showed `pods` ready sandboxes.
    pub(crate) async fn start(&mut self, pods: usize) -> Result<Duration> {
        if self.child.is_some() {
            bail!("{} runs already", self.kind.name());
        }
        let path = self.log_path();
        let log = fs::OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let mut command = self.place.command(&self.program);
        match self.kind {
            Kind::Containerd => containerd::arguments(&mut command, &self.dir),
            Kind::Runtime => pintle::arguments(&mut command, "runtime", &self.dir),
            Kind::Agent => pintle::arguments(&mut command, "agent", &self.dir),
        }
        command.stdout(log.try_clone().context("a second handle of the log")?).stderr(log);
        let begin = Instant::now();
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.kind.name()))?);
        while begin.elapsed() < DAEMON_LIMIT {
            if let Ok(client) = Client::open(&self.socket(), self.pod_place()).await
                && client.ready_sandboxes().await.is_ok_and(|ready| ready.len() >= pods)
            {
                let took = begin.elapsed();
                self.client = Some(client);
                return Ok(took);
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().context("looking at the daemon")?
            {
                bail!("{} ended with {status}:\n{}", self.kind.name(), self.log_tail());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{} did not show {pods} pods within {DAEMON_LIMIT:?}:\n{}", self.kind.name(), self.log_tail());
    }

    /// Stops it the way systemd does. Its pods run on.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.client = None;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kernel::kill(pid_of(&child)?, Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < DAEMON_LIMIT {
            if child.try_wait().context("waiting for the daemon")?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        child.kill().context("killing the daemon")?;
        child.wait().context("waiting for the daemon")?;
        bail!("{} did not stop within {DAEMON_LIMIT:?}", self.kind.name());
    }

    /// Starts it again without images, on a file system of its own that nothing was ever written to.
    pub(crate) async fn restart_on_empty_disk(&mut self) -> Result<()> {
        self.stop().await?;
        let disk = match self.disk.take() {
            Some(disk) => disk,
            None => Disk::make(self.dir.join("root.ext4"))?,
        };
        self.disk.insert(disk).renew(&self.place, &self.dir.join(ROOT))?;
        self.start(0).await.map(drop)
    }

    /// Starts it again with what it had before [`Self::restart_on_empty_disk`].
    pub(crate) async fn restart_on_own_disk(&mut self) -> Result<()> {
        self.stop().await?;
        if let Some(disk) = self.disk.take() {
            disk.close(&self.place, &self.dir.join(ROOT))?;
        }
        self.start(0).await.map(drop)
    }

    /// The kept connection.
    pub(crate) fn client(&self) -> Result<&Client> {
        self.client.as_ref().with_context(|| format!("{} does not run", self.kind.name()))
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Result<i32> {
        pid_of(self.child.as_ref().with_context(|| format!("{} does not run", self.kind.name()))?)
    }

    /// The supervisors of its pods: a sandbox's id is on the command line of each.
    pub(crate) fn supervisors(&self) -> Vec<Process> {
        let name = match self.kind {
            Kind::Containerd => containerd::SUPERVISOR,
            Kind::Runtime | Kind::Agent => pintle::SUPERVISOR,
        };
        let is_one = |process: &Process| {
            process.command.split(' ').next().is_some_and(|program| program.ends_with(name))
        };
        self.processes().into_iter().filter(is_one).collect()
    }

    /// The command that imports an archive.
    pub(crate) fn import_command(&self, archive: &Path) -> Command {
        match self.kind {
            Kind::Containerd => containerd::import_command(&self.place, &self.dir, archive),
            Kind::Runtime | Kind::Agent => {
                pintle::import_command(&self.place, &self.program, &self.socket(), archive)
            }
        }
    }

    /// Imports an archive and waits until the image is known under its name.
    pub(crate) async fn import(&self, archive: &Path, name: &str) -> Result<()> {
        run(&mut self.import_command(archive))?;
        let begin = Instant::now();
        while !self.client()?.has_image(name).await? {
            if begin.elapsed() > DAEMON_LIMIT {
                bail!("{} does not show image {name} after its import", self.kind.name());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The last lines that it has logged.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends everything of this side and says what it would have left on the host.
    pub(crate) async fn close(mut self) -> Vec<String> {
        let mut left = Vec::new();
        if self.client.is_some() {
            left.extend(self.remove_pods().await.err().map(|error| format!("pods: {error:#}")));
        }
        left.extend(self.stop().await.err().map(|error| format!("daemon: {error:#}")));
        if self.kind != Kind::Containerd {
            let cleaned = run(&mut pintle::cleanup_command(&self.place, &self.program, &self.dir));
            left.extend(cleaned.err().map(|error| format!("cleanup: {error:#}")));
        }
        left.extend(self.kill_the_rest().await);
        if let Some(disk) = self.disk.take() {
            let closed = disk.close(&self.place, &self.dir.join(ROOT));
            left.extend(closed.err().map(|error| format!("disk: {error:#}")));
        }
        let state = self.dir.join(STATE);
        let mounts = self.place.mounts_below(&self.dir).into_iter().filter(|point| Path::new(point) != state);
        left.extend(mounts.map(|point| format!("mount {point}")));
        let bridge = containerd::BRIDGE;
        left.extend(
            self.place.links().into_iter().filter(|link| link != bridge).map(|link| format!("link {link}")),
        );
        left.extend(remove_cgroups(&self.cgroup));
        if self.kind != Kind::Containerd {
            left.extend(remove_cgroups(&pintle::tag(&self.dir)));
        }
        left.extend(self.place.close().err().map(|error| format!("namespaces: {error:#}")));
        left.into_iter().map(|line| format!("{}: {line}", self.kind.name())).collect()
    }

    async fn remove_pods(&self) -> Result<()> {
        if self.kind == Kind::Agent {
            return pintle::remove_manifests(&self.dir, self.client()?).await;
        }
        let client = self.client()?;
        let sandboxes = client.sandboxes().await?;
        let mut removals = futures_util::stream::iter(
            sandboxes.into_iter().map(|sandbox| async move { client.remove_pod(&sandbox.id).await }),
        )
        .buffer_unordered(REMOVED_AT_ONCE);
        let mut result = Ok(());
        while let Some(removed) = removals.next().await {
            result = result.and(removed.map(drop));
        }
        result
    }

    /// Kills what is left of this side, by pid, until nothing is.
    async fn kill_the_rest(&self) -> Vec<String> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let rest = || self.processes().into_iter().filter(|process| process.pid != own);
        let seen: Vec<String> =
            rest().map(|process| format!("process {} {}", process.pid, process.command)).collect();
        let begin = Instant::now();
        while begin.elapsed() < KILL_LIMIT && rest().next().is_some() {
            rest().for_each(|process| kernel::kill(process.pid, Signal::KILL));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        seen
    }

    /// Processes that name our directory on their command line or live in our cgroups.
    fn processes(&self) -> Vec<Process> {
        let (dir, tag) = (format!("{}/", self.dir.display()), pintle::tag(&self.dir));
        let ours = |process: &Process| {
            process.command.contains(&dir)
                || process.cgroups.contains(&self.cgroup)
                || process.cgroups.contains(&tag)
        };
        kernel::processes().into_iter().filter(ours).collect()
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("daemon.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    fn pod_place(&self) -> PodPlace {
        PodPlace {
            logs: self.dir.join("logs"),
            cgroup_parent: format!("/{}", self.cgroup),
            image: POD_IMAGE.to_owned(),
        }
    }
}

fn pid_of(child: &Child) -> Result<i32> {
    i32::try_from(child.id()).context("a process id")
}

/// Removes the cgroups whose path names `tag`, deepest first; gives those that will not go.
fn remove_cgroups(tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let ours = folder.to_string_lossy().contains(tag);
        if ours {
            found.push(folder.clone());
        }
        // Hierarchies and their first level, then only what is ours.
        if ours || folder.components().count() <= 5 {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(entries.filter(is_dir).map(|entry| entry.path()));
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    let stays = |path: &PathBuf| fs::remove_dir(path).err();
    found
        .iter()
        .filter_map(|path| stays(path).map(|error| format!("cgroup {}: {error}", path.display())))
        .collect()
}
