//! Looks up the devices that a container asks for by CDI's names, in the node's specification files.
//!
//! In: the directories, the container's configuration. Out: the configuration with what the devices bring, and the device nodes
//! as they are on the node. A device named in two directories is the later one's; one named twice in a directory is nobody's. A
//! file that cannot be read concerns only those who ask for a device that is found nowhere. Read only when a device is asked
//! for, each time anew: what a vendor's program has just written counts.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use pintle_cri_api::v1::ContainerConfig;

use super::{
    error::{Error, Result},
    lookups, records,
};
use crate::spec::{
    bounds,
    cdi::{self, Document, Injection, Node},
    devices::HostDevice,
    user::ResolvedUser,
};

/// The most files read of a directory.
const MAX_FILES: usize = 256;

/// What the named devices bring; nothing when none is asked for.
///
/// # Errors
/// When a device is not there, or wants what cannot be.
pub fn injection(dirs: &[PathBuf], config: &ContainerConfig) -> Result<Option<Injection>> {
    let names = cdi::requested(config)?;
    if names.is_empty() {
        return Ok(None);
    }
    let files = Files::read(dirs)?;
    let found =
        names.iter().map(|name| Ok((name.as_str(), files.device(name)?))).collect::<Result<Vec<_>>>()?;
    let injection = cdi::inject(config, &found)?;
    bounds::container(&injection.config)?;
    for mount in &injection.config.mounts[..] {
        let asked = config.mounts.contains(mount);
        if !asked && !Path::new(&mount.host_path).exists() {
            let text = format!("CDI_devices: {} is to be mounted and is not there", mount.host_path);
            return Err(Error::FailedPrecondition(text));
        }
    }
    Ok(Some(injection))
}

/// The device nodes as they are on the node.
///
/// # Errors
/// When one is not there, or is no device.
pub fn nodes(injection: &Injection, user: &ResolvedUser) -> Result<Vec<HostDevice>> {
    injection.nodes.iter().map(|node| host_device(node, user)).collect()
}

fn host_device(node: &Node, user: &ResolvedUser) -> Result<HostDevice> {
    let bad =
        |reason: String| Error::InvalidArgument(format!("CDI_devices: deviceNodes: {}: {reason}", node.path));
    if !node.path.starts_with('/') || node.path.split('/').any(|part| part == "..") {
        return Err(bad("is no plain absolute path".to_owned()));
    }
    if node.permissions.chars().any(|c| !"rwm".contains(c)) {
        return Err(bad(format!("permissions: {:?} are not some of rwm", node.permissions)));
    }
    let host_path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let found = lookups::device_at(Path::new(host_path), node.path.clone(), access);
    let given = given_device(node).map_err(bad)?;
    let mut device = match (given, found) {
        (Some(given), Ok(Some(found))) => {
            HostDevice { mode: found.mode, host_path: found.host_path, ..given }
        }
        (Some(given), _) => given,
        (None, Ok(Some(found))) => found,
        (None, Ok(None)) => return Err(bad(format!("{host_path} is not a device"))),
        (None, Err(error)) => return Err(bad(error.chain())),
    };
    access.clone_into(&mut device.access);
    device.mode = node.file_mode.unwrap_or(device.mode) & 0o7777;
    // As CDI has it: whoever runs in the container can open it.
    device.uid = node.uid.unwrap_or(if user.uid > 0 { user.uid } else { device.uid });
    device.gid = node.gid.unwrap_or(if user.gid > 0 { user.gid } else { device.gid });
    Ok(device)
}

/// The device by the numbers of the file, if it has them.
fn given_device(node: &Node) -> std::result::Result<Option<HostDevice>, String> {
    let kind = match node.r#type.as_str() {
        "" => return Ok(None),
        "c" | "u" => 'c',
        "b" => 'b',
        other => return Err(format!("type: {other:?} is neither c nor b")),
    };
    if node.major == 0 {
        return Ok(None);
    }
    let number = |value: i64| u32::try_from(value).map_err(|_| format!("{value} is no device number"));
    Ok(Some(HostDevice {
        path: node.path.clone(),
        host_path: PathBuf::new(),
        kind,
        major: number(node.major)?,
        minor: number(node.minor)?,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: String::new(),
    }))
}

/// The specification files of all directories.
#[derive(Debug, Default)]
struct Files {
    documents: Vec<Document>,
    /// By the device's name: which document has it, or the directory in which several have.
    devices: BTreeMap<String, std::result::Result<usize, PathBuf>>,
    /// Files that cannot be read, and why.
    unreadable: Vec<String>,
}

impl Files {
    fn read(dirs: &[PathBuf]) -> Result<Self> {
        let mut files = Self::default();
        for dir in dirs {
            files.read_dir(dir)?;
        }
        Ok(files)
    }

    fn read_dir(&mut self, dir: &Path) -> Result<()> {
        let mut here: BTreeMap<String, std::result::Result<usize, PathBuf>> = BTreeMap::new();
        for path in paths(dir)? {
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            let read = records::read_bounded(&path).map_err(|error| error.chain()).and_then(|bytes| {
                let text = String::from_utf8(bytes.unwrap_or_default()).map_err(|error| error.to_string())?;
                cdi::parse(&text, is_json)
            });
            let document = match read {
                Ok(document) => document,
                Err(reason) => {
                    self.unreadable.push(format!("{}: {reason}", path.display()));
                    continue;
                }
            };
            for name in document.names() {
                let index = self.documents.len();
                here.entry(name).and_modify(|other| *other = Err(dir.to_owned())).or_insert(Ok(index));
            }
            self.documents.push(document);
        }
        self.devices.extend(here);
        Ok(())
    }

    fn device(&self, name: &str) -> Result<&Document> {
        match self.devices.get(name) {
            Some(Ok(index)) => Ok(&self.documents[*index]),
            Some(Err(dir)) => {
                let text = format!("CDI_devices: several files in {} have {name}", dir.display());
                Err(Error::FailedPrecondition(text))
            }
            None => {
                let unreadable = match self.unreadable.as_slice() {
                    [] => String::new(),
                    list => format!("; not readable: {}", list.join("; ")),
                };
                Err(Error::InvalidArgument(format!("CDI_devices: there is no device {name}{unreadable}")))
            }
        }
    }
}

/// The specification files of a directory, sorted; none when there is none.
fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("listing", dir))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("listing", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "json" || extension == "yaml") {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            let text = format!("CDI_devices: {} has more than {MAX_FILES} files", dir.display());
            return Err(Error::FailedPrecondition(text));
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(device: &str, env: &str) -> String {
        format!(
            "cdiVersion: 0.5.0\nkind: v.test/c\ndevices:\n- name: {device}\n  containerEdits:\n    env: [{env}]\n"
        )
    }

    fn env(dirs: &[PathBuf], device: &str) -> Result<String> {
        let device = pintle_cri_api::v1::CdiDevice { name: format!("v.test/c={device}") };
        let config = ContainerConfig {
            metadata: Some(pintle_cri_api::v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(pintle_cri_api::v1::ImageSpec { image: "i".to_owned(), ..Default::default() }),
            cdi_devices: vec![device],
            ..Default::default()
        };
        Ok(injection(dirs, &config)?.unwrap().config.envs[0].value.clone())
    }

    #[test]
    fn a_later_directory_goes_before_an_earlier_one_and_two_files_of_one_do_not() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["etc", "run", "missing"].map(|name| root.path().join(name));
        dirs[..2].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        fs::write(dirs[0].join("a.yaml"), document("x", "FROM=etc")).unwrap();
        fs::write(dirs[1].join("a.yaml"), document("x", "FROM=run")).unwrap();
        fs::write(dirs[0].join("b.yaml"), document("y", "FROM=etc")).unwrap();
        fs::write(dirs[0].join("c.yaml"), document("y", "FROM=etc")).unwrap();
        assert_eq!(env(&dirs, "x").unwrap(), "run");
        assert!(env(&dirs, "y").unwrap_err().to_string().contains("several files"));
        fs::write(dirs[0].join("broken.json"), "{").unwrap();
        assert_eq!(env(&dirs, "x").unwrap(), "run", "a broken file concerns nobody else");
        let error = env(&dirs, "z").unwrap_err().to_string();
        assert!(error.contains("no device v.test/c=z") && error.contains("broken.json"), "{error}");
    }
}
