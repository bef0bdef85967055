//! What a container of a pod needs at run time, put together from the pod and the container.
//!
//! In: a checked pod, one of its containers, what is known once there is a sandbox. Out: words and variables to start it
//! with, and who it runs as. Image defaults are not known here.

use k8s_openapi::api::core::v1 as api;

use crate::env::{self, EnvError, EnvFacts};

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// `command` with variables put in; empty for the image's entry point.
    pub command: Vec<String>,
    /// `args` with variables put in; empty for the image's, unless there is a command.
    pub args: Vec<String>,
    /// Names and values in order.
    pub env: Vec<(String, String)>,
    /// Absent for the image's.
    pub working_dir: Option<String>,
}

/// Who a container runs as: the container's own security context before the pod's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunAs {
    /// Absent for the image's.
    pub user: Option<i64>,
    /// Absent for the image's.
    pub group: Option<i64>,
    /// Refuse to start as uid 0.
    pub non_root: bool,
    /// Further groups, with `fsGroup` among them.
    pub supplemental_groups: Vec<i64>,
}

/// Resolves what a container starts.
pub fn process(pod: &api::Pod, container: &api::Container, facts: &EnvFacts) -> Result<Process, EnvError> {
    let env = env::resolve(pod, container, facts)?;
    let words = |words: &Option<Vec<String>>| env::expand_all(words.as_deref().unwrap_or_default(), &env);
    Ok(Process {
        command: words(&container.command)?,
        args: words(&container.args)?,
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        env,
    })
}

/// Merges the security contexts of pod and container.
pub fn run_as(pod: &api::Pod, container: &api::Container) -> RunAs {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let mut supplemental_groups: Vec<i64> = of_pod
        .into_iter()
        .flat_map(|context| context.supplemental_groups.iter().flatten().copied().chain(context.fs_group))
        .collect();
    supplemental_groups.sort_unstable();
    supplemental_groups.dedup();
    RunAs {
        user: own.and_then(|own| own.run_as_user).or(of_pod.and_then(|pod| pod.run_as_user)),
        group: own.and_then(|own| own.run_as_group).or(of_pod.and_then(|pod| pod.run_as_group)),
        non_root: own
            .and_then(|own| own.run_as_non_root)
            .or(of_pod.and_then(|pod| pod.run_as_non_root))
            .unwrap_or(false),
        supplemental_groups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_security_context_comes_before_the_pods() {
        let context = api::PodSecurityContext {
            run_as_user: Some(1),
            run_as_group: Some(2),
            run_as_non_root: Some(true),
            supplemental_groups: Some(vec![9, 7, 9]),
            fs_group: Some(8),
            ..Default::default()
        };
        let spec = api::PodSpec { security_context: Some(context), ..Default::default() };
        let pod = api::Pod { spec: Some(spec), ..Default::default() };
        let own =
            api::SecurityContext { run_as_user: Some(5), run_as_non_root: Some(false), ..Default::default() };
        let container = api::Container { security_context: Some(own), ..Default::default() };
        let expected =
            RunAs { user: Some(5), group: Some(2), non_root: false, supplemental_groups: vec![7, 8, 9] };
        assert_eq!(run_as(&pod, &container), expected);
        assert_eq!(run_as(&api::Pod::default(), &api::Container::default()), RunAs::default());
    }

    #[test]
    fn command_and_args_see_the_environment() {
        let words = |text: &str| Some(text.split(' ').map(ToOwned::to_owned).collect());
        let variable =
            api::EnvVar { name: "A".to_owned(), value: Some("x".to_owned()), ..Default::default() };
        let container = api::Container {
            command: words("run $(A) $$(A)"),
            args: words("$(B)"),
            env: Some(vec![variable]),
            working_dir: Some(String::new()),
            ..Default::default()
        };
        let process = process(&api::Pod::default(), &container, &EnvFacts::default()).unwrap();
        assert_eq!(process.command, ["run", "x", "$(A)"]);
        assert_eq!(process.args, ["$(B)"]);
        assert_eq!(process.working_dir, None);
    }
}
