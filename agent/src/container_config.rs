//! A container of a pod as CRI's `ContainerConfig`.
//!
//! In: the pod, the container's specification, what the node has prepared for it. Out: the message, or the reason why
//! there cannot be one (`CreateContainerConfigError`). Pins sub-paths of volumes; the files it mounts are made in
//! [`crate::apply`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use pintle_core::model::DesiredPod;
use pintle_core::{env, resources};
use pintle_cri_api::v1;

use crate::mounts::{self, Places};
use crate::sandbox_config::{self, NodeFacts};

/// The name in the pod, as a label.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The specification's hash.
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
/// The how-manieth incarnation.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The step of the restart back-off that led to it.
pub(crate) const BACK_OFF_STEP: &str = "io.pintle.back-off-step";
/// Where in the container its message is.
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Where else to look for a message.
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Where a message goes when the container does not say.
const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// Why there can be no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerConfigError {
    /// A mount.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// Root where it is forbidden; the kubelet's words.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RunsAsRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Root asked for where it is forbidden; the kubelet's words.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    AsksForRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// A user of the image that has no number; the kubelet's words.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    CannotVerify {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// The image's user.
        user: String,
    },
    /// The environment.
    #[error(transparent)]
    Environment(#[from] env::EnvError),
    /// A seccomp profile that cannot be found.
    #[error("seccomp profile {profile:?} in {}", root.display())]
    Seccomp {
        /// As the pod names it.
        profile: String,
        /// Where the node has its profiles.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a container is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ingredients<'a> {
    /// The pod.
    pub(crate) pod: &'a DesiredPod,
    /// The container's specification.
    pub(crate) spec: &'a api::Container,
    /// The how-manieth incarnation.
    pub(crate) attempt: u32,
    /// The step of the restart back-off.
    pub(crate) back_off_step: u32,
    /// Where its volumes are.
    pub(crate) places: Places<'a>,
    /// The pod's addresses.
    pub(crate) pod_ips: &'a [String],
    /// The image, for its user.
    pub(crate) image: &'a v1::Image,
    /// The node.
    pub(crate) node: &'a NodeFacts,
    /// The managed hosts file.
    pub(crate) hosts: &'a Path,
    /// The file for the termination message.
    pub(crate) message: &'a Path,
}

/// The whole message.
pub(crate) fn of_container(from: &Ingredients<'_>) -> Result<v1::ContainerConfig, ContainerConfigError> {
    check_non_root(from)?;
    let spec = from.spec;
    let variables = env::resolve(&from.pod.pod, spec, &env_facts(from))?;
    let expanded =
        |words: &Option<Vec<String>>| env::expand_all(words.as_deref().unwrap_or_default(), &variables);
    let stop_signal = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: spec.name.clone(), attempt: from.attempt }),
        image: Some(v1::ImageSpec {
            image: spec.image.clone().unwrap_or_default(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            image_ref: from.image.id.clone(),
            ..Default::default()
        }),
        command: expanded(&spec.command)?,
        args: expanded(&spec.args)?,
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts: all_mounts(from, &variables)?,
        envs: variables.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        labels: labels(from),
        annotations: annotations(from),
        log_path: format!("{}/{}.log", spec.name, from.attempt),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(limits(from)),
            security_context: Some(security(from)?),
        }),
        stop_signal: stop_signal
            .and_then(v1::Signal::from_str_name)
            .unwrap_or(v1::Signal::RuntimeDefault)
            .into(),
        ..Default::default()
    })
}

/// Where in the container its termination message is.
pub(crate) fn message_path(spec: &api::Container) -> &str {
    spec.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(DEFAULT_MESSAGE_PATH)
}

fn env_facts(from: &Ingredients<'_>) -> env::EnvFacts {
    env::EnvFacts {
        pod_ips: from.pod_ips.to_vec(),
        host_ips: from.node.ips.clone(),
        allocatable_cpu: resources::MilliCpu(from.node.cpus.saturating_mul(1000)),
        allocatable_memory: resources::Bytes(from.node.memory),
    }
}

fn labels(from: &Ingredients<'_>) -> BTreeMap<String, String> {
    let own = (CONTAINER_NAME.to_owned(), from.spec.name.clone());
    sandbox_config::identity_labels(from.pod).chain([own]).collect()
}

fn annotations(from: &Ingredients<'_>) -> BTreeMap<String, String> {
    let policy = from.spec.termination_message_policy.as_deref().unwrap_or("File");
    [
        (HASH, pintle_core::decide::spec_hash(from.spec)),
        (RESTART_COUNT, from.attempt.to_string()),
        (BACK_OFF_STEP, from.back_off_step.to_string()),
        (MESSAGE_PATH, message_path(from.spec).to_owned()),
        (MESSAGE_POLICY, policy.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn all_mounts(
    from: &Ingredients<'_>,
    env: &[(String, String)],
) -> Result<Vec<v1::Mount>, ContainerConfigError> {
    let mut all = mounts::of_container(from.spec, from.places, env)?;
    for (container_path, file) in [("/etc/hosts", from.hosts), (message_path(from.spec), from.message)] {
        if all.iter().all(|mount| mount.container_path != container_path) {
            all.push(v1::Mount {
                container_path: container_path.to_owned(),
                host_path: file.display().to_string(),
                ..Default::default()
            });
        }
    }
    Ok(all)
}

fn limits(from: &Ingredients<'_>) -> v1::LinuxContainerResources {
    let values = resources::container_cgroup(from.spec);
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let capacity = resources::Bytes(from.node.memory);
    v1::LinuxContainerResources {
        cpu_period: values.cpu_quota_us.map_or(0, |_| signed(resources::CPU_PERIOD_US)),
        cpu_quota: values.cpu_quota_us.map_or(0, signed),
        cpu_shares: signed(values.cpu_shares),
        memory_limit_in_bytes: values.memory_limit.map_or(0, |limit| signed(limit.0)),
        oom_score_adj: i64::from(resources::oom_score_adj(&from.pod.pod, from.spec, capacity)),
        ..Default::default()
    }
}

fn security(from: &Ingredients<'_>) -> Result<v1::LinuxContainerSecurityContext, ContainerConfigError> {
    let default = api::SecurityContext::default();
    let own = from.spec.security_context.as_ref().unwrap_or(&default);
    let pod_spec = from.pod.pod.spec.as_ref();
    let pod = pod_spec.and_then(|spec| spec.security_context.as_ref());
    let privileged = own.privileged.unwrap_or(false);
    let int64 = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { vec![] } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let profile = own.seccomp_profile.as_ref().or(pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    let policy = match pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        Some(_) | None => v1::SupplementalGroupsPolicy::Merge,
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| v1::Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: pod_spec.map(sandbox_config::namespaces),
        run_as_user: int64(run_as_user(own, pod)),
        run_as_group: int64(own.run_as_group.or(pod.and_then(|pod| pod.run_as_group))),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: sandbox_config::supplemental_groups(pod),
        supplemental_groups_policy: policy.into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(profile, from.node)?),
        ..Default::default()
    })
}

/// Who asks for nothing gets what the node's `seccompDefault` says, as from a kubelet.
fn seccomp(
    profile: Option<&api::SeccompProfile>,
    node: &NodeFacts,
) -> Result<v1::SecurityProfile, ContainerConfigError> {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let of = |kind, path: String| v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path };
    let file = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
    match profile.map(|profile| profile.type_.as_str()) {
        Some("Localhost") => Ok(of(Localhost, profile_file(file, &node.seccomp_root)?.display().to_string())),
        Some("RuntimeDefault") => Ok(of(RuntimeDefault, String::new())),
        None if node.seccomp_default => Ok(of(RuntimeDefault, String::new())),
        Some(_) | None => Ok(of(Unconfined, String::new())),
    }
}

/// The file of a profile, which no link leads out of the node's directory of profiles.
fn profile_file(name: &str, root: &Path) -> Result<PathBuf, ContainerConfigError> {
    let find = || {
        let (root, file) = (root.canonicalize()?, root.join(name).canonicalize()?);
        if file.starts_with(&root) { Ok(file) } else { Err(io::Error::other("it is a link that leads out")) }
    };
    let failed = |source| ContainerConfigError::Seccomp { profile: name.into(), root: root.into(), source };
    find().map_err(failed)
}

fn run_as_user(own: &api::SecurityContext, pod: Option<&api::PodSecurityContext>) -> Option<i64> {
    own.run_as_user.or(pod.and_then(|pod| pod.run_as_user))
}

fn check_non_root(from: &Ingredients<'_>) -> Result<(), ContainerConfigError> {
    let default = api::SecurityContext::default();
    let own = from.spec.security_context.as_ref().unwrap_or(&default);
    let pod = from.pod.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let non_root = own.run_as_non_root.or(pod.and_then(|pod| pod.run_as_non_root)) == Some(true);
    if !non_root {
        return Ok(());
    }
    let name = format!("{}_{}({})", from.pod.name(), from.pod.namespace(), from.pod.uid);
    let container = from.spec.name.clone();
    match (run_as_user(own, pod), &from.image.uid, from.image.username.as_str()) {
        (Some(0), ..) => Err(ContainerConfigError::AsksForRoot { pod: name, container }),
        (Some(_), ..) => Ok(()),
        (None, Some(uid), _) if uid.value != 0 => Ok(()),
        (None, None, user) if !user.is_empty() => {
            Err(ContainerConfigError::CannotVerify { pod: name, container, user: user.to_owned() })
        }
        (None, ..) => Err(ContainerConfigError::RunsAsRoot { pod: name, container }),
    }
}

/// What the kernel shows of the host that a container has no business with.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What of the host a container may look at only.
const READONLY_PATHS: [&str; 6] =
    ["/proc/bus", "/proc/dynamic_debug", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox_config::tests::{desired, node};

    fn config(pod: &DesiredPod, image: &v1::Image) -> Result<v1::ContainerConfig, ContainerConfigError> {
        let volumes =
            BTreeMap::from([("data".to_owned(), std::path::PathBuf::from("/pods/u-1/volumes/data"))]);
        of_container(&Ingredients {
            pod,
            spec: &pod.pod.spec.as_ref().expect("a spec").containers[0],
            attempt: 2,
            back_off_step: 3,
            places: Places { volumes: &volumes, sub_paths: Path::new("/pods/u-1/volume-subpaths/app") },
            pod_ips: &["10.1.2.3".to_owned()],
            image,
            node: &node(),
            hosts: Path::new("/pods/u-1/etc-hosts"),
            message: Path::new("/pods/u-1/containers/app/2"),
        })
    }

    const POD: &str = r#"{"metadata":{"name":"web-n1","namespace":"shop"},"spec":{
        "securityContext":{"runAsUser":5,"fsGroup":6},
        "containers":[{"name":"app","image":"demo","command":["/bin/sh"],"args":["-c","echo $(WHO) $$(WHO)"],
        "workingDir":"/srv","env":[{"name":"WHO","value":"me"},{"name":"IP","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIP"}}}],
        "volumeMounts":[{"name":"data","mountPath":"/data","readOnly":true}],
        "resources":{"limits":{"cpu":"250m","memory":"64Mi"}},
        "securityContext":{"runAsGroup":7,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false,
        "capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]}}}]}}"#;

    #[test]
    fn a_container_becomes_a_configuration() {
        let config = config(&desired(POD), &v1::Image::default()).expect("a configuration");
        assert_eq!(config.command, ["/bin/sh"]);
        assert_eq!(config.args, ["-c", "echo me $(WHO)"]);
        assert_eq!(config.working_dir, "/srv");
        let env: Vec<String> = config.envs.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
        assert_eq!(env, ["WHO=me", "IP=10.1.2.3"]);
        let mounts: Vec<String> = config
            .mounts
            .iter()
            .map(|m| format!("{}:{}:{}", m.host_path, m.container_path, if m.readonly { "ro" } else { "rw" }))
            .collect();
        assert_eq!(
            mounts,
            [
                "/pods/u-1/volumes/data:/data:ro",
                "/pods/u-1/etc-hosts:/etc/hosts:rw",
                "/pods/u-1/containers/app/2:/dev/termination-log:rw"
            ]
        );
        assert_eq!(config.log_path, "app/2.log");
        assert_eq!(config.annotations[RESTART_COUNT], "2");
        assert_eq!(config.annotations[BACK_OFF_STEP], "3");
        assert_eq!(config.labels[CONTAINER_NAME], "app");
        let linux = config.linux.expect("linux");
        let limits = linux.resources.expect("resources");
        assert_eq!((limits.cpu_quota, limits.cpu_period, limits.cpu_shares), (25_000, 100_000, 256));
        assert_eq!((limits.memory_limit_in_bytes, limits.oom_score_adj), (64 << 20, -997));
        let security = linux.security_context.expect("security");
        let id = |id: Option<v1::Int64Value>| id.expect("given").value;
        assert_eq!((id(security.run_as_user), id(security.run_as_group)), (5, 7));
        assert_eq!(security.supplemental_groups, [6]);
        assert!(security.readonly_rootfs && security.no_new_privs && !security.privileged);
        assert!(security.masked_paths.iter().any(|path| path == "/proc/kcore"));
        assert_eq!(security.capabilities.expect("capabilities").drop_capabilities, ["ALL"]);
    }

    fn seccomp_of(pod: &str, own: &str, node: &NodeFacts) -> (i32, String) {
        let profile =
            |json: &str| serde_json::from_str::<Option<api::SeccompProfile>>(json).expect("a profile");
        let (pod, own) = (profile(pod), profile(own));
        let got = seccomp(own.as_ref().or(pod.as_ref()), node).expect("a profile");
        (got.profile_type, got.localhost_ref)
    }

    #[test]
    fn a_seccomp_profile_is_the_containers_own_else_the_pods_else_the_nodes_default() {
        use v1::security_profile::ProfileType::{RuntimeDefault, Unconfined};
        let default = r#"{"type":"RuntimeDefault"}"#;
        let none = r#"{"type":"Unconfined"}"#;
        let (strict, lax) = (NodeFacts { seccomp_default: true, ..node() }, node());
        let of = |pod, own, node| seccomp_of(pod, own, node).0;
        assert_eq!(of("null", "null", &strict), RuntimeDefault as i32);
        assert_eq!(of("null", "null", &lax), Unconfined as i32);
        assert_eq!(of(none, "null", &strict), Unconfined as i32);
        assert_eq!(of(none, default, &lax), RuntimeDefault as i32);
    }

    #[test]
    fn a_seccomp_profile_of_the_node_is_found_in_its_directory_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("seccomp");
        std::fs::create_dir_all(root.join("team")).expect("directories");
        std::fs::write(root.join("team/a.json"), "{}").expect("a profile");
        std::fs::write(dir.path().join("out.json"), "{}").expect("another");
        std::os::unix::fs::symlink("../out.json", root.join("out.json")).expect("a link");
        let node = NodeFacts { seccomp_root: root.clone(), ..node() };
        let localhost = r#"{"type":"Localhost","localhostProfile":"team/a.json"}"#;
        let path = root.join("team/a.json").canonicalize().expect("a path").display().to_string();
        let kind = v1::security_profile::ProfileType::Localhost as i32;
        assert_eq!(seccomp_of("null", localhost, &node), (kind, path));
        let refused = |name| profile_file(name, &root).expect_err("refused").to_string();
        assert_eq!(refused("out.json"), format!("seccomp profile \"out.json\" in {}", root.display()));
        assert!(profile_file("none.json", &root).is_err());
    }

    #[test]
    fn root_is_refused_where_it_is_forbidden() {
        let pod = |context: &str| {
            desired(&format!(
                r#"{{"metadata":{{"name":"a"}},"spec":{{"containers":[{{"name":"app","image":"demo","securityContext":{context}}}]}}}}"#
            ))
        };
        let root = v1::Image { uid: Some(v1::Int64Value { value: 0 }), ..Default::default() };
        let user = v1::Image { uid: Some(v1::Int64Value { value: 9 }), ..Default::default() };
        let named = v1::Image { username: "web".into(), ..Default::default() };
        let non_root = pod(r#"{"runAsNonRoot":true}"#);
        assert!(matches!(config(&non_root, &root), Err(ContainerConfigError::RunsAsRoot { .. })));
        assert!(matches!(
            config(&non_root, &v1::Image::default()),
            Err(ContainerConfigError::RunsAsRoot { .. })
        ));
        assert!(matches!(config(&non_root, &named), Err(ContainerConfigError::CannotVerify { .. })));
        assert!(config(&non_root, &user).is_ok());
        assert!(config(&pod(r#"{"runAsNonRoot":true,"runAsUser":9}"#), &root).is_ok());
        let asks = pod(r#"{"runAsNonRoot":true,"runAsUser":0}"#);
        assert!(matches!(config(&asks, &user), Err(ContainerConfigError::AsksForRoot { .. })));
    }

    #[test]
    fn a_privileged_container_sees_everything() {
        let pod = desired(
            r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"app","image":"demo","securityContext":{"privileged":true}}]}}"#,
        );
        let security = config(&pod, &v1::Image::default())
            .expect("a configuration")
            .linux
            .and_then(|l| l.security_context);
        let security = security.expect("security");
        assert!(
            security.privileged && security.masked_paths.is_empty() && security.readonly_paths.is_empty()
        );
    }
}
