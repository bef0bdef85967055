//! The list of verbs and the way from a parsed command to its file.
//!
//! In: a [`Command`] and the global flags. Out: the exit code of the verb. A binary with more commands flattens
//! [`Command`] into its own enum; [`Cli`] is the parser when there are no others.

use std::{io::Write, pin::Pin, process::ExitCode};

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
    /// Show what containers use
    Stats(verbs::stats::StatsArgs),
    /// Show what pods use
    Statsp(verbs::statsp::StatspArgs),
    /// Show the metrics of pods and containers
    Metricsp(verbs::metricsp::MetricspArgs),
    /// Show which metrics there are
    Metricdescs(verbs::metricdescs::MetricdescsArgs),
    /// Follow what happens to pods and containers
    #[command(visible_alias = "event")]
    Events(verbs::events::EventsArgs),
    /// Change the limits of containers
    Update(verbs::update::UpdateArgs),
    /// Write containers to files
    Checkpoint(verbs::checkpoint::CheckpointArgs),
    /// Show what images and writable layers occupy
    Imagefsinfo(verbs::imagefsinfo::ImagefsinfoArgs),
    /// Show the runtime's configuration
    RuntimeConfig(verbs::runtime_config::RuntimeConfigArgs),
    /// Change the runtime's configuration
    UpdateRuntimeConfig(verbs::update_runtime_config::UpdateRuntimeConfigArgs),
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

/// A verb on its way. It is on the heap: the stack would have to hold the largest of them several times over.
type Running<'a> = Pin<Box<dyn Future<Output = Result<ExitCode, CliError>> + 'a>>;

/// Begins a verb.
fn dispatch<'a>(command: Command, session: &'a Session, io: &'a mut Io<'_>) -> Running<'a> {
    match command {
        Command::Pods(args) => done(verbs::pods::run(args, session, io)),
        Command::Ps(args) => done(verbs::ps::run(args, session, io)),
        Command::Images(args) => done(verbs::images::run(args, session, io)),
        Command::Pull(args) => done(verbs::pull::run(args, session, io)),
        Command::Import(args) => done(verbs::import::run(args, session, io)),
        Command::Export(args) => done(verbs::export::run(args, session, io)),
        Command::Rmi(args) => done(verbs::rmi::run(args, session, io)),
        Command::Runp(args) => done(verbs::runp::run(args, session, io)),
        Command::Stopp(args) => done(verbs::stopp::run(args, session, io)),
        Command::Rmp(args) => done(verbs::rmp::run(args, session, io)),
        Command::Create(args) => done(verbs::create::run(args, session, io)),
        Command::Start(args) => done(verbs::start::run(args, session, io)),
        Command::Stop(args) => done(verbs::stop::run(args, session, io)),
        Command::Rm(args) => done(verbs::rm::run(args, session, io)),
        Command::Logs(args) => done(verbs::logs::run(args, session, io)),
        Command::Inspect(args) => done(verbs::inspect::run(args, session, io)),
        Command::Inspectp(args) => done(verbs::inspectp::run(args, session, io)),
        Command::Inspecti(args) => done(verbs::inspecti::run(args, session, io)),
        Command::Stats(args) => done(verbs::stats::run(args, session, io)),
        Command::Statsp(args) => done(verbs::statsp::run(args, session, io)),
        Command::Metricsp(args) => done(verbs::metricsp::run(args, session, io)),
        Command::Metricdescs(args) => done(verbs::metricdescs::run(args, session, io)),
        Command::Events(args) => done(verbs::events::run(args, session, io)),
        Command::Update(args) => done(verbs::update::run(args, session, io)),
        Command::Checkpoint(args) => done(verbs::checkpoint::run(args, session, io)),
        Command::Imagefsinfo(args) => done(verbs::imagefsinfo::run(args, session, io)),
        Command::RuntimeConfig(args) => done(verbs::runtime_config::run(args, session, io)),
        Command::UpdateRuntimeConfig(args) => done(verbs::update_runtime_config::run(args, session, io)),
        Command::Info(args) => done(verbs::info::run(args, session, io)),
        Command::Version(args) => done(verbs::version::run(args, session, io)),
        Command::Get(args) => done(verbs::get::run(args, session, io)),
        Command::Exec(args) => Box::pin(verbs::exec::run(args, session, io)),
        Command::Attach(args) => Box::pin(verbs::attach::run(args, session, io)),
        Command::PortForward(args) => Box::pin(verbs::port_forward::run(args, session, io)),
        Command::Completion(args) => {
            done(async move { completion(args.shell, &mut Cli::command(), &mut io.out) })
        }
    }
}

/// A verb that has no exit code of its own.
fn done<'a>(verb: impl Future<Output = Result<(), CliError>> + 'a) -> Running<'a> {
    Box::pin(async move { verb.await.map(|()| ExitCode::SUCCESS) })
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
