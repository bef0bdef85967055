//! Seccomp filters, ready to be loaded.
//!
//! In: the profile a container asks for and its capabilities. Out: the filter's file in its bundle. A profile is compiled
//! once: containers with the same profile and capabilities, which are most, share what was made of it.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use pintle_seccomp::{Filter, SeccompError, default, file};
use pintle_shim_protocol::SECCOMP_FILE;

use super::{
    error::{Error, Result},
    host, records,
};
use crate::spec::seccomp::Profile;

/// So many compiled profiles are kept; a node has a few.
const MAX_KEPT: usize = 64;

/// The profile's text, none for the default one, and the capabilities it is for.
type Key = (Option<Vec<u8>>, Vec<String>);

/// The compiled profiles.
#[derive(Debug, Default)]
pub struct Filters {
    kept: Mutex<HashMap<Key, Arc<[u8]>>>,
}

impl Filters {
    /// Writes the filter of a container into its bundle. False: there is none.
    ///
    /// # Errors
    /// When the profile cannot be read or is none.
    pub fn write(&self, profile: &Profile, spec: &Spec, bundle: &Path) -> Result<bool> {
        let Some(text) = text_of(profile)? else { return Ok(false) };
        let key = (text, bounding(spec));
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let filter = match kept {
            Some(filter) => filter,
            None => self.keep(profile, key)?,
        };
        records::write_private(&bundle.join(SECCOMP_FILE), &filter)?;
        Ok(true)
    }

    /// The profile of a container in OCI's form, for a runtime that compiles it by itself. It has to be one that we could
    /// compile too, so that the same profiles are refused. None: there is none.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn oci(&self, profile: &Profile, spec: &Spec) -> Result<Option<LinuxSeccomp>> {
        let Some(text) = text_of(profile)? else { return Ok(None) };
        let capabilities = bounding(spec);
        let typed = parse(text.as_deref(), &capabilities).map_err(|error| unfit(profile, &error))?;
        self.keep(profile, (text, capabilities))?;
        Ok(Some(typed))
    }

    fn keep(&self, profile: &Profile, key: Key) -> Result<Arc<[u8]>> {
        let (text, capabilities) = &key;
        let compiled = parse(text.as_deref(), capabilities).and_then(|typed| pintle_seccomp::compile(&typed));
        let filter: Arc<[u8]> = encode(&compiled.map_err(|error| unfit(profile, &error))?).into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            // Those in use come back with the next container that asks for them.
            kept.clear();
        }
        kept.insert(key, Arc::clone(&filter));
        Ok(filter)
    }
}

fn parse(text: Option<&[u8]>, capabilities: &[String]) -> std::result::Result<LinuxSeccomp, SeccompError> {
    let Some(text) = text else { return default::profile(capabilities) };
    // A version that cannot be read counts as an old one: what is for newer kernels stays closed.
    let kernel = file::version(&host::kernel_release()).unwrap_or_default();
    file::parse(text, file::Conditions { capabilities, kernel })
}

/// None: nothing binds the container. Some(None): the default profile does.
fn text_of(profile: &Profile) -> Result<Option<Option<Vec<u8>>>> {
    match profile {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault => Ok(Some(None)),
        Profile::Localhost(path) => Ok(Some(Some(read(path).map_err(|e| refused(path, &e.to_string()))?))),
    }
}

fn unfit(profile: &Profile, error: &SeccompError) -> Error {
    match profile {
        Profile::Localhost(path) => refused(path, &error.to_string()),
        Profile::RuntimeDefault | Profile::Unconfined => {
            Error::Internal(format!("the default profile: {error}"))
        }
    }
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::InvalidArgument(format!("seccomp profile {}: {reason}", path.display()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Not to wait for a FIFO's other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    let mut text = Vec::new();
    file.take(u64::try_from(file::MAX_FILE).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut text)?;
    Ok(text)
}

/// The capabilities of the bounding set, as `CAP_…`, in order.
fn bounding(spec: &Spec) -> Vec<String> {
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let names = sets.and_then(|sets| sets.bounding().as_ref()).into_iter().flatten();
    let mut names: Vec<String> = names.map(|name| format!("CAP_{name}")).collect();
    names.sort_unstable();
    names
}

fn encode(filter: &Filter) -> Vec<u8> {
    let mut bytes = filter.flags.to_ne_bytes().to_vec();
    for instruction in &filter.program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn spec(capabilities: &[&str]) -> Spec {
        let process =
            json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": capabilities}});
        serde_json::from_value(json!({"ociVersion": "1.2.0", "process": process})).unwrap()
    }

    #[test]
    fn a_profile_is_compiled_once_for_the_same_capabilities() {
        let dir = tempfile::tempdir().unwrap();
        let filters = Filters::default();
        let write = |capabilities: &[&str]| {
            assert!(filters.write(&Profile::RuntimeDefault, &spec(capabilities), dir.path()).unwrap());
            fs::read(dir.path().join(SECCOMP_FILE)).unwrap()
        };
        let plain = write(&["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(plain.len() % 8, 4);
        assert_eq!(write(&["CAP_KILL", "CAP_CHOWN"]), plain);
        assert_eq!(filters.kept.lock().unwrap().len(), 1);
        assert_ne!(write(&["CAP_SYS_ADMIN"]), plain);
        assert_eq!(filters.kept.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_container_without_a_profile_has_no_filter() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Filters::default().write(&Profile::Unconfined, &spec(&[]), dir.path()).unwrap());
        assert!(!dir.path().join(SECCOMP_FILE).exists());
    }

    #[test]
    fn a_profile_of_the_node_is_read_anew_each_time_and_named_when_it_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let filters = Filters::default();
        let profile = Profile::Localhost(path.clone());
        let write = || filters.write(&profile, &spec(&[]), dir.path());
        assert!(write().unwrap_err().to_string().contains("p.json: No such file"));
        fs::write(&path, "{").unwrap();
        assert!(write().unwrap_err().to_string().contains("p.json"));
        fs::write(&path, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        assert!(write().unwrap());
        let allowing = fs::read(dir.path().join(SECCOMP_FILE)).unwrap();
        fs::write(&path, r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
        assert!(write().unwrap());
        assert_ne!(fs::read(dir.path().join(SECCOMP_FILE)).unwrap(), allowing);
    }
}
