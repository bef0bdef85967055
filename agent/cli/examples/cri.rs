//! The verbs alone, without an agent: `cargo run -p pintle-cli --example cri -- -r unix:///run/containerd/containerd.sock ps`.

use std::process::ExitCode;

use clap::Parser;
use pintle_cli::{Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command, cli.global).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pintle: {}", error.report());
            ExitCode::FAILURE
        }
    }
}
