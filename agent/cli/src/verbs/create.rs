//! `create`: makes a container in a pod sandbox from a container file and the pod's file.
//!
//! In: a pod, a container file, the file the pod was made from. Out: the container's id. It is not started.

use std::{io::Write, path::PathBuf};

use pintle_cri_api::v1::CreateContainerRequest;

use crate::{
    config,
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
    verbs::pull,
};

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Id, beginning of the id, or name
    #[arg(value_name = "POD")]
    pod: String,
    /// Container file (JSON or YAML)
    #[arg(value_name = "CONTAINER-CONFIG")]
    container_config: PathBuf,
    /// Pod file (JSON or YAML)
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// Pull the image first
    #[arg(long)]
    with_pull: bool,
    #[command(flatten)]
    auth: pull::AuthArgs,
}

pub(crate) async fn run(args: CreateArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let container = config::container(&args.container_config)?;
    let sandbox = config::pod(&args.pod_config)?;
    let pods = resolve::pods(session).await?;
    let pod_sandbox_id = resolve::pod(&args.pod, &pods)?.id.clone();
    if args.with_pull {
        let image = container.image.clone().unwrap_or_default();
        pull::pull(session, image, args.auth.config(), Some(sandbox.clone())).await?;
    }
    let mut client = session.runtime().await?;
    let request =
        CreateContainerRequest { pod_sandbox_id, config: Some(container), sandbox_config: Some(sandbox) };
    let call = Call::slow("create the container").on(Noun::Image);
    let answer = session.call(call, client.create_container(request)).await?;
    writeln!(io.out, "{}", answer.container_id)?;
    Ok(())
}
