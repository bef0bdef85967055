//! Where to pull from: registry hosts and their mirrors, configured in containerd's `hosts.toml` layout.
//!
//! In: the configuration directory and a registry's name. Out: [`Host`]s in the order to try them, the registry itself last.
//! Keys it does not honour (`client`, `header`, …) are errors, since ignoring them could send requests where they must not go.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::Error;
use crate::limits::HOSTS_FILE_BYTES;
use crate::reference::split_port;

/// One place to pull from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) is_https: bool,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// Put before the repository: what follows `/v2/` in a mirror's URL with `override_path`.
    pub(crate) prefix: String,
    /// Whether it may say which digest a tag has.
    pub(crate) resolves: bool,
    pub(crate) pulls: bool,
    pub(crate) skip_verify: bool,
    /// PEM certificates to trust besides the system's.
    pub(crate) ca: Vec<Vec<u8>>,
    /// A mirror is told the registry's name and gets no credentials.
    pub(crate) is_mirror: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMany>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    #[serde(default)]
    host: BTreeMap<String, Spanned<HostTable>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct HostTable {
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMany>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    Push,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The hosts for a registry, in order.
pub(crate) fn hosts_for(registry: &str, config: Option<&Path>) -> Result<Vec<Host>, Error> {
    let Some(dir) = config else { return Ok(vec![default_host(registry)]) };
    match host_directory(dir, registry) {
        Some(dir) => read_file(&dir.join("hosts.toml"), registry),
        None => Ok(vec![default_host(registry)]),
    }
}

/// The registry itself: plain HTTP on the loopback interface (unless the port is 443), HTTPS elsewhere.
fn default_host(registry: &str) -> Host {
    Host {
        is_https: !is_plain_http(registry),
        authority: if registry == "docker.io" { "registry-1.docker.io".into() } else { registry.to_owned() },
        prefix: String::new(),
        resolves: true,
        pulls: true,
        skip_verify: false,
        ca: Vec::new(),
        is_mirror: false,
    }
}

fn is_plain_http(authority: &str) -> bool {
    let (host, port) = split_port(authority).unwrap_or((authority, None));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback && port != Some("443")
}

/// The directory for a registry: `host:port`, `host_port_`, or `_default`.
fn host_directory(dir: &Path, registry: &str) -> Option<PathBuf> {
    let underscored =
        split_port(registry).and_then(|(host, port)| port.map(|port| format!("{host}_{port}_")));
    let names = underscored.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    names.map(|name| dir.join(name)).find(|path| path.is_dir())
}

fn read_file(path: &Path, registry: &str) -> Result<Vec<Host>, Error> {
    let wrong = |reason: String| Error::Config { path: path.to_owned(), reason };
    let bytes = read_bounded(path).map_err(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
    let file: File = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let dir = path.parent().unwrap_or(path);
    let mut tables: Vec<_> = file.host.into_iter().collect();
    // Tables come sorted by name; what counts is the order in the file.
    tables.sort_by_key(|(_, table)| table.span().start);
    let mut hosts = Vec::new();
    for (url, table) in tables {
        let host =
            configure(&url, table.into_inner(), dir).map_err(|e| wrong(format!("host {url:?}: {e}")))?;
        hosts.push(Host { is_mirror: host.authority != registry, ..host });
    }
    let table = HostTable {
        capabilities: file.capabilities,
        ca: file.ca,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
    };
    let own = default_host(registry);
    let scheme = if own.is_https { "https" } else { "http" };
    let server = file.server.unwrap_or_else(|| format!("{scheme}://{}", own.authority));
    hosts.push(configure(&server, table, dir).map_err(|e| wrong(format!("server {server:?}: {e}")))?);
    Ok(hosts)
}

fn configure(url: &str, table: HostTable, dir: &Path) -> Result<Host, String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains(['@', '?', '#']) || path.contains(['?', '#']) {
        return Err("it is not [http[s]://]host[:port][/path]".into());
    }
    let is_https = match scheme {
        Some("https") => true,
        Some("http") => false,
        None => !is_plain_http(authority),
        Some(other) => return Err(format!("the scheme {other:?} is not http or https")),
    };
    let can = |c| table.capabilities.as_ref().is_none_or(|list| list.contains(&c));
    let ca = match table.ca {
        None => Vec::new(),
        Some(OneOrMany::One(path)) => vec![path],
        Some(OneOrMany::Many(paths)) => paths,
    };
    Ok(Host {
        is_https,
        authority: authority.to_owned(),
        prefix: prefix_of(path, table.override_path.unwrap_or(false))?,
        resolves: can(Capability::Resolve),
        pulls: can(Capability::Pull),
        skip_verify: table.skip_verify.unwrap_or(false),
        ca: ca.iter().map(|path| read_bounded(&dir.join(path))).collect::<Result<_, _>>()?,
        is_mirror: false,
    })
}

/// The part of the URL's path that belongs to the repository. Requests always go to `/v2/…`.
fn prefix_of(path: &str, is_override: bool) -> Result<String, String> {
    let path = path.trim_matches('/');
    match (path, is_override) {
        ("v2", _) | ("", false) => Ok(String::new()),
        (_, true) => match path.strip_prefix("v2/") {
            Some(prefix) => Ok(format!("{prefix}/")),
            None => Err("with override_path the path must begin with /v2; others are not supported".into()),
        },
        (_, false) => Err("a path other than /v2 is supported only with override_path = true".into()),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let describe = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(describe)?;
    file.take(HOSTS_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(describe)?;
    if bytes.len() as u64 > HOSTS_FILE_BYTES {
        return Err(format!("{} has more than {HOSTS_FILE_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Host>, Error> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("reg.example_5000_")).unwrap();
        std::fs::write(dir.path().join("reg.example_5000_/hosts.toml"), text).unwrap();
        std::fs::write(dir.path().join("reg.example_5000_/ca.pem"), "PEM").unwrap();
        hosts_for("reg.example:5000", Some(dir.path()))
    }

    #[test]
    fn mirrors_are_tried_in_the_order_of_the_file_and_the_server_last() {
        let hosts = parse(
            "server = \"https://up.example\"\nskip_verify = true\n\
             [host.\"https://z.example\"]\ncapabilities = [\"pull\"]\nca = \"ca.pem\"\n\
             [host.\"http://a.example:81/v2/proxy/\"]\noverride_path = true\n\
             [host.\"m.example\"]\ncapabilities = [\"pull\", \"resolve\", \"push\"]\n",
        )
        .unwrap();
        let names: Vec<_> = hosts.iter().map(|h| h.authority.as_str()).collect();
        assert_eq!(names, ["z.example", "a.example:81", "m.example", "up.example"]);
        assert_eq!(
            (hosts[0].resolves, hosts[0].pulls, hosts[0].ca.clone()),
            (false, true, vec![b"PEM".to_vec()])
        );
        assert_eq!(
            (hosts[1].prefix.as_str(), hosts[1].is_https, hosts[1].is_mirror),
            ("proxy/", false, true)
        );
        assert!(hosts[2].resolves && hosts[2].is_https);
        assert_eq!((hosts[3].skip_verify, hosts[3].is_mirror), (true, false));
    }

    #[test]
    fn keys_it_does_not_honour_and_wrong_values_are_errors() {
        for (text, expected) in [
            ("[host.\"https://m\"]\nclient = \"c.pem\"", "client"),
            ("[host.\"https://m\"]\nheader = { x = \"y\" }", "header"),
            ("serverr = \"x\"", "serverr"),
            ("[host.\"ftp://m\"]", "scheme"),
            ("[host.\"https://m/path\"]", "override_path"),
            ("[host.\"https://m/path\"]\noverride_path = true", "/v2"),
            ("[host.\"https://m\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://m\"]\nca = \"missing.pem\"", "missing.pem"),
            ("server = ", "hosts.toml"),
        ] {
            match parse(text) {
                Err(error @ Error::Config { .. }) => assert!(error.to_string().contains(expected), "{error}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn loopback_registries_are_plain_http_and_the_default_directory_serves_the_rest() {
        for (registry, https) in [
            ("localhost:5000", false),
            ("127.0.0.1", false),
            ("127.1.2.3:80", false),
            ("[::1]:5000", false),
            ("localhost:443", true),
            ("example.org:5000", true),
        ] {
            let hosts = hosts_for(registry, None).unwrap();
            assert_eq!((hosts.len(), hosts[0].is_https, hosts[0].authority.as_str()), (1, https, registry));
        }
        assert_eq!(hosts_for("docker.io", None).unwrap()[0].authority, "registry-1.docker.io");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hosts_for("a.example", Some(dir.path())).unwrap(), hosts_for("a.example", None).unwrap());
        std::fs::create_dir(dir.path().join("_default")).unwrap();
        assert!(hosts_for("a.example", Some(dir.path())).is_err(), "a directory without hosts.toml");
        std::fs::write(dir.path().join("_default/hosts.toml"), "[host.\"https://m.example\"]").unwrap();
        assert_eq!(hosts_for("a.example", Some(dir.path())).unwrap()[0].authority, "m.example");
    }
}
