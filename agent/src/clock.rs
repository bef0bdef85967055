//! The wall clock, for the decisions that get the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use pintle_core::time::Timestamp;

/// Now.
pub(crate) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A time of the operating system as the core's.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let nanos = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}
