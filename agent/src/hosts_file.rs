//! A pod's managed `/etc/hosts`.
//!
//! In: the pod, its addresses. Out: the file's text, and the file written when it differs. The engine mounts it.

use std::io::Read as _;
use std::path::Path;

use k8s_openapi::api::core::v1 as api;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::0\tip6-localnet\n\
fe00::0\tip6-mcastprefix\n\
fe00::1\tip6-allnodes\n\
fe00::2\tip6-allrouters\n";
/// The most bytes that are taken of the host's own file.
const MAX_HOST_FILE: u64 = 1024 * 1024;

/// Who the pod is in its hosts file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    /// Its host name.
    pub(crate) hostname: &'a str,
    /// The domain, if it has a subdomain.
    pub(crate) domain: Option<&'a str>,
    /// Its addresses.
    pub(crate) ips: &'a [String],
}

/// Writes the file in place, so that a mount of it shows the new text.
pub(crate) fn ensure(path: &Path, spec: &api::PodSpec, who: Identity<'_>) -> std::io::Result<()> {
    let text = if spec.host_network == Some(true) { of_host_network(spec)? } else { of_pod(spec, who) };
    if says(path, &text)? {
        return Ok(());
    }
    std::fs::write(path, text)
}

/// Whether the file has just this text. Containers may write to it, so it is not read any further than that takes.
fn says(path: &Path, text: &str) -> std::io::Result<bool> {
    let mut present = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(text.len() as u64 + 1).read_to_end(&mut present)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(present == text.as_bytes())
}

fn of_pod(spec: &api::PodSpec, who: Identity<'_>) -> String {
    let mut text = format!("{HEADER}{LOCAL}");
    for ip in who.ips {
        match who.domain {
            Some(domain) => {
                text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n", name = who.hostname));
            }
            None => text.push_str(&format!("{ip}\t{}\n", who.hostname)),
        }
    }
    text + &aliases(spec)
}

fn of_host_network(spec: &api::PodSpec) -> std::io::Result<String> {
    let mut host = String::new();
    match std::fs::File::open("/etc/hosts") {
        Ok(file) => {
            file.take(MAX_HOST_FILE).read_to_string(&mut host)?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => host.push_str(LOCAL),
        Err(e) => return Err(e),
    }
    Ok(format!("{HOST_HEADER}{host}{}", aliases(spec)))
}

fn aliases(spec: &api::PodSpec) -> String {
    let entries: String = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")))
        .collect();
    if entries.is_empty() { entries } else { format!("\n# Entries added by HostAliases.\n{entries}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_the_kubelets() {
        let spec = serde_json::from_str(
            r#"{"containers":[],"hostAliases":[{"ip":"192.0.2.7","hostnames":["db","db.example.org"]}]}"#,
        )
        .expect("a spec");
        let ips = ["10.1.2.3".to_owned()];
        let who = Identity { hostname: "web-n1", domain: None, ips: &ips };
        assert_eq!(
            of_pod(&spec, who),
            format!(
                "# Kubernetes-managed hosts file.\n{LOCAL}10.1.2.3\tweb-n1\n\n\
                 # Entries added by HostAliases.\n192.0.2.7\tdb\tdb.example.org\n"
            )
        );
        let who = Identity { domain: Some("sub.shop.svc.cluster.local"), ..who };
        assert!(of_pod(&spec, who).contains("10.1.2.3\tweb-n1.sub.shop.svc.cluster.local\tweb-n1\n"));
    }

    #[test]
    fn the_file_is_written_in_place() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etc-hosts");
        let spec = api::PodSpec::default();
        let ips = ["10.1.2.3".to_owned()];
        let who = Identity { hostname: "a", domain: None, ips: &[] };
        ensure(&path, &spec, who).expect("written");
        let inode = path.metadata().expect("there").ino();
        ensure(&path, &spec, Identity { ips: &ips, ..who }).expect("written");
        assert_eq!(path.metadata().expect("there").ino(), inode);
        let whole = std::fs::read(&path).expect("there");
        std::fs::File::options().write(true).open(&path).expect("there").set_len(1 << 40).expect("sparse");
        ensure(&path, &spec, Identity { ips: &ips, ..who }).expect("a container's terabyte is not read");
        assert_eq!(std::fs::read(&path).expect("there"), whole);
        assert!(std::fs::read_to_string(&path).expect("there").contains("10.1.2.3\ta\n"));
    }
}
