//! `exec`: runs a command in a running container and passes on its output and exit code.
//!
//! In: a container and a command, standard input with `-i`, a terminal with `-t`. Out: the command's stdout and stderr as
//! they come, or with `-s` when it has ended, and its exit code.

use std::{io::Write, process::ExitCode, time::Duration};

use pintle_cri_api::v1::{ExecRequest, ExecSyncRequest};

use crate::{
    conversation::{self, Wanted, exit_code},
    duration,
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Wait for the command to end, then print its output
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    sync: bool,
    /// Seconds until the command is stopped; 0 is never; implies -s
    #[arg(
        long = "timeout",
        value_name = "SECONDS",
        default_value = "0",
        value_parser = duration::parse,
        conflicts_with_all = ["interactive", "tty"]
    )]
    limit: Duration,
    /// Pass standard input on to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; Ctrl-P Ctrl-Q leaves it
    #[arg(short, long)]
    tty: bool,
    /// Id, beginning of the id, or name
    container: String,
    /// Command with its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(args: ExecArgs, session: &Session, io: &mut Io<'_>) -> Result<ExitCode, CliError> {
    let wanted = Wanted { stdin: args.interactive, tty: args.tty };
    wanted.check()?;
    let containers = resolve::containers(session).await?;
    let container_id = resolve::container(&args.container, &containers)?.id.clone();
    if args.sync || !args.limit.is_zero() {
        return collect(args, container_id, session, io).await;
    }
    let what = format!("exec in container {container_id}");
    let streams = wanted.streams();
    let request = ExecRequest {
        container_id,
        cmd: args.command,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        ..Default::default()
    };
    let mut client = session.runtime().await?;
    let call = Call::quick(what.clone()).on(Noun::Container);
    let url = session.call(call, client.exec(request)).await?.url;
    conversation::hold(&what, &url, wanted, io).await
}

async fn collect(
    args: ExecArgs,
    container_id: String,
    session: &Session,
    io: &mut Io<'_>,
) -> Result<ExitCode, CliError> {
    let mut client = session.runtime().await?;
    let timeout = i64::try_from(args.limit.as_secs()).unwrap_or(i64::MAX);
    let call = Call::slow(format!("exec in container {container_id}")).on(Noun::Container);
    let request = ExecSyncRequest { container_id, cmd: args.command, timeout };
    let answer = session.call(call, client.exec_sync(request)).await?;
    io.out.write_all(&answer.stdout)?;
    io.out.flush()?;
    io.err.write_all(&answer.stderr)?;
    Ok(exit_code(answer.exit_code))
}
