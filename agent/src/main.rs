//! The `pintle` binary: node agent, container runtime and command line.
//!
//! In: arguments. Out: one of the daemons, or a verb's output and exit code. Everything else is in the modules.

mod admission;
mod apply;
mod cgroups;
mod checkpoint;
mod clock;
mod config;
mod container_config;
mod daemon;
mod dns;
mod doctor;
mod explain;
mod failpoint;
mod hosts_file;
mod mounts;
mod node;
mod pleg;
mod pod_logs;
mod pod_sources;
mod pod_workers;
mod runtime;
mod sandbox_config;
mod server;
mod status_manager;
mod termination_message;
mod volumes;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use config::{Flags, Settings};

/// Kubernetes pods from one binary: node agent, container runtime and command line
#[derive(Debug, clap::Parser)]
#[command(name = "pintle", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: pintle_cli::GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the node agent: keeps the pods of a manifest directory running
    Agent(AgentArgs),
    /// Run the container runtime alone: CRI v1 on a unix socket
    Runtime(RuntimeArgs),
    /// Tell why a pod is not Ready and what happens next, or what is wrong with the manifests
    Explain(explain::ExplainArgs),
    /// Find what an instance left on the node or lacks there, explain it and repair it on request
    Doctor(doctor::DoctorArgs),
    /// Remove bridge, packet filter table and cgroups of an instance that has no pods and does not run
    Cleanup(CleanupArgs),
    #[command(flatten)]
    Cri(pintle_cli::Command),
}

#[derive(Debug, clap::Args)]
struct AgentArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Directory of manifests [default: /etc/pintle/manifests]
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
}

#[derive(Debug, clap::Args)]
struct RuntimeArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
struct DaemonArgs {
    /// Configuration file [default: /etc/pintle/config.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What survives a reboot: images, layers, pod directories [default: /var/lib/pintle]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What does not: sandboxes, containers, address leases [default: /run/pintle]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket to serve on [default: unix://STATE/pintle.sock]
    #[arg(long, value_name = "unix://PATH")]
    listen: Option<String>,
    /// The pods' addresses [default: a /24 that no route of the host overlaps]
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Registries, in containerd's hosts.toml layout
    #[arg(long, value_name = "DIR")]
    registry_config: Option<PathBuf>,
    #[command(flatten)]
    images: config::ImageFlags,
    /// An OCI runtime that pods may name as their runtime handler; may be given several times
    #[arg(long, value_name = "NAME=PATH")]
    runtime_handler: Vec<String>,
    /// Where clients of exec, attach and port-forward connect, without a password: not for a network [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDRESS:PORT")]
    streaming_listen: Option<std::net::SocketAddr>,
    /// error, warn, info, debug or trace [default: info]; RUST_LOG wins
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, clap::Args)]
struct CleanupArgs {
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_ROOT)]
    root: PathBuf,
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_STATE)]
    state: PathBuf,
}

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let result = match command {
        Command::Agent(args) => agent(args),
        Command::Runtime(args) => runtime(&args),
        Command::Cleanup(args) => clean_up(args),
        Command::Doctor(args) => return doctor::run(args),
        Command::Explain(args) => client(explain::run(args, global)),
        Command::Cri(pintle_cli::Command::Completion(args)) => {
            let script = pintle_cli::completion(args.shell, &mut Cli::command(), &mut std::io::stdout());
            script.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from)
        }
        Command::Cri(verb) => return cri(verb, global),
    };
    result.unwrap_or_else(|e| {
        eprintln!("pintle: {e:#}");
        ExitCode::FAILURE
    })
}

fn agent(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let AgentArgs { daemon, manifests, node_name } = args;
    let (flags, file) = (Flags { manifests, node_name, ..daemon.flags() }, daemon.config.as_deref());
    let settings = settle(flags, file)?;
    daemon::init_log(&settings.log_level)?;
    serve(wiring::run_agent(settings))
}

fn runtime(args: &RuntimeArgs) -> anyhow::Result<ExitCode> {
    let settings = settle(args.daemon.flags(), args.daemon.config.as_deref())?;
    daemon::init_log(&settings.log_level)?;
    serve(wiring::run_runtime(settings))
}

fn clean_up(args: CleanupArgs) -> anyhow::Result<ExitCode> {
    let flags = Flags { root: Some(args.root), state: Some(args.state), ..Flags::default() };
    let settings = settle(flags, None)?;
    wiring::clean_up(&settings.root, &settings.state, &settings.cgroup_root)?;
    Ok(ExitCode::SUCCESS)
}

impl DaemonArgs {
    fn flags(&self) -> Flags {
        Flags {
            root: self.root.clone(),
            state: self.state.clone(),
            listen: self.listen.clone(),
            pod_cidr: self.pod_cidr.clone(),
            registry_config: self.registry_config.clone(),
            images: self.images.clone(),
            runtime_handlers: self.runtime_handler.clone(),
            streaming: self.streaming_listen,
            log_level: self.log_level.clone(),
            ..Flags::default()
        }
    }
}

fn settle(flags: Flags, file: Option<&std::path::Path>) -> Result<Settings, config::ConfigError> {
    let path = file.unwrap_or(std::path::Path::new(config::DEFAULT_CONFIG));
    let origin =
        if path.exists() { format!("{} or command line", path.display()) } else { "command line".to_owned() };
    config::settle(config::load(file)?, flags, &origin)
}

/// A daemon: two threads do the work, however many processors there are.
fn serve(daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    pintle_runtime::memory::set_up();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build()?;
    let result = runtime.block_on(daemon);
    // What is under way is left as a crash would leave it: the next agent goes on from there.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn client(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(verb).map(|()| ExitCode::SUCCESS)
}

fn cri(verb: pintle_cli::Command, global: pintle_cli::GlobalArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("pintle: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(pintle_cli::run(verb, global)).unwrap_or_else(|e| {
        eprintln!("pintle: {}", e.report());
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_fixed_command_lines_parse() {
        for line in [
            "pintle agent --manifests /m --root /r --state /s --listen unix:///s/p.sock --node-name n",
            "pintle runtime --root /r --state /s --listen unix:///s/p.sock --pod-cidr 10.9.0.0/24 --registry-config /c --streaming-listen 127.0.0.1:10010",
            "pintle --runtime-endpoint unix:///s/p.sock ps",
            "pintle explain pod/web -n shop",
            "pintle explain manifests",
            "pintle cleanup --root /r --state /s",
            "pintle doctor --root /r --state /s --config /c --repair --output json",
            "pintle completion bash",
        ] {
            Cli::try_parse_from(line.split(' ')).expect(line);
        }
    }
}
