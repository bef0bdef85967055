//! Image names: parsing and normalising by the rules Docker and containerd share.
//!
//! In: what a user wrote (`busybox`, `host:5000/a/b:tag`, `name@sha256:…`). Out: [`Reference`] with registry, repository and
//! tag or digest. Bounded and without look-ups: whether the image exists is not asked here.

use std::fmt;

use crate::Error;
use crate::digest::{Digest, shorten};

const DEFAULT_REGISTRY: &str = "docker.io";
const NAME_MAX: usize = 255;

/// A normalised image name. With both tag and digest the digest decides and the tag is kept for display only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl Reference {
    /// Parses a name; one with neither tag nor digest gets `:latest`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::InvalidName { name: shorten(text), reason })
    }

    /// `registry/repository`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name the store records: `name@digest` if there is a digest (the tag is dropped, as containerd does), else `name:tag`.
    pub(crate) fn stored(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => format!("{}:latest", self.name()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if is_bare_digest(text) {
        return Err("it is an image id, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(Digest::parse(digest).map_err(|_| "the digest is not sha256:<64 lower-case hex digits>")?),
        ),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !tag.ends_with(']') => (name, Some(parse_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(format!("the name has more than {NAME_MAX} characters"));
    }
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    Ok(Reference { registry, repository, tag, digest })
}

fn is_bare_digest(text: &str) -> bool {
    Digest::parse(text).is_ok() || Digest::from_hex(text).is_some()
}

fn parse_tag(tag: &str) -> Result<String, String> {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| first(b) || b == b'.' || b == b'-';
    match tag.as_bytes() {
        [head, tail @ ..] if first(*head) && tail.iter().all(|b| rest(*b)) && tail.len() < 128 => {
            Ok(tag.to_owned())
        }
        _ => Err(format!(
            "the tag {:?} is not 1 to 128 of [A-Za-z0-9_.-] starting with none of .-",
            shorten(tag)
        )),
    }
}

/// The first component is a registry if it has a dot, a colon, an upper-case letter, or is `localhost`.
fn split_registry(name: &str) -> Result<(String, String), String> {
    let looks_like_host = |head: &str| {
        head.contains(['.', ':', '[']) || head == "localhost" || head.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((head, rest)) if looks_like_host(head) => (head, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    check_registry(registry)?;
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    Ok((registry.to_owned(), repository))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let bad = || format!("{:?} is not a registry host[:port]", shorten(registry));
    let (host, port) = split_port(registry).ok_or_else(bad)?;
    let host_is_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_host_label),
    };
    if host_is_good && port.is_none_or(|p| p.parse::<u16>().is_ok()) { Ok(()) } else { Err(bad()) }
}

/// Splits `host:port`; minds the brackets of IPv6 addresses.
pub(crate) fn split_port(registry: &str) -> Option<(&str, Option<&str>)> {
    let end_of_host = registry.rfind(']').map_or(0, |i| i + 1);
    match registry[end_of_host..].find(':') {
        None => (end_of_host == 0 || end_of_host == registry.len()).then_some((registry, None)),
        Some(colon) => {
            let (host, port) = registry.split_at(end_of_host + colon);
            Some((host, Some(&port[1..])))
        }
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether it is what may stand between a registry and a tag.
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower case".into());
    }
    match repository.split('/').find(|component| !is_path_component(component)) {
        None => Ok(()),
        Some("") => Err("a component of the repository is empty".into()),
        Some(bad) => Err(format!(
            "the component {:?} is not [a-z0-9] parts joined by '.', '_', '__' or dashes",
            shorten(bad)
        )),
    }
}

fn is_path_component(component: &str) -> bool {
    let is_alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_alnum(*first) || !is_alnum(*last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_get_registry_library_and_latest() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("a/b"), "docker.io/a/b:latest");
        assert_eq!(normal("docker.io/busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(normal("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("localhost/a"), "localhost/a:latest");
        assert_eq!(normal("localhost:5000/a/b__c.d--e:T_1.2-3"), "localhost:5000/a/b__c.d--e:T_1.2-3");
        assert_eq!(normal("quay.io/a/b/c"), "quay.io/a/b/c:latest");
        assert_eq!(normal("UPPER/a"), "UPPER/a:latest");
        assert_eq!(normal("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(normal("[fe80::1]/a"), "[fe80::1]/a:latest");
    }

    #[test]
    fn a_digest_needs_no_tag_and_wins_over_one() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(normal(&format!("busybox@{digest}")), format!("docker.io/library/busybox@{digest}"));
        let both = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(both.tag.as_deref(), Some("1"));
        assert_eq!(both.stored(), format!("docker.io/library/busybox@{digest}"));
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        let hex = "0".repeat(64);
        let long = "a".repeat(300);
        let cases = [
            ("", "empty"),
            ("Busybox", "lower case"),
            ("a//b", "empty"),
            ("a/", "empty"),
            ("busybox:", "tag"),
            ("busybox:-x", "tag"),
            ("busybox:a b", "tag"),
            ("a..b", "component"),
            ("a_-b", "component"),
            ("-a", "component"),
            ("../etc", "registry"),
            ("a/../b", "component"),
            ("busybox@sha256:123", "digest"),
            ("busybox@md5:123", "digest"),
            ("host:99999/a", "registry"),
            ("host:x/a", "registry"),
            ("[::g]/a", "registry"),
            ("-host.x/a", "registry"),
            (&long, "more than 255"),
            (&hex, "image id"),
            ("http://a/b", "registry"),
            ("a b", "component"),
            ("a\0b", "component"),
        ];
        for (name, expected) in cases {
            match Reference::parse(name) {
                Err(Error::InvalidName { reason, .. }) => {
                    assert!(reason.contains(expected), "{name:?}: {reason}")
                }
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }
}
