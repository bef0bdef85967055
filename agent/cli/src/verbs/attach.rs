//! `attach`: joins a running container's own process.
//!
//! In: a container, standard input with `-i`, a terminal with `-t`. Out: what the container writes from now on, until it
//! ends or the user leaves; the container goes on.

use std::process::ExitCode;

use pintle_cri_api::v1::AttachRequest;

use crate::{
    conversation::{self, Wanted},
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Pass standard input on to the container
    #[arg(short = 'i', long, visible_alias = "interactive")]
    stdin: bool,
    /// The container has a terminal; Ctrl-P Ctrl-Q leaves it
    #[arg(short, long)]
    tty: bool,
    /// Id, beginning of the id, or name
    container: String,
}

pub(crate) async fn run(args: AttachArgs, session: &Session, io: &mut Io<'_>) -> Result<ExitCode, CliError> {
    let wanted = Wanted { stdin: args.stdin, tty: args.tty };
    wanted.check()?;
    let containers = resolve::containers(session).await?;
    let container_id = resolve::container(&args.container, &containers)?.id.clone();
    let what = format!("attach to container {container_id}");
    let streams = wanted.streams();
    let request = AttachRequest {
        container_id,
        stdin: streams.stdin,
        tty: streams.tty,
        stdout: streams.stdout,
        stderr: streams.stderr,
        ..Default::default()
    };
    let mut client = session.runtime().await?;
    let call = Call::quick(what.clone()).on(Noun::Container);
    let url = session.call(call, client.attach(request)).await?.url;
    conversation::hold(&what, &url, wanted, io).await
}
