//! Rules for containers.

use k8s_openapi::api::core::v1 as api;

use super::super::node::shorten;
use super::super::path::FieldPath;
use super::super::strict::nearest;
use super::{Checker, limits, names, pod, resources};
use crate::env::MAX_WORD;

/// What `fieldRef` may point to in an environment variable, besides single labels and annotations.
const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What `resourceFieldRef` may point to.
const RESOURCES: &[&str] = &["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

const CAPABILITIES: &[&str] = &[
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub(super) fn check_all(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    if spec.containers.is_empty() {
        checker.require(path, "at least one is required");
    }
    if !checker.at_most(path, spec.containers.len(), limits::CONTAINERS) {
        return;
    }
    for (at, container) in spec.containers.iter().enumerate() {
        check(checker, (spec, container), &path.index(at));
    }
    check_host_ports(checker, spec, path);
    checker.unique(
        spec.containers.iter().enumerate().map(|(at, c)| (c.name.clone(), path.index(at).field("name"))),
    );
}

/// No two containers may ask for one port of the host.
fn check_host_ports(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    let mut places = Vec::new();
    for (at, container) in spec.containers.iter().enumerate() {
        for (port_at, port) in container.ports.iter().flatten().enumerate() {
            let path = path.index(at).field("ports").index(port_at);
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Some(number) = port.host_port.filter(|number| *number != 0) {
                let place = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
                    Some(ip) => format!("{ip} {number}/{protocol}"),
                    None => format!("{number}/{protocol}"),
                };
                places.push((place, path));
            }
        }
    }
    checker.unique(places.into_iter());
}

fn check(checker: &mut Checker<'_>, (spec, container): (&api::PodSpec, &api::Container), path: &FieldPath) {
    if container.name.is_empty() {
        checker.require(&path.field("name"), "is required");
    } else {
        checker.expect(&path.field("name"), names::dns_label(&container.name));
    }
    if !check_lengths(checker, container, path) {
        return;
    }
    check_image(checker, container, path);
    check_termination_message(checker, container, path);
    check_words(checker, container, path);
    check_ports(checker, (spec, container), &path.field("ports"));
    for (at, env) in container.env.iter().flatten().enumerate() {
        check_env(checker, (spec, env), &path.field("env").index(at));
    }
    if let Some(list) = &container.resources {
        resources::check(checker, list, &path.field("resources"));
    }
    check_mounts(checker, (spec, container), &path.field("volumeMounts"));
    if let Some(context) = &container.security_context {
        check_security(checker, context, &path.field("securityContext"));
    }
}

/// Whether no list of the container has more elements than are worth a look.
fn check_lengths(checker: &mut Checker<'_>, container: &api::Container, path: &FieldPath) -> bool {
    let words = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let lists = [
        ("command", words(&container.command), limits::WORDS),
        ("args", words(&container.args), limits::WORDS),
        ("env", container.env.as_ref().map_or(0, Vec::len), limits::WORDS),
        ("ports", container.ports.as_ref().map_or(0, Vec::len), limits::PLACES),
        ("volumeMounts", container.volume_mounts.as_ref().map_or(0, Vec::len), limits::PLACES),
    ];
    // Every list is looked at: none is told only when the one before it is mended.
    lists.iter().filter(|(field, length, most)| !checker.at_most(&path.field(field), *length, *most)).count()
        == 0
}

/// What the kernel would refuse.
fn check_words(checker: &mut Checker<'_>, container: &api::Container, path: &FieldPath) {
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        for (at, word) in words.iter().flatten().enumerate() {
            checker.expect(&path.field(field).index(at), short_enough(word.len()));
        }
    }
    for (at, env) in container.env.iter().flatten().enumerate() {
        let length = env.name.len() + 1 + env.value.as_ref().map_or(0, String::len);
        checker.expect(&path.field("env").index(at), short_enough(length));
    }
    if let Some(dir) = container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        checker.expect(&path.field("workingDir"), names::short_path(dir));
    }
}

fn short_enough(length: usize) -> Result<(), String> {
    if length <= MAX_WORD {
        return Ok(());
    }
    Err(format!("has {length} bytes; a program can be given up to {MAX_WORD}"))
}

fn check_image(checker: &mut Checker<'_>, container: &api::Container, path: &FieldPath) {
    let image = container.image.as_deref().unwrap_or_default();
    let path_of_image = path.field("image");
    if image.is_empty() {
        checker.require(&path_of_image, "is required");
    } else if image.trim() != image {
        checker.fail(&path_of_image, "must not begin or end with white space");
    } else if image.len() > limits::IMAGE {
        let reason = format!("has {} bytes; up to {} are allowed", image.len(), limits::IMAGE);
        checker.fail(&path_of_image, reason);
    }
    checker.one_of(
        &path.field("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
}

fn check_termination_message(checker: &mut Checker<'_>, container: &api::Container, path: &FieldPath) {
    if let Some(file) = &container.termination_message_path {
        checker.expect(&path.field("terminationMessagePath"), names::absolute_path(file));
    }
    checker.one_of(
        &path.field("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    );
}

fn check_ports(
    checker: &mut Checker<'_>,
    (spec, container): (&api::PodSpec, &api::Container),
    path: &FieldPath,
) {
    let ports = container.ports.as_deref().unwrap_or_default();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            checker.expect(&path.field("name"), names::port_name(name));
        }
        if !(1..=65_535).contains(&port.container_port) {
            checker.fail(&path.field("containerPort"), "must be from 1 to 65535");
        }
        checker.one_of(&path.field("protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
        let host_port = port.host_port.unwrap_or(0);
        if spec.host_network == Some(true) && host_port != port.container_port {
            checker.fail(&path.field("hostPort"), "must equal containerPort on the host's network");
        } else if !(0..=65_535).contains(&host_port) {
            checker.fail(&path.field("hostPort"), "must be from 1 to 65535");
        }
        let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        if host_ip.is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
            checker.fail(&path.field("hostIP"), "must be an IP address");
        }
    }
    checker.unique(
        ports
            .iter()
            .enumerate()
            .map(|(at, port)| (port.name.clone().unwrap_or_default(), path.index(at).field("name"))),
    );
}

fn check_env(checker: &mut Checker<'_>, (spec, env): (&api::PodSpec, &api::EnvVar), path: &FieldPath) {
    if env.name.is_empty() {
        checker.require(&path.field("name"), "is required");
    } else {
        checker.expect(&path.field("name"), names::env_name(&env.name));
    }
    let Some(source) = &env.value_from else { return };
    let path_of_source = path.field("valueFrom");
    if env.value.as_deref().is_some_and(|value| !value.is_empty()) {
        checker.fail(&path_of_source, "cannot stand beside a value that is not empty");
    }
    match (&source.field_ref, &source.resource_field_ref) {
        (None, None) => checker.require(&path_of_source, "must have a source, such as fieldRef"),
        (Some(_), Some(_)) => checker.fail(&path_of_source, "has two sources; it may have one"),
        (Some(field), None) => {
            check_field_ref(checker, &field.field_path, &path_of_source.fields("fieldRef.fieldPath"))
        }
        (None, Some(resource)) => {
            check_resource_ref(checker, (spec, resource), &path_of_source.field("resourceFieldRef"));
        }
    }
}

fn check_field_ref(checker: &mut Checker<'_>, field: &str, path: &FieldPath) {
    if field.is_empty() {
        checker.require(path, "is required");
        return;
    }
    if let Some((map, key)) = crate::env::subscript(field) {
        let known = map == "metadata.labels" || map == "metadata.annotations";
        if known {
            checker.expect(path, names::qualified_name(&key.to_lowercase()));
            return;
        }
    }
    if !FIELD_PATHS.contains(&field) {
        let reason = format!("`{}` is not a field that can be referred to", shorten(field));
        let help = format!(
            "use one of {}, metadata.labels['KEY'], metadata.annotations['KEY']",
            FIELD_PATHS.join(", ")
        );
        checker.fail_with_help(path, reason, help);
    }
}

fn check_resource_ref(
    checker: &mut Checker<'_>,
    (spec, reference): (&api::PodSpec, &api::ResourceFieldSelector),
    path: &FieldPath,
) {
    if reference.resource.is_empty() {
        checker.require(&path.field("resource"), "is required");
    } else {
        checker.one_of(&path.field("resource"), Some(&reference.resource), RESOURCES);
    }
    if let Some(name) = reference.container_name.as_deref().filter(|name| !name.is_empty())
        && !spec.containers.iter().any(|container| container.name == name)
    {
        checker.fail(&path.field("containerName"), format!("there is no container `{}`", shorten(name)));
    }
    if let Some(divisor) = &reference.divisor {
        let allowed: &[&str] = if reference.resource.ends_with("cpu") {
            &["0", "1", "1m"]
        } else {
            &["0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
        };
        checker.one_of(&path.field("divisor"), Some(&divisor.0), allowed);
    }
}

fn check_mounts(
    checker: &mut Checker<'_>,
    (spec, container): (&api::PodSpec, &api::Container),
    path: &FieldPath,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    for (at, mount) in mounts.iter().enumerate() {
        let path = path.index(at);
        if mount.name.is_empty() {
            checker.require(&path.field("name"), "is required");
        } else if !volumes.contains(&mount.name.as_str()) {
            let reason = format!("there is no volume `{}`", shorten(&mount.name));
            match nearest(&mount.name, &volumes) {
                Some(near) => {
                    checker.fail_with_help(&path.field("name"), reason, format!("did you mean `{near}`?"));
                }
                None => checker.fail(&path.field("name"), reason),
            }
        }
        let place = &mount.mount_path;
        if place.is_empty() {
            checker.require(&path.field("mountPath"), "is required");
        } else if place.trim_end_matches('/').is_empty() {
            checker.fail(&path.field("mountPath"), "must not be the container's root");
        } else {
            checker.expect(&path.field("mountPath"), names::absolute_path(place));
        }
    }
    checker.unique(mounts.iter().enumerate().map(|(at, mount)| {
        (mount.mount_path.trim_end_matches('/').to_owned(), path.index(at).field("mountPath"))
    }));
}

fn check_security(checker: &mut Checker<'_>, context: &api::SecurityContext, path: &FieldPath) {
    pod::check_id(checker, context.run_as_user, &path.field("runAsUser"));
    pod::check_id(checker, context.run_as_group, &path.field("runAsGroup"));
    let added = context.capabilities.as_ref().and_then(|list| list.add.as_deref()).unwrap_or_default();
    let dropped = context.capabilities.as_ref().and_then(|list| list.drop.as_deref()).unwrap_or_default();
    for (field, list) in [("add", added), ("drop", dropped)] {
        for (at, name) in list.iter().enumerate() {
            check_capability(checker, name, &path.field("capabilities").field(field).index(at));
        }
    }
    pod::check_seccomp(checker, context.seccomp_profile.as_ref(), &path.field("seccompProfile"));
    if context.allow_privilege_escalation == Some(false) {
        let path = path.field("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            checker.fail(&path, "cannot be false for a privileged container");
        } else if added.iter().any(|name| bare(name) == "SYS_ADMIN") {
            checker.fail(&path, "cannot be false with the capability SYS_ADMIN");
        }
    }
}

fn check_capability(checker: &mut Checker<'_>, name: &str, path: &FieldPath) {
    let bare = bare(name);
    if CAPABILITIES.contains(&bare.as_str()) {
        return;
    }
    let reason = format!("`{}` is not a capability", shorten(name));
    match nearest(&bare, CAPABILITIES) {
        Some(near) => checker.fail_with_help(path, reason, format!("did you mean `{near}`?")),
        None => checker.fail(path, reason),
    }
}

fn bare(name: &str) -> String {
    let name = name.to_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), ToOwned::to_owned)
}
