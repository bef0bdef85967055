//! `exec`: runs a command in a running container and passes on its output and exit code.
//!
//! In: a container and a command. Out: the command's stdout, stderr and exit code, when it has ended. Streaming
//! (`-i`, `-t`) is refused until the streaming server exists.

use std::{io::Write, process::ExitCode, time::Duration};

use pintle_cri_api::v1::ExecSyncRequest;

use crate::{
    duration,
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Wait for the command to end, then print its output (always so for now)
    #[arg(short, long)]
    sync: bool,
    /// Seconds until the command is stopped; 0 is never
    #[arg(long = "timeout", value_name = "SECONDS", default_value = "0", value_parser = duration::parse)]
    limit: Duration,
    /// Keep stdin open (not supported yet)
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal (not supported yet)
    #[arg(short, long)]
    tty: bool,
    /// Id, beginning of the id, or name
    container: String,
    /// Command with its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(args: ExecArgs, session: &Session, io: &mut Io<'_>) -> Result<ExitCode, CliError> {
    if args.interactive || args.tty {
        let instead = "without -i and -t the command runs to its end and its output is printed";
        return Err(CliError::Unsupported { what: "streaming exec (-i, -t)", instead });
    }
    let containers = resolve::containers(session).await?;
    let container_id = resolve::container(&args.container, &containers)?.id.clone();
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

/// The code the shell would see; anything out of range is a plain failure.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_passed_through_where_they_fit() {
        assert_eq!(exit_code(0), ExitCode::SUCCESS);
        assert_eq!(exit_code(137), ExitCode::from(137));
        assert_eq!(exit_code(-1), ExitCode::FAILURE);
        assert_eq!(exit_code(300), ExitCode::FAILURE);
    }
}
