//! Containers' logs on disk: rotated when they grow, removed with their pod.
//!
//! In: the log directory, the running containers, the limits. Out: `<attempt>.log` renamed to `<attempt>.log.<time>`, the
//! container told to open it anew, the oldest rotated files removed. Writing logs is the supervisor's. A log that is not
//! there was renamed by an agent that did not live to tell the container: it is told now.

use std::path::{Path, PathBuf};

use pintle_core::ids::PodUid;
use pintle_cri_api::v1;
use tonic::Status;
use tracing::{debug, warn};

use crate::config::LogLimits;
use crate::runtime::SharedRuntime;
use crate::volumes;

/// What can go wrong with logs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A directory cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A pod's logs cannot be removed.
    #[error("remove logs")]
    Remove(#[source] volumes::VolumeError),
    /// A log cannot be renamed or removed.
    #[error("rotate {}: {source}", path.display())]
    Rotate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime.
    #[error("reopen the log of a container: {}", .0.message())]
    Reopen(Status),
}

/// Removes the logs of a pod, whatever its name was.
pub(crate) fn remove(logs: &Path, uid: &PodUid) -> Result<(), LogError> {
    let ending = format!("_{uid}");
    let entries = match std::fs::read_dir(logs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(LogError::Read { path: logs.to_owned(), source }),
    };
    let of_pod = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.ends_with(&ending));
    for entry in entries.flatten().filter(|entry| of_pod(&entry.file_name())) {
        volumes::remove_dir(&entry.path()).map_err(LogError::Remove)?;
    }
    Ok(())
}

/// Rotates logs for ever.
pub(crate) async fn run(runtime: SharedRuntime, limits: LogLimits) {
    let mut ticks = tokio::time::interval(limits.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let running = v1::ContainerFilter { state: Some(state), ..Default::default() };
        let containers = match runtime.list_containers(Some(running)).await {
            Ok(containers) => containers,
            Err(e) => {
                warn!(error = %e.message(), "log rotation: the runtime cannot be listed");
                continue;
            }
        };
        for container in containers {
            if let Err(e) = rotate_if_large(&runtime, &container.id, limits).await {
                warn!(container = container.id, error = %crate::apply::chain(&e), "log rotation failed");
            }
        }
    }
}

async fn rotate_if_large(runtime: &SharedRuntime, id: &str, limits: LogLimits) -> Result<(), LogError> {
    let status = match runtime.container_status(id).await {
        Ok(status) => status,
        Err(e) if e.code() == tonic::Code::NotFound => return Ok(()),
        Err(e) => return Err(LogError::Reopen(e)),
    };
    let log = PathBuf::from(&status.log_path);
    match what_to_do(&log, limits.max_size) {
        Rotation::None => return Ok(()),
        Rotation::Reopen => return runtime.reopen_container_log(id).await.map_err(LogError::Reopen),
        Rotation::Rename => {}
    }
    debug!(log = %log.display(), "rotating");
    remove_oldest(&log, limits.max_files.saturating_sub(2))?;
    let rotated = rotated_name(&log);
    let failed = |source| LogError::Rotate { path: log.clone(), source };
    std::fs::rename(&log, &rotated).map_err(failed)?;
    if let Err(e) = runtime.reopen_container_log(id).await {
        // The container still writes to the renamed file: give it its name back, so that nothing is lost.
        std::fs::rename(&rotated, &log).map_err(failed)?;
        return Err(LogError::Reopen(e));
    }
    Ok(())
}

/// What a running container's log needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    None,
    /// It was renamed, and the container still writes to the renamed file.
    Reopen,
    Rename,
}

fn what_to_do(log: &Path, max_size: u64) -> Rotation {
    match std::fs::symlink_metadata(log) {
        Ok(meta) if meta.is_file() && meta.len() >= max_size => Rotation::Rename,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && log.is_absolute() => Rotation::Reopen,
        Ok(_) | Err(_) => Rotation::None,
    }
}

/// The kubelet's name for a rotated file: the time, sortable.
fn rotated_name(log: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%.3f").to_string();
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{now}"));
    name.into()
}

/// Keeps so many of a log's rotated files.
fn remove_oldest(log: &Path, keep: u32) -> Result<(), LogError> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let entries = std::fs::read_dir(dir).map_err(|source| LogError::Read { path: dir.to_owned(), source })?;
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    let surplus = rotated.len().saturating_sub(keep as usize);
    for path in rotated.into_iter().take(surplus) {
        std::fs::remove_file(&path).map_err(|source| LogError::Rotate { path: path.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_logs_go_with_it_and_others_stay() {
        let logs = tempfile::tempdir().expect("a directory");
        for name in ["default_a_u-1", "default_b_u-2", "shop_a_u-1"] {
            std::fs::create_dir_all(logs.path().join(name).join("app")).expect("mkdir");
        }
        remove(logs.path(), &PodUid::new("u-1")).expect("removed");
        let left: Vec<_> =
            std::fs::read_dir(logs.path()).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["default_b_u-2"]);
        remove(&logs.path().join("none"), &PodUid::new("u-1")).expect("nothing to remove");
    }

    #[test]
    fn a_log_is_renamed_when_it_is_large_and_opened_anew_when_an_agent_died_after_renaming_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        std::fs::write(&log, "1234").expect("written");
        assert_eq!(what_to_do(&log, 5), Rotation::None);
        assert_eq!(what_to_do(&log, 4), Rotation::Rename);
        std::fs::rename(&log, rotated_name(&log)).expect("renamed");
        assert_eq!(what_to_do(&log, 4), Rotation::Reopen);
        assert_eq!(what_to_do(Path::new(""), 4), Rotation::None, "a container without a log");
    }

    #[test]
    fn the_oldest_rotated_files_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for name in
            ["0.log", "0.log.20260101-000000", "0.log.20260102-000000", "0.log.20260103-000000", "1.log"]
        {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        remove_oldest(&log, 1).expect("removed");
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).expect("there").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["0.log", "0.log.20260103-000000", "1.log"]);
    }
}
