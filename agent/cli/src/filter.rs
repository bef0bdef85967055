//! Which rows of a list the user asked for.
//!
//! In: flag values. Out: checked filters. Patterns are regular expressions that may match anywhere, as in crictl.

use std::collections::BTreeMap;

use regex::Regex;

/// `key=value`, for clap.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is not key=value")),
    }
}

/// Labels as CRI filters take them; the last value of a key counts.
pub(crate) fn selector(labels: Vec<(String, String)>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

/// Whether `text` matches, which it does when nothing is asked.
pub(crate) fn matches(pattern: Option<&Regex>, text: &str) -> bool {
    pattern.is_none_or(|pattern| pattern.is_match(text))
}

/// How many of the newest rows to keep.
pub(crate) fn newest(latest: Latest, last: Option<usize>) -> Option<usize> {
    match latest {
        Latest::Only => Some(1),
        Latest::All => last,
    }
}

/// Whether `--latest` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latest {
    Only,
    All,
}

impl From<bool> for Latest {
    fn from(given: bool) -> Self {
        if given { Self::Only } else { Self::All }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_needs_a_key() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a="), Ok(("a".into(), String::new())));
        assert!(label("a").is_err() && label("=b").is_err());
    }

    #[test]
    fn a_pattern_matches_anywhere_and_no_pattern_matches_all() {
        let pattern = Regex::new("we.$").unwrap();
        assert!(matches(Some(&pattern), "my-web") && !matches(Some(&pattern), "db") && matches(None, "db"));
    }
}
