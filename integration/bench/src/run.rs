//! One run: prepares the sides, takes the measures that were asked for, reports, takes everything down.
//!
//! In: options. Out: the table on stdout, the JSON file. What a run makes lies in one temporary directory and in
//! namespaces of its own; [`Bench::close`] checks that nothing of it is left.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::Options;
use crate::catalogue::Group;
use crate::daemon::{Daemon, Kind};
use crate::image::{self, PAUSE_IMAGE, POD_IMAGE};
use crate::measures::images::Big;
use crate::measures::{Amount, crowd, footprint, images, pods, restart};
use crate::place::run;
use crate::report::{self, Setting};
use crate::samples::Samples;

const PODS: usize = 50;

/// The sides and what is wanted.
#[derive(Debug)]
pub(crate) struct Bench {
    top: tempfile::TempDir,
    containerd: Daemon,
    runtime: Daemon,
    agent: Daemon,
    pintle: PathBuf,
    only: Vec<Group>,
    amount: Amount,
    json: Option<PathBuf>,
    samples: Samples,
}

impl Bench {
    /// Makes directories, namespaces and images.
    pub(crate) fn prepare(options: &Options) -> Result<Self> {
        let pintle = match &options.pintle {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("finding this program")?.with_file_name("pintle"),
        };
        let pintle = pintle.canonicalize().with_context(|| format!("looking for {}", pintle.display()))?;
        let top = tempfile::Builder::new().prefix("pintle-bench-").tempdir().context("making a directory")?;
        image::write_pause(&top.path().join("pause.tar"))?;
        image::write_pod(&top.path().join("pod.tar"))?;
        let side = |kind| Daemon::prepare(kind, top.path(), &pintle);
        let (containerd, runtime, agent) =
            (side(Kind::Containerd)?, side(Kind::Runtime)?, side(Kind::Agent)?);
        Ok(Self {
            containerd,
            runtime,
            agent,
            pintle,
            only: options.only.clone(),
            amount: amount(options),
            json: options.json.clone(),
            samples: Samples::default(),
            top,
        })
    }

    /// Takes all measures and reports.
    pub(crate) async fn run(&mut self) -> Result<()> {
        self.containerd.start(0).await?;
        self.runtime.start(0).await?;
        let top = self.top.path().to_owned();
        self.containerd.import(&top.join("pause.tar"), PAUSE_IMAGE).await?;
        self.containerd.import(&top.join("pod.tar"), POD_IMAGE).await?;
        self.runtime.import(&top.join("pod.tar"), POD_IMAGE).await?;
        let version = self.containerd.client()?.version().await?;
        self.while_running().await?;
        let big = self.with_images(&top).await?;
        self.containerd.stop().await?;
        self.runtime.stop().await?;
        self.with_restarts(&top).await?;
        self.report(version, big)
    }

    /// What is measured of pods, one or many.
    async fn while_running(&mut self) -> Result<()> {
        let pair = [&self.containerd, &self.runtime];
        let samples = &mut self.samples;
        let wanted = |group| is_wanted(&self.only, group);
        let single = [Group::Start, Group::Exec, Group::Removal];
        if single.into_iter().any(wanted) {
            let load = begin(&single);
            pods::measure(pair, self.amount, samples).await?;
            samples.end(load);
        }
        if wanted(Group::Restart) {
            let load = begin(&[Group::Restart]);
            restart::measure(pair, self.amount, samples).await?;
            samples.end(load);
        }
        if wanted(Group::Crowd) {
            let load = begin(&[Group::Crowd]);
            crowd::measure(pair, self.amount, samples).await?;
            samples.end(load);
        }
        Ok(())
    }

    /// What is measured of the big image; describes it.
    async fn with_images(&mut self, top: &Path) -> Result<String> {
        if !is_wanted(&self.only, Group::Images) {
            return Ok("none".to_owned());
        }
        eprintln!("making the big image");
        let archive = top.join("big.tar");
        let (bytes, files) = image::write_big(&archive)?;
        let packed = archive.metadata().context("looking at the big image")?.len();
        let load = begin(&[Group::Images]);
        let big = Big { archive: &archive, bytes };
        images::measure([&mut self.containerd, &mut self.runtime], self.amount, big, &mut self.samples)
            .await?;
        self.samples.end(load);
        let mega = |bytes: u64| bytes as f64 / 1e6;
        Ok(format!("{:.0} MB in {files} files and 5 layers, {:.0} MB packed", mega(bytes), mega(packed)))
    }

    /// What is measured of daemons that were just started.
    async fn with_restarts(&mut self, top: &Path) -> Result<()> {
        let groups = [Group::Memory, Group::Idle, Group::Ready];
        if !groups.into_iter().any(|group| is_wanted(&self.only, group)) {
            return Ok(());
        }
        let load = begin(&groups);
        self.agent.start(0).await?;
        self.agent.import(&top.join("pod.tar"), POD_IMAGE).await?;
        self.agent.stop().await?;
        let (containerd, runtime, agent) = (&mut self.containerd, &mut self.runtime, &mut self.agent);
        footprint::runtime_alone([&mut *containerd, runtime], self.amount, &mut self.samples).await?;
        footprint::measure([containerd, agent], self.amount, &mut self.samples).await?;
        self.samples.end(load);
        Ok(())
    }

    fn report(&self, containerd: String, big_image: String) -> Result<()> {
        let setting = Setting {
            machine: machine(),
            kernel: read("/proc/sys/kernel/osrelease"),
            cgroups: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" },
            containerd,
            runc: first_line(Command::new("runc").arg("--version"))?,
            pintle: first_line(Command::new(&self.pintle).arg("--version"))?,
            rounds: self.amount.rounds,
            pods: self.amount.pods,
            big_image,
        };
        let report = report::report(setting, &self.samples);
        println!("{}\n\n{}", report::preamble(&report), report::table(&report));
        for note in report.notes {
            println!("- {note}");
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report).context("writing the results as JSON")?;
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// The last lines of the daemons' logs, for a run that failed.
    pub(crate) fn logs(&self) -> String {
        [&self.containerd, &self.runtime, &self.agent]
            .map(|daemon| format!("{} logged last:\n{}\n", daemon.kind.name(), daemon.log_tail()))
            .concat()
    }

    /// Takes everything down; an error names what would have stayed.
    pub(crate) async fn close(self) -> Result<()> {
        let mut left = Vec::new();
        for daemon in [self.containerd, self.runtime, self.agent] {
            left.extend(daemon.close().await);
        }
        self.top.close().context("removing the directory")?;
        if left.is_empty() { Ok(()) } else { bail!("left behind:\n  {}", left.join("\n  ")) }
    }
}

fn amount(options: &Options) -> Amount {
    let full = Amount {
        rounds: options.rounds,
        warm_ups: 3,
        long_rounds: 5,
        pods: PODS,
        idle_seconds: 30,
        settle_seconds: 10,
    };
    if !options.quick {
        return full;
    }
    let rounds = options.rounds.min(8);
    Amount { rounds, warm_ups: 1, long_rounds: 2, idle_seconds: 20, settle_seconds: 3, ..full }
}

fn is_wanted(only: &[Group], group: Group) -> bool {
    only.is_empty() || only.contains(&group)
}

/// Says what comes next, and notes the load.
fn begin(groups: &[Group]) -> (crate::samples::Load, std::time::Instant) {
    let begun = Samples::begin(groups);
    eprintln!("measuring {}", begun.0.group);
    begun
}

fn machine() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    format!("{count} x {model}, {:.0} GiB", kib.unwrap_or(0.0) / f64::from(1 << 20))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn first_line(command: &mut Command) -> Result<String> {
    Ok(run(command)?.lines().next().unwrap_or_default().to_owned())
}
