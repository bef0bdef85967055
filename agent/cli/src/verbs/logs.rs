//! `logs`: prints a container's log, and follows it.
//!
//! In: a container, or a pod (and a container of it), by id or by `[namespace/]pod[/container]`. Out: what the container wrote, stdout to stdout and stderr to
//! stderr. The log file is read here, so the runtime must be on this machine. Following ends when the container
//! has ended and its file is read to the end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use pintle_cri_api::v1::{Container, ContainerState, ContainerStatus, ContainerStatusRequest, PodSandbox};
use tokio::time::MissedTickBehavior;
use tonic::Code;

use crate::{
    error::{CliError, Noun},
    io::Io,
    logs::{self, Follower, LogFile, Printer, Stamps, Watch, Writer},
    resolve::{self, ContainerOrPod},
    session::{Call, Session},
};

/// How often a followed container is asked whether it still runs.
const STATE_CHECK: Duration = Duration::from_millis(500);
/// What a runtime may take to write the last lines after it has said that a container ended.
const LAST_LINES: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Id, beginning of an id, or name: [namespace/]pod, or [[namespace/]pod/]container
    #[arg(value_name = "CONTAINER|POD")]
    name: String,
    /// Container of the pod
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines; -1 is all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
    /// Only lines since: a duration like 5m, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// The time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// The container's run before this one
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

pub(crate) async fn run(args: LogsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let since = match &args.since {
        Some(text) => Some(since(text)?),
        None => None,
    };
    let id = container_id(&args, session).await?;
    let status = status(session, &id).await?;
    let path = log_path(&args, &status)?;
    let stamps = if args.timestamps { Stamps::Shown } else { Stamps::Hidden };
    let mut printer = Printer::new(stamps, since);
    let read = |source| CliError::Read { path: path.clone(), source };
    // Watched before it is read, so that no change falls between the two.
    let watch = if args.follow { Some(Watch::new(&path).map_err(read)?) } else { None };
    let mut file = LogFile::open(&path).map_err(read)?;
    if let Ok(count) = u64::try_from(args.tail) {
        let start = logs::start_of_last(file.file(), count).map_err(read)?;
        file.seek(start).map_err(read)?;
    }
    match watch {
        Some(watch) => follow(Following { session, id, path, watch }, file, &mut printer, io).await,
        None => {
            let mut sink = |line: &[u8]| printer.print(line, io);
            file.lines(&mut sink)?;
            Ok(file.rest(&mut sink)?)
        }
    }
}

fn since(text: &str) -> Result<Timestamp, CliError> {
    logs::parse_since(text, Timestamp::now()).map_err(|reason| CliError::Argument { flag: "--since", reason })
}

async fn container_id(args: &LogsArgs, session: &Session) -> Result<String, CliError> {
    let containers = resolve::containers(session).await?;
    let pods = resolve::pods(session).await?;
    if let Some(wanted) = &args.container {
        return of_pod(resolve::pod(&args.name, &pods)?, Some(wanted), &containers);
    }
    match resolve::container_or_pod(&args.name, &containers, &pods)? {
        ContainerOrPod::Container(container) => Ok(container.id.clone()),
        ContainerOrPod::Pod(pod) => of_pod(pod, None, &containers),
    }
}

fn of_pod(pod: &PodSandbox, wanted: Option<&str>, containers: &[Container]) -> Result<String, CliError> {
    let own = containers.iter().filter(|container| container.pod_sandbox_id == pod.id);
    let containers: Vec<Container> = own.cloned().collect();
    if let Some(wanted) = wanted {
        return Ok(resolve::container(wanted, &containers)?.id.clone());
    }
    let pod_name = pod.metadata.as_ref().map_or(&pod.id, |metadata| &metadata.name);
    let mut names: Vec<String> = containers.iter().map(name_of).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [] => Err(CliError::NotFound { noun: Noun::Container, wanted: pod_name.clone() }),
        [only] => Ok(resolve::container(only, &containers)?.id.clone()),
        _ => Err(CliError::WhichContainer { pod: pod_name.clone(), containers: names }),
    }
}

fn name_of(container: &Container) -> String {
    container.metadata.as_ref().map_or_else(String::new, |metadata| metadata.name.clone())
}

async fn status(session: &Session, id: &str) -> Result<ContainerStatus, CliError> {
    let mut client = session.runtime().await?;
    let call = Call::quick(format!("look up container {id}")).on(Noun::Container);
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let answer = session.call(call, client.container_status(request)).await?;
    Ok(answer.status.unwrap_or_default())
}

fn log_path(args: &LogsArgs, status: &ContainerStatus) -> Result<PathBuf, CliError> {
    let no_log = |why| CliError::NoLog { id: status.id.clone(), why };
    if status.log_path.is_empty() {
        return Err(no_log("its pod was made without log_directory, or it without log_path"));
    }
    let path = Path::new(&status.log_path);
    if args.previous {
        logs::previous(path).ok_or_else(|| no_log("it has not been restarted; leave --previous out"))
    } else {
        Ok(path.to_owned())
    }
}

/// Who is followed, and how changes are noticed.
struct Following<'a> {
    session: &'a Session,
    id: String,
    path: PathBuf,
    watch: Watch,
}

async fn follow(
    mut following: Following<'_>,
    file: LogFile,
    printer: &mut Printer,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let mut follower = Follower::new(following.path.clone(), file);
    let mut checks = tokio::time::interval(STATE_CHECK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        follower.drain(Writer::Alive, &mut |line| printer.print(line, io))?;
        io.flush()?;
        // Both arms are cancel-safe: changes and ticks that nobody waited for wake the next round.
        tokio::select! {
            changed = following.watch.changed() => {
                changed.map_err(|source| CliError::Read { path: following.path.clone(), source })?;
            }
            _ = checks.tick() => {
                if has_ended(following.session, &following.id).await? {
                    break;
                }
            }
        }
    }
    tokio::time::sleep(LAST_LINES).await;
    follower.drain(Writer::Gone, &mut |line| printer.print(line, io))?;
    Ok(())
}

/// Whether the container will write no more. A runtime that restarts meanwhile does not end anything.
async fn has_ended(session: &Session, id: &str) -> Result<bool, CliError> {
    match status(session, id).await {
        Ok(status) => Ok(status.state() == ContainerState::ContainerExited),
        Err(CliError::Call { code: Code::NotFound, .. }) => Ok(true),
        Err(CliError::Call { code: Code::Unavailable, .. } | CliError::TimedOut { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}
