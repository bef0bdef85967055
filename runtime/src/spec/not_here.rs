//! Refuses what means something on other nodes only: Windows, SELinux, AppArmor profiles by their old names.
//!
//! In: CRI messages. Out: nothing, or the field. An empty message says nothing and passes: clients that fill in all of a
//! message send it.

use pintle_cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, Mount, PodSandboxConfig,
    WindowsContainerConfig, WindowsContainerResources, WindowsPodSandboxConfig,
};

use super::Error;

/// Checks a sandbox's configuration.
///
/// # Errors
/// When it asks for something that this node cannot have.
pub fn sandbox(config: &PodSandboxConfig) -> Result<(), Error> {
    if config.windows.as_ref().is_some_and(|asked| !says_nothing_of_pod(asked)) {
        return Err(Error::invalid("windows", WINDOWS));
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.map_or(Ok(()), identity)
}

/// Checks a container's configuration.
///
/// # Errors
/// As with [`sandbox`].
pub fn container(config: &ContainerConfig) -> Result<(), Error> {
    if config.windows.as_ref().is_some_and(|asked| !says_nothing(asked)) {
        return Err(Error::invalid("windows", WINDOWS));
    }
    config.mounts.iter().try_for_each(mount)?;
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.map_or(Ok(()), old_apparmor)
}

/// Checks new limits of a container.
///
/// # Errors
/// As with [`sandbox`].
pub fn resources(asked: Option<&WindowsContainerResources>) -> Result<(), Error> {
    match asked.is_some_and(|asked| *asked != WindowsContainerResources::default()) {
        true => Err(Error::invalid("windows", WINDOWS)),
        false => Ok(()),
    }
}

const WINDOWS: &str = "this node runs Linux";

fn says_nothing_of_pod(asked: &WindowsPodSandboxConfig) -> bool {
    let WindowsPodSandboxConfig { security_context } = asked;
    security_context.as_ref().is_none_or(|security| *security == Default::default())
}

fn says_nothing(asked: &WindowsContainerConfig) -> bool {
    let WindowsContainerConfig { resources, security_context } = asked;
    resources.as_ref().is_none_or(|resources| *resources == WindowsContainerResources::default())
        && security_context.as_ref().is_none_or(|security| *security == Default::default())
}

/// The infra process has no user to choose: it runs one program of ours. What the protocol forbids is forbidden all the
/// same.
fn identity(security: &LinuxSandboxSecurityContext) -> Result<(), Error> {
    match security.run_as_group.is_some() && security.run_as_user.is_none() {
        true => Err(Error::invalid("run_as_group", "needs run_as_user")),
        false => Ok(()),
    }
}

fn mount(mount: &Mount) -> Result<(), Error> {
    match mount.selinux_relabel {
        true => {
            let path = &mount.container_path;
            let reason = format!("{path:?} cannot be labelled: SELinux is not supported");
            Err(Error::unsupported("mounts.selinux_relabel", reason))
        }
        false => Ok(()),
    }
}

/// What came before `apparmor`, which wins where both are given.
fn old_apparmor(security: &LinuxContainerSecurityContext) -> Result<(), Error> {
    #[expect(deprecated, reason = "it is still in the protocol, and may not be passed over")]
    let old = security.apparmor_profile.as_str();
    match old {
        "" | "runtime/default" | "unconfined" => Ok(()),
        _ if security.apparmor.is_some() => Ok(()),
        _ => Err(Error::unsupported("apparmor_profile", format!("{old:?} cannot be had: use apparmor"))),
    }
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::{
        LinuxContainerConfig, LinuxPodSandboxConfig, WindowsContainerSecurityContext,
        WindowsSandboxSecurityContext,
    };

    use super::*;

    #[test]
    fn what_is_for_windows_is_refused_unless_it_says_nothing() {
        let pod = |security: WindowsSandboxSecurityContext| {
            let windows = Some(WindowsPodSandboxConfig { security_context: Some(security) });
            sandbox(&PodSandboxConfig { windows, ..Default::default() })
        };
        pod(WindowsSandboxSecurityContext::default()).unwrap();
        assert!(pod(WindowsSandboxSecurityContext { host_process: true, ..Default::default() }).is_err());
        let app = |windows| container(&ContainerConfig { windows: Some(windows), ..Default::default() });
        app(WindowsContainerConfig::default()).unwrap();
        let user = WindowsContainerSecurityContext { run_as_username: "u".to_owned(), ..Default::default() };
        assert!(app(WindowsContainerConfig { security_context: Some(user), ..Default::default() }).is_err());
        let limits = WindowsContainerResources { cpu_count: 1, ..Default::default() };
        assert!(resources(Some(&limits)).is_err());
        assert!(app(WindowsContainerConfig { resources: Some(limits), ..Default::default() }).is_err());
        resources(Some(&WindowsContainerResources::default())).unwrap();
    }

    #[test]
    fn a_sandboxs_group_without_a_user_is_refused() {
        let with = |security| {
            let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
            sandbox(&PodSandboxConfig { linux: Some(linux), ..Default::default() })
        };
        let group =
            LinuxSandboxSecurityContext { run_as_group: Some(Default::default()), ..Default::default() };
        assert!(with(group.clone()).is_err());
        with(LinuxSandboxSecurityContext { run_as_user: Some(Default::default()), ..group }).unwrap();
    }

    #[test]
    fn a_label_for_a_mount_is_refused() {
        let mounts = vec![Mount { selinux_relabel: true, ..Default::default() }];
        let refused = container(&ContainerConfig { mounts, ..Default::default() }).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }));
    }

    #[test]
    #[expect(deprecated, reason = "it is what is tested")]
    fn an_old_apparmor_profile_is_refused_unless_it_is_the_usual_one() {
        let with = |old: &str| {
            let apparmor_profile = old.to_owned();
            let security = LinuxContainerSecurityContext { apparmor_profile, ..Default::default() };
            let linux = LinuxContainerConfig { security_context: Some(security), ..Default::default() };
            container(&ContainerConfig { linux: Some(linux), ..Default::default() })
        };
        for usual in ["", "runtime/default", "unconfined"] {
            with(usual).unwrap();
        }
        assert!(with("localhost/mine").is_err());
    }
}
