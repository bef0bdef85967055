//! `stop`: stops running containers.
//!
//! In: containers and a grace period. Out: the id of each one stopped; goes on after errors.

use std::{io::Write, time::Duration};

use pintle_cri_api::v1::StopContainerRequest;

use crate::{
    duration,
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// Seconds to let a container end by itself before it is killed
    #[arg(short = 't', long = "timeout", value_name = "SECONDS", default_value = "0", value_parser = duration::parse)]
    grace: Duration,
}

pub(crate) async fn run(args: StopArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for id in resolve::container_ids(session, &args.containers).await? {
        match stop(session, &id, args.grace).await {
            Ok(()) => writeln!(io.out, "{id}")?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

/// Stops one container.
pub(crate) async fn stop(session: &Session, id: &str, grace: Duration) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let call = Call::slow(format!("stop container {id}")).on(Noun::Container);
    let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
    let request = StopContainerRequest { container_id: id.to_owned(), timeout };
    session.call(call, client.stop_container(request)).await?;
    Ok(())
}
