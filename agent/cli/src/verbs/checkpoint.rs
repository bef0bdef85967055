//! `checkpoint`: writes containers to files, where the runtime can.
//!
//! In: containers and where the files go. Out: the id of each one written; goes on after errors.

use std::{io::Write as _, path::PathBuf};

use pintle_cri_api::v1::CheckpointContainerRequest;

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct CheckpointArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    export: PathBuf,
}

pub(crate) async fn run(args: CheckpointArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let location = args.export.to_string_lossy().into_owned();
    let mut errors = Vec::new();
    for container_id in resolve::container_ids(session, &args.containers).await? {
        let mut client = session.runtime().await?;
        let call = Call::slow(format!("checkpoint container {container_id}")).on(Noun::Container);
        let request = CheckpointContainerRequest {
            container_id: container_id.clone(),
            location: location.clone(),
            ..Default::default()
        };
        match session.call(call, client.checkpoint_container(request)).await {
            Ok(_) => writeln!(io.out, "{container_id}")?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}
