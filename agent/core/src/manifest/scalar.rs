//! What a plain YAML scalar means: YAML 1.1 as Kubernetes reads it (`sigs.k8s.io/yaml`), where `yes` and `on` are
//! booleans, `0x1F`, `0o17` and `017` are integers, and a date is a string.
//!
//! In: the text of a scalar without quotes. Out: a [`Value`].

use super::node::Value;

/// Resolves an unquoted scalar.
pub(crate) fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true, text.to_owned());
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false, text.to_owned());
        }
        _ => {}
    }
    resolve_number(text).unwrap_or_else(|| Value::Text(text.to_owned()))
}

/// A number, if the text is one.
pub(crate) fn resolve_number(text: &str) -> Option<Value> {
    let first = text.chars().next()?;
    if !(first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain) {
        return Some(Value::Integer(number));
    }
    if !looks_like_float(&plain) {
        return None;
    }
    let number: f64 = plain.parse().ok()?;
    if !number.is_finite() {
        return None;
    }
    Some(whole(number).map_or(Value::Float(plain), Value::Integer))
}

/// The whole number that a float is exactly, within the range in which floats are exact.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, radix) = radix_of(digits);
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let size = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -size } else { size }).ok()
}

fn radix_of(digits: &str) -> (&str, u32) {
    let lower = digits.get(..2).unwrap_or_default();
    match lower {
        "0x" | "0X" => (&digits[2..], 16),
        "0o" | "0O" => (&digits[2..], 8),
        "0b" | "0B" => (&digits[2..], 2),
        _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn looks_like_float(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_ok && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_yaml_1_1_takes_for_booleans_are_booleans() {
        for word in ["y", "Yes", "on", "TRUE"] {
            assert_eq!(resolve_plain(word), Value::Bool(true, word.to_owned()));
        }
        for word in ["n", "No", "off", "False"] {
            assert_eq!(resolve_plain(word), Value::Bool(false, word.to_owned()));
        }
        assert_eq!(resolve_plain("tRue"), Value::Text("tRue".to_owned()));
    }

    #[test]
    fn numbers_are_read_in_every_base_and_with_underscores() {
        for (text, number) in [
            ("0", 0),
            ("-7", -7),
            ("+7", 7),
            ("0x1F", 31),
            ("0o17", 15),
            ("017", 15),
            ("0b11", 3),
            ("1_000", 1000),
            ("1e3", 1000),
            ("2.0", 2),
        ] {
            assert_eq!(resolve_plain(text), Value::Integer(number), "{text}");
        }
        assert_eq!(resolve_plain("0.5"), Value::Float("0.5".to_owned()));
        assert_eq!(resolve_plain(".5"), Value::Float(".5".to_owned()));
    }

    #[test]
    fn what_merely_begins_like_a_number_is_text() {
        for text in ["100m", "1Gi", "1.2.3", "2026-01-01", "-", ".", "1e", "08x", "-.", "1.2.3.4/8", ".inf"] {
            assert_eq!(resolve_plain(text), Value::Text(text.to_owned()), "{text}");
        }
    }
}
