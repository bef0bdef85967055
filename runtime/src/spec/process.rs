//! What a container executes: arguments, environment, working directory.
//!
//! In: CRI's command and arguments, the image's entry point, command, environment and directory. Out: the values of
//! OCI's process. The rules are Docker's, as Kubernetes documents them.

use pintle_cri_api::v1::{ContainerConfig, KeyValue};

use super::Error;

/// The search path of a container whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process with a terminal is told of it, unless its container says otherwise.
pub const TERM: &str = "TERM=xterm";

/// The part of an image's configuration that matters to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageProcess {
    /// Executed first.
    pub entrypoint: Vec<String>,
    /// Its arguments, unless others are given.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; may be empty.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; may be empty.
    pub user: String,
    /// The signal that asks it to stop; may be empty.
    pub stop_signal: String,
}

/// The arguments: a command replaces entry point and command of the image, arguments replace its command only.
///
/// # Errors
/// When neither says what to execute.
pub fn args(config: &ContainerConfig, image: &ImageProcess) -> Result<Vec<String>, Error> {
    let mut all = config.command.clone();
    let mut args = &config.args;
    if all.is_empty() {
        all.clone_from(&image.entrypoint);
        if args.is_empty() {
            args = &image.cmd;
        }
    }
    all.extend(args.iter().cloned());
    if all.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command", "neither the container nor the image says what to execute"));
    }
    if all.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::invalid("command", "an argument holds a NUL byte"));
    }
    Ok(all)
}

/// The environment: the image's, then the container's over it; PATH, HOME and HOSTNAME where neither sets them.
///
/// # Errors
/// When a name is empty or holds `=`, or something holds a NUL byte.
pub fn env(image: &[String], wanted: &[KeyValue], defaults: &[(&str, &str)]) -> Result<Vec<String>, Error> {
    let mut env: Vec<String> = image.to_vec();
    for KeyValue { key, value } in wanted {
        if key.is_empty() || key.contains('=') || key.contains('\0') || value.contains('\0') {
            return Err(Error::invalid("envs", format!("{key:?} cannot be an environment variable")));
        }
        set(&mut env, key, value);
    }
    if !is_set(&env, "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    for (name, value) in defaults {
        if !is_set(&env, name) && !value.is_empty() {
            env.push(format!("{name}={value}"));
        }
    }
    Ok(env)
}

/// The working directory.
///
/// # Errors
/// When it is not absolute.
pub fn cwd(config: &ContainerConfig, image: &ImageProcess) -> Result<String, Error> {
    let wanted = [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty());
    let dir = wanted.map_or("/", String::as_str);
    if !dir.starts_with('/') {
        return Err(Error::invalid("working_dir", format!("{dir:?} is not absolute")));
    }
    Ok(dir.to_owned())
}

fn is_set(env: &[String], name: &str) -> bool {
    env.iter().any(|entry| entry.split('=').next() == Some(name))
}

fn set(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|have| have.split('=').next() == Some(name)) {
        Some(have) => *have = entry,
        None => env.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn run(command: &[&str], arguments: &[&str]) -> Vec<String> {
        let config =
            ContainerConfig { command: strings(command), args: strings(arguments), ..Default::default() };
        let image =
            ImageProcess { entrypoint: strings(&["/ep"]), cmd: strings(&["cmd"]), ..Default::default() };
        args(&config, &image).unwrap()
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_by_the_documented_table() {
        assert_eq!(run(&[], &[]), ["/ep", "cmd"]);
        assert_eq!(run(&["/c"], &[]), ["/c"]);
        assert_eq!(run(&[], &["a"]), ["/ep", "a"]);
        assert_eq!(run(&["/c"], &["a"]), ["/c", "a"]);
    }

    #[test]
    fn nothing_to_execute_is_an_error() {
        assert!(args(&ContainerConfig::default(), &ImageProcess::default()).is_err());
    }

    #[test]
    fn the_containers_environment_goes_over_the_images() {
        let wanted = [KeyValue { key: "A".to_owned(), value: "2".to_owned() }];
        let env = env(&strings(&["PATH=/x", "A=1", "B=3"]), &wanted, &[("HOME", "/root")]).unwrap();
        assert_eq!(env, ["PATH=/x", "A=2", "B=3", "HOME=/root"]);
    }

    #[test]
    fn a_path_is_given_where_none_is_set() {
        assert_eq!(env(&[], &[], &[]).unwrap(), [DEFAULT_PATH]);
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let config = ContainerConfig { working_dir: "x".to_owned(), ..Default::default() };
        assert!(cwd(&config, &ImageProcess::default()).is_err());
        assert_eq!(cwd(&ContainerConfig::default(), &ImageProcess::default()).unwrap(), "/");
    }
}
