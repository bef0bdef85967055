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

/// The mode of a sandbox's or container's network or ipc, which a container has with its pod or with the node.
///
/// # Errors
/// When it is another one.
pub fn shared_mode(number: i32, field: &'static str) -> Result<NamespaceMode, Error> {
    match mode(number, field)? {
        NamespaceMode::Container => {
            Err(Error::invalid(field, "is POD or NODE: the containers of a pod share it"))
        }
        shared @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(shared),
    }
}

/// Checks the modes of a container against its sandbox's. POD is what the pod has, which may be the node's; what the pod
/// does not share with the node the container cannot.
///
/// # Errors
/// When it asks for what it cannot have.
pub fn check_container(options: &NamespaceOption, pod: &SandboxConfig) -> Result<(), Error> {
    for (field, asked, of_pod) in [
        ("namespace_options.network", options.network, pod.network),
        ("namespace_options.ipc", options.ipc, pod.ipc),
    ] {
        if shared_mode(asked, field)? == NamespaceMode::Node && of_pod != NamespaceMode::Node {
            return Err(Error::invalid(field, "NODE needs a sandbox in the node's namespace"));
        }
    }
    if options.pid == CriMode::Node as i32 && pod.pid != NamespaceMode::Node {
        let reason = "NODE needs a sandbox in the node's pid namespace";
        return Err(Error::invalid("namespace_options.pid", reason));
    }
    if options.target_id.is_empty() == (options.pid == CriMode::Target as i32) {
        return Err(Error::invalid(
            "namespace_options.target_id",
            "goes with the mode TARGET, and only with it",
        ));
    }
    Ok(())
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
    if config.users.is_some() {
        list.push(json!({"type": "user"}));
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
    if config.users.is_some() {
        list.push(joined("user", infra, "user"));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        container::tests::sandbox_config,
        user_namespace::{IdMappings, IdRange},
    };

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
    fn the_user_namespace_is_the_infras_and_its_containers_join_it() {
        let range = IdRange { inside: 0, on_node: 70_000, length: 10 };
        let users = Some(IdMappings { users: vec![range], groups: vec![range] });
        let config = SandboxConfig { users, ..sandbox_config() };
        assert!(of_infra(&config).contains(&json!({"type": "user"})));
        let joined = of_container(&config, 7, PidNamespace::Own, false);
        assert!(joined.contains(&json!({"type": "user", "path": "/proc/7/ns/user"})));
    }

    #[test]
    fn a_container_shares_what_its_pod_shares() {
        let (own, node) = (sandbox_config(), CriMode::Node as i32);
        let mut shared = sandbox_config();
        (shared.network, shared.pid, shared.ipc) =
            (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node);
        let all = NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
        check_container(&all, &shared).unwrap();
        check_container(&NamespaceOption::default(), &own).unwrap();
        let target =
            NamespaceOption { pid: CriMode::Target as i32, target_id: "t".to_owned(), ..Default::default() };
        check_container(&target, &own).unwrap();
        for (bad, field) in [
            (NamespaceOption { network: node, ..Default::default() }, "network"),
            (NamespaceOption { ipc: node, ..Default::default() }, "ipc"),
            (NamespaceOption { pid: node, ..Default::default() }, "pid"),
            (NamespaceOption { ipc: CriMode::Target as i32, ..Default::default() }, "ipc"),
            (NamespaceOption { network: 9, ..Default::default() }, "network"),
            (NamespaceOption { network: CriMode::Container as i32, ..Default::default() }, "network"),
            (NamespaceOption { target_id: String::new(), ..target.clone() }, "target_id"),
            (NamespaceOption { pid: CriMode::Pod as i32, ..target.clone() }, "target_id"),
        ] {
            let error = check_container(&bad, &own).unwrap_err().to_string();
            assert!(error.starts_with(&format!("namespace_options.{field}")), "{error}");
        }
        check_container(&NamespaceOption::default(), &shared).unwrap();
    }
}
