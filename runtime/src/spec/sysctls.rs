//! Kernel parameters of a pod's own namespaces.
//!
//! In: CRI's `sysctls`, which namespaces the pod shares with the node. Out: OCI's map, in OCI's spelling. What is not the
//! pod's alone is refused, as runc and the kubelet refuse it; whether a value is good is the kernel's to say.
//!
//! A name may be written with dots (`net.ipv4.ip_forward`) or with slashes. The separator that comes first counts; the
//! other one then stands for itself turned round, as in sysctl(8): `net.ipv4.conf.eth0/1.rp_filter` is
//! `net/ipv4/conf/eth0.1/rp_filter`.

use std::collections::BTreeMap;

use pintle_cri_api::v1::{NamespaceMode as CriMode, NamespaceOption};

use super::{Error, bounds};

const FIELD: &str = "linux.sysctls";

/// Parameters of the IPC namespace, beside those of POSIX message queues.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Network,
    Ipc,
    Uts,
}

/// The parameters, by their names with dots.
///
/// # Errors
/// When one is no namespace's, the node's because the pod shares its namespace, or no name or value at all.
pub fn of_pod(
    wanted: &BTreeMap<String, String>,
    options: Option<&NamespaceOption>,
) -> Result<BTreeMap<String, String>, Error> {
    bounds::sysctls(wanted)?;
    let mut found = BTreeMap::new();
    for (name, value) in wanted {
        let dotted = dotted(name);
        let refused = |reason: &str| Err(Error::invalid(FIELD, format!("{name:?} {reason}")));
        if dotted.split('.').any(|part| part.is_empty() || part.starts_with('/') || part == "/") {
            return refused("is no name of a kernel parameter");
        }
        let Some(namespace) = namespace_of(&dotted) else {
            return refused("is not a parameter of a namespace: it would change the whole node");
        };
        if dotted == "kernel.hostname" {
            return refused("is what the pod's hostname sets");
        }
        if shares_with_node(namespace, options) {
            return refused("would change the node, whose namespace the pod shares");
        }
        if found.insert(dotted, value.clone()).is_some() {
            return refused("is given twice");
        }
    }
    Ok(found)
}

/// The name with dots between its parts.
fn dotted(name: &str) -> String {
    let turn = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.chars().map(turn).collect(),
        Some(_) | None => name.to_owned(),
    }
}

fn namespace_of(name: &str) -> Option<Namespace> {
    if name.starts_with("net.") {
        return Some(Namespace::Network);
    }
    if name.starts_with("fs.mqueue.") || IPC.contains(&name) {
        return Some(Namespace::Ipc);
    }
    ["kernel.domainname", "kernel.hostname"].contains(&name).then_some(Namespace::Uts)
}

fn shares_with_node(namespace: Namespace, options: Option<&NamespaceOption>) -> bool {
    let mode = match namespace {
        // The host name goes with the network.
        Namespace::Network | Namespace::Uts => options.map(|options| options.network),
        Namespace::Ipc => options.map(|options| options.ipc),
    };
    mode == Some(CriMode::Node as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, options: Option<&NamespaceOption>) -> Result<String, Error> {
        let wanted = [(name.to_owned(), "1".to_owned())].into();
        of_pod(&wanted, options).map(|found| found.into_keys().next().unwrap())
    }

    #[test]
    fn names_may_be_written_with_dots_or_with_slashes() {
        for (name, dotted) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net.ipv4.conf.eth0/1.rp_filter", "net.ipv4.conf.eth0/1.rp_filter"),
            ("net/ipv4/conf/eth0.1/rp_filter", "net.ipv4.conf.eth0/1.rp_filter"),
            ("kernel/shmmax", "kernel.shmmax"),
            ("fs.mqueue.msg_max", "fs.mqueue.msg_max"),
            ("kernel.domainname", "kernel.domainname"),
        ] {
            assert_eq!(one(name, None).unwrap(), dotted);
        }
    }

    #[test]
    fn what_is_not_of_a_namespace_or_no_name_is_refused_by_name() {
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "kernel.shm",
            "kernel.hostname",
            "net",
            "net.",
            "net..x",
            "net.ipv4.//.x",
            "net//core",
            "net/../vm/swappiness",
            "net./.x",
            "fs/mqueue/../file-max",
            ".net.x",
            "/net/ipv4/ip_forward",
        ] {
            let error = one(name, None).unwrap_err();
            assert!(matches!(error, Error::Invalid { field: FIELD, .. }), "{name}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_namespace_shared_with_the_node_is_left_alone() {
        let network = NamespaceOption { network: CriMode::Node as i32, ..Default::default() };
        assert!(one("net.core.somaxconn", Some(&network)).is_err());
        assert!(one("kernel.domainname", Some(&network)).is_err());
        one("kernel.sem", Some(&network)).unwrap();
        let ipc = NamespaceOption { ipc: CriMode::Node as i32, ..Default::default() };
        assert!(one("kernel.sem", Some(&ipc)).is_err());
        assert!(one("fs.mqueue.msg_max", Some(&ipc)).is_err());
        one("net.core.somaxconn", Some(&ipc)).unwrap();
    }

    #[test]
    fn the_same_parameter_in_two_spellings_is_refused() {
        let pair = |name: &str| (name.to_owned(), "1".to_owned());
        let wanted = [pair("net.ipv4.ip_forward"), pair("net/ipv4/ip_forward")].into();
        assert!(of_pod(&wanted, None).unwrap_err().to_string().contains("twice"));
    }
}
