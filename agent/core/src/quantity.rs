//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as exact numbers.
//!
//! In: the text of a `resource.Quantity`. Out: a [`Quantity`] that answers in units or thousandths, rounded up as
//! Kubernetes does. No floats anywhere.

use std::fmt;

/// An exact number of billionths, the finest that Kubernetes keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error(
        "`{0}` is not a quantity: want a number with an optional suffix such as m, k, M, G, Ki, Mi, Gi or e3"
    )]
    Malformed(String),
    /// More than 2^63 - 1.
    #[error("`{0}` is larger than a quantity can be")]
    TooLarge(String),
}

const NANOS: i128 = 1_000_000_000;
const LARGEST: i128 = (i64::MAX as i128) * NANOS;
/// More digits than this cannot matter: 2^63 has 19 before the point, and 9 after it are kept.
const MAX_TEXT: usize = 64;

impl Quantity {
    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.chars().take(MAX_TEXT).collect());
        if text.len() > MAX_TEXT {
            return Err(malformed());
        }
        let (negative, body) = match text.strip_prefix('-') {
            Some(body) => (true, body),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
        let (number, suffix) = body.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(malformed());
        }
        let scale = Scale::parse(suffix).ok_or_else(malformed)?;
        let nanos = scale
            .nanos(whole, fraction)
            .filter(|nanos| *nanos <= LARGEST)
            .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        Ok(Self { nanos: if negative { -nanos } else { nanos } })
    }

    /// In units, rounded up.
    pub fn value(self) -> i64 {
        self.rounded_up(NANOS)
    }

    /// In thousandths, rounded up; the largest number if it does not fit.
    pub fn milli_value(self) -> i64 {
        self.rounded_up(NANOS / 1000)
    }

    /// In units of another quantity, rounded up; absent if that is zero.
    pub fn in_units_of(self, divisor: Self) -> Option<i64> {
        (divisor.nanos > 0).then(|| self.rounded_up(divisor.nanos))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Whether it is a whole number of thousandths.
    pub fn is_whole_milli(self) -> bool {
        self.nanos % (NANOS / 1000) == 0
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let floor = self.nanos.div_euclid(unit);
        let up = floor + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }
}

/// What a suffix multiplies with.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// Powers of 1024.
    Binary(u32),
    /// Powers of 10.
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(1),
            "Mi" => Self::Binary(2),
            "Gi" => Self::Binary(3),
            "Ti" => Self::Binary(4),
            "Pi" => Self::Binary(5),
            "Ei" => Self::Binary(6),
            exponent => Self::Decimal(parse_exponent(exponent.strip_prefix(['e', 'E'])?)?),
        })
    }

    /// Absent if it does not fit.
    fn nanos(self, whole: &str, fraction: &str) -> Option<i128> {
        match self {
            Self::Decimal(exponent) => decimal_nanos(whole, fraction, exponent),
            Self::Binary(power) => {
                // A fraction of at most nine digits, times 1024^power, is exact in 128 bits or too large anyway.
                let nanos = decimal_nanos(whole, fraction, 0)?;
                nanos.checked_mul(1024_i128.checked_pow(power)?)
            }
        }
    }
}

fn parse_exponent(text: &str) -> Option<i32> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let exponent: i32 = digits.parse().ok()?;
    Some(if negative { -exponent } else { exponent })
}

/// `whole.fraction × 10^exponent` in billionths, rounded up.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let fraction_length = i32::try_from(fraction.len()).ok()?;
    let shift = exponent.checked_add(9)?.checked_sub(fraction_length)?;
    let length = i32::try_from(digits.len()).ok()?;
    if digits.iter().all(|digit| *digit == b'0') {
        return Some(0);
    }
    let kept = length.checked_add(shift.min(0))?;
    let (head, tail) = match usize::try_from(kept) {
        Ok(kept) => digits.split_at(kept.min(digits.len())),
        Err(_) => (&[][..], &digits[..]),
    };
    let mut nanos: i128 = 0;
    for digit in head {
        nanos = nanos.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    if tail.iter().any(|digit| *digit != b'0') {
        nanos = nanos.checked_add(1)?;
    }
    for _ in 0..shift.max(0) {
        nanos = nanos.checked_mul(10)?;
    }
    Some(nanos)
}

impl fmt::Display for Quantity {
    /// The plain number, `m`, `u` or `n` if that is needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(NANOS, ""), (NANOS / 1000, "m"), (1000, "u"), (1, "n")] {
            if self.nanos % unit == 0 {
                return write!(f, "{}{suffix}", self.nanos / unit);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn milli(text: &str) -> i64 {
        Quantity::parse(text).unwrap().milli_value()
    }

    #[test]
    fn every_suffix_means_what_kubernetes_says() {
        for (text, value) in [
            ("0", 0),
            ("1", 1),
            ("+1", 1),
            ("-1", -1),
            ("1.5Gi", 1_610_612_736),
            ("128Mi", 134_217_728),
            ("2Ki", 2048),
            ("1k", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1_152_921_504_606_846_976),
            ("7Ei", 8_070_450_532_247_928_832),
            ("2e3", 2000),
            ("2E3", 2000),
            ("12e-1", 2),
            ("9223372036854775807", i64::MAX),
            (".5", 1),
            ("5.", 5),
            ("0.1n", 1),
            ("1e-400", 1),
            ("0e999999999", 0),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().value(), value, "{text}");
        }
    }

    #[test]
    fn thousandths_are_exact_and_round_up() {
        assert_eq!(milli("100m"), 100);
        assert_eq!(milli("0.1"), 100);
        assert_eq!(milli("1"), 1000);
        assert_eq!(milli("0.1m"), 1);
        assert_eq!(milli("100001u"), 101);
        assert_eq!(milli("-0.1m"), 0);
    }

    #[test]
    fn texts_that_are_no_quantities_are_refused() {
        for text in
            ["", "m", "1 Gi", "1gi", "1K", "1mi", "--1", "1.2.3", ".", "1e", "1e+", "e3", "0x10", "1Gi ", "½"]
        {
            assert!(matches!(Quantity::parse(text), Err(QuantityError::Malformed(_))), "{text}");
        }
        for text in ["8Ei", "10E", "1e30", "9223372036854775808", "1e999999999"] {
            assert!(matches!(Quantity::parse(text), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[-+]?[0-9.]{0,40}[a-zA-Z]{0,3}[-+]?[0-9]{0,12}") {
            prop_assert!(Quantity::parse(&text).is_ok() || Quantity::parse(&text).is_err());
        }

        #[test]
        fn whole_numbers_survive(number in -1_000_000_000_000_i64..1_000_000_000_000) {
            prop_assert_eq!(Quantity::parse(&number.to_string()).unwrap().value(), number);
        }

        #[test]
        fn what_is_written_reads_back(nanos in -1_000_000_000_000_000_i128..1_000_000_000_000_000) {
            let quantity = Quantity { nanos };
            prop_assert_eq!(Quantity::parse(&quantity.to_string()).unwrap(), quantity);
        }
    }
}
