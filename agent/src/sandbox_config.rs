//! A pod as CRI's `PodSandboxConfig`.
//!
//! In: the pod, the attempt, the node's facts. Out: the message, and how what it carries is read back from a sandbox that
//! a former agent made. Pure but for what it is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use pintle_core::model::DesiredPod;
use pintle_core::{qos, resources, termination};
use pintle_cri_api::v1;

use crate::dns::{self, NodeDns};

/// Labels on sandboxes and containers; the kubelet's.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// The pod's grace period in seconds, on its sandbox, for an agent that finds it without a manifest.
pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What is the same for every pod of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFacts {
    /// The node's name.
    pub(crate) name: String,
    /// Where pods' logs are.
    pub(crate) pod_logs: PathBuf,
    /// The cgroup above `kubepods`; empty for the root.
    pub(crate) cgroup_root: String,
    /// Name resolution.
    pub(crate) dns: NodeDns,
    /// The node's memory in bytes.
    pub(crate) memory: u64,
    /// The node's processors.
    pub(crate) cpus: u64,
    /// The node's addresses.
    pub(crate) ips: Vec<String>,
    /// Where `localhostProfile`s are.
    pub(crate) seccomp_root: PathBuf,
    /// Whether who asks for no seccomp profile gets the default one.
    pub(crate) seccomp_default: bool,
}

/// The pod's log directory.
pub(crate) fn log_directory(logs: &Path, pod: &DesiredPod) -> PathBuf {
    logs.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid))
}

/// The pod's host name; the node's if it shares its network.
pub(crate) fn hostname(pod: &DesiredPod, node: &NodeFacts) -> String {
    let spec = pod.pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return node.name.clone();
    }
    let wanted = spec.and_then(|spec| spec.hostname.as_deref()).unwrap_or(pod.name());
    let cut: String = wanted.chars().take(63).collect();
    let short = cut.trim_end_matches(['-', '.']).to_owned();
    match domain(pod, node) {
        Some(domain) if spec.is_some_and(|s| s.set_hostname_as_fqdn == Some(true)) => {
            format!("{short}.{domain}")
        }
        Some(_) | None => short,
    }
}

/// The domain of a pod with a subdomain.
pub(crate) fn domain(pod: &DesiredPod, node: &NodeFacts) -> Option<String> {
    let subdomain = pod.pod.spec.as_ref()?.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{}", pod.namespace(), node.dns.cluster_domain))
}

/// The labels by which a sandbox or container is known as the pod's.
pub(crate) fn identity_labels(pod: &DesiredPod) -> impl Iterator<Item = (String, String)> {
    [(POD_NAME, pod.name()), (POD_NAMESPACE, pod.namespace()), (POD_UID, pod.uid.as_str())]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into_iter()
}

/// The whole message.
pub(crate) fn of_pod(pod: &DesiredPod, attempt: u32, node: &NodeFacts) -> v1::PodSandboxConfig {
    let default = api::PodSpec::default();
    let spec = pod.pod.spec.as_ref().unwrap_or(&default);
    let mut labels: BTreeMap<String, String> = pod.pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity_labels(pod));
    let mut annotations = pod.pod.metadata.annotations.clone().unwrap_or_default();
    let grace = termination::grace_period(&pod.pod).as_secs();
    annotations.insert(GRACE_PERIOD.to_owned(), grace.to_string());
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid.as_str().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname: hostname(pod, node),
        log_directory: log_directory(&node.pod_logs, pod).display().to_string(),
        dns_config: Some(dns::of_pod(spec, pod.namespace(), &node.dns)),
        port_mappings: port_mappings(spec),
        labels,
        annotations,
        linux: Some(linux(pod, spec, node)),
        ..Default::default()
    }
}

/// The grace period recorded on a sandbox.
pub(crate) fn recorded_grace(annotations: &BTreeMap<String, String>) -> Duration {
    let seconds = annotations.get(GRACE_PERIOD).and_then(|text| text.parse().ok());
    seconds.map_or(termination::DEFAULT_GRACE, Duration::from_secs)
}

/// Which namespaces a pod's containers share, and with whom.
pub(crate) fn namespaces(spec: &api::PodSpec) -> v1::NamespaceOption {
    let mode = |host: Option<bool>, own| if host == Some(true) { v1::NamespaceMode::Node } else { own };
    let own_pid = match spec.share_process_namespace {
        Some(true) => v1::NamespaceMode::Pod,
        Some(false) | None => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid, own_pid).into(),
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

fn linux(pod: &DesiredPod, spec: &api::PodSpec, node: &NodeFacts) -> v1::LinuxPodSandboxConfig {
    let security = spec.security_context.as_ref();
    let privileged = |container: &api::Container| {
        container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
    };
    let int64 = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let path = resources::cgroup_parent(qos::class(&pod.pod), &pod.uid);
    let sysctls = security.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    v1::LinuxPodSandboxConfig {
        cgroup_parent: format!("{}{path}", node.cgroup_root),
        security_context: Some(v1::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(spec)),
            run_as_user: int64(security.and_then(|context| context.run_as_user)),
            run_as_group: int64(security.and_then(|context| context.run_as_group)),
            supplemental_groups: supplemental_groups(security),
            privileged: spec.containers.iter().any(privileged),
            seccomp: Some(v1::SecurityProfile::default()),
            ..Default::default()
        }),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        ..Default::default()
    }
}

/// The groups that every container of the pod gets.
pub(crate) fn supplemental_groups(security: Option<&api::PodSecurityContext>) -> Vec<i64> {
    let Some(security) = security else { return Vec::new() };
    security.fs_group.into_iter().chain(security.supplemental_groups.iter().flatten().copied()).collect()
}

fn port_mappings(spec: &api::PodSpec) -> Vec<v1::PortMapping> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                Some(_) | None => v1::Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pintle_core::ids::PodUid;

    /// A pod as the manifest reader would give it.
    pub(crate) fn desired(json: &str) -> DesiredPod {
        DesiredPod {
            uid: PodUid::new("u-1"),
            pod: serde_json::from_str(json).expect("a pod"),
            hash: "h".into(),
            source: "test".into(),
        }
    }

    /// A node with round numbers.
    pub(crate) fn node() -> NodeFacts {
        NodeFacts {
            name: "n1".into(),
            pod_logs: "/var/log/pods".into(),
            dns: NodeDns { cluster_domain: "cluster.local".into(), ..NodeDns::default() },
            memory: 4 << 30,
            cpus: 2,
            ips: vec!["192.0.2.9".into()],
            ..NodeFacts::default()
        }
    }

    #[test]
    fn a_pod_becomes_a_sandbox_configuration() {
        let pod = desired(
            r#"{"metadata":{"name":"web-n1","namespace":"shop","labels":{"app":"web"},
                "annotations":{"kubernetes.io/config.source":"file"}},
                "spec":{"terminationGracePeriodSeconds":7,"shareProcessNamespace":true,
                "securityContext":{"runAsUser":5,"fsGroup":6,"sysctls":[{"name":"net.core.somaxconn","value":"9"}]},
                "containers":[{"name":"a","ports":[{"containerPort":80,"hostPort":8080},{"containerPort":53,"protocol":"UDP"}]}]}}"#,
        );
        let config = of_pod(&pod, 3, &node());
        let metadata = config.metadata.clone().expect("metadata");
        assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("web-n1", "shop"));
        assert_eq!((metadata.uid.as_str(), metadata.attempt), ("u-1", 3));
        assert_eq!(config.hostname, "web-n1");
        assert_eq!(config.log_directory, "/var/log/pods/shop_web-n1_u-1");
        assert_eq!(config.labels["app"], "web");
        assert_eq!(config.labels[POD_UID], "u-1");
        assert_eq!(config.annotations["kubernetes.io/config.source"], "file");
        assert_eq!(recorded_grace(&config.annotations), Duration::from_secs(7));
        assert_eq!(config.port_mappings.len(), 2);
        let linux = config.linux.expect("linux");
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu-1");
        assert_eq!(linux.sysctls["net.core.somaxconn"], "9");
        let security = linux.security_context.expect("security");
        assert_eq!(security.supplemental_groups, [6]);
        let namespaces = security.namespace_options.expect("namespaces");
        assert_eq!(namespaces.pid, v1::NamespaceMode::Pod as i32);
        assert_eq!(namespaces.network, v1::NamespaceMode::Pod as i32);
    }

    #[test]
    fn the_host_name_is_the_pods_unless_it_says_otherwise() {
        let name = |meta: &str, spec: &str| {
            let json = format!(r#"{{"metadata":{{"name":"{meta}"}},"spec":{{"containers":[]{spec}}}}}"#);
            hostname(&desired(&json), &node())
        };
        assert_eq!(name("web", ""), "web");
        assert_eq!(name("web", r#","hostname":"own""#), "own");
        assert_eq!(name("web", r#","hostNetwork":true"#), "n1");
        assert_eq!(name(&format!("{}-{}", "a".repeat(62), "b".repeat(9)), ""), "a".repeat(62));
        let fqdn = r#","subdomain":"s","setHostnameAsFQDN":true"#;
        assert_eq!(name("web", fqdn), "web.s.default.svc.cluster.local");
    }
}
