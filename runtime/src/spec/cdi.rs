//! CDI, the container device interface: what a device's vendor wants changed in a container that gets it.
//!
//! In: the text of specification files (CDI 0.1.0 to 1.1.0, JSON or YAML), the names a container asks for. Out: the changes that
//! come with these devices, in the order they were asked for; what is shared by a file's devices comes once, first. A field that
//! is not known, and a change that cannot be made, is an error: a device that works by half is worse than none.

use std::collections::BTreeSet;

use pintle_cri_api::v1::{ContainerConfig, KeyValue, Mount, MountPropagation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Error;

/// The annotations that ask for devices, their names separated by commas.
const ANNOTATIONS: &str = "cdi.k8s.io/";
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// The hooks that the library runs. Those of the end and after the start it does not.
const HOOKS: [&str; 4] = ["prestart", "createRuntime", "createContainer", "startContainer"];
/// The most devices a container asks for by name.
const MAX_NAMES: usize = 256;

/// A specification file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    cdi_version: String,
    /// `vendor/class`.
    kind: String,
    #[serde(default)]
    /// For people; known so that it is not refused.
    annotations: Map<String, Value>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    /// For people; known so that it is not refused.
    annotations: Map<String, Value>,
    #[serde(default)]
    container_edits: Edits,
}

/// Changes of a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<CdiMount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<Value>,
    net_devices: Vec<Value>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Node {
    /// Its path inside.
    pub path: String,
    /// Its path on the node; empty: the same.
    pub host_path: String,
    /// `c`, `u`, `b` or `p`; empty: as on the node.
    pub r#type: String,
    /// Major number; 0 with an empty type: as on the node.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permissions; none: as on the node.
    pub file_mode: Option<u32>,
    /// What may be done with it; empty: everything.
    pub permissions: String,
    /// Owner; none: the container's user.
    pub uid: Option<u32>,
    /// Group; none: the container's.
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct CdiMount {
    host_path: String,
    container_path: String,
    r#type: String,
    options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u64>,
}

/// All the changes that a container gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Injection {
    /// The container's configuration with the variables and mounts in it.
    pub config: ContainerConfig,
    /// Device nodes, to be looked up on the node.
    pub nodes: Vec<Node>,
    /// OCI's hooks; null: none.
    pub hooks: Value,
    /// Groups more for the container's user.
    pub gids: Vec<u32>,
}

/// Reads a file's text.
///
/// # Errors
/// With what is wrong with it, for people.
pub fn parse(text: &str, is_json: bool) -> Result<Document, String> {
    let document: Document = match is_json {
        true => serde_json::from_str(text).map_err(|e| e.to_string())?,
        false => serde_saphyr::from_str(text).map_err(|e| e.to_string())?,
    };
    if !VERSIONS.contains(&document.cdi_version.as_str()) {
        let known = VERSIONS.join(", ");
        return Err(format!("cdiVersion: {:?} is none of {known}", document.cdi_version));
    }
    if !is_kind(&document.kind) {
        return Err(format!("kind: {:?} is no vendor/class", document.kind));
    }
    let mut names = BTreeSet::new();
    for Device { name, .. } in &document.devices {
        if !is_name(name, ":") || !names.insert(name) {
            return Err(format!("devices: the name {name:?} is none, or there twice"));
        }
    }
    Ok(document)
}

impl Document {
    /// The names of its devices, as containers ask for them.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.devices.iter().map(|device| format!("{}={}", self.kind, device.name))
    }
}

/// The devices that a container asks for by name, each once.
///
/// # Errors
/// When one cannot be the name of a device.
pub fn requested(config: &ContainerConfig) -> Result<Vec<String>, Error> {
    let fields = config.cdi_devices.iter().map(|device| ("CDI_devices", device.name.as_str()));
    let annotated = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATIONS));
    let annotated =
        annotated.flat_map(|(_, value)| value.split(',').map(|name| ("annotations", name.trim())));
    let mut names: Vec<String> = Vec::new();
    for (field, name) in fields.chain(annotated) {
        let good = name.split_once('=').is_some_and(|(kind, name)| is_kind(kind) && is_name(name, ":"));
        if !good {
            let shown: String = name.chars().take(64).collect();
            return Err(Error::invalid(
                field,
                format!("{shown:?} is no name of a device: vendor/class=name"),
            ));
        }
        if names.iter().all(|other| other != name) {
            names.push(name.to_owned());
        }
        if names.len() > MAX_NAMES {
            return Err(Error::invalid(field, format!("more than {MAX_NAMES} devices")));
        }
    }
    Ok(names)
}

/// Puts the changes that come with devices into a container's configuration. `found` has each device with its file.
///
/// # Errors
/// When a change cannot be made.
pub fn inject(config: &ContainerConfig, found: &[(&str, &Document)]) -> Result<Injection, Error> {
    let mut injection = Injection { config: config.clone(), ..Default::default() };
    let mut seen: Vec<*const Document> = Vec::new();
    for (name, document) in found {
        if !seen.contains(&std::ptr::from_ref(*document)) {
            seen.push(std::ptr::from_ref(*document));
            injection.take(name, &document.container_edits)?;
        }
        let device = name.split_once('=').map_or(*name, |(_, device)| device);
        let edits = document.devices.iter().filter(|other| other.name == device);
        edits.map(|device| &device.container_edits).try_for_each(|edits| injection.take(name, edits))?;
    }
    Ok(injection)
}

impl Injection {
    fn take(&mut self, device: &str, edits: &Edits) -> Result<(), Error> {
        let Edits { env, device_nodes, mounts, hooks, additional_gids, intel_rdt, net_devices } = edits;
        if intel_rdt.is_some() {
            return Err(unsupported(device, "intelRdt", "cache and bandwidth classes are not supported"));
        }
        if !net_devices.is_empty() {
            return Err(unsupported(device, "netDevices", "moving network devices is not supported"));
        }
        for pair in env {
            let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                Error::invalid("CDI_devices", format!("{device}: env: {pair:?} is no NAME=value"))
            })?;
            let pair = KeyValue { key: key.to_owned(), value: value.to_owned() };
            self.config.envs.push(pair);
        }
        for mount in mounts {
            let mount = cri_mount(device, mount)?;
            self.config.mounts.retain(|other| other.container_path != mount.container_path);
            self.config.mounts.push(mount);
        }
        for hook in hooks {
            self.add_hook(device, hook)?;
        }
        for node in device_nodes {
            self.nodes.retain(|other| other.path != node.path);
            self.nodes.push(node.clone());
        }
        self.gids.extend(additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    fn add_hook(&mut self, device: &str, hook: &Hook) -> Result<(), Error> {
        let name = hook.hook_name.as_str();
        if !HOOKS.contains(&name) {
            let known = HOOKS.join(", ");
            let reason = format!("{name:?} hooks are not run here; only {known} are");
            return Err(unsupported(device, "hooks", &reason));
        }
        if !hook.path.starts_with('/') {
            let reason = format!("{device}: hooks: the path {:?} is not absolute", hook.path);
            return Err(Error::invalid("CDI_devices", reason));
        }
        let mut value = json!({"path": hook.path});
        for (key, list) in [("args", &hook.args), ("env", &hook.env)] {
            if !list.is_empty() {
                value[key] = json!(list);
            }
        }
        if let Some(timeout) = hook.timeout {
            value["timeout"] = json!(timeout);
        }
        if self.hooks.is_null() {
            self.hooks = json!({});
        }
        match self.hooks[name].as_array_mut() {
            Some(list) => list.push(value),
            None => self.hooks[name] = json!([value]),
        }
        Ok(())
    }
}

/// A bind mount in CRI's words.
fn cri_mount(device: &str, mount: &CdiMount) -> Result<Mount, Error> {
    if !matches!(mount.r#type.as_str(), "" | "bind") {
        let reason = format!("type {:?}: only bind mounts are supported", mount.r#type);
        return Err(unsupported(device, "mounts", &reason));
    }
    let mut made = Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        ..Default::default()
    };
    for option in &mount.options {
        match option.as_str() {
            "bind" | "rbind" | "rw" | "private" | "rprivate" | "defaults" => {}
            "ro" => made.readonly = true,
            "slave" | "rslave" => made.propagation = MountPropagation::PropagationHostToContainer.into(),
            "shared" | "rshared" => made.propagation = MountPropagation::PropagationBidirectional.into(),
            other => made.mount_options.push(other.to_owned()),
        }
    }
    Ok(made)
}

fn unsupported(device: &str, field: &str, reason: &str) -> Error {
    Error::unsupported("CDI_devices", format!("{device}: {field}: {reason}"))
}

fn is_kind(kind: &str) -> bool {
    let starts = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    let whole = |(vendor, class): (&str, &str)| {
        starts(vendor) && is_name(vendor, ".") && starts(class) && is_name(class, "")
    };
    kind.split_once('/').is_some_and(whole)
}

/// Letters and digits, and between them `_`, `-`, `.` and what else is allowed.
fn is_name(name: &str, also: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c) || also.contains(c);
    name.len() <= 253 && ends(name.chars().next()) && ends(name.chars().last()) && name.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "\
cdiVersion: 0.6.0
kind: vendor.test/gpu
containerEdits:
  env: [SHARED=yes]
devices:
- name: one
  containerEdits:
    env: [\"INDEX=1\"]
    deviceNodes:
    - {path: /dev/gpu1, hostPath: /dev/null, permissions: rw}
    mounts:
    - {hostPath: /lib/gpu, containerPath: /lib/gpu, options: [ro, nosuid, bind]}
    hooks:
    - {hookName: createContainer, path: /bin/hook, args: [hook, run], timeout: 3}
    additionalGids: [0, 44]
- name: two
  containerEdits: {env: [\"INDEX=2\"]}
";

    fn asked(names: &[&str]) -> ContainerConfig {
        let device = |name: &&str| pintle_cri_api::v1::CdiDevice { name: (*name).to_owned() };
        ContainerConfig { cdi_devices: names.iter().map(device).collect(), ..Default::default() }
    }

    fn injected(edits: &str) -> Result<Injection, Error> {
        let text = format!(
            r#"{{"cdiVersion": "1.0.0", "kind": "v/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
        );
        let document = parse(&text, true).unwrap();
        inject(&ContainerConfig::default(), &[("v/c=d", &document)])
    }

    #[test]
    fn what_is_shared_comes_once_and_first_and_devices_in_the_order_asked_for() {
        let document = parse(YAML, false).unwrap();
        let both = [("vendor.test/gpu=two", &document), ("vendor.test/gpu=one", &document)];
        let injection = inject(&ContainerConfig::default(), &both).unwrap();
        let env: Vec<_> =
            injection.config.envs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
        assert_eq!(env, ["SHARED=yes", "INDEX=2", "INDEX=1"]);
        assert_eq!(
            (injection.nodes[0].path.as_str(), injection.nodes[0].host_path.as_str()),
            ("/dev/gpu1", "/dev/null")
        );
        let mount = &injection.config.mounts[0];
        assert!(mount.readonly && mount.mount_options == ["nosuid"] && mount.propagation == 0);
        let hook = json!({"path": "/bin/hook", "args": ["hook", "run"], "timeout": 3});
        assert_eq!(injection.hooks, json!({"createContainer": [hook]}));
        assert_eq!(injection.gids, [44]);
    }

    #[test]
    fn devices_are_asked_for_by_field_and_by_annotation_each_once() {
        let mut config = asked(&["v/c=a", "v/c=b"]);
        config.annotations.insert("cdi.k8s.io/plugin_x".to_owned(), "v/c=b,w.x/y=c:0".to_owned());
        config.annotations.insert("other".to_owned(), "nonsense".to_owned());
        assert_eq!(requested(&config).unwrap(), ["v/c=a", "v/c=b", "w.x/y=c:0"]);
        for wrong in ["", "gpu", "v/c", "v/c=", "v/c=../x", "/c=a", "1v/c=a"] {
            assert!(requested(&asked(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_an_unknown_version_or_with_unknown_fields_is_refused() {
        let of = |version: &str, more: &str| {
            parse(&format!(r#"{{"cdiVersion": "{version}", "kind": "v/c"{more}}}"#), true)
        };
        of("0.3.0", "").unwrap();
        of("1.1.0", r#", "devices": [{"name": "0"}]"#).unwrap();
        for (version, more) in [
            ("9.0.0", ""),
            ("1.0.0", r#", "surprise": 1"#),
            ("1.0.0", r#", "containerEdits": {"surprise": 1}"#),
            ("1.0.0", r#", "devices": [{"name": "a"}, {"name": "a"}]"#),
        ] {
            assert!(of(version, more).is_err(), "{version} {more}");
        }
        assert!(parse(r#"{"cdiVersion": "1.0.0", "kind": "no kind"}"#, true).is_err());
    }

    #[test]
    fn a_change_that_cannot_be_made_is_refused_by_name_and_never_left_out() {
        for (edits, named) in [
            (r#"{"intelRdt": {"closID": "x"}}"#, "intelRdt"),
            (r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}"#, "netDevices"),
            (r#"{"hooks": [{"hookName": "poststop", "path": "/x"}]}"#, "poststop"),
            (r#"{"mounts": [{"hostPath": "t", "containerPath": "/t", "type": "tmpfs"}]}"#, "tmpfs"),
        ] {
            let error = injected(edits).unwrap_err();
            assert!(
                matches!(error, Error::Unsupported { .. }) && error.to_string().contains(named),
                "{error}"
            );
        }
        assert!(injected(r#"{"env": ["=x"]}"#).is_err());
        assert!(injected(r#"{"hooks": [{"hookName": "prestart", "path": "x"}]}"#).is_err());
    }
}
