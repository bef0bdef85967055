//! How much a request may say.
//!
//! In: texts, lists and numbers of CRI messages. Out: nothing, or the field that has too much of it. What is refused here
//! would make records, bundles or packets larger than their readers take, break a line of a file, or lead a path astray.
//! Whether the rest makes sense is looked at elsewhere in `spec`.

use std::collections::BTreeMap;

use pintle_cri_api::v1::{ContainerConfig, ImageSpec, LinuxContainerSecurityContext, PodSandboxConfig};

use super::Error;

/// The most sandboxes. A kubelet's usual limit is 110 pods.
pub const MAX_SANDBOXES: usize = 4096;
/// The most containers in a sandbox, ended ones included: a supervisor's list of them has to fit its packet of 64 KiB.
pub const MAX_CONTAINERS_PER_SANDBOX: usize = 200;
/// The most containers in all, so that a list of usual ones fits the 16 MiB that a kubelet takes.
pub const MAX_CONTAINERS: usize = 16_384;

/// The most bytes of a name; Kubernetes' longest.
pub const MAX_NAME: usize = 253;
/// The most bytes of a pod's UID; it is part of the address lease.
pub const MAX_UID: usize = 256;
/// The most bytes of a label's or annotation's key: a prefix, a slash and a name.
pub const MAX_KEY: usize = 317;
/// The most bytes of all labels and annotations together: twice what Kubernetes takes. They are in every list.
pub const MAX_METADATA: usize = 512 * 1024;
/// The most bytes of the annotations an image is pulled with; every list of images has them.
pub const MAX_IMAGE_ANNOTATIONS: usize = 8 * 1024;
/// The most bytes of one argument or environment variable; the kernel's `MAX_ARG_STRLEN`, less the final NUL.
pub const MAX_ARGUMENT: usize = 128 * 1024 - 1;
/// The most bytes of all arguments and variables together; they are in the bundle, which is read into memory.
pub const MAX_ARGUMENTS: usize = 1024 * 1024;
/// The most bytes of a path; the kernel's `PATH_MAX`, less the final NUL.
pub const MAX_PATH: usize = 4095;
/// The most bytes of a path's component; the kernel's `NAME_MAX`.
pub const MAX_COMPONENT: usize = 255;
/// The most bytes of all paths of a container's mounts together; they are in its record.
pub const MAX_MOUNT_PATHS: usize = 1024 * 1024;
/// The most mounts, devices, port mappings, masked paths of one request.
pub const MAX_ITEMS: usize = 1024;
/// The most capabilities named in one list; Linux has 41.
pub const MAX_CAPABILITIES: usize = 128;
/// The most bytes of a kernel parameter's value.
pub const MAX_SYSCTL: usize = 4095;
/// The most supplementary groups; the kernel's `NGROUPS_MAX`.
pub const MAX_GROUPS: usize = 65_536;

/// Checks the size of a sandbox's configuration.
///
/// # Errors
/// With the first field that says too much.
pub fn sandbox(config: &PodSandboxConfig) -> Result<(), Error> {
    let metadata = config.metadata.clone().unwrap_or_default();
    required_word("metadata.name", &metadata.name, MAX_NAME)?;
    required_word("metadata.uid", &metadata.uid, MAX_UID)?;
    word("metadata.namespace", &metadata.namespace, MAX_NAME)?;
    labelled(&config.labels, &config.annotations)?;
    at_most("port_mappings", config.port_mappings.len(), MAX_ITEMS)?;
    for mapping in &config.port_mappings {
        for (field, port) in [
            ("port_mappings.container_port", mapping.container_port),
            ("port_mappings.host_port", mapping.host_port),
        ] {
            if !(0..=65_535).contains(&port) {
                return Err(Error::invalid(field, format!("{port} is no port")));
            }
        }
    }
    if !config.log_directory.is_empty() {
        absolute("log_directory", &config.log_directory)?;
        inside("log_directory", &config.log_directory)?;
    }
    let parent = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
    path("linux.cgroup_parent", parent)
}

/// Checks the size of a container's configuration.
///
/// # Errors
/// With the first field that says too much.
pub fn container(config: &ContainerConfig) -> Result<(), Error> {
    let metadata = config.metadata.clone().unwrap_or_default();
    required_word("metadata.name", &metadata.name, MAX_NAME)?;
    labelled(&config.labels, &config.annotations)?;
    let image = config.image.clone().unwrap_or_default();
    required_word("image", &image.image, MAX_PATH)?;
    word("image.user_specified_image", &image.user_specified_image, MAX_PATH)?;
    arguments(config)?;
    path("working_dir", &config.working_dir)?;
    path("log_path", &config.log_path)?;
    inside("log_path", &config.log_path)?;
    mounts(config)?;
    at_most("devices", config.devices.len(), MAX_ITEMS)?;
    for device in &config.devices {
        absolute("devices.host_path", &device.host_path)?;
        absolute("devices.container_path", &device.container_path)?;
        inside("devices.container_path", &device.container_path)?;
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.map_or(Ok(()), security_context)
}

/// Checks the size of what says which image is meant.
///
/// # Errors
/// With the first field that says too much.
pub fn image(image: &ImageSpec) -> Result<(), Error> {
    required_word("image", &image.image, MAX_PATH)?;
    word("image.user_specified_image", &image.user_specified_image, MAX_PATH)?;
    word("image.runtime_handler", &image.runtime_handler, MAX_NAME)?;
    at_most("image.annotations", image.annotations.len(), MAX_ITEMS)?;
    let all: usize = image.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    at_most("image.annotations: bytes", all, MAX_IMAGE_ANNOTATIONS)
}

/// Checks the size of a pod's kernel parameters.
///
/// # Errors
/// When there are too many, or a name or value could not be written as it is.
pub fn sysctls(wanted: &BTreeMap<String, String>) -> Result<(), Error> {
    at_most("linux.sysctls", wanted.len(), MAX_ITEMS)?;
    for (name, value) in wanted {
        required_word("linux.sysctls", name, MAX_NAME)?;
        at_most_bytes("linux.sysctls", value.len(), MAX_SYSCTL)?;
        if value.is_empty() || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(Error::invalid("linux.sysctls", format!("{name:?}: {value:?} can be no value")));
        }
    }
    Ok(())
}

/// Checks the size of a command to be run.
///
/// # Errors
/// When it is too long, or can be no argument.
pub fn command(field: &'static str, command: &[String]) -> Result<(), Error> {
    let mut total = 0;
    for argument in command {
        if argument.len() > MAX_ARGUMENT || argument.contains('\0') {
            return Err(Error::invalid(field, "an argument is longer than 128 KiB or holds a NUL byte"));
        }
        total += argument.len() + 1;
    }
    at_most_bytes(field, total, MAX_ARGUMENTS)
}

/// Checks a command that is to be run in a container.
///
/// # Errors
/// As with [`command`], and when there is none.
pub fn to_run(field: &'static str, words: &[String]) -> Result<(), Error> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(field, "there is no command to run"));
    }
    command(field, words)
}

fn arguments(config: &ContainerConfig) -> Result<(), Error> {
    command("command", &config.command)?;
    command("args", &config.args)?;
    let mut total = 0;
    for pair in &config.envs {
        let length = pair.key.len() + pair.value.len() + 2;
        if length > MAX_ARGUMENT {
            return Err(Error::invalid("envs", format!("{:?} is longer than 128 KiB", shown(&pair.key))));
        }
        total += length;
    }
    let words = config.command.iter().chain(&config.args).map(|word| word.len() + 1).sum::<usize>();
    at_most_bytes("envs", total + words, MAX_ARGUMENTS)
}

fn mounts(config: &ContainerConfig) -> Result<(), Error> {
    at_most("mounts", config.mounts.len(), MAX_ITEMS)?;
    let mut total = 0;
    for mount in &config.mounts {
        path("mounts.host_path", &mount.host_path)?;
        path("mounts.image_sub_path", &mount.image_sub_path)?;
        path("mounts.image", mount.image.as_ref().map_or("", |image| image.image.as_str()))?;
        path("mounts.container_path", &mount.container_path)?;
        inside("mounts.container_path", &mount.container_path)?;
        if mount.container_path.split('/').all(str::is_empty) {
            return Err(Error::invalid("mounts.container_path", "nothing can be mounted over the root"));
        }
        total += mount.host_path.len() + mount.container_path.len() + mount.image_sub_path.len();
    }
    at_most_bytes("mounts", total, MAX_MOUNT_PATHS)
}

fn security_context(security: &LinuxContainerSecurityContext) -> Result<(), Error> {
    at_most("supplemental_groups", security.supplemental_groups.len(), MAX_GROUPS)?;
    word("run_as_username", &security.run_as_username, MAX_NAME)?;
    if let Some(wanted) = &security.capabilities {
        for names in [&wanted.add_capabilities, &wanted.drop_capabilities, &wanted.add_ambient_capabilities] {
            at_most("capabilities", names.len(), MAX_CAPABILITIES)?;
            names.iter().try_for_each(|name| word("capabilities", name, MAX_COMPONENT))?;
        }
    }
    let (masked, readonly) = (&security.masked_paths, &security.readonly_paths);
    for (field, paths) in [("masked_paths", masked), ("readonly_paths", readonly)] {
        at_most(field, paths.len(), MAX_ITEMS)?;
        for path in paths {
            absolute(field, path)?;
            inside(field, path)?;
        }
    }
    Ok(())
}

fn labelled(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut total = 0;
    for (field, map) in [("labels", labels), ("annotations", annotations)] {
        for (key, value) in map {
            required_word(field, key, MAX_KEY)?;
            if value.contains('\0') {
                return Err(Error::invalid(field, format!("the value of {key:?} holds a NUL byte")));
            }
            total += key.len() + value.len();
        }
    }
    at_most_bytes("annotations", total, MAX_METADATA)
}

/// A text of one line.
fn word(field: &'static str, text: &str, most: usize) -> Result<(), Error> {
    at_most_bytes(field, text.len(), most)?;
    match text.chars().any(char::is_control) {
        true => Err(Error::invalid(field, format!("{text:?} holds a control character"))),
        false => Ok(()),
    }
}

fn required_word(field: &'static str, text: &str, most: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, "is missing"));
    }
    word(field, text, most)
}

/// A path of a length that the kernel takes; relative or absolute, perhaps empty.
pub(super) fn path(field: &'static str, path: &str) -> Result<(), Error> {
    word(field, path, MAX_PATH)?;
    match path.split('/').find(|part| part.len() > MAX_COMPONENT) {
        Some(part) => {
            let reason = format!("{:?}… is longer than {MAX_COMPONENT} bytes", shown(part));
            Err(Error::invalid(field, reason))
        }
        None => Ok(()),
    }
}

fn absolute(field: &'static str, text: &str) -> Result<(), Error> {
    path(field, text)?;
    match text.starts_with('/') {
        true => Ok(()),
        false => Err(Error::invalid(field, format!("{text:?} is not absolute"))),
    }
}

/// A path that does not lead upwards.
fn inside(field: &'static str, text: &str) -> Result<(), Error> {
    match text.split('/').any(|part| part == "..") {
        true => Err(Error::invalid(field, format!("{text:?} leads upwards"))),
        false => Ok(()),
    }
}

fn at_most(field: &'static str, count: usize, most: usize) -> Result<(), Error> {
    match count > most {
        true => Err(Error::invalid(field, format!("{count} of them; there may be {most}"))),
        false => Ok(()),
    }
}

fn at_most_bytes(field: &'static str, length: usize, most: usize) -> Result<(), Error> {
    match length > most {
        true => Err(Error::invalid(field, format!("{length} bytes; there may be {most}"))),
        false => Ok(()),
    }
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::{ContainerMetadata, ImageSpec, KeyValue, Mount, PodSandboxMetadata};

    use super::*;

    fn good() -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: "i".to_owned(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn mount(container_path: String) -> Mount {
        Mount { container_path, host_path: "/srv".to_owned(), ..Default::default() }
    }

    #[test]
    fn what_is_as_large_as_it_may_be_passes() {
        let pair = |length: usize| KeyValue { key: "K".to_owned(), value: "v".repeat(length) };
        container(&ContainerConfig { envs: vec![pair(MAX_ARGUMENT - 3)], ..good() }).unwrap();
        let long = format!("/{}", "x".repeat(MAX_COMPONENT));
        container(&ContainerConfig { mounts: vec![mount(long)], ..good() }).unwrap();
        let metadata =
            PodSandboxMetadata { name: "n".repeat(MAX_NAME), uid: "u".to_owned(), ..Default::default() };
        sandbox(&PodSandboxConfig { metadata: Some(metadata), ..Default::default() }).unwrap();
    }

    #[test]
    fn what_is_larger_or_leads_astray_is_refused_with_its_field() {
        let pair = |key: &str, length: usize| KeyValue { key: key.to_owned(), value: "v".repeat(length) };
        let many = |count: usize| (0..count).map(|i| mount(format!("/m{i}"))).collect();
        let cases = [
            ("envs", ContainerConfig { envs: vec![pair("K", MAX_ARGUMENT)], ..good() }),
            ("envs", ContainerConfig { envs: (0..9).map(|_| pair("K", 120_000)).collect(), ..good() }),
            ("command", ContainerConfig { command: vec!["a\0b".to_owned()], ..good() }),
            ("mounts", ContainerConfig { mounts: many(MAX_ITEMS + 1), ..good() }),
            ("mounts.container_path", ContainerConfig { mounts: vec![mount("//".to_owned())], ..good() }),
            (
                "mounts.container_path",
                ContainerConfig { mounts: vec![mount("/a/../b".to_owned())], ..good() },
            ),
            (
                "mounts.container_path",
                ContainerConfig { mounts: vec![mount(format!("/{}", "x".repeat(256)))], ..good() },
            ),
            ("log_path", ContainerConfig { log_path: "a\nb".to_owned(), ..good() }),
            ("working_dir", ContainerConfig { working_dir: "/x".repeat(4096), ..good() }),
        ];
        for (wanted, config) in cases {
            let Err(Error::Invalid { field, .. }) = container(&config) else { panic!("{wanted}") };
            assert_eq!(field, wanted);
        }
    }
}
