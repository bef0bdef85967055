//! `runp`: runs a new pod sandbox from a file.
//!
//! In: a pod file. Out: the sandbox's id.

use std::{io::Write, path::PathBuf};

use pintle_cri_api::v1::RunPodSandboxRequest;

use crate::{
    config,
    error::CliError,
    io::Io,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct RunpArgs {
    /// Pod file (JSON or YAML)
    #[arg(value_name = "POD-CONFIG")]
    config: PathBuf,
    /// Runtime handler to use
    #[arg(short, long, default_value = "", hide_default_value = true)]
    runtime: String,
}

pub(crate) async fn run(args: RunpArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let config = config::pod(&args.config)?;
    let mut client = session.runtime().await?;
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: args.runtime };
    let answer = session.call(Call::slow("run the pod"), client.run_pod_sandbox(request)).await?;
    writeln!(io.out, "{}", answer.pod_sandbox_id)?;
    Ok(())
}
