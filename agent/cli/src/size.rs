//! Byte counts in words, three significant digits, decimal units, as crictl prints image sizes.
//!
//! In: bytes. Out: text such as `4.86MB`.

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// A size for people.
pub(crate) fn human(bytes: u64) -> String {
    let mut scale: u128 = 1;
    let mut unit = 0;
    // 999.5 of a unit rounds to 1000, which is 1 of the next.
    while u128::from(bytes) * 2 >= scale * 1999 && unit + 1 < UNITS.len() {
        scale *= 1000;
        unit += 1;
    }
    let thousandths = (u128::from(bytes) * 1000 + scale / 2) / scale;
    let digits = match thousandths {
        ..9_995 => decimals(thousandths, 10),
        9_995..99_950 => decimals(thousandths, 100),
        _ => decimals(thousandths, 1000),
    };
    format!("{digits}{}", UNITS[unit])
}

/// `thousandths` rounded to a multiple of `step`, without trailing zeros.
fn decimals(thousandths: u128, step: u128) -> String {
    let rounded = (thousandths + step / 2) / step * step;
    let text = format!("{}.{:03}", rounded / 1000, rounded % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_decimal_units() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_855_000, "4.86MB"),
            (45_600_000, "45.6MB"),
            (123_456_789, "123MB"),
            (999_600, "1MB"),
            (2_000_000_000, "2GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(human(bytes), expected, "{bytes}");
        }
    }
}
