//! The infra container: the pod's namespaces, held by the pause program.
//!
//! In: the sandbox's configuration, the pause program's root, the cgroup. Out: an OCI `Spec`. It has next to nothing: no
//! capability, no device, no mount, a root that cannot be written to. The supervisor makes it by itself and refuses
//! whatever goes beyond this shape.

use std::{collections::BTreeMap, path::Path};

use oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};

use super::{Error, namespaces};
use crate::engine::records::{NamespaceMode, SandboxConfig};

/// The pause program inside its root.
pub const PAUSE: &str = "/pause";

/// What an infra container is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The sandbox's configuration.
    pub config: &'a SandboxConfig,
    /// The root with the pause program.
    pub rootfs: &'a Path,
    /// Its cgroup.
    pub cgroup: &'a str,
    /// The limits of the pod's overhead, as OCI's resources.
    pub resources: Map<String, Value>,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: &'a BTreeMap<String, String>,
}

/// The infra container's configuration.
///
/// # Errors
/// When a value does not fit OCI's types.
pub fn spec(input: Input<'_>) -> Result<Spec, Error> {
    let Input { config, rootfs, cgroup, mut resources, sysctls } = input;
    resources.insert("devices".to_owned(), json!([{"allow": false, "access": "rwm"}]));
    let no_capabilities: [&str; 0] = [];
    let mut value = json!({
        "ociVersion": super::container::OCI_VERSION,
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": [PAUSE],
            "env": [super::process::DEFAULT_PATH],
            "cwd": "/",
            "capabilities": {
                "bounding": no_capabilities, "effective": no_capabilities, "permitted": no_capabilities,
                "inheritable": no_capabilities, "ambient": no_capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces::of_infra(config),
            "resources": resources,
        },
    });
    if let Some(users) = &config.users {
        (value["linux"]["uidMappings"], value["linux"]["gidMappings"]) = users.oci();
    }
    if !sysctls.is_empty() {
        value["linux"]["sysctl"] = json!(sysctls);
    }
    if config.network != NamespaceMode::Node && !config.hostname.is_empty() {
        value["hostname"] = json!(config.hostname);
    }
    super::container::typed(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::tests::sandbox_config;

    fn made(config: &SandboxConfig) -> Spec {
        let rootfs = Path::new("/pause/rootfs");
        let sysctls = &BTreeMap::new();
        spec(Input { config, rootfs, cgroup: "/p/s", resources: Map::new(), sysctls }).unwrap()
    }

    #[test]
    fn the_infra_container_runs_pause_with_no_capability_on_a_read_only_root() {
        let spec = made(&sandbox_config());
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_deref(), Some(&[PAUSE.to_owned()][..]));
        assert!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().is_empty());
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        assert_eq!(spec.hostname().as_deref(), Some("web"));
    }

    #[test]
    fn on_the_nodes_network_the_nodes_host_name_stays() {
        let mut config = sandbox_config();
        config.network = NamespaceMode::Node;
        assert_eq!(made(&config).hostname(), &None);
    }
}
