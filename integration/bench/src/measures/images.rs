//! A big image: pulled from a registry on loopback, and imported from an archive.
//!
//! In: both sides, running; the archive; a directory for the registry. Out: megabytes of unpacked files per second. A
//! registry runs in each side's network namespace, over the same files. Every sample begins with an empty disk, so that none
//! pays for the one before.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Amount;
use crate::daemon::Daemon;
use crate::image::{self, BIG_IMAGE};
use crate::place::run;
use crate::samples::Samples;

const REGISTRY: &str = "127.0.0.1:5000";
const PULLED: &str = "127.0.0.1:5000/bench/big:1";
/// How long a registry may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The archive and how many bytes its files have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Big<'a> {
    pub(crate) archive: &'a Path,
    pub(crate) bytes: u64,
}

/// Both sides run before and afterwards; in between each sample has its daemon on an empty disk.
pub(crate) async fn measure(
    mut pair: [&mut Daemon; 2],
    amount: Amount,
    big: Big<'_>,
    samples: &mut Samples,
) -> Result<()> {
    let dir = big.archive.with_extension("registry");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let _registries = [Registry::start(pair[0], &dir)?, Registry::start(pair[1], &dir)?];
    run(pair[0]
        .place
        .command("skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false"])
        .args([format!("oci-archive:{}", big.archive.display()), format!("docker://{PULLED}")]))?;
    image::warm(big.archive)?;
    // One round to warm the registries' and the page cache.
    for round in 0..=amount.long_rounds {
        for turn in 0..2 {
            let mut ignored = Samples::default();
            let samples = if round == 0 { &mut ignored } else { &mut *samples };
            one_round(pair[(round + turn) % 2], big, samples).await?;
        }
    }
    for daemon in &mut pair {
        daemon.restart_on_own_disk().await?;
    }
    Ok(())
}

async fn one_round(daemon: &mut Daemon, big: Big<'_>, samples: &mut Samples) -> Result<()> {
    let rate = |took: Duration| big.bytes as f64 / 1e6 / took.as_secs_f64();
    daemon.restart_on_empty_disk().await?;
    let took = daemon.client()?.pull(PULLED).await?;
    samples.add("pull", daemon.kind, rate(took));
    // What is gone need not be written when the disk is taken away.
    daemon.client()?.remove_image(PULLED).await?;
    daemon.restart_on_empty_disk().await?;
    let begin = Instant::now();
    run(&mut daemon.import_command(big.archive))?;
    samples.add("import", daemon.kind, rate(begin.elapsed()));
    while !daemon.client()?.has_image(BIG_IMAGE).await? {
        if begin.elapsed() > LIMIT {
            bail!("{} does not show the imported image", daemon.kind.name());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.client()?.remove_image(BIG_IMAGE).await
}

/// A registry in one side's network namespace; ends when dropped.
#[derive(Debug)]
struct Registry(Child);

impl Registry {
    fn start(daemon: &Daemon, dir: &Path) -> Result<Self> {
        let config = daemon.dir.join("registry.yaml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {REGISTRY}}}\n",
            dir.display()
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = daemon.place.command("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(command.spawn().context("starting docker-registry")?);
        let begin = Instant::now();
        let ask = || {
            let mut command = daemon.place.command("bash");
            run(command.args(["-c", &format!("exec 3<>/dev/tcp/{}", REGISTRY.replace(':', "/"))]))
        };
        while let Err(error) = ask() {
            if begin.elapsed() > LIMIT {
                return Err(error.context("the registry did not answer"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
