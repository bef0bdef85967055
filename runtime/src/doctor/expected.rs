//! What the records on disk say that there is.
//!
//! In: the state directory; while an engine runs, the ids it knows. Out: [`Expected`]. It reads and changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Holds, found};
use crate::engine::{
    error::{Error, Result},
    host, ids,
    layout::Layout,
    records::{self, ContainerRecord, NamespaceMode, Record, SandboxPhase, SandboxRecord},
    watch::read_exit,
};

/// A container's record, and whether the container has ended.
#[derive(Debug, Clone)]
pub struct ExpectedContainer {
    /// What is recorded.
    pub record: ContainerRecord,
    /// Its exit is recorded too.
    pub ended: bool,
}

/// A directory that should be a sandbox's or a container's and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Where it is.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// When it changed last.
    pub since: Option<SystemTime>,
}

impl Stray {
    fn new(path: PathBuf, name: String, reason: String) -> Self {
        let since = found::changed(&path);
        Self { path, name, reason, since }
    }
}

/// What there should be.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// This boot.
    pub boot: String,
    /// The sandboxes by id.
    pub sandboxes: BTreeMap<String, SandboxRecord>,
    /// The containers by id.
    pub containers: BTreeMap<String, ExpectedContainer>,
    /// What lies among their directories.
    pub strays: Vec<Stray>,
}

impl Expected {
    /// Reads the records. One that a running engine does not know is as good as none.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn read(layout: &Layout, holds: Option<&Holds>) -> Result<Self> {
        let mut expected = Self { boot: host::boot_id()?, ..Self::default() };
        for (name, path) in list(&layout.sandboxes())? {
            match load::<SandboxRecord>(&name, &path, holds.map(|holds| holds.sandboxes.as_slice())) {
                Ok(record) => drop(expected.sandboxes.insert(name, record)),
                Err(reason) => expected.strays.push(Stray::new(path, name, reason)),
            }
        }
        for (name, path) in list(&layout.containers())? {
            match load::<ContainerRecord>(&name, &path, holds.map(|holds| holds.containers.as_slice())) {
                Ok(record) if !expected.sandboxes.contains_key(&record.sandbox) => {
                    let reason = format!("its sandbox {} has no record", record.sandbox);
                    expected.strays.push(Stray::new(path, name, reason));
                }
                Ok(record) => {
                    let ended = record.end.is_some() || read_exit(&path).is_ok_and(|exit| exit.is_some());
                    expected.containers.insert(name, ExpectedContainer { record, ended });
                }
                Err(reason) => expected.strays.push(Stray::new(path, name, reason)),
            }
        }
        Ok(expected)
    }

    /// Whether processes, mounts, groups and addresses of this sandbox may be there: it is being made, or it was.
    #[must_use]
    pub fn may_run(&self, sandbox: &str) -> bool {
        self.sandboxes.get(sandbox).is_some_and(|record| self.is_of_this_boot(record))
    }

    /// Whether they must be there.
    pub fn must_run(&self) -> impl Iterator<Item = &SandboxRecord> {
        self.sandboxes
            .values()
            .filter(|record| record.phase == SandboxPhase::Ready && self.is_of_this_boot(record))
    }

    /// Whether the sandbox has, or is being given, a network of its own.
    #[must_use]
    pub fn may_have_address(&self, sandbox: &str) -> bool {
        let own = |record: &SandboxRecord| record.config.network != NamespaceMode::Node;
        self.may_run(sandbox) && self.sandboxes.get(sandbox).is_some_and(own)
    }

    /// The sandbox of a container, for findings about it.
    #[must_use]
    pub fn sandbox_of(&self, container: &str) -> Option<&str> {
        self.containers.get(container).map(|known| known.record.sandbox.as_str())
    }

    fn is_of_this_boot(&self, record: &SandboxRecord) -> bool {
        record.boot == self.boot && record.phase != SandboxPhase::Stopped
    }
}

/// The entries of a directory of records; none if it is not there.
fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("listing", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("listing", dir))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

fn load<R: Record>(name: &str, dir: &Path, known: Option<&[super::Held]>) -> std::result::Result<R, String> {
    if !ids::is_id(name) {
        return Err("its name is no id".to_owned());
    }
    if known.is_some_and(|known| known.iter().all(|held| held.id != name)) {
        return Err("the running engine does not know it".to_owned());
    }
    match records::load::<R>(dir) {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err("it has no record".to_owned()),
        Err(error) => Err(error.chain()),
    }
}
