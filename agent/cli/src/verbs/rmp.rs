//! `rmp`: removes pod sandboxes.
//!
//! In: pods, or "all". Out: a line per pod removed; goes on after errors. A ready pod is only removed by force.

use std::io::Write;

use pintle_cri_api::v1::{PodSandbox, PodSandboxState, RemovePodSandboxRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
    verbs::stopp,
};

#[derive(Debug, clap::Args)]
pub struct RmpArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "POD", required_unless_present = "all")]
    pods: Vec<String>,
    /// Every pod
    #[arg(short, long, conflicts_with = "pods")]
    all: bool,
    /// Stop a ready pod first
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: RmpArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let known = resolve::pods(session).await?;
    let pods: Vec<&PodSandbox> = if args.all {
        known.iter().collect()
    } else {
        args.pods.iter().map(|wanted| resolve::pod(wanted, &known)).collect::<Result<_, _>>()?
    };
    let mut errors = Vec::new();
    for pod in pods {
        let removed = match pod.state() {
            PodSandboxState::SandboxReady if !args.force => Err(CliError::StillReady { id: pod.id.clone() }),
            PodSandboxState::SandboxReady => force(session, &pod.id).await,
            PodSandboxState::SandboxNotready => remove(session, &pod.id).await,
        };
        match removed {
            Ok(()) => writeln!(io.out, "Removed sandbox {}", pod.id)?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

async fn force(session: &Session, id: &str) -> Result<(), CliError> {
    stopp::stop(session, id).await?;
    remove(session, id).await
}

async fn remove(session: &Session, id: &str) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let call = Call::slow(format!("remove pod {id}")).on(Noun::Pod);
    let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    session.call(call, client.remove_pod_sandbox(request)).await?;
    Ok(())
}
