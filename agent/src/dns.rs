//! What a pod's resolv.conf says.
//!
//! In: the pod's `dnsPolicy` and `dnsConfig`, the node's resolv.conf, the cluster's name servers. Out: CRI's `DNSConfig`,
//! within Kubernetes' limits (3 servers, 32 search domains, 2048 characters of them). Writing the file is the engine's.

use k8s_openapi::api::core::v1 as api;
use pintle_cri_api::v1::DnsConfig;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// Where systemd-resolved keeps the servers it asks; its own stub cannot be reached from a pod.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the node knows of name resolution.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeDns {
    /// The node's own resolv.conf.
    pub(crate) host: DnsConfig,
    /// The cluster's name servers; empty if there are none.
    pub(crate) cluster_servers: Vec<String>,
    /// The cluster's domain.
    pub(crate) cluster_domain: String,
}

/// Reads the node's resolv.conf; an absent one is an empty one.
pub(crate) fn read_host() -> DnsConfig {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host = parse(&text);
    let only_local = !host.servers.is_empty() && host.servers.iter().all(|server| server.starts_with("127."));
    if only_local && let Ok(text) = std::fs::read_to_string(RESOLVED) {
        return parse(&text);
    }
    host
}

/// What the pod's resolv.conf is to say.
pub(crate) fn of_pod(spec: &api::PodSpec, namespace: &str, node: &NodeDns) -> DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let on_host = spec.host_network == Some(true);
    let cluster = match policy {
        "ClusterFirst" => !on_host,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !node.cluster_servers.is_empty() {
        cluster_first(namespace, node)
    } else {
        node.host.clone()
    };
    if let Some(own) = &spec.dns_config {
        merge(&mut config, own);
    }
    config.servers.truncate(MAX_SERVERS);
    limit_searches(&mut config.searches);
    config
}

fn cluster_first(namespace: &str, node: &NodeDns) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    searches.extend(node.host.searches.iter().cloned());
    DnsConfig { servers: node.cluster_servers.clone(), searches, options: vec!["ndots:5".into()] }
}

/// Adds the pod's own servers and domains; its options replace those of the same name.
fn merge(config: &mut DnsConfig, own: &api::PodDNSConfig) {
    append_new(&mut config.servers, own.nameservers.iter().flatten());
    append_new(&mut config.searches, own.searches.iter().flatten());
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        let text = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
        config.options.retain(|old| old.split(':').next() != Some(name.as_str()));
        config.options.push(text);
    }
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn limit_searches(searches: &mut Vec<String>) {
    searches.truncate(MAX_SEARCHES);
    while searches.iter().map(|domain| domain.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        searches.pop();
    }
}

/// The last `search` or `domain` line counts, as resolv.conf(5) says.
fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search" | "domain") => config.searches = words.filter(|domain| domain != ".").collect(),
            Some("options") => config.options.extend(words),
            Some(_) | None => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeDns {
        NodeDns {
            host: parse(
                "# made by hand\nnameserver 192.0.2.1\ndomain old\nsearch lan example.org\noptions edns0\n",
            ),
            cluster_servers: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
        }
    }

    fn resolv(spec: &str) -> DnsConfig {
        of_pod(&serde_json::from_str(spec).expect("a spec"), "shop", &node())
    }

    fn config(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        DnsConfig { servers: owned(servers), searches: owned(searches), options: owned(options) }
    }

    #[test]
    fn each_policy_names_its_servers() {
        let cluster = config(
            &["10.96.0.10"],
            &["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "example.org"],
            &["ndots:5"],
        );
        let host = config(&["192.0.2.1"], &["lan", "example.org"], &["edns0"]);
        assert_eq!(resolv(r#"{"containers":[]}"#), cluster);
        assert_eq!(resolv(r#"{"containers":[],"hostNetwork":true}"#), host);
        let with_host_net = r#"{"containers":[],"hostNetwork":true,"dnsPolicy":"ClusterFirstWithHostNet"}"#;
        assert_eq!(resolv(with_host_net), cluster);
        assert_eq!(resolv(r#"{"containers":[],"dnsPolicy":"Default"}"#), host);
        let none = r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"]}}"#;
        assert_eq!(resolv(none), config(&["1.1.1.1"], &[], &[]));
    }

    #[test]
    fn a_pods_own_configuration_is_merged_within_the_limits() {
        let spec = r#"{"containers":[],"dnsPolicy":"Default","dnsConfig":{
            "nameservers":["192.0.2.1","192.0.2.2","192.0.2.3","192.0.2.4"],"searches":["own"],
            "options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#;
        let wanted = config(
            &["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            &["lan", "example.org", "own"],
            &["ndots:2", "edns0"],
        );
        assert_eq!(resolv(spec), wanted);
    }

    #[test]
    fn without_a_cluster_the_nodes_servers_are_asked() {
        let lone = NodeDns { cluster_servers: vec![], ..node() };
        let spec = serde_json::from_str(r#"{"containers":[]}"#).expect("a spec");
        assert_eq!(of_pod(&spec, "shop", &lone), lone.host);
    }
}
