//! Durations as Go writes them (`1m30s`, `500ms`), which containerd's and Kubernetes' files hold.
//!
//! In: text. Out: a duration that is not negative.

use std::time::Duration;

/// Longer than anything that is configured; a sum beyond it is an error.
const LONGEST: f64 = 1e9;

/// Parses a duration; `0` needs no unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 1m30s");
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() || rest.len() > 64 {
        return Err(format!("a duration such as 1m30s is wanted, not {} characters", rest.len()));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(length);
        seconds += number.parse::<f64>().map_err(|_| wrong())? * unit_seconds(unit).ok_or_else(wrong)?;
        rest = next;
    }
    if seconds > LONGEST { Err(wrong()) } else { Ok(Duration::from_secs_f64(seconds)) }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in
            [("0", 0), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2h0m1s", 7_201_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "s", "1x", "-1s", "1s ago", "1..2s", "999999999h", &"1s".repeat(40)] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
