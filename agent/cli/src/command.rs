//! The list of verbs and the way from a parsed command to its file.
//!
//! In: a [`Command`] and the global flags. Out: the exit code of the verb. A binary with more commands flattens
//! [`Command`] into its own enum; [`Cli`] is the parser when there are no others.

use std::{io::Write, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    error::CliError,
    io::Io,
    session::Session,
    settings::{GlobalArgs, Settings},
    verbs,
};

/// All of the command line, for a binary that has nothing to add.
#[derive(Debug, clap::Parser)]
#[command(name = "pintle", version, about = "Look into a container runtime and drive it")]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// One verb with its arguments.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List pod sandboxes
    Pods(verbs::pods::PodsArgs),
    /// List containers
    Ps(verbs::ps::PsArgs),
    /// List images; `image verify` checks the store
    #[command(visible_aliases = ["image", "img"])]
    Images(verbs::images::ImagesArgs),
    /// Pull an image from its registry
    Pull(verbs::pull::PullArgs),
    /// Take images from an archive (OCI layout or docker save, also compressed)
    Import(verbs::import::ImportArgs),
    /// Write images into an archive for skopeo, docker load, ctr or pintle import
    Export(verbs::export::ExportArgs),
    /// Remove images
    Rmi(verbs::rmi::RmiArgs),
    /// Run a new pod sandbox
    Runp(verbs::runp::RunpArgs),
    /// Stop pod sandboxes
    Stopp(verbs::stopp::StoppArgs),
    /// Remove pod sandboxes
    Rmp(verbs::rmp::RmpArgs),
    /// Create a container in a pod sandbox
    Create(verbs::create::CreateArgs),
    /// Start containers
    Start(verbs::start::StartArgs),
    /// Stop running containers
    Stop(verbs::stop::StopArgs),
    /// Remove containers
    Rm(verbs::rm::RmArgs),
    /// Run a command in a running container
    Exec(verbs::exec::ExecArgs),
    /// Join a running container's own process
    Attach(verbs::attach::AttachArgs),
    /// Make ports of a pod reachable on this machine
    PortForward(verbs::port_forward::PortForwardArgs),
    /// Print a container's log
    Logs(verbs::logs::LogsArgs),
    /// Show everything about containers
    Inspect(verbs::inspect::InspectArgs),
    /// Show everything about pod sandboxes
    Inspectp(verbs::inspectp::InspectpArgs),
    /// Show everything about images
    Inspecti(verbs::inspecti::InspectiArgs),
    /// Show the runtime's status
    Info(verbs::info::InfoArgs),
    /// Show the runtime's version
    Version(verbs::version::VersionArgs),
    /// Show Kubernetes objects of this node
    Get(verbs::get::GetArgs),
    /// Write a completion script for a shell
    Completion(verbs::completion::CompletionArgs),
}

/// Runs one verb on the process's stdin, stdout and stderr. A closed pipe is no error.
pub async fn run(command: Command, global: GlobalArgs) -> Result<ExitCode, CliError> {
    run_to(command, global, &mut Io::process()).await
}

/// Runs one verb and writes to `io`.
pub async fn run_to(command: Command, global: GlobalArgs, io: &mut Io<'_>) -> Result<ExitCode, CliError> {
    let session = Session::new(Settings::of(global)?);
    let result = dispatch(command, &session, io).await;
    let flushed = io.flush().map_err(CliError::from);
    match result.and_then(|code| flushed.map(|()| code)) {
        Err(CliError::Output(source)) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

/// Writes the completion script of `command` (the binary's whole command line) for `shell`.
pub fn completion(shell: Shell, command: &mut clap::Command, out: &mut dyn Write) -> Result<(), CliError> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    out.write_all(&script)?;
    Ok(())
}

async fn dispatch(command: Command, session: &Session, io: &mut Io<'_>) -> Result<ExitCode, CliError> {
    let done = match command {
        Command::Pods(args) => verbs::pods::run(args, session, io).await,
        Command::Ps(args) => verbs::ps::run(args, session, io).await,
        Command::Images(args) => verbs::images::run(args, session, io).await,
        Command::Pull(args) => verbs::pull::run(args, session, io).await,
        Command::Import(args) => verbs::import::run(args, session, io).await,
        Command::Export(args) => verbs::export::run(args, session, io).await,
        Command::Rmi(args) => verbs::rmi::run(args, session, io).await,
        Command::Runp(args) => verbs::runp::run(args, session, io).await,
        Command::Stopp(args) => verbs::stopp::run(args, session, io).await,
        Command::Rmp(args) => verbs::rmp::run(args, session, io).await,
        Command::Create(args) => verbs::create::run(args, session, io).await,
        Command::Start(args) => verbs::start::run(args, session, io).await,
        Command::Stop(args) => verbs::stop::run(args, session, io).await,
        Command::Rm(args) => verbs::rm::run(args, session, io).await,
        Command::Exec(args) => return verbs::exec::run(args, session, io).await,
        Command::Attach(args) => return verbs::attach::run(args, session, io).await,
        Command::PortForward(args) => return verbs::port_forward::run(args, session, io).await,
        Command::Logs(args) => verbs::logs::run(args, session, io).await,
        Command::Inspect(args) => verbs::inspect::run(args, session, io).await,
        Command::Inspectp(args) => verbs::inspectp::run(args, session, io).await,
        Command::Inspecti(args) => verbs::inspecti::run(args, session, io).await,
        Command::Info(args) => verbs::info::run(args, session, io).await,
        Command::Version(args) => verbs::version::run(args, session, io).await,
        Command::Get(args) => verbs::get::run(args, session, io).await,
        Command::Completion(args) => completion(args.shell, &mut Cli::command(), &mut io.out),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_away_is_no_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let cli = <Cli as clap::Parser>::parse_from(["pintle", "completion", "bash"]);
        let mut io = Io { out: Box::new(Gone), err: Box::new(Vec::new()), terminal: false };
        assert_eq!(run_to(cli.command, cli.global, &mut io).await.unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn every_shell_gets_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            completion(shell, &mut Cli::command(), &mut script).unwrap();
            assert!(String::from_utf8(script).unwrap().contains("inspectp"));
        }
    }
}
