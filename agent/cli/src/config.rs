//! The pod and container files of `runp`, `create` and `pull --pod-config`.
//!
//! In: a JSON or YAML file in crictl's format (field names of PodSandboxConfig and ContainerConfig). Out: the
//! checked message; what crictl fills in is filled in here too (namespace, uid). Files over 1 MiB are refused.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use pintle_cri_api::v1;
use prost::Message;
use serde_json::Value;

use crate::{error::CliError, protojson};

const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads a pod file.
pub(crate) fn pod(path: &Path) -> Result<v1::PodSandboxConfig, CliError> {
    let mut config: v1::PodSandboxConfig = load("runtime.v1.PodSandboxConfig", path)?;
    let Some(metadata) = config.metadata.as_mut().filter(|metadata| !metadata.name.is_empty()) else {
        return Err(wrong(path, "metadata.name is not set"));
    };
    if metadata.namespace.is_empty() {
        "default".clone_into(&mut metadata.namespace);
    }
    if metadata.uid.is_empty() {
        metadata.uid = random_uid()?;
    }
    Ok(config)
}

/// Reads a container file.
pub(crate) fn container(path: &Path) -> Result<v1::ContainerConfig, CliError> {
    let config: v1::ContainerConfig = load("runtime.v1.ContainerConfig", path)?;
    if config.metadata.as_ref().is_none_or(|metadata| metadata.name.is_empty()) {
        return Err(wrong(path, "metadata.name is not set"));
    }
    if config.image.as_ref().is_none_or(|image| image.image.is_empty()) {
        return Err(wrong(path, "image.image is not set"));
    }
    Ok(config)
}

fn load<M: Message + Default>(name: &str, path: &Path) -> Result<M, CliError> {
    let text = read(path)?;
    let value = parse(path, &text)?;
    protojson::from_value(name, value).map_err(|error| wrong(path, &error.to_string()))
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(path, "larger than 1 MiB"));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Value, CliError> {
    if path.extension().is_some_and(|extension| extension == "json") || text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| wrong(path, &error.to_string()))
    } else {
        serde_saphyr::from_str(text).map_err(|error| wrong(path, &error.to_string()))
    }
}

fn wrong(path: &Path, reason: &str) -> CliError {
    CliError::Config { path: path.to_owned(), reason: reason.to_owned() }
}

fn random_uid() -> Result<String, CliError> {
    let path = PathBuf::from("/proc/sys/kernel/random/uuid");
    let uid = std::fs::read_to_string(&path).map_err(|source| CliError::Read { path, source })?;
    Ok(uid.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_pod_file_gets_a_namespace_and_a_uid() {
        let (_dir, path) = file("pod.yaml", "metadata:\n  name: web\nlog_directory: /tmp\nlinux: {}\n");
        let config = pod(&path).unwrap();
        let metadata = config.metadata.unwrap();
        assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("web", "default"));
        assert_eq!(metadata.uid.len(), 36);
        assert_eq!(config.log_directory, "/tmp");
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = r#"{"metadata": {"name": "c"}, "image": {"image": "busybox"}, "envs": [{"key": "A", "value": "1"}],
            "CDI_devices": [{"name": "x"}], "stop_signal": "SIGINT"}"#;
        let yaml = "metadata: {name: c}\nimage: {image: busybox}\nenvs:\n- key: A\n  value: '1'\n\
            CDI_devices: [{name: x}]\nstop_signal: 10\n";
        let (_a, json) = file("c.json", json);
        let (_b, yaml) = file("c.yml", yaml);
        assert_eq!(container(&json).unwrap(), container(&yaml).unwrap());
    }

    #[test]
    fn an_unknown_field_names_file_and_place() {
        let (_dir, path) = file("pod.yaml", "metadata:\n  name: web\n  nmespace: x\n");
        let error = pod(&path).unwrap_err().to_string();
        assert!(
            error.contains("pod.yaml") && error.contains("metadata") && error.contains("nmespace"),
            "{error}"
        );
    }

    #[test]
    fn a_container_needs_an_image() {
        let (_dir, path) = file("c.json", r#"{"metadata": {"name": "c"}}"#);
        assert!(container(&path).unwrap_err().to_string().ends_with("image.image is not set"));
    }

    #[test]
    fn a_huge_file_is_refused() {
        let (_dir, path) = file("c.yaml", &"#".repeat(1024 * 1024 + 1));
        assert!(container(&path).unwrap_err().to_string().ends_with("larger than 1 MiB"));
    }
}
