//! `version`: which runtime answers, and which protocol it speaks.
//!
//! In: nothing. Out: four lines.

use std::io::Write;

use pintle_cri_api::v1::VersionRequest;

use crate::{
    error::CliError,
    io::Io,
    session::{Call, Session},
};

/// Version of the kubelet's side of the protocol, as crictl sends it.
const KUBELET_API_VERSION: &str = "v1";

#[derive(Debug, clap::Args)]
pub struct VersionArgs {}

pub(crate) async fn run(_args: VersionArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let request = VersionRequest { version: KUBELET_API_VERSION.to_owned() };
    let answer = session.call(Call::quick("ask for the version"), client.version(request)).await?;
    writeln!(io.out, "Version:  {}\nRuntimeName:  {}", answer.version, answer.runtime_name)?;
    writeln!(io.out, "RuntimeVersion:  {}", answer.runtime_version)?;
    writeln!(io.out, "RuntimeApiVersion:  {}", answer.runtime_api_version)?;
    Ok(())
}
