//! Which seccomp profile a container gets.
//!
//! In: CRI's security context. Out: a [`Profile`]. Who says nothing gets the default profile (a kubelet always says
//! something), a privileged container none, whatever it says, as with containerd.

use std::path::{Path, PathBuf};

use pintle_cri_api::v1::{
    LinuxContainerSecurityContext, LinuxSandboxSecurityContext, SecurityProfile,
    security_profile::ProfileType,
};

use super::Error;

/// What binds a container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// Nothing.
    Unconfined,
    /// The default profile for its capabilities.
    RuntimeDefault,
    /// The profile in a file of the node.
    Localhost(PathBuf),
}

/// The profile of a container.
///
/// # Errors
/// When there is no such kind of profile, or a file is named that cannot be one.
pub fn of_container(security: &LinuxContainerSecurityContext) -> Result<Profile, Error> {
    let profile = chosen(security.seccomp.as_ref(), old_container_profile(security))?;
    Ok(if security.privileged { Profile::Unconfined } else { profile })
}

/// Checks what is asked for the infra container. It runs our own pause program and never a word of the user's, so that
/// neither the default profile, which every kubelet asks for, nor none makes a difference there.
///
/// # Errors
/// When there is no such kind of profile, or it is one of the user's own.
pub fn check_sandbox(security: &LinuxSandboxSecurityContext) -> Result<(), Error> {
    match chosen(security.seccomp.as_ref(), old_sandbox_profile(security))? {
        Profile::Unconfined | Profile::RuntimeDefault => Ok(()),
        Profile::Localhost(_) => {
            Err(Error::unsupported("seccomp", "the infra container cannot have a profile of the user's"))
        }
    }
}

fn chosen(profile: Option<&SecurityProfile>, old: &str) -> Result<Profile, Error> {
    let Some(profile) = profile else {
        return match old {
            "" | "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
            "unconfined" => Ok(Profile::Unconfined),
            _ => match old.strip_prefix("localhost/") {
                Some(file) => localhost("seccomp_profile_path", file),
                None => Err(Error::invalid("seccomp_profile_path", format!("there is no profile {old:?}"))),
            },
        };
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Ok(ProfileType::Localhost) => localhost("seccomp.localhost_ref", &profile.localhost_ref),
        Err(_) => {
            let reason = format!("there is no profile type {}", profile.profile_type);
            Err(Error::invalid("seccomp.profile_type", reason))
        }
    }
}

fn localhost(field: &'static str, file: &str) -> Result<Profile, Error> {
    if Path::new(file).is_absolute() && !file.contains('\0') {
        return Ok(Profile::Localhost(file.into()));
    }
    Err(Error::invalid(field, format!("{file:?} is not the absolute path of a file")))
}

#[expect(deprecated, reason = "an old kubelet may still say it there, and it must not be ignored")]
fn old_sandbox_profile(security: &LinuxSandboxSecurityContext) -> &str {
    &security.seccomp_profile_path
}

#[expect(deprecated, reason = "an old kubelet may still say it there, and it must not be ignored")]
fn old_container_profile(security: &LinuxContainerSecurityContext) -> &str {
    &security.seccomp_profile_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: ProfileType, file: &str) -> LinuxContainerSecurityContext {
        let seccomp = Some(SecurityProfile { profile_type: kind as i32, localhost_ref: file.to_owned() });
        LinuxContainerSecurityContext { seccomp, ..Default::default() }
    }

    #[test]
    fn a_container_gets_the_profile_it_asks_for_and_the_default_one_if_it_asks_for_none() {
        let of = |context| of_container(&context).unwrap();
        assert_eq!(of(LinuxContainerSecurityContext::default()), Profile::RuntimeDefault);
        assert_eq!(of(asked(ProfileType::RuntimeDefault, "")), Profile::RuntimeDefault);
        assert_eq!(of(asked(ProfileType::Unconfined, "")), Profile::Unconfined);
        assert_eq!(of(asked(ProfileType::Localhost, "/p.json")), Profile::Localhost("/p.json".into()));
    }

    #[test]
    fn a_privileged_container_is_unconfined_but_may_not_ask_for_nonsense() {
        let privileged = |kind, file| LinuxContainerSecurityContext { privileged: true, ..asked(kind, file) };
        let profile = of_container(&privileged(ProfileType::RuntimeDefault, "")).unwrap();
        assert_eq!(profile, Profile::Unconfined);
        assert!(of_container(&privileged(ProfileType::Localhost, "p.json")).is_err());
    }

    #[test]
    #[expect(deprecated, reason = "what old kubelets send")]
    fn the_old_spelling_counts_where_the_new_one_is_absent() {
        let old = |path: &str| LinuxContainerSecurityContext {
            seccomp_profile_path: path.to_owned(),
            ..Default::default()
        };
        for (path, profile) in [
            ("unconfined", Profile::Unconfined),
            ("runtime/default", Profile::RuntimeDefault),
            ("docker/default", Profile::RuntimeDefault),
            ("localhost//p.json", Profile::Localhost("/p.json".into())),
        ] {
            assert_eq!(of_container(&old(path)).unwrap(), profile);
        }
        assert!(of_container(&old("localhost/p.json")).is_err());
        assert!(of_container(&old("other")).is_err());
        let both = LinuxContainerSecurityContext {
            seccomp_profile_path: "unconfined".to_owned(),
            ..asked(ProfileType::RuntimeDefault, "")
        };
        assert_eq!(of_container(&both).unwrap(), Profile::RuntimeDefault);
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_fields_name() {
        let unknown = SecurityProfile { profile_type: 7, ..Default::default() };
        let unknown = LinuxContainerSecurityContext { seccomp: Some(unknown), ..Default::default() };
        assert!(of_container(&unknown).unwrap_err().to_string().contains("seccomp.profile_type"));
        let relative = of_container(&asked(ProfileType::Localhost, "p.json")).unwrap_err();
        assert!(relative.to_string().contains("seccomp.localhost_ref"), "{relative}");
    }

    #[test]
    fn the_infra_container_may_be_asked_to_run_under_the_default_profile_but_not_under_a_users() {
        for (kind, fits) in [
            (ProfileType::RuntimeDefault, true),
            (ProfileType::Unconfined, true),
            (ProfileType::Localhost, false),
        ] {
            let profile = SecurityProfile { profile_type: kind as i32, localhost_ref: "/p.json".to_owned() };
            let context = LinuxSandboxSecurityContext { seccomp: Some(profile), ..Default::default() };
            assert_eq!(check_sandbox(&context).is_ok(), fits);
        }
    }
}
