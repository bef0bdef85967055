//! `start`: starts containers.
//!
//! In: containers. Out: the id of each one started; goes on after errors.

use std::io::Write;

use pintle_cri_api::v1::StartContainerRequest;

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn run(args: StartArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let mut errors = Vec::new();
    for id in resolve::container_ids(session, &args.containers).await? {
        let call = Call::slow(format!("start container {id}")).on(Noun::Container);
        let request = StartContainerRequest { container_id: id.clone() };
        match session.call(call, client.start_container(request)).await {
            Ok(_) => writeln!(io.out, "{id}")?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}
