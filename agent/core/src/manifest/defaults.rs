//! Fills in what the API server would fill in, so that the object is what `kubectl get -o yaml` shows on a cluster.
//!
//! In: a pod as written. Out: the same pod with defaults; nothing that was written changes.

use k8s_openapi::api::core::v1 as api;

const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Fills in every default of the fields that are supported.
pub(crate) fn fill(pod: &mut api::Pod) {
    let Some(spec) = &mut pod.spec else { return };
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(DEFAULT_GRACE_SECONDS);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    fill_priority(spec);
    for volume in spec.volumes.iter_mut().flatten() {
        fill_volume(volume);
    }
    let host_network = spec.host_network == Some(true);
    for container in &mut spec.containers {
        fill_container(container);
        for port in container.ports.iter_mut().flatten() {
            set(&mut port.protocol, "TCP");
            if host_network && port.host_port.unwrap_or(0) == 0 {
                port.host_port = Some(port.container_port);
            }
        }
    }
}

/// What the priority admission does for the two classes that every cluster has.
fn fill_priority(spec: &mut api::PodSpec) {
    let priority = match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => crate::resources::SYSTEM_NODE_CRITICAL,
        Some("system-cluster-critical") => crate::resources::SYSTEM_NODE_CRITICAL - 1000,
        _ => 0,
    };
    spec.priority.get_or_insert(priority);
    set(&mut spec.preemption_policy, "PreemptLowerPriority");
}

fn fill_volume(volume: &mut api::Volume) {
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    } else {
        volume.empty_dir.get_or_insert_default();
    }
}

fn fill_container(container: &mut api::Container) {
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    set(&mut container.image_pull_policy, policy);
    let resources = container.resources.get_or_insert_default();
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    for source in container.env.iter_mut().flatten().filter_map(|env| env.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            set(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut source.resource_field_ref {
            resource.divisor.get_or_insert_with(|| {
                k8s_openapi::apimachinery::pkg::api::resource::Quantity("0".to_owned())
            });
        }
    }
}

/// `Always` for the tag `latest` (also unwritten), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_none() => "Always",
        None | Some(_) => "IfNotPresent",
    }
}

fn set(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for image in ["web", "web:latest", "registry:5000/team/web", "r/web:latest", "web:latest@sha256:00"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["web:1", "registry:5000/web:1", "web@sha256:00", "web:1@sha256:00"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }
}
