//! Which fields of a pod Pintle honours today: the one table to extend when a field is implemented.
//!
//! In: the pattern of a field's path. Out: whether it may be set, or only to which values. A field that Kubernetes
//! knows and this table does not is refused as "not supported yet", unless its value says nothing (null, `""`, `[]`).
//!
//! Patterns write `[]` for a list's element and `{}` for a key that the user chooses.

/// What may be written in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Any value that is valid.
    Yes,
    /// Only these values, as JSON without white space: those that ask for what happens anyway.
    Only(&'static [&'static str]),
    /// Nothing but `{}`, and why.
    Empty(&'static str),
}

use Support::{Empty, Only, Yes};

const NOT_SCHEDULED: &str = "a manifest's pod runs where its file is; leave it out";

/// Every field that may be set, sorted by no rule but that of the API reference.
pub(crate) const FIELDS: &[(&str, Support)] = &[
    ("apiVersion", Yes),
    ("kind", Yes),
    ("metadata", Yes),
    ("spec", Yes),
    ("status", Empty("it is the agent that writes the status; leave it out")),
    ("metadata.name", Yes),
    ("metadata.namespace", Yes),
    ("metadata.uid", Yes),
    ("metadata.labels", Yes),
    ("metadata.annotations", Yes),
    // Pod.
    ("spec.containers", Yes),
    ("spec.volumes", Yes),
    ("spec.restartPolicy", Yes),
    ("spec.terminationGracePeriodSeconds", Yes),
    ("spec.hostNetwork", Yes),
    ("spec.hostPID", Yes),
    ("spec.hostIPC", Yes),
    ("spec.shareProcessNamespace", Yes),
    ("spec.hostUsers", Only(&["true"])),
    ("spec.hostname", Yes),
    ("spec.subdomain", Yes),
    ("spec.setHostnameAsFQDN", Only(&["false"])),
    ("spec.hostAliases", Yes),
    ("spec.hostAliases[].ip", Yes),
    ("spec.hostAliases[].hostnames", Yes),
    ("spec.dnsPolicy", Yes),
    ("spec.dnsConfig", Yes),
    ("spec.dnsConfig.nameservers", Yes),
    ("spec.dnsConfig.searches", Yes),
    ("spec.dnsConfig.options", Yes),
    ("spec.dnsConfig.options[].name", Yes),
    ("spec.dnsConfig.options[].value", Yes),
    ("spec.enableServiceLinks", Yes),
    ("spec.nodeName", Yes),
    ("spec.priority", Yes),
    ("spec.priorityClassName", Only(&["\"system-node-critical\"", "\"system-cluster-critical\""])),
    ("spec.preemptionPolicy", Only(&["\"PreemptLowerPriority\""])),
    ("spec.schedulerName", Only(&["\"default-scheduler\""])),
    ("spec.nodeSelector", Empty(NOT_SCHEDULED)),
    ("spec.affinity", Empty(NOT_SCHEDULED)),
    ("spec.overhead", Only(&["{}"])),
    ("spec.os", Only(&["{\"name\":\"linux\"}"])),
    ("spec.automountServiceAccountToken", Only(&["false"])),
    // A static pod stays on its node whatever its taints.
    ("spec.tolerations", Yes),
    ("spec.tolerations[].key", Yes),
    ("spec.tolerations[].operator", Yes),
    ("spec.tolerations[].value", Yes),
    ("spec.tolerations[].effect", Yes),
    ("spec.tolerations[].tolerationSeconds", Yes),
    ("spec.resources", Only(&["{}"])),
    ("spec.securityContext", Yes),
    ("spec.securityContext.runAsUser", Yes),
    ("spec.securityContext.runAsGroup", Yes),
    ("spec.securityContext.runAsNonRoot", Yes),
    ("spec.securityContext.supplementalGroups", Yes),
    ("spec.securityContext.supplementalGroupsPolicy", Only(&["\"Merge\""])),
    ("spec.securityContext.fsGroup", Yes),
    ("spec.securityContext.fsGroupChangePolicy", Only(&["\"Always\""])),
    ("spec.securityContext.seLinuxOptions", Only(&["{}"])),
    ("spec.securityContext.seccompProfile", Yes),
    ("spec.securityContext.seccompProfile.type", Yes),
    ("spec.securityContext.seccompProfile.localhostProfile", Yes),
    ("spec.securityContext.appArmorProfile", Only(&["{\"type\":\"Unconfined\"}"])),
    // Volumes.
    ("spec.volumes[].name", Yes),
    ("spec.volumes[].emptyDir", Yes),
    ("spec.volumes[].emptyDir.medium", Yes),
    ("spec.volumes[].emptyDir.sizeLimit", Yes),
    ("spec.volumes[].hostPath", Yes),
    ("spec.volumes[].hostPath.path", Yes),
    ("spec.volumes[].hostPath.type", Yes),
    // Containers.
    ("spec.containers[].name", Yes),
    ("spec.containers[].image", Yes),
    ("spec.containers[].imagePullPolicy", Yes),
    ("spec.containers[].command", Yes),
    ("spec.containers[].args", Yes),
    ("spec.containers[].workingDir", Yes),
    ("spec.containers[].env", Yes),
    ("spec.containers[].env[].name", Yes),
    ("spec.containers[].env[].value", Yes),
    ("spec.containers[].env[].valueFrom", Yes),
    ("spec.containers[].env[].valueFrom.fieldRef", Yes),
    ("spec.containers[].env[].valueFrom.fieldRef.apiVersion", Only(&["\"v1\""])),
    ("spec.containers[].env[].valueFrom.fieldRef.fieldPath", Yes),
    ("spec.containers[].env[].valueFrom.resourceFieldRef", Yes),
    ("spec.containers[].env[].valueFrom.resourceFieldRef.containerName", Yes),
    ("spec.containers[].env[].valueFrom.resourceFieldRef.resource", Yes),
    ("spec.containers[].env[].valueFrom.resourceFieldRef.divisor", Yes),
    ("spec.containers[].ports", Yes),
    ("spec.containers[].ports[].name", Yes),
    ("spec.containers[].ports[].containerPort", Yes),
    ("spec.containers[].ports[].protocol", Yes),
    // On the host's network the API server wants it equal to containerPort, which is checked.
    ("spec.containers[].ports[].hostIP", Yes),
    ("spec.containers[].ports[].hostPort", Yes),
    ("spec.containers[].resources", Yes),
    ("spec.containers[].resources.limits", Yes),
    ("spec.containers[].resources.limits{}", Yes),
    ("spec.containers[].resources.requests", Yes),
    ("spec.containers[].resources.requests{}", Yes),
    ("spec.containers[].volumeMounts", Yes),
    ("spec.containers[].volumeMounts[].name", Yes),
    ("spec.containers[].volumeMounts[].mountPath", Yes),
    ("spec.containers[].volumeMounts[].readOnly", Yes),
    ("spec.containers[].volumeMounts[].mountPropagation", Only(&["\"None\""])),
    ("spec.containers[].volumeMounts[].recursiveReadOnly", Only(&["\"Disabled\""])),
    ("spec.containers[].stdin", Yes),
    ("spec.containers[].stdinOnce", Yes),
    ("spec.containers[].tty", Yes),
    ("spec.containers[].terminationMessagePath", Yes),
    ("spec.containers[].terminationMessagePolicy", Yes),
    ("spec.containers[].securityContext", Yes),
    ("spec.containers[].securityContext.runAsUser", Yes),
    ("spec.containers[].securityContext.runAsGroup", Yes),
    ("spec.containers[].securityContext.runAsNonRoot", Yes),
    ("spec.containers[].securityContext.privileged", Yes),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Yes),
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Yes),
    ("spec.containers[].securityContext.procMount", Only(&["\"Default\""])),
    ("spec.containers[].securityContext.capabilities", Yes),
    ("spec.containers[].securityContext.capabilities.add", Yes),
    ("spec.containers[].securityContext.capabilities.drop", Yes),
    ("spec.containers[].securityContext.seLinuxOptions", Only(&["{}"])),
    ("spec.containers[].securityContext.seccompProfile", Yes),
    ("spec.containers[].securityContext.seccompProfile.type", Yes),
    ("spec.containers[].securityContext.seccompProfile.localhostProfile", Yes),
    ("spec.containers[].securityContext.appArmorProfile", Only(&["{\"type\":\"Unconfined\"}"])),
    ("spec.containers[].lifecycle", Only(&["{}"])),
];

/// What may be written in the field of this pattern; absent if nothing.
pub(crate) fn support(pattern: &str) -> Option<Support> {
    FIELDS.iter().find(|(path, _)| *path == pattern).map(|(_, support)| *support)
}

/// The fields directly below a pattern that may be set freely, in alphabetical order.
pub(crate) fn supported_below(parent: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = FIELDS
        .iter()
        .filter(|(_, support)| *support == Yes)
        .filter_map(|(path, _)| {
            let rest = if parent.is_empty() { path } else { path.strip_prefix(parent)?.strip_prefix('.')? };
            (!rest.contains(['.', '[', '{'])).then_some(rest)
        })
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_stands_in_the_table_twice_and_every_parent_is_there() {
        let mut seen = std::collections::BTreeSet::new();
        for (path, _) in FIELDS {
            assert!(seen.insert(*path), "{path} twice");
            if let Some((parent, _)) = path.rsplit_once('.') {
                let parent = parent.trim_end_matches("[]").trim_end_matches("{}");
                assert_eq!(support(parent), Some(Yes), "the parent of {path}");
            }
        }
    }

    #[test]
    fn the_fields_below_a_pattern_are_listed_without_their_children() {
        assert_eq!(supported_below("spec.volumes[]"), ["emptyDir", "hostPath", "name"]);
        assert_eq!(supported_below(""), ["apiVersion", "kind", "metadata", "spec"]);
    }
}
