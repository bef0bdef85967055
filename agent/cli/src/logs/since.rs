//! The point in time after which lines are wanted.
//!
//! In: `--since`, a duration back from now or an RFC 3339 time. Out: an instant.

use jiff::Timestamp;

use crate::duration;

/// Parses `text`, counting durations back from `now`.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    let back = duration::parse(text).map_err(|_| {
        format!("{text:?} is neither a duration like 5m nor a time like 2026-01-02T03:04:05Z")
    })?;
    now.checked_sub(back).map_err(|_| format!("{text:?} is before all time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_back_and_a_time_is_itself() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(parse("1h5s", now).unwrap().to_string(), "2026-01-02T02:04:00Z");
        assert_eq!(parse("2026-01-01T01:00:00+01:00", now).unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert!(parse("yesterday", now).unwrap_err().contains("neither"));
    }
}
