//! Configurations as a kubelet writes them, and short words for their parts.
//!
//! In: names. Out: messages. The defaults are the least that every runtime takes.

use std::path::Path;

use pintle_cri_api::v1;
use pintle_integration::IMAGE;

/// A pod on the node's network, which has no name of its own, with processes of its own in each container.
pub(crate) fn pod(name: &str, logs: &Path, cgroup: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "conformance".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.join(name).to_string_lossy().into_owned(),
        labels: labels(&[("pod", name)]),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{cgroup}/{name}"),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    network: v1::NamespaceMode::Node.into(),
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that sleeps.
pub(crate) fn container(name: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image(IMAGE)),
        command: words(&["/bin/sleep", "1000"]),
        labels: labels(&[("container", name)]),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The pod's own namespaces.
pub(crate) fn pod_namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    pod_security(config).namespace_options.get_or_insert_default()
}

/// The sandbox's security context.
pub(crate) fn pod_security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A container's security context.
pub(crate) fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A container's namespaces.
pub(crate) fn namespaces(config: &mut v1::ContainerConfig) -> &mut v1::NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

/// A container's capabilities.
pub(crate) fn capabilities(config: &mut v1::ContainerConfig) -> &mut v1::Capability {
    security(config).capabilities.get_or_insert_default()
}

/// A container's limits.
pub(crate) fn resources(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

/// A directory or file of the node, mounted.
pub(crate) fn mount(host: &Path, inside: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: inside.to_owned(),
        ..Default::default()
    }
}

/// A seccomp or AppArmor profile.
pub(crate) fn profile(kind: v1::security_profile::ProfileType, reference: &str) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() }
}

/// An image by name.
pub(crate) fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

/// A number that may be left out.
pub(crate) fn number(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// A script as a command.
pub(crate) fn shell(script: &str) -> Vec<String> {
    words(&["/bin/sh", "-c", script])
}

pub(crate) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

pub(crate) fn labels(list: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
