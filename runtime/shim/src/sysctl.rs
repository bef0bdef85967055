//! Kernel parameters of the namespaces that the calling process is in.
//!
//! In: OCI's `linux.sysctl`. Out: values in `/proc/sys`. The directory is opened while there is one, and written to
//! when the process has no `/proc` any more; which namespace's values its files show is decided at the moment of opening
//! them. Which parameters may be set is the engine's to know; here no name leads out of the directory.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use oci_spec::runtime::Linux;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// What could not be set. Begins as the engine expects it.
#[derive(Debug, thiserror::Error)]
#[error("linux.sysctls: {name}={value}")]
pub(crate) struct SysctlError {
    name: String,
    value: String,
    source: io::Error,
}

/// Parameters to be set, and where.
#[derive(Debug)]
pub(crate) struct Sysctls {
    directory: OwnedFd,
    wanted: Vec<(String, String)>,
}

impl Sysctls {
    /// Those of a configuration; nothing when there are none.
    pub(crate) fn of(linux: &Linux) -> io::Result<Option<Self>> {
        let mut wanted = linux
            .sysctl()
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>();
        if wanted.is_empty() {
            return Ok(None);
        }
        // The same order each time.
        wanted.sort();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(Self { directory: rustix::fs::openat(CWD, "/proc/sys", flags, Mode::empty())?, wanted }))
    }

    /// Sets them.
    pub(crate) fn set(&self) -> Result<(), SysctlError> {
        self.wanted.iter().try_for_each(|parameter| self.set_one(parameter))
    }

    /// Sets those that the caller may set; what it may not is left to be set by somebody else.
    pub(crate) fn set_permitted(&mut self) -> Result<(), SysctlError> {
        let mut denied = Vec::new();
        for parameter in &self.wanted {
            match self.set_one(parameter) {
                Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
                    denied.push(parameter.clone());
                }
                other => other?,
            }
        }
        self.wanted = denied;
        Ok(())
    }

    fn set_one(&self, (name, value): &(String, String)) -> Result<(), SysctlError> {
        let write = || -> io::Result<()> {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat2(&self.directory, path_of(name), flags, Mode::empty(), resolve)?;
            File::from(file).write_all(value.as_bytes())
        };
        write().map_err(|source| SysctlError { name: name.clone(), value: value.clone(), source })
    }
}

/// `net.ipv4.conf.eth0/1.rp_filter` is `net/ipv4/conf/eth0.1/rp_filter`.
fn path_of(name: &str) -> String {
    let turn = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls(wanted: &serde_json::Value) -> Option<Sysctls> {
        let linux = serde_json::json!({"sysctl": wanted});
        Sysctls::of(&serde_json::from_value(linux).unwrap()).unwrap()
    }

    #[test]
    fn dots_separate_and_slashes_stand_for_dots() {
        assert_eq!(path_of("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
    }

    #[test]
    fn what_is_not_there_or_leads_out_is_an_error_that_names_it() {
        assert!(sysctls(&serde_json::json!({})).is_none());
        for name in ["net.ipv4.there_is_none", "net.//.//.uptime"] {
            let error = sysctls(&serde_json::json!({name: "1"})).unwrap().set().unwrap_err();
            assert!(error.to_string().starts_with("linux.sysctls: ") && error.to_string().contains(name));
        }
    }
}
