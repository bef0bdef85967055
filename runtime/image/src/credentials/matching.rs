//! Which images a pattern of Kubernetes' credential providers means (`matchImages`, and the keys of their answers).
//!
//! In: a pattern such as `*.example.io:5000/team`. Out: whether it fits `registry[:port]/repository`. Globs are for the parts of
//! the host's name alone and never span a dot; ports are the same; the path is the beginning of the image's.

use regex::Regex;

#[derive(Debug)]
pub(crate) struct ImagePattern {
    parts: Vec<Regex>,
    port: Option<String>,
    path: String,
}

impl ImagePattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let rest = pattern.split_once("://").map_or(pattern, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, port) = split_port(host);
        if name.is_empty() || name.len() > 255 {
            return Err(format!("{pattern:?} names no host"));
        }
        if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
            return Err(format!("{pattern:?}: the port is not a number"));
        }
        let parts =
            name.split('.').map(glob).collect::<Result<_, _>>().map_err(|e| format!("{pattern:?}: {e}"))?;
        Ok(Self { parts, port: port.map(str::to_owned), path: path.trim_end_matches('/').to_owned() })
    }

    pub(crate) fn fits(&self, image: &str) -> bool {
        let (host, path) = image.split_once('/').unwrap_or((image, ""));
        let (name, port) = split_port(host);
        let parts: Vec<_> = name.split('.').collect();
        parts.len() == self.parts.len()
            && port == self.port.as_deref()
            && path.starts_with(&self.path)
            && self.parts.iter().zip(parts).all(|(glob, part)| glob.is_match(part))
    }
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `*`, `?` and `[…]`, as a regular expression.
fn glob(part: &str) -> Result<Regex, String> {
    let mut expression = String::from("^");
    let mut characters = part.chars();
    while let Some(c) = characters.next() {
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                let class: String = characters.by_ref().take_while(|c| *c != ']').collect();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '^');
                if class.is_empty() || !class.chars().all(is_plain) {
                    return Err(format!("{part:?} is not a pattern"));
                }
                expression.push('[');
                expression.push_str(&class);
                expression.push(']');
            }
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression.push('$');
    Regex::new(&expression).map_err(|_| format!("{part:?} is not a pattern"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_as_kubernetes_documents_it() {
        for (pattern, image, fits) in [
            (
                "123456789.dkr.ecr.us-east-1.amazonaws.com",
                "123456789.dkr.ecr.us-east-1.amazonaws.com/a",
                true,
            ),
            ("*.azurecr.io", "team.azurecr.io/a", true),
            ("*.azurecr.io", "a.team.azurecr.io/a", false),
            ("*.*.registry.io", "a.b.registry.io/a/b", true),
            ("registry.io:8080/path", "registry.io:8080/path/image", true),
            ("registry.io:8080/path", "registry.io/path/image", false),
            ("registry.io:8080/path", "registry.io:8080/other", false),
            ("registry.io", "registry.io:8080/a", false),
            ("https://gcr.io", "gcr.io/a", true),
            ("g?r.[a-i]o", "gcr.io/a", true),
            ("gcr.io", "gcrxio/a", false),
            ("[::1]:5000", "[::1]:5000/a", false),
        ] {
            assert_eq!(ImagePattern::new(pattern).is_ok_and(|p| p.fits(image)), fits, "{pattern} {image}");
        }
        for wrong in ["", "/path", "host:port", "host:*", "a[", "a[]b"] {
            assert!(ImagePattern::new(wrong).is_err(), "{wrong}");
        }
    }
}
