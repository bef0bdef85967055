//! Refuses, in words, what a request asks for and this engine does not do yet.
//!
//! In: CRI configurations. Out: nothing, or the first field that cannot be had. Called before anything is made.

use pintle_cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig, security_profile::ProfileType,
};

use super::{Error, bounds, cdi, mounts, not_here, ports, seccomp, sysctls, user_namespace};

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
    let options = security.and_then(|s| s.namespace_options.as_ref());
    user_namespace::of_sandbox(options)?;
    security.map_or(Ok(()), seccomp::check_sandbox)?;
    linux.map_or(Ok(()), |linux| sysctls::of_pod(&linux.sysctls, options).map(drop))?;
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
    seccomp::of_container(security)?;
    let apparmor = security.apparmor.as_ref();
    let localhost = apparmor.is_some_and(|p| p.profile_type == ProfileType::Localhost as i32);
    if localhost {
        return Err(Error::unsupported("apparmor", "AppArmor profiles are not supported yet"));
    }
    let selinux = security.selinux_options.as_ref();
    if selinux.is_some_and(|o| [&o.user, &o.role, &o.r#type, &o.level].iter().any(|part| !part.is_empty())) {
        return Err(Error::unsupported("selinux_options", "SELinux labels are not supported yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::{ContainerMetadata, ImageSpec, LinuxPodSandboxConfig, PodSandboxMetadata};

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
    fn a_kernel_parameter_of_the_node_is_refused_and_one_of_the_pod_is_not() {
        let with = |name: &str, value: &str| {
            let sysctls = [(name.to_owned(), value.to_owned())].into();
            let linux = Some(LinuxPodSandboxConfig { sysctls, ..Default::default() });
            sandbox(&PodSandboxConfig { linux, ..pod() })
        };
        with("kernel.shm_rmid_forced", "1").unwrap();
        for (name, value) in
            [("kernel.panic", "1"), ("net.core.somaxconn", ""), ("net.core.somaxconn", "1\n")]
        {
            assert!(matches!(with(name, value), Err(Error::Invalid { .. })), "{name}");
        }
    }
}
