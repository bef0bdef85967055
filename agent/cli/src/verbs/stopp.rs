//! `stopp`: stops pod sandboxes.
//!
//! In: pods. Out: a line per pod stopped; goes on after errors.

use std::io::Write;

use pintle_cri_api::v1::StopPodSandboxRequest;

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct StoppArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "POD", required = true)]
    pods: Vec<String>,
}

pub(crate) async fn run(args: StoppArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for id in resolve::pod_ids(session, &args.pods).await? {
        match stop(session, &id).await {
            Ok(()) => writeln!(io.out, "Stopped sandbox {id}")?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

/// Stops one sandbox.
pub(crate) async fn stop(session: &Session, id: &str) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let call = Call::slow(format!("stop pod {id}")).on(Noun::Pod);
    let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    session.call(call, client.stop_pod_sandbox(request)).await?;
    Ok(())
}
