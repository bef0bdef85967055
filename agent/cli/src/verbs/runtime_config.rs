//! `runtime-config`: what a kubelet has to know of the runtime.
//!
//! In: nothing. Out: the runtime's answer (its cgroup driver) as JSON or YAML.

use pintle_cri_api::v1::RuntimeConfigRequest;

use crate::{
    error::CliError,
    io::Io,
    output::{self, TreeFormat},
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct RuntimeConfigArgs {
    #[arg(short, long, default_value = "json")]
    output: TreeFormat,
}

pub(crate) async fn run(args: RuntimeConfigArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let call = Call::quick("ask for the runtime's configuration");
    let answer = session.call(call, client.runtime_config(RuntimeConfigRequest {})).await?;
    output::tree(io, args.output, &output::value("runtime.v1.RuntimeConfigResponse", &answer)?)
}
