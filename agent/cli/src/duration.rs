//! Durations as users type them: Go's notation (`1h30m`, `1.5s`, `300ms`), or a bare number of seconds.
//!
//! In: text. Out: a [`Duration`] or a sentence. Negative durations are refused.

use std::time::Duration;

const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Parses a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = first_part(rest).ok_or_else(|| not_a_duration(text))?;
        seconds += part;
        rest = after;
    }
    if text.is_empty() {
        return Err(not_a_duration(text));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long"))
}

/// Seconds of the first number with unit, and what follows it.
fn first_part(text: &str) -> Option<(f64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let rest = &text[digits..];
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == &rest[..unit_end])?;
    Some((number * factor, &rest[unit_end..]))
}

fn not_a_duration(text: &str) -> String {
    format!("{text:?} is not a duration; write for example 30s, 5m or 1h30m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_and_bare_seconds_are_understood() {
        for (text, millis) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("0", 0),
            ("1m0.25s", 60_250),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "s", "5 m", "-1s", "1d", "1h30", "..s", "1e99h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
