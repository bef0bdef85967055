//! Refuses, in words, what a request asks for and this engine does not do yet.
//!
//! In: CRI configurations. Out: nothing, or the first field that cannot be had. Called before anything is made.

use pintle_cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig, security_profile::ProfileType,
};

use super::{Error, bounds, cdi, mounts, namespaces, not_here, ports, seccomp};

/// The longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// Checks a sandbox's configuration.
///
/// # Errors
/// When it asks for something that cannot be or is not built yet.
pub fn sandbox(config: &PodSandboxConfig) -> Result<(), Error> {
    bounds::sandbox(config)?;
    not_here::sandbox(config)?;
    let linux = config.linux.as_ref();
    let security = linux.and_then(|linux| linux.security_context.as_ref());
    namespaces::refuse_user_namespaces(security.and_then(|s| s.namespace_options.as_ref()))?;
    security.map_or(Ok(()), seccomp::check_sandbox)?;
    if linux.is_some_and(|linux| !linux.sysctls.is_empty()) {
        return Err(Error::unsupported("sysctls", "not supported yet"));
    }
    let parent = linux.map_or("", |linux| linux.cgroup_parent.as_str());
    if parent.split('/').any(|part| matches!(part, "." | "..")) || parent.contains(char::is_control) {
        return Err(Error::invalid(
            "linux.cgroup_parent",
            format!("{parent:?} leads out of the cgroup tree"),
        ));
    }
    if parent.trim_end_matches('/').ends_with(".slice") {
        let reason =
            format!("{parent:?} is a slice of systemd's; the cgroup driver here is cgroupfs: name a path");
        return Err(Error::invalid("linux.cgroup_parent", reason));
    }
    ports::host_ports(config)?;
    let no_name = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if config.hostname.len() > MAX_HOSTNAME || config.hostname.contains(no_name) {
        return Err(Error::invalid("hostname", format!("{:?} cannot be a host name", config.hostname)));
    }
    Ok(())
}

/// Checks a container's configuration.
///
/// # Errors
/// When it asks for something that cannot be or is not built yet.
pub fn container(config: &ContainerConfig) -> Result<(), Error> {
    bounds::container(config)?;
    not_here::container(config)?;
    cdi::requested(config)?;
    if config.log_path.starts_with('/') {
        return Err(Error::invalid("log_path", "leads out of the log directory"));
    }
    for mount in &config.mounts {
        mounts::check(mount)?;
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.map_or(Ok(()), container_security)
}

fn container_security(security: &LinuxContainerSecurityContext) -> Result<(), Error> {
    namespaces::refuse_user_namespaces(security.namespace_options.as_ref())?;
    seccomp::of_container(security)?;
    let apparmor = security.apparmor.as_ref();
    let localhost = apparmor.is_some_and(|p| p.profile_type == ProfileType::Localhost as i32);
    if localhost {
        return Err(Error::unsupported("apparmor", "AppArmor profiles are not supported yet"));
    }
    let selinux = security.selinux_options.as_ref();
    if security.masked_paths.is_empty() != security.readonly_paths.is_empty() {
        // Nobody who fills one of them means the default by an empty other one, and "none" cannot be told from it.
        let reason =
            "one of masked_paths and readonly_paths is empty; give both, or neither for the usual ones";
        return Err(Error::invalid("masked_paths", reason));
    }
    if selinux.is_some_and(|o| [&o.user, &o.role, &o.r#type, &o.level].iter().any(|part| !part.is_empty())) {
        return Err(Error::unsupported("selinux_options", "SELinux labels are not supported yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::{
        ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxPodSandboxConfig, PodSandboxMetadata,
    };

    use super::*;

    fn good() -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: "i".to_owned(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn pod() -> PodSandboxConfig {
        let (name, uid) = ("p".to_owned(), "u".to_owned());
        let metadata = Some(PodSandboxMetadata { name, uid, ..Default::default() });
        PodSandboxConfig { metadata, ..Default::default() }
    }

    #[test]
    fn a_plain_container_and_sandbox_pass() {
        container(&good()).unwrap();
        sandbox(&pod()).unwrap();
    }

    #[test]
    fn unmasked_paths_are_never_silently_the_usual_ones() {
        let with = |masked: &[&str], readonly: &[&str]| {
            let owned = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
            let security_context = Some(LinuxContainerSecurityContext {
                masked_paths: owned(masked),
                readonly_paths: owned(readonly),
                ..Default::default()
            });
            let linux = Some(LinuxContainerConfig { security_context, ..Default::default() });
            container(&ContainerConfig { linux, ..good() })
        };
        with(&[], &[]).unwrap();
        with(&["/proc/kcore"], &["/proc/sys"]).unwrap();
        assert!(with(&[], &["/proc/sys"]).is_err());
        assert!(with(&["/proc/kcore"], &[]).is_err());
    }

    #[test]
    fn a_log_path_cannot_lead_out_of_the_log_directory() {
        assert!(container(&ContainerConfig { log_path: "../x".to_owned(), ..good() }).is_err());
        assert!(container(&ContainerConfig { log_path: "/x".to_owned(), ..good() }).is_err());
        container(&ContainerConfig { log_path: "app/0.log".to_owned(), ..good() }).unwrap();
    }

    #[test]
    fn a_cgroup_parent_cannot_lead_out_of_the_cgroup_tree() {
        let with = |cgroup_parent: &str| {
            let linux =
                LinuxPodSandboxConfig { cgroup_parent: cgroup_parent.to_owned(), ..Default::default() };
            sandbox(&PodSandboxConfig { linux: Some(linux), ..pod() })
        };
        for hostile in ["/../../x", "..", "/a/./b", "/a\n", "kubepods-podu1.slice", "/kubepods.slice"] {
            assert!(matches!(with(hostile), Err(Error::Invalid { .. })), "{hostile:?}");
        }
        for good in ["", "/kubepods/besteffort/podu1", "/a..b"] {
            with(good).unwrap();
        }
    }

    #[test]
    fn sysctls_are_refused_in_words() {
        let sysctls = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
        let linux = Some(LinuxPodSandboxConfig { sysctls, ..Default::default() });
        assert!(matches!(sandbox(&PodSandboxConfig { linux, ..pod() }), Err(Error::Unsupported { .. })));
    }
}
