//! The ids of sandboxes and containers: 64 lower-case hexadecimal digits, chosen at random.
//!
//! In: the kernel's random numbers. Out: ids that no other sandbox or container has, so that creating one can never
//! fail because "the name is reserved". Looking things up by a prefix of their id is done in `engine`.

use std::fmt::Write as _;

use super::error::{Error, Result};

/// How many characters an id has.
pub const LENGTH: usize = 64;

/// Makes a new id.
///
/// # Errors
/// When the kernel gives no random numbers.
pub fn generate() -> Result<String> {
    let mut bytes = [0u8; LENGTH / 2];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::Internal(format!("reading random numbers for an id: {e}")))?;
    Ok(bytes.iter().fold(String::with_capacity(LENGTH), |mut id, byte| {
        // Writing to a String cannot fail.
        write!(id, "{byte:02x}").unwrap_or(());
        id
    }))
}

/// Whether a text is an id: safe to use as a file name.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixty_four_hexadecimal_digits_and_differ() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert!(is_id(&a) && is_id(&b));
        assert_ne!(a, b);
    }

    #[test]
    fn anything_that_could_be_a_path_is_not_an_id() {
        assert!(!is_id("../etc"));
        assert!(!is_id(&"A".repeat(LENGTH)));
        assert!(!is_id(""));
    }
}
