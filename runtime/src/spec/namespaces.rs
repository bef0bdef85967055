//! Which namespaces a container gets of its own, joins, or shares with the node.
//!
//! In: the sandbox's modes, the container's mode for pids, the infra container's pid. Out: OCI's list.

use pintle_cri_api::v1::{NamespaceMode as CriMode, NamespaceOption};
use serde_json::{Value, json};

use super::Error;
use crate::engine::records::{NamespaceMode, SandboxConfig};

/// Whose pid namespace a container lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// Its own.
    Own,
    /// That of the process with this pid.
    Joined(i32),
    /// The node's.
    Node,
}

/// The mode of a CRI namespace option's field.
///
/// # Errors
/// When the number means nothing, or a target where none can be.
pub fn mode(number: i32, field: &'static str) -> Result<NamespaceMode, Error> {
    match CriMode::try_from(number) {
        Ok(CriMode::Pod) => Ok(NamespaceMode::Pod),
        Ok(CriMode::Container) => Ok(NamespaceMode::Container),
        Ok(CriMode::Node) => Ok(NamespaceMode::Node),
        Ok(CriMode::Target) => Err(Error::invalid(field, "TARGET is for containers only")),
        Err(_) => Err(Error::invalid(field, format!("there is no namespace mode {number}"))),
    }
}

/// Refuses user namespaces, which are not built yet.
///
/// # Errors
/// When the pod asks for a user namespace of its own.
pub fn refuse_user_namespaces(options: Option<&NamespaceOption>) -> Result<(), Error> {
    let asked = options.and_then(|o| o.userns_options.as_ref());
    match asked.filter(|userns| userns.mode != CriMode::Node as i32) {
        Some(_) => Err(Error::unsupported("userns_options", "user namespaces are not supported yet")),
        None => Ok(()),
    }
}

/// The namespaces of a sandbox's infra container: everything that the pod does not share with the node.
#[must_use]
pub fn of_infra(config: &SandboxConfig) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    if config.network != NamespaceMode::Node {
        list.push(json!({"type": "network"}));
        list.push(json!({"type": "uts"}));
    }
    if config.ipc != NamespaceMode::Node {
        list.push(json!({"type": "ipc"}));
    }
    if config.pid != NamespaceMode::Node {
        list.push(json!({"type": "pid"}));
    }
    list
}

/// The namespaces of a container in a sandbox whose infra container's first process is `infra`.
#[must_use]
pub fn of_container(config: &SandboxConfig, infra: i32, pid: PidNamespace, cgroup_v2: bool) -> Vec<Value> {
    let joined =
        |kind: &str, pid: i32, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    let mut list = vec![json!({"type": "mount"})];
    if config.network != NamespaceMode::Node {
        list.push(joined("network", infra, "net"));
        list.push(joined("uts", infra, "uts"));
    }
    if config.ipc != NamespaceMode::Node {
        list.push(joined("ipc", infra, "ipc"));
    }
    match pid {
        PidNamespace::Own => list.push(json!({"type": "pid"})),
        PidNamespace::Joined(of) => list.push(joined("pid", of, "pid")),
        PidNamespace::Node => {}
    }
    if cgroup_v2 {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::tests::sandbox_config;

    fn types(list: &[Value]) -> Vec<&str> {
        list.iter().map(|v| v["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn an_ordinary_pods_infra_has_all_five_of_its_own() {
        assert_eq!(types(&of_infra(&sandbox_config())), ["mount", "network", "uts", "ipc", "pid"]);
    }

    #[test]
    fn a_pod_on_the_nodes_network_shares_its_host_name_too() {
        let mut config = sandbox_config();
        config.network = NamespaceMode::Node;
        assert_eq!(types(&of_infra(&config)), ["mount", "ipc", "pid"]);
        assert_eq!(types(&of_container(&config, 7, PidNamespace::Own, false)), ["mount", "ipc", "pid"]);
    }

    #[test]
    fn a_container_joins_the_infras_namespaces_by_path() {
        let list = of_container(&sandbox_config(), 7, PidNamespace::Own, true);
        assert!(list.contains(&json!({"type": "network", "path": "/proc/7/ns/net"})));
        assert!(list.contains(&json!({"type": "uts", "path": "/proc/7/ns/uts"})));
        assert!(list.contains(&json!({"type": "ipc", "path": "/proc/7/ns/ipc"})));
        assert!(list.contains(&json!({"type": "pid"})));
        assert!(list.contains(&json!({"type": "cgroup"})));
    }

    #[test]
    fn a_shared_pid_namespace_is_joined_and_the_nodes_is_left_out() {
        let joined = of_container(&sandbox_config(), 7, PidNamespace::Joined(7), false);
        assert!(joined.contains(&json!({"type": "pid", "path": "/proc/7/ns/pid"})));
        let node = of_container(&sandbox_config(), 7, PidNamespace::Node, false);
        assert!(!types(&node).contains(&"pid"));
    }

    #[test]
    fn a_user_namespace_is_refused_in_words() {
        let asked = NamespaceOption {
            userns_options: Some(pintle_cri_api::v1::UserNamespace {
                mode: CriMode::Pod as i32,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(matches!(refuse_user_namespaces(Some(&asked)), Err(Error::Unsupported { .. })));
        assert!(refuse_user_namespaces(None).is_ok());
    }
}
