//! Rules for a pod's metadata and for the fields of its specification that are neither containers nor volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::super::NodeInfo;
use super::super::path::FieldPath;
use super::{Checker, container, limits, names, volumes};

/// All annotations of an object together may have so many bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// The longest name of a file on Linux; `<namespace>_<name>_<uid>` is one.
const MAX_FILE_NAME: usize = 255;
const UID_LENGTH: usize = 36;
/// The largest id of a user or group.
const MAX_ID: i64 = i32::MAX as i64;
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_TEXT: usize = 2048;

pub(super) fn check_metadata(checker: &mut Checker<'_>, pod: &api::Pod, node: &NodeInfo) {
    let metadata = FieldPath::root().field("metadata");
    check_name(checker, pod, node);
    if let Some(namespace) = pod.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        checker.expect(&metadata.field("namespace"), names::dns_label(namespace));
    }
    if let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) {
        checker.expect(&metadata.field("uid"), names::uid(uid));
    }
    let labels = pod.metadata.labels.as_ref();
    checker.at_most(&metadata.field("labels"), labels.map_or(0, BTreeMap::len), limits::ENTRIES);
    for (key, value) in labels.into_iter().flatten() {
        let path = metadata.field("labels").key(key);
        checker.expect(&path, names::qualified_name(key).and_then(|()| names::label_value(value)));
    }
    check_annotations(checker, pod.metadata.annotations.as_ref());
}

fn check_name(checker: &mut Checker<'_>, pod: &api::Pod, node: &NodeInfo) {
    let path = FieldPath::root().fields("metadata.name");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        checker.require(&path, "is required");
        return;
    }
    if let Err(reason) = names::dns_subdomain(name) {
        checker.fail(&path, reason);
        return;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let full = name.len() + 1 + node.name.len();
    let log_directory = namespace.len() + full + UID_LENGTH + 2;
    if full > 253 || log_directory > MAX_FILE_NAME {
        let reason =
            format!("too long: with the namespace and the node's name `{}` it names a directory", node.name);
        let excess = full.saturating_sub(253).max(log_directory.saturating_sub(MAX_FILE_NAME));
        checker.fail_with_help(&path, reason, format!("make it {excess} characters shorter"));
    }
}

fn check_annotations(checker: &mut Checker<'_>, annotations: Option<&BTreeMap<String, String>>) {
    let path = FieldPath::root().fields("metadata.annotations");
    let mut size = 0;
    checker.at_most(&path, annotations.map_or(0, BTreeMap::len), limits::ENTRIES);
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.len();
        checker.expect(&path.key(key), names::qualified_name(&key.to_lowercase()));
    }
    if size > MAX_ANNOTATIONS {
        checker.fail(&path, format!("have {size} bytes together; up to {MAX_ANNOTATIONS} are allowed"));
    }
}

pub(super) fn check_spec(checker: &mut Checker<'_>, spec: &api::PodSpec, node: &NodeInfo) {
    let path = FieldPath::root().field("spec");
    checker.one_of(
        &path.field("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        checker.fail(&path.field("terminationGracePeriodSeconds"), "must not be negative");
    }
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty() && *name != node.name) {
        let reason = format!("is `{name}`, but this node is `{}`", node.name);
        checker.fail_with_help(
            &path.field("nodeName"),
            reason,
            "leave it out: a manifest's pod runs where its file is",
        );
    }
    check_host(checker, spec, &path);
    check_dns(checker, spec, &path);
    check_priority(checker, spec, &path);
    check_tolerations(checker, spec, &path);
    check_security(checker, spec.security_context.as_ref(), &path.field("securityContext"));
    volumes::check(checker, spec, &path.field("volumes"));
    container::check_all(checker, spec, &path.field("containers"));
}

fn check_host(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
        checker.fail(&path.field("shareProcessNamespace"), "cannot be true together with hostPID");
    }
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            checker.expect(&path.field(name), names::dns_label(value));
        }
    }
    let aliases = spec.host_aliases.as_ref().map_or(0, Vec::len);
    checker.at_most(&path.field("hostAliases"), aliases, limits::ENTRIES);
    for (at, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.field("hostAliases").index(at);
        checker.expect(&path.field("ip"), names::ip(&alias.ip));
        for (at, name) in alias.hostnames.iter().flatten().enumerate() {
            checker.expect(&path.field("hostnames").index(at), names::dns_subdomain(name));
        }
    }
}

fn check_dns(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    let policy = spec.dns_policy.as_deref();
    checker.one_of(
        &path.field("dnsPolicy"),
        policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    let config = spec.dns_config.as_ref();
    let servers = config.and_then(|config| config.nameservers.as_deref()).unwrap_or_default();
    let searches = config.and_then(|config| config.searches.as_deref()).unwrap_or_default();
    let path = path.field("dnsConfig");
    if policy == Some("None") && servers.is_empty() {
        checker.require(&path.field("nameservers"), "at least one is required when dnsPolicy is None");
    }
    if servers.len() > MAX_NAMESERVERS {
        checker.fail(&path.field("nameservers"), format!("must not have more than {MAX_NAMESERVERS}"));
    }
    for (at, server) in servers.iter().enumerate() {
        checker.expect(&path.field("nameservers").index(at), names::ip(server));
    }
    if searches.len() > MAX_SEARCHES || searches.join(" ").len() > MAX_SEARCH_TEXT {
        let reason =
            format!("must not have more than {MAX_SEARCHES} entries and {MAX_SEARCH_TEXT} characters");
        checker.fail(&path.field("searches"), reason);
    }
    for (at, search) in searches.iter().enumerate() {
        let plain = search.strip_suffix('.').unwrap_or(search);
        if !search.is_empty() && search != "." {
            // The API server lets `_` pass here since 1.34.
            checker.expect(&path.field("searches").index(at), names::dns_subdomain(&plain.replace('_', "a")));
        }
    }
    for (at, option) in config.and_then(|config| config.options.as_ref()).into_iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            checker.require(&path.field("options").index(at).field("name"), "is required");
        }
    }
}

fn check_priority(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    let priority = spec.priority.unwrap_or_default();
    let class = match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => Some(crate::resources::SYSTEM_NODE_CRITICAL),
        Some("system-cluster-critical") => Some(crate::resources::SYSTEM_NODE_CRITICAL - 1000),
        _ => None,
    };
    match class {
        Some(class) if class != priority => {
            checker.fail(&path.field("priority"), format!("must be {class} for this priorityClassName"));
        }
        None if priority > HIGHEST_USER_PRIORITY => {
            let reason = format!("must not be more than {HIGHEST_USER_PRIORITY}");
            checker.fail_with_help(
                &path.field("priority"),
                reason,
                "use priorityClassName system-node-critical",
            );
        }
        None | Some(_) => {}
    }
}

fn check_tolerations(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    let tolerations = spec.tolerations.as_ref().map_or(0, Vec::len);
    checker.at_most(&path.field("tolerations"), tolerations, limits::ENTRIES);
    for (at, toleration) in spec.tolerations.iter().flatten().enumerate() {
        let path = path.field("tolerations").index(at);
        checker.one_of(
            &path.field("operator"),
            toleration.operator.as_deref(),
            &["", "Exists", "Equal", "Lt", "Gt"],
        );
        checker.one_of(
            &path.field("effect"),
            toleration.effect.as_deref(),
            &["", "NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
        if let Some(key) = toleration.key.as_deref().filter(|key| !key.is_empty()) {
            checker.expect(&path.field("key"), names::qualified_name(key));
        }
    }
}

fn check_security(checker: &mut Checker<'_>, context: Option<&api::PodSecurityContext>, path: &FieldPath) {
    let Some(context) = context else { return };
    check_id(checker, context.run_as_user, &path.field("runAsUser"));
    check_id(checker, context.run_as_group, &path.field("runAsGroup"));
    check_id(checker, context.fs_group, &path.field("fsGroup"));
    let groups = context.supplemental_groups.as_ref().map_or(0, Vec::len);
    checker.at_most(&path.field("supplementalGroups"), groups, limits::ENTRIES);
    for (at, group) in context.supplemental_groups.iter().flatten().enumerate() {
        check_id(checker, Some(*group), &path.field("supplementalGroups").index(at));
    }
    check_seccomp(checker, context.seccomp_profile.as_ref(), &path.field("seccompProfile"));
}

pub(super) fn check_seccomp(
    checker: &mut Checker<'_>,
    profile: Option<&api::SeccompProfile>,
    path: &FieldPath,
) {
    let Some(profile) = profile else { return };
    let kind = profile.type_.as_str();
    if kind.is_empty() {
        checker.require(&path.field("type"), "is required");
    } else {
        checker.one_of(&path.field("type"), Some(kind), &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    let path = path.field("localhostProfile");
    match (kind, profile.localhost_profile.as_deref().filter(|file| !file.is_empty())) {
        ("Localhost", None) => checker.require(&path, "is required when type is Localhost"),
        ("Localhost", Some(file)) => checker.expect(&path, names::descending_path(file)),
        (_, Some(_)) => checker.fail(&path, "can only be set when type is Localhost"),
        (_, None) => {}
    }
}

/// The id of a user or a group.
pub(super) fn check_id(checker: &mut Checker<'_>, id: Option<i64>, path: &FieldPath) {
    if id.is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        checker.fail(path, format!("must be from 0 to {MAX_ID}"));
    }
}
