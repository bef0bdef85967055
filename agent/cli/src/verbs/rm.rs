//! `rm`: removes containers.
//!
//! In: containers, or "all". Out: the id of each one removed; goes on after errors. A running container is only
//! removed by force. Log files are left to the agent that owns the pod.

use std::{io::Write, time::Duration};

use pintle_cri_api::v1::{Container, ContainerState, RemoveContainerRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
    verbs::stop,
};

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    /// Every container
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
    /// Stop a running container first
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: RmArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let known = resolve::containers(session).await?;
    let containers: Vec<&Container> = if args.all {
        known.iter().collect()
    } else {
        args.containers.iter().map(|wanted| resolve::container(wanted, &known)).collect::<Result<_, _>>()?
    };
    let mut errors = Vec::new();
    for container in containers {
        let running = container.state() == ContainerState::ContainerRunning;
        let removed = match (running, args.force) {
            (true, false) => Err(CliError::StillRunning { id: container.id.clone() }),
            (true, true) => force(session, &container.id).await,
            (false, _) => remove(session, &container.id).await,
        };
        match removed {
            Ok(()) => writeln!(io.out, "{}", container.id)?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

async fn force(session: &Session, id: &str) -> Result<(), CliError> {
    stop::stop(session, id, Duration::ZERO).await?;
    remove(session, id).await
}

async fn remove(session: &Session, id: &str) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let call = Call::slow(format!("remove container {id}")).on(Noun::Container);
    let request = RemoveContainerRequest { container_id: id.to_owned() };
    session.call(call, client.remove_container(request)).await?;
    Ok(())
}
