//! `pintle-bench`: Pintle and Debian's containerd side by side on one machine, driven by the same CRI client.
//!
//! In: options; the binary `pintle` beside this one. Out: a table on stdout, JSON on request; exit code 0 whatever the
//! figures are, since a benchmark does not judge, and 1 when something failed or was left behind.
//!
//! ```text
//!  main ─► run ─► measures::{pods, restart, crowd, images, footprint} ─► samples ─► report
//!           └► daemon (containerd | pintle) ─► place (namespaces) · client (CRI)
//! ```
//! Errors are anyhow's: as in a test, nobody but a reader does anything with them.

mod catalogue;
mod client;
mod containerd;
mod daemon;
mod disk;
mod events;
mod image;
mod kernel;
mod measures;
mod pintle;
mod place;
mod report;
mod run;
mod samples;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use catalogue::Group;

/// Pintle and containerd side by side, over CRI
#[derive(Debug, clap::Parser)]
#[command(name = "pintle-bench")]
struct Options {
    /// The binary `pintle`, with `pintle-shim` beside it [default: beside this binary]
    #[arg(long, value_name = "FILE")]
    pintle: Option<PathBuf>,
    /// Only these measures, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Group>,
    /// Rounds of the single-pod measures
    #[arg(long, value_name = "N", default_value_t = 30)]
    rounds: usize,
    /// Fewer rounds of everything: for a first look
    #[arg(long)]
    quick: bool,
    /// Write all samples to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("starting the client").and_then(|runtime| runtime.block_on(bench(&options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pintle-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until the end or a signal; takes everything down in either case.
async fn bench(options: &Options) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut bench = run::Bench::prepare(options)?;
    // Cancel-safe: whatever a round has begun, `close` finds it by asking the kernel.
    let result = tokio::select! {
        result = bench.run() => Some(result),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let logs = bench.logs();
    let closed = bench.close().await;
    match result {
        Some(Ok(())) => closed,
        Some(Err(error)) => {
            eprintln!("{logs}");
            closed.err().iter().for_each(|left| eprintln!("pintle-bench: {left:#}"));
            Err(error)
        }
        None => closed.and(Err(anyhow::anyhow!("interrupted"))),
    }
}
