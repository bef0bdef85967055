//! Mirrors that keep repositories under other names: a pattern, and what becomes of a repository it fits.
//!
//! In: `[host."…".rewrite]` of `hosts.toml`, as k3s writes it, with `$1` for what a group of the pattern took. Out: the
//! repository's name at the mirror. The registry itself is never asked under another name.

use regex::{Regex, RegexBuilder};

use crate::reference::check_repository;

/// The most memory a compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Rewrite {
    pattern: Regex,
    to: String,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.to == other.to
    }
}

impl Eq for Rewrite {}

impl Rewrite {
    pub(crate) fn new(pattern: &str, to: &str) -> Result<Self, String> {
        let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build();
        let pattern = compiled.map_err(|e| format!("rewrite {pattern:?}: {e}"))?;
        Ok(Self { pattern, to: to.to_owned() })
    }
}

/// The repository under the name the first fitting rule gives it; what comes out must be a repository.
pub(crate) fn apply(rules: &[Rewrite], repository: &str) -> Result<String, String> {
    let Some(rule) = rules.iter().find(|rule| rule.pattern.is_match(repository)) else {
        return Ok(repository.to_owned());
    };
    let renamed = rule.pattern.replace_all(repository, rule.to.as_str()).into_owned();
    check_repository(&renamed).map_err(|e| {
        format!("rewrite {:?} makes {renamed:?} of {repository:?}: {e}", rule.pattern.as_str())
    })?;
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_must_be_a_repository() {
        let rules = [Rewrite::new("^a/(.*)", "../$1").unwrap()];
        assert!(apply(&rules, "a/b").unwrap_err().contains("../b"));
        assert_eq!(apply(&rules, "b").unwrap(), "b");
        assert!(Rewrite::new("(a{1000}){1000}", "").is_err(), "a pattern without bounds");
    }
}
