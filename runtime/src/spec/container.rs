//! An app container's OCI configuration.
//!
//! In: [`Input`]: the CRI configuration, the image's, the sandbox, and what was looked up on the node. Out: an OCI `Spec`.
//! It is put together as JSON and then read as the typed `Spec`, because the builders of the types fill in defaults of
//! their own (a limit of 1024 files, for one) that nobody asked for.

use std::path::Path;

use oci_spec::runtime::Spec;
use pintle_cri_api::v1::{ContainerConfig, LinuxContainerSecurityContext};
use serde_json::{Map, Value, json};

use super::{
    Error, HostFacts, capabilities,
    devices::{self, HostDevice},
    mounts::{self, KernelMounts, ResolvedMount},
    namespaces::{self, PidNamespace},
    process::{self, ImageProcess},
    resources,
    user::ResolvedUser,
};
use crate::engine::records::{NamespaceMode, SandboxConfig};

/// The version of OCI's runtime specification that is written.
pub const OCI_VERSION: &str = "1.2.0";

/// The sandbox's files that its containers see.
#[derive(Debug, Clone, Copy)]
pub struct SandboxFiles<'a> {
    /// `resolv.conf`.
    pub resolv_conf: &'a Path,
    /// `hostname`.
    pub hostname: &'a Path,
    /// The node's `/etc/hosts`, where the pod uses it.
    pub hosts: Option<&'a Path>,
    /// The shared memory of the pod, or the node's.
    pub shm: &'a Path,
}

/// What a container is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// CRI's configuration, already validated.
    pub config: &'a ContainerConfig,
    /// The image's.
    pub image: &'a ImageProcess,
    /// The sandbox's.
    pub sandbox: &'a SandboxConfig,
    /// The infra container's first process.
    pub infra_pid: i32,
    /// Whose pid namespace it lives in.
    pub pid: PidNamespace,
    /// The sandbox's files.
    pub files: SandboxFiles<'a>,
    /// Its root on the node.
    pub rootfs: &'a Path,
    /// Its cgroup.
    pub cgroup: &'a str,
    /// Its identity.
    pub user: &'a ResolvedUser,
    /// The mounts asked for.
    pub mounts: &'a [ResolvedMount],
    /// The devices asked for.
    pub devices: &'a [HostDevice],
    /// What is run while it is made, as OCI has it; null: nothing.
    pub hooks: &'a Value,
    /// What the node can do.
    pub host: &'a HostFacts,
}

/// The container's configuration.
///
/// # Errors
/// When a wish cannot be fulfilled.
pub fn spec(input: &Input<'_>) -> Result<Spec, Error> {
    let fallback = LinuxContainerSecurityContext::default();
    let given = input.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let security = given.unwrap_or(&fallback);
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces::of_container(
            input.sandbox, input.infra_pid, input.pid, input.host.cgroup_v2 && !security.privileged,
        ),
        "resources": limits(input, security.privileged)?,
        "devices": devices::nodes(input.devices),
    });
    if !security.privileged {
        let or = |given: &[String], default| or_default(given, default, input.sandbox.users.is_some());
        linux["maskedPaths"] = json!(or(&security.masked_paths, mounts::default_masked));
        linux["readonlyPaths"] = json!(or(&security.readonly_paths, mounts::default_readonly));
    }
    if let Some(users) = &input.sandbox.users {
        (linux["uidMappings"], linux["gidMappings"]) = users.oci();
    }
    linux["rootfsPropagation"] = json!(mounts::rootfs_propagation(input.mounts));
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process_of(input, security)?,
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "mounts": all_mounts(input, security),
        "annotations": annotations(input),
        "linux": linux,
    });
    if !input.hooks.is_null() {
        spec["hooks"] = input.hooks.clone();
    }
    typed(spec)
}

/// Reads a configuration as the typed one.
///
/// # Errors
/// When a value does not fit OCI's types.
pub fn typed(value: Value) -> Result<Spec, Error> {
    serde_json::from_value(value).map_err(|e| Error::invalid("OCI configuration", e.to_string()))
}

fn process_of(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Result<Value, Error> {
    let hostname = if input.sandbox.network == NamespaceMode::Node { "" } else { &input.sandbox.hostname };
    let defaults = [("HOSTNAME", hostname), ("HOME", input.user.home.as_str())];
    let wanted = security.capabilities.as_ref();
    let mut image_env = input.image.env.clone();
    if input.config.tty {
        image_env.retain(|entry| !entry.starts_with("TERM="));
        image_env.push(process::TERM.to_owned());
    }
    let mut value = json!({
        "terminal": input.config.tty,
        "user": {
            "uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups,
        },
        "args": process::args(input.config, input.image)?,
        "env": process::env(&image_env, &input.config.envs, &defaults)?,
        "cwd": process::cwd(input.config, input.image)?,
        "capabilities": capabilities::sets(wanted, security.privileged, &input.host.capabilities)?,
    });
    if let Some((soft, hard)) = input.host.open_files {
        value["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]);
    }
    if security.no_new_privs {
        value["noNewPrivileges"] = json!(true);
    }
    Ok(value)
}

fn limits(input: &Input<'_>, privileged: bool) -> Result<Map<String, Value>, Error> {
    let wanted = input.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut all = wanted.map_or(Ok(Map::new()), |wanted| resources::oci(wanted, input.host))?;
    all.insert("devices".to_owned(), json!(devices::rules(input.devices, privileged)));
    Ok(all)
}

fn all_mounts(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Vec<Value> {
    let how = KernelMounts { privileged: security.privileged, cgroup_v2: input.host.cgroup_v2 };
    let mut list = mounts::kernel(how);
    let files = &input.files;
    let asked =
        |path: &str| input.config.mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let mut own = |source: &Path, destination: &str, readonly: bool| {
        if !asked(destination) {
            list.push(mounts::bind(source, destination, readonly));
        }
    };
    own(files.shm, "/dev/shm", false);
    own(files.resolv_conf, "/etc/resolv.conf", security.readonly_rootfs);
    own(files.hostname, "/etc/hostname", security.readonly_rootfs);
    if let Some(hosts) = files.hosts {
        // The node's own file, not a copy.
        own(hosts, "/etc/hosts", true);
    }
    list.extend(mounts::wanted(input.mounts, input.sandbox.users.as_ref()));
    list
}

fn annotations(input: &Input<'_>) -> Value {
    let name = input.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.sandbox-name": input.sandbox.name,
        "io.kubernetes.cri.sandbox-namespace": input.sandbox.namespace,
        "io.kubernetes.cri.sandbox-uid": input.sandbox.uid,
    })
}

/// CRI cannot tell "none" from "not said", and hiding too much is the safe reading. A kubelet always says what is hidden, unless
/// the container is to see all (`procMount: Unmasked`), which Kubernetes allows to pods with users of their own only.
fn or_default(given: &[String], default: fn() -> Vec<String>, own_users: bool) -> Vec<String> {
    if given.is_empty() && !own_users { default() } else { given.to_vec() }
}

#[cfg(test)]
pub(crate) mod tests {
    use pintle_cri_api::v1::{ContainerMetadata, LinuxContainerConfig, Mount};

    use super::*;

    pub(crate) fn sandbox_config() -> SandboxConfig {
        SandboxConfig {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "u".to_owned(),
            attempt: 0,
            hostname: "web".to_owned(),
            log_directory: String::new(),
            labels: [].into(),
            annotations: [].into(),
            runtime_handler: String::new(),
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            privileged: false,
            users: None,
        }
    }

    fn made(config: &ContainerConfig, host: &HostFacts) -> Spec {
        made_with_hosts(config, host, None)
    }

    fn made_with_hosts(config: &ContainerConfig, host: &HostFacts, hosts: Option<&Path>) -> Spec {
        let sandbox = sandbox_config();
        let image = ImageProcess { entrypoint: vec!["/app".to_owned()], ..Default::default() };
        spec(&Input {
            config,
            image: &image,
            sandbox: &sandbox,
            infra_pid: 7,
            pid: PidNamespace::Own,
            files: SandboxFiles {
                resolv_conf: Path::new("/s/resolv.conf"),
                hostname: Path::new("/s/hostname"),
                hosts,
                shm: Path::new("/s/shm"),
            },
            rootfs: Path::new("/r"),
            cgroup: "/p/c",
            user: &ResolvedUser { home: "/root".to_owned(), ..Default::default() },
            mounts: &[],
            devices: &[],
            hooks: &Value::Null,
            host,
        })
        .unwrap()
    }

    fn config(security: LinuxContainerSecurityContext) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    fn destinations(spec: &Spec) -> Vec<String> {
        let mounts = spec.mounts().as_deref().unwrap();
        mounts.iter().map(|mount| mount.destination().display().to_string()).collect()
    }

    #[test]
    fn a_plain_container_hides_the_usual_paths_and_gives_no_new_limits() {
        let spec = made(&config(LinuxContainerSecurityContext::default()), &HostFacts::default());
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
        assert!(linux.readonly_paths().as_ref().unwrap().contains(&"/proc/sys".to_owned()));
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        assert_eq!(process.rlimits(), &None);
        assert!(linux.seccomp().is_none());
        assert!(process.env().as_ref().unwrap().contains(&"HOSTNAME=web".to_owned()));
    }

    #[test]
    fn each_list_that_is_given_goes_before_the_usual_one() {
        let one = |path: &str| vec![path.to_owned()];
        let security = LinuxContainerSecurityContext { masked_paths: one("/proc/x"), ..Default::default() };
        let spec = made(&config(security), &HostFacts::default());
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.masked_paths().as_ref().unwrap(), &["/proc/x".to_owned()]);
        assert!(linux.readonly_paths().as_ref().unwrap().contains(&"/proc/sys".to_owned()));
        assert_eq!(or_default(&[], mounts::default_masked, true), [""; 0]);
        assert_eq!(or_default(&one("/x"), mounts::default_masked, true), ["/x"]);
    }

    #[test]
    fn a_privileged_container_hides_nothing() {
        let security = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        let spec = made(&config(security), &HostFacts::default());
        assert!(spec.linux().as_ref().unwrap().masked_paths().is_none());
        let sys = spec.mounts().as_ref().unwrap().iter().find(|m| m.destination() == Path::new("/sys"));
        assert!(sys.unwrap().options().as_ref().unwrap().contains(&"rw".to_owned()));
    }

    #[test]
    fn the_sandboxs_files_are_mounted_unless_the_request_brings_its_own() {
        let mut config = config(LinuxContainerSecurityContext::default());
        let spec = made(&config, &HostFacts::default());
        for path in ["/dev/shm", "/etc/resolv.conf", "/etc/hostname"] {
            assert!(destinations(&spec).contains(&path.to_owned()), "{path}");
        }
        config.mounts.push(Mount { container_path: "/etc/resolv.conf".to_owned(), ..Default::default() });
        let spec = made(&config, &HostFacts::default());
        assert!(!destinations(&spec).contains(&"/etc/resolv.conf".to_owned()));
    }

    #[test]
    fn the_nodes_hosts_file_cannot_be_written_from_inside() {
        let config = config(LinuxContainerSecurityContext::default());
        let spec = made_with_hosts(&config, &HostFacts::default(), Some(Path::new("/etc/hosts")));
        let mounts = spec.mounts().as_ref().unwrap();
        let hosts = mounts.iter().find(|mount| mount.destination() == Path::new("/etc/hosts")).unwrap();
        assert!(hosts.options().as_ref().unwrap().contains(&"ro".to_owned()));
    }

    #[test]
    fn no_new_privileges_is_left_out_unless_asked_for() {
        let security = LinuxContainerSecurityContext { no_new_privs: true, ..Default::default() };
        let spec = made(&config(security), &HostFacts::default());
        assert_eq!(spec.process().as_ref().unwrap().no_new_privileges(), Some(true));
    }
}
