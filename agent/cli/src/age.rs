//! Ages in words: crictl's ("3 minutes ago") and kubectl's ("3m5s").
//!
//! In: two instants or a span. Out: text. Reads no clock.

use jiff::{SignedDuration, Timestamp};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// How long ago `created_ns` (nanoseconds since the epoch) was, the way crictl says it. Empty for 0.
pub(crate) fn crictl(created_ns: i64, now: Timestamp) -> String {
    match Timestamp::from_nanosecond(i128::from(created_ns)) {
        Ok(created) if created_ns != 0 => format!("{} ago", words(now.duration_since(created))),
        Ok(_) | Err(_) => String::new(),
    }
}

fn words(age: SignedDuration) -> String {
    let seconds = age.as_secs();
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / MINUTE),
        _ => match hours {
            ..2 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

/// A span the way kubectl prints it in its AGE column.
pub(crate) fn kubectl(age: SignedDuration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / MINUTE, seconds / HOUR);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match hours {
        _ if seconds < -1 => "<invalid>".to_owned(),
        _ if seconds < 0 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if minutes < 10 => two((minutes, 'm'), (seconds % 60, 's')),
        ..3 => format!("{minutes}m"),
        3..8 => two((hours, 'h'), (minutes % 60, 'm')),
        8..48 => format!("{hours}h"),
        48..192 => two((days, 'd'), (hours % 24, 'h')),
        192..17520 => format!("{days}d"),
        17520..70080 => two((years, 'y'), (days % 365, 'd')),
        _ => format!("{years}y"),
    }
}

fn two((big, big_unit): (i64, char), (small, small_unit): (i64, char)) -> String {
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crictl_ages_read_like_speech() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (185, "3 minutes"),
            (3600, "About an hour"),
            (2 * HOUR, "2 hours"),
            (47 * HOUR, "47 hours"),
            (49 * HOUR, "2 days"),
            (20 * 24 * HOUR, "2 weeks"),
            (70 * 24 * HOUR, "2 months"),
            (800 * 24 * HOUR, "2 years"),
        ] {
            assert_eq!(words(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn a_time_never_set_has_no_age() {
        assert_eq!(crictl(0, Timestamp::UNIX_EPOCH), "");
    }

    #[test]
    fn kubectl_ages_keep_two_units_while_they_matter() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (10 * MINUTE + 5, "10m"),
            (179 * MINUTE, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 5 * MINUTE, "3h5m"),
            (9 * HOUR + 5 * MINUTE, "9h"),
            (50 * HOUR, "2d2h"),
            (8 * 24 * HOUR, "8d"),
            (365 * 24 * HOUR, "365d"),
            (731 * 24 * HOUR, "2y1d"),
            (3000 * 24 * HOUR, "8y"),
        ] {
            assert_eq!(kubectl(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
