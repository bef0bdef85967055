//! A network and a mount namespace of its own for one side, so that nothing of the host is touched.
//!
//! In: directories to be hidden behind an empty one. Out: commands that run inside. A child of ours holds the
//! namespaces; when it and all that was started inside are gone, so are their links, packet filters and mounts.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long making the namespaces may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A pair of namespaces.
#[derive(Debug)]
pub(crate) struct Place {
    holder: Child,
    /// Directories that were made on the host to be mounted over.
    made: Vec<PathBuf>,
}

impl Place {
    /// Makes the namespaces; each of `private` is an empty directory inside, whatever the host has there.
    pub(crate) fn new(private: &[&str]) -> Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sleep", "infinity"])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting unshare")?;
        let mut place = Self { holder, made: Vec::new() };
        place.wait()?;
        run(place.command("ip").args(["link", "set", "lo", "up"]))?;
        for dir in private {
            place.make(Path::new(dir))?;
            place.cover(Path::new(dir))?;
        }
        Ok(place)
    }

    /// Mounts an empty file system in memory over a directory, inside only.
    pub(crate) fn cover(&self, dir: &Path) -> Result<()> {
        run(self.command("mount").args(["-t", "tmpfs", "pintle-bench"]).arg(dir)).map(drop)
    }

    /// Takes a file system away that was mounted over a directory, if there is one.
    pub(crate) fn uncover(&self, dir: &Path) -> Result<()> {
        if self.mounts_below(dir).iter().any(|point| Path::new(point) == dir) {
            run(self.command("umount").arg(dir))?;
        }
        Ok(())
    }

    /// A program to be run inside. An interrupt from the terminal is for the benchmark alone, which then takes it down.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let ns = format!("/proc/{}/ns", self.holder.id());
        command.arg(format!("--net={ns}/net")).arg(format!("--mount={ns}/mnt")).arg("--").arg(program);
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Mount points inside that lie below `dir`.
    pub(crate) fn mounts_below(&self, dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
    }

    /// Links inside, without the loopback.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.holder.id())).unwrap_or_default();
        let names = text.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }

    /// Ends the holder and takes away the directories made on the host. Dropping does so too, but keeps its failures quiet.
    pub(crate) fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.holder.kill().context("ending the holder of the namespaces")?;
        self.holder.wait().context("waiting for the holder of the namespaces")?;
        while let Some(dir) = self.made.pop() {
            fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        Ok(())
    }

    /// Waits until the holder has left the host's namespaces.
    fn wait(&mut self) -> Result<()> {
        let own = fs::read_link("/proc/self/ns/mnt").context("reading our mount namespace")?;
        let program = format!("/proc/{}/comm", self.holder.id());
        let theirs = format!("/proc/{}/ns/mnt", self.holder.id());
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            // `sleep` runs only after unshare has done all it was asked for.
            let apart = fs::read_link(&theirs).is_ok_and(|link| link != own);
            if apart && fs::read_to_string(&program).is_ok_and(|comm| comm.trim() == "sleep") {
                return Ok(());
            }
            if let Some(status) = self.holder.try_wait().context("waiting for unshare")? {
                bail!("unshare ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("no namespaces within {LIMIT:?}")
    }

    fn make(&mut self, dir: &Path) -> Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|part| !part.exists()).collect();
        for part in missing.into_iter().rev() {
            fs::create_dir(part).with_context(|| format!("making {}", part.display()))?;
            self.made.push(part.to_owned());
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end().ok();
    }
}

/// Runs a command to its end; its words are part of the error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
