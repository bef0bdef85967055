//! `update-runtime-config`: tells the runtime the addresses of its pods.
//!
//! In: an address range. Out: nothing; the runtime has agreed.

use pintle_cri_api::v1::{NetworkConfig, RuntimeConfig, UpdateRuntimeConfigRequest};

use crate::{
    error::CliError,
    io::Io,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct UpdateRuntimeConfigArgs {
    /// The addresses of pods that are made from now on
    #[arg(short, long, value_name = "CIDR")]
    pod_cidr: String,
}

pub(crate) async fn run(
    args: UpdateRuntimeConfigArgs,
    session: &Session,
    _io: &mut Io<'_>,
) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let network_config = Some(NetworkConfig { pod_cidr: args.pod_cidr });
    let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
    let call = Call::slow("change the runtime's configuration");
    session.call(call, client.update_runtime_config(request)).await.map(drop)
}
