//! The wall clock, and its text form.
//!
//! In: nanoseconds since 1970. Out: RFC 3339 in UTC with nine decimals. No time zones, no leap seconds, no years before
//! 1970 or after 9999.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Appends e.g. `2026-02-03T04:05:06.000000007Z`.
pub(crate) fn push_rfc3339(to: &mut Vec<u8>, nanoseconds: i64) {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    digits(to, year, 4);
    for (mark, value) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        to.push(mark);
        digits(to, value, 2);
    }
    to.push(b'.');
    digits(to, nanoseconds.rem_euclid(1_000_000_000), 9);
    to.push(b'Z');
}

fn digits(to: &mut Vec<u8>, value: i64, count: u32) {
    for place in (0..count).rev() {
        to.push(b"0123456789"[usize::try_from(value / 10_i64.pow(place) % 10).unwrap_or_default()]);
    }
}

/// The date of a day since 1970. Years are counted from March, so that the leap day comes last.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(nanoseconds: i64) -> String {
        let mut text = Vec::new();
        push_rfc3339(&mut text, nanoseconds);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn known_times_have_their_known_text() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400_000_000_007), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(text(1_709_251_199_999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(text(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
    }
}
