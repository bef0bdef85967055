//! The syntax of names, as the API server demands it.
//!
//! In: a text. Out: nothing, or what a text of this kind must look like.

use std::net::IpAddr;

use super::limits;

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub(super) fn dns_label(text: &str) -> Result<(), String> {
    if text.len() <= 63 && is_dns_label(text) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a DNS label: up to 63 lower-case letters, digits and `-`, a letter or digit at both ends",
        short(text)
    ))
}

/// Labels separated by dots, at most 253.
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() <= 253 && text.split('.').all(is_dns_label) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a DNS name: up to 253 lower-case letters, digits, `-` and `.`, a letter or digit at both ends of each part",
        short(text)
    ))
}

/// The key of a label or annotation: an optional DNS name with a slash, then up to 63 characters.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if is_label_text(name) && !name.is_empty() && prefix.is_none_or(|prefix| dns_subdomain(prefix).is_ok()) {
        return Ok(());
    }
    Err(format!(
        "the key `{}` is not of the form `example.com/name` or `name`: up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends",
        short(text)
    ))
}

/// The value of a label; may be empty.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_text(text) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a label's value: up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends",
        short(text)
    ))
}

/// The name of a port: up to 15 lower-case letters, digits and single dashes, with a letter.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let good = text.len() <= 15
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    if good {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a port's name: up to 15 lower-case letters, digits and single `-`, at least one letter",
        short(text)
    ))
}

/// The name of an environment variable: printable ASCII without `=`.
pub(super) fn env_name(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Ok(());
    }
    Err(format!("`{}` is not the name of an environment variable: printable ASCII without `=`", short(text)))
}

/// A pod's uid. It becomes a directory's and a cgroup's name.
pub(super) fn uid(text: &str) -> Result<(), String> {
    if text.len() <= 63 && is_dns_label(text) {
        return Ok(());
    }
    Err(format!("`{}` is not a uid: want a UUID such as 6f1c2a9e-0b6f-4d3c-9a57-1d2e3f405162", short(text)))
}

/// An absolute path without `..`.
pub(super) fn absolute_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("`{}` must be an absolute path", short(text)));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!("`{}` must not contain `..`", short(text)));
    }
    short_path(text)
}

/// A path from some directory downwards.
pub(super) fn descending_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        return Err(format!("`{}` must be a relative path", short(text)));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!("`{}` must not contain `..`", short(text)));
    }
    short_path(text)
}

/// A path that the kernel can take.
pub(super) fn short_path(text: &str) -> Result<(), String> {
    if text.len() <= limits::PATH {
        return Ok(());
    }
    Err(format!("has {} bytes; a path may have up to {}", text.len(), limits::PATH))
}

/// An IPv4 or IPv6 address.
pub(super) fn ip(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(|_| ()).map_err(|_| format!("`{}` is not an IP address", short(text)))
}

fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    ends_are(text, alphanumeric) && text.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
}

fn is_label_text(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= 63
            && ends_are(text, |byte| byte.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')))
}

fn ends_are(text: &str, good: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(&good) && text.bytes().last().is_some_and(&good)
}

fn short(text: &str) -> String {
    super::super::node::shorten(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_the_api_server_judges_them() {
        for good in ["a", "a-1", "0a", &"a".repeat(63)] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"a".repeat(64), "ä"] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert_eq!(dns_subdomain("a.b-c.d"), Ok(()));
        assert!(dns_subdomain("a..b").is_err());
        for good in ["app", "a.b/c_D.e", "A"] {
            assert_eq!(qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a b"] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        for (good, bad) in [("http", "1"), ("a-1", "a--1"), ("metrics-http", "a-name-too-long-")] {
            assert_eq!(port_name(good), Ok(()));
            assert!(port_name(bad).is_err());
        }
        assert_eq!(env_name("my.var-1 x"), Ok(()));
        for bad in ["", "a=b", "ä", "a\tb"] {
            assert!(env_name(bad).is_err());
        }
        assert!(uid("../../etc").is_err());
    }
}
