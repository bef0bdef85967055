//! `pintle doctor`: what an instance has on the node and should not have, or should have and has not.
//!
//! In: the instance's directories as the daemons' flags and configuration file name them. Out: findings as a table or JSON, repaired
//! on request. Exit code 0: clean; 1: something was found, repaired or not; 2: it could not be looked. The comparing is
//! `pintle_runtime::doctor`'s, that of pod directories and the `kubepods` tree is [`part`]'s; [`remote`] asks a running engine.

mod part;
mod print;
mod remote;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use pintle_runtime::doctor::{Doctor, EngineSide, Report};
use pintle_runtime::{EngineConfig, Layout};

use crate::config::{Flags, Settings};
use part::PodPart;
use print::Format;
use remote::Holder;

/// Something was found.
const FOUND: u8 = 1;
/// It could not be looked.
const CANNOT_LOOK: u8 = 2;

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Put right what is provably this instance's, and look again
    #[arg(long)]
    repair: bool,
    /// Configuration file [default: /etc/pintle/config.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What survives a reboot [default: /var/lib/pintle]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What does not [default: /run/pintle]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket of the running agent or runtime, if there is one [default: unix://STATE/pintle.sock]
    #[arg(long, value_name = "unix://PATH")]
    listen: Option<String>,
    /// table or json
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// Looks, repairs if asked to, prints.
pub(crate) fn run(args: DoctorArgs) -> ExitCode {
    let DoctorArgs { repair, config, root, state, listen, output } = args;
    let flags = Flags { root, state, listen, ..Flags::default() };
    let report = crate::settle(flags, config.as_deref()).map_err(anyhow::Error::from).and_then(|settings| {
        let work = if repair { Work::Repair } else { Work::Look };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(examine(&settings, work))
    });
    let printed = report.and_then(|report| {
        print::print(&report, output, &mut std::io::stdout().lock())?;
        Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
    });
    printed.unwrap_or_else(|e| {
        eprintln!("pintle: {e:#}");
        ExitCode::from(CANNOT_LOOK)
    })
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Look,
    Repair,
}

async fn examine(settings: &Settings, work: Work) -> anyhow::Result<Report> {
    let config = EngineConfig {
        pod_cidr: settings.pod_cidr.clone(),
        cgroup_root: Some(settings.cgroup_root.clone()),
        ..EngineConfig::new(&settings.root, &settings.state)
    };
    anyhow::ensure!(
        settings.root.is_dir() || settings.state.is_dir(),
        "neither {} nor {} is a directory: nothing was ever run there",
        settings.root.display(),
        settings.state.display()
    );
    let channel = match remote::holder(&Layout::new(&config), &settings.socket).await? {
        Holder::Nobody(stopped) => {
            return look(&config, &stopped, (&PodPart::new(settings, None)?, work)).await;
        }
        Holder::Daemon(channel) => channel,
    };
    let engine = remote::Remote::new(channel.clone());
    look(&config, &engine, (&PodPart::new(settings, Some(channel))?, work)).await
}

async fn look(
    config: &EngineConfig,
    engine: &dyn EngineSide,
    (part, work): (&PodPart, Work),
) -> anyhow::Result<Report> {
    let doctor = Doctor { config, engine, agent: Some(part) };
    let told = |e: pintle_runtime::Error| anyhow::anyhow!("{}", e.chain());
    let mut report = doctor.examine().await.map_err(told).context("look")?;
    if work == Work::Repair && !report.findings.is_empty() {
        doctor.repair(&mut report).await.map_err(told).context("look after repairing")?;
    }
    Ok(report)
}
