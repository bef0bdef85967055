//! Where to pull from: registry hosts and their mirrors, configured in containerd's `hosts.toml` layout.
//!
//! In: the configuration directory and a registry's name. Out: [`Host`]s in the order to try them, the registry itself last.
//! What differs from containerd: a wrong file is an error and never skipped, since going on without it could send requests
//! where they must not go; `http://` is plain HTTP whatever stands beside it; of client certificates a host has one; and
//! `rewrite`, which k3s writes into such files for its own containerd, is understood.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::Error;
use crate::limits::HOSTS_FILE_BYTES;
use crate::reference::split_port;
use crate::rewrite::Rewrite;

/// One place to pull from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) is_https: bool,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// Where the registry's interface begins: `/v2`, or what a mirror's URL with `override_path` says.
    pub(crate) path: String,
    /// Whether it may say which digest a tag has.
    pub(crate) resolves: bool,
    pub(crate) pulls: bool,
    pub(crate) skip_verify: bool,
    /// PEM certificates to trust besides the system's.
    pub(crate) ca: Vec<Vec<u8>>,
    /// PEM of the certificate to show and its key.
    pub(crate) client: Option<ClientPem>,
    /// Sent along with every request to the host.
    pub(crate) headers: Headers,
    pub(crate) connect_timeout: Option<Duration>,
    /// What is done to the repository; the first that fits.
    pub(crate) rewrites: Vec<Rewrite>,
    /// A mirror is told the registry's name and gets no credentials that are not its own.
    pub(crate) is_mirror: bool,
}

/// A private key is among it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClientPem(pub(crate) Vec<u8>);

impl std::fmt::Debug for ClientPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientPem(…)")
    }
}

/// Names and values of headers; a value may be a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Client>,
    header: Option<BTreeMap<String, OneOrMany<String>>>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, Spanned<HostTable>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Client>,
    header: Option<BTreeMap<String, OneOrMany<String>>>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    rewrite: Option<BTreeMap<Spanned<String>, String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// One file with certificate and key, a list of such files, or a list of pairs of files.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, a list of files or a list of [certificate, key]")]
enum Client {
    File(PathBuf),
    Files(Vec<PathBuf>),
    Pairs(Vec<[PathBuf; 2]>),
}

/// The hosts for a registry, in order.
pub(crate) fn hosts_for(registry: &str, config: Option<&Path>) -> Result<Vec<Host>, Error> {
    let Some(dir) = config.and_then(|dir| host_directory(dir, registry)) else {
        return Ok(vec![default_host(registry)]);
    };
    let file = dir.join("hosts.toml");
    match read_bounded(&file) {
        Ok(text) if !text.is_empty() => parse_file(&file, text, registry),
        Ok(_) => docker_certificates(&dir, registry),
        Err(_) if !file.exists() => docker_certificates(&dir, registry),
        Err(reason) => Err(Error::Config { path: file, reason }),
    }
}

/// The registry itself: plain HTTP on the loopback interface (unless the port is 443), HTTPS elsewhere.
fn default_host(registry: &str) -> Host {
    Host {
        is_https: !is_plain_http(registry),
        authority: if registry == "docker.io" { "registry-1.docker.io".into() } else { registry.to_owned() },
        path: "/v2".into(),
        resolves: true,
        pulls: true,
        skip_verify: false,
        ca: Vec::new(),
        client: None,
        headers: Headers::default(),
        connect_timeout: None,
        rewrites: Vec::new(),
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

/// The directory for a registry: `host_port_`, `host:port`, or `_default`.
fn host_directory(dir: &Path, registry: &str) -> Option<PathBuf> {
    let underscored =
        split_port(registry).and_then(|(host, port)| port.map(|port| format!("{host}_{port}_")));
    let names = underscored.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    names.map(|name| dir.join(name)).find(|path| path.is_dir())
}

/// A directory without `hosts.toml` is in Docker's layout: `*.crt` are authorities, `*.cert` with `*.key` the client's own.
fn docker_certificates(dir: &Path, registry: &str) -> Result<Vec<Host>, Error> {
    let wrong = |reason: String| Error::Config { path: dir.to_owned(), reason };
    let entries = std::fs::read_dir(dir).map_err(|e| wrong(e.to_string()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    let of =
        |extension: &'static str| files.iter().filter(move |f| f.extension().is_some_and(|e| e == extension));
    let pairs = of("cert").map(|cert| {
        let key = cert.with_extension("key");
        let key = if key.exists() { key } else { cert.clone() };
        [cert.clone(), key]
    });
    let table = HostTable {
        ca: Some(OneOrMany::Many(of("crt").cloned().collect())),
        client: Some(Client::Pairs(pairs.collect())),
        ..HostTable::default()
    };
    let host = own_host(None, table, dir, registry).map_err(wrong)?;
    // Certificates are for TLS, on the loopback interface too.
    let is_https = host.is_https || !host.ca.is_empty() || host.client.is_some();
    Ok(vec![Host { is_https, ..host }])
}

/// Reads a file's text; the files it names are looked for beside it.
pub(crate) fn parse_file(path: &Path, bytes: Vec<u8>, registry: &str) -> Result<Vec<Host>, Error> {
    let wrong = |reason: String| Error::Config { path: path.to_owned(), reason };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
    // The parser's own text shows the line, and in it there may be a password.
    let file: File = toml::from_str(&text).map_err(|e| wrong(describe(&e, &text)))?;
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
        client: file.client,
        header: file.header,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
        rewrite: None,
    };
    hosts.push(own_host(file.server.as_deref(), table, dir, registry).map_err(wrong)?);
    Ok(hosts)
}

fn describe(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

/// The registry itself, which comes last.
fn own_host(server: Option<&str>, table: HostTable, dir: &Path, registry: &str) -> Result<Host, String> {
    let own = default_host(registry);
    let scheme = if own.is_https { "https" } else { "http" };
    let server = server.map_or_else(|| format!("{scheme}://{}", own.authority), str::to_owned);
    configure(&server, table, dir).map_err(|e| format!("server {server:?}: {e}"))
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
    let capabilities = capabilities(table.capabilities)?;
    let can = |name: &str| capabilities.as_ref().is_none_or(|list| list.iter().any(|one| one == name));
    let ca = table.ca.map(OneOrMany::into_list).unwrap_or_default();
    Ok(Host {
        is_https,
        authority: authority.to_owned(),
        path: root_path(path, table.override_path.unwrap_or(false))?,
        resolves: can("resolve"),
        pulls: can("pull"),
        skip_verify: table.skip_verify.unwrap_or(false),
        ca: ca.iter().map(|path| read_bounded(&dir.join(path))).collect::<Result<_, _>>()?,
        client: table.client.map(|client| client_pem(client, dir)).transpose()?.flatten(),
        headers: headers(table.header.unwrap_or_default())?,
        connect_timeout: table.dial_timeout.as_deref().map(crate::go_duration::parse).transpose()?,
        rewrites: rewrites(table.rewrite.unwrap_or_default())?,
        is_mirror: false,
    })
}

/// An empty list is as good as none.
fn capabilities(given: Option<Vec<String>>) -> Result<Option<Vec<String>>, String> {
    let list: Vec<_> = given.into_iter().flatten().map(|name| name.to_ascii_lowercase()).collect();
    match list.iter().find(|name| !matches!(name.as_str(), "pull" | "resolve" | "push")) {
        Some(unknown) => Err(format!("the capability {unknown:?} is none of pull, resolve, push")),
        None => Ok(Some(list).filter(|list| !list.is_empty())),
    }
}

/// The path of the registry's interface. Without `override_path` it ends with `/v2`, which is added.
fn root_path(path: &str, is_override: bool) -> Result<String, String> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("its path contains \"..\"".into());
    }
    let mut path: String = parts.iter().flat_map(|part| ["/", part]).collect();
    if !is_override && parts.last() != Some(&"v2") {
        path.push_str("/v2");
    }
    Ok(path)
}

fn client_pem(client: Client, dir: &Path) -> Result<Option<ClientPem>, String> {
    let pairs = match client {
        Client::File(file) => vec![[file.clone(), file]],
        Client::Files(files) => files.into_iter().map(|file| [file.clone(), file]).collect(),
        Client::Pairs(pairs) => pairs,
    };
    match pairs.as_slice() {
        [] => Ok(None),
        [[certificate, key]] => {
            let mut pem = read_bounded(&dir.join(certificate))?;
            if key != certificate {
                pem.push(b'\n');
                pem.extend(read_bounded(&dir.join(key))?);
            }
            Ok(Some(ClientPem(pem)))
        }
        _ => Err("client: more than one certificate for a host is not supported".into()),
    }
}

fn headers(given: BTreeMap<String, OneOrMany<String>>) -> Result<Headers, String> {
    let mut headers = Headers::default();
    for (name, values) in given {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("header {name:?} is not a header's name"));
        }
        for value in values.into_list() {
            if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
                return Err(format!("header {name:?}: its value cannot be sent"));
            }
            headers.0.push((name.clone(), value));
        }
    }
    Ok(headers)
}

fn rewrites(given: BTreeMap<Spanned<String>, String>) -> Result<Vec<Rewrite>, String> {
    let mut rules: Vec<_> = given.into_iter().collect();
    rules.sort_by_key(|(pattern, _)| pattern.span().start);
    rules.into_iter().map(|(pattern, to)| Rewrite::new(pattern.get_ref(), &to)).collect()
}

/// Reads a small file; what is no file is not waited for.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let describe = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
    let file = file.map_err(describe)?;
    if !file.metadata().map_err(describe)?.is_file() {
        return Err(format!("cannot read {}: it is not a file", path.display()));
    }
    let mut bytes = Vec::new();
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
             header = { X-A = [\"1\", \"2\"], X-B = \"3\" }\ndial_timeout = \"1m500ms\"\n\
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
            (hosts[1].path.as_str(), hosts[1].is_https, hosts[1].is_mirror),
            ("/v2/proxy", false, true)
        );
        assert!(hosts[2].resolves && hosts[2].is_https);
        assert_eq!((hosts[3].skip_verify, hosts[3].is_mirror), (true, false));
        let sent = [("X-A", "1"), ("X-A", "2"), ("X-B", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(hosts[0].headers.0, sent);
        assert_eq!(hosts[0].connect_timeout, Some(std::time::Duration::from_millis(60_500)));
        assert!(!format!("{:?}", hosts[0]).contains("\"3\""), "headers may hold secrets");
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_errors_that_show_no_secret() {
        for (text, expected) in [
            ("[host.\"https://m\"]\nclient = \"c.pem\"", "c.pem"),
            ("[host.\"https://m\"]\nclient = [\"ca.pem\", \"ca.pem\"]", "more than one"),
            ("[host.\"https://m\"]\nclient = 3", "list of [certificate, key]"),
            ("[host.\"https://m\"]\nheader = { \"x y\" = \"secret\" }", "x y"),
            ("[host.\"https://m\"]\nheader = { x = \"secret\\n\" }", "cannot be sent"),
            ("[host.\"https://m\"]\nheader = { x = \"secret\", x = \"secret\" }", "line 2"),
            ("serverr = \"secret\"", "serverr"),
            ("[host.\"ftp://m\"]", "scheme"),
            ("[host.\"https://m/../path\"]", "\"..\""),
            ("[host.\"https://m\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://m\"]\nca = \"missing.pem\"", "missing.pem"),
            ("[host.\"https://m\"]\ndial_timeout = \"soon\"", "soon"),
            ("[host.\"https://m\"]\n[host.\"https://m\".rewrite]\n\"(\" = \"x\"", "rewrite"),
            ("rewrite = { a = \"b\" }", "rewrite"),
            ("server = ", "hosts.toml"),
        ] {
            match parse(text) {
                Err(error @ Error::Config { .. }) => {
                    let error = error.to_string();
                    assert!(error.contains(expected) && !error.contains("secret"), "{error}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_path_gets_v2_unless_it_is_meant_as_it_is() {
        for (url, override_path, path) in [
            ("https://m", false, "/v2"),
            ("https://m/v2/", false, "/v2"),
            ("https://m/cache//./docker", false, "/cache/docker/v2"),
            ("https://m/cache/v2", false, "/cache/v2"),
            ("https://m", true, ""),
            ("https://m/cache", true, "/cache"),
            ("https://m/v2/proxy/", true, "/v2/proxy"),
        ] {
            let hosts = parse(&format!("[host.\"{url}\"]\noverride_path = {override_path}\n")).unwrap();
            assert_eq!(hosts[0].path, path, "{url}");
        }
    }

    #[test]
    fn repositories_are_rewritten_by_the_first_pattern_of_the_file_that_fits() {
        let hosts = parse(
            "[host.\"https://m\"]\n[host.\"https://m\".rewrite]\n\"^z/(.*)\" = \"one/$1\"\n\"^(.*)/x\" = \"two/$1\"\n",
        )
        .unwrap();
        let apply = |name| crate::rewrite::apply(&hosts[0].rewrites, name);
        assert_eq!([apply("z/x"), apply("a/x"), apply("a/b")].map(Result::unwrap), ["one/x", "two/a", "a/b"]);
        assert!(hosts[1].rewrites.is_empty());
    }

    #[test]
    fn a_directory_without_hosts_toml_is_in_dockers_layout() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("reg.example:5000");
        std::fs::create_dir(&own).unwrap();
        for (name, text) in [("a.crt", "CA"), ("c.cert", "CERT"), ("c.key", "KEY"), ("other.key", "no")] {
            std::fs::write(own.join(name), text).unwrap();
        }
        let hosts = hosts_for("reg.example:5000", Some(dir.path())).unwrap();
        assert_eq!((hosts.len(), hosts[0].authority.as_str()), (1, "reg.example:5000"));
        assert_eq!(hosts[0].ca, [b"CA".to_vec()]);
        assert_eq!(hosts[0].client, Some(ClientPem(b"CERT\nKEY".to_vec())));
        std::fs::write(own.join("d.cert"), "CERT").unwrap();
        assert!(matches!(hosts_for("reg.example:5000", Some(dir.path())), Err(Error::Config { .. })));
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
        std::fs::write(dir.path().join("_default/hosts.toml"), "[host.\"https://m.example\"]").unwrap();
        assert_eq!(hosts_for("a.example", Some(dir.path())).unwrap()[0].authority, "m.example");
    }
}
