//! Which ends of containers nobody was told of, because no engine ran.
//!
//! In: the time of the lock file, which is when the last engine told anything, and the ends that a new engine finds on disk.
//! Out: an event for each end that came later, kept for those who subscribe again ([`events`](super::events)). The time is
//! not moved on while the events of a new engine are kept: should it be killed before anybody has come back, the next one
//! tells the same again. An end that was told in the last moments of an engine may not have reached a subscriber, and is
//! told again too.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Engine, view};

/// How long before the last event an end may have been to be told again.
const LAST_MOMENTS: Duration = Duration::from_secs(60);

/// Notes on the lock file that an event was told just now.
pub(crate) fn note_told(lock: &File) {
    if let Err(error) = lock.set_modified(SystemTime::now()) {
        // The next engine tells again what was told.
        tracing::debug!(%error, "the time of the last event cannot be noted");
    }
}

/// Until when everybody has been told of everything, in nanoseconds since 1970.
pub(crate) fn told_until(lock: &File) -> i64 {
    let noted = lock.metadata().and_then(|metadata| metadata.modified()).unwrap_or(UNIX_EPOCH);
    let since = noted.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(LAST_MOMENTS);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Tells of ends, each the time and the container, the earliest first.
pub(crate) fn tell(engine: &Arc<Engine>, mut ended: Vec<(i64, String)>) {
    ended.sort();
    for (_, id) in ended {
        if let Some(container) = engine.container_in_any_state(&id) {
            tracing::info!(container = id, "a container ended while no engine ran, or just before");
            engine.publish_container(&container, view::STOPPED);
        }
    }
}
