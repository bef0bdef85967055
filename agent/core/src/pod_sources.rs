//! Merges the files of a manifest directory into the set of pods that are wanted on this node.
//!
//! In: what became of files, in batches. Out: the wanted pods by uid, and what is wrong with the files. It reads no
//! directory itself.
//!
//! ```text
//!            Pods                      Broken, Empty, Unreadable
//!   (none) ───────► good ◄──────────────────────────────────► good, with trouble: last good pods stay
//!     ▲               │ Removed                                   │ Removed
//!     └───────────────┴───────────────────────────────────────────┘  pods go
//! ```
//!
//! Of two claims on one pod the older holds, and of two that came in one batch the first by path; when it goes away
//! the next one takes over. So what is wanted depends on what the files say and on who was first, and on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::PodUid;
use crate::manifest::{self, ManifestErrors, NodeInfo, Position};
use crate::model::DesiredPod;
use crate::time::Timestamp;

/// Whether a file of this name is a manifest. Editors' backups, swap and probe files are not.
pub fn is_manifest_name(name: &str) -> bool {
    let hidden_or_temporary = name.starts_with(['.', '#']) || name.ends_with(['~', '#']);
    !hidden_or_temporary
        && [".yaml", ".yml", ".json"].iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Pods; possibly none, if there are only comments.
    Pods(Vec<DesiredPod>),
    /// Something that is no valid manifest.
    Broken(ManifestErrors),
    /// Nothing at all: an editor that truncates before it writes, or an unlucky moment.
    Empty,
    /// It could not be read, for this reason.
    Unreadable(String),
}

impl Content {
    /// Reads a file's bytes.
    pub fn read(file: &Path, bytes: &[u8], node: &NodeInfo, seen: Timestamp) -> Self {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Self::Empty;
        }
        match manifest::parse(&file.display().to_string(), bytes, node, seen) {
            Ok(pods) => Self::Pods(pods),
            Err(errors) => Self::Broken(errors),
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is there, with this content.
    Seen(PathBuf, Content),
    /// It is not there.
    Removed(PathBuf),
}

/// Something that the owner of the files should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct SourceError {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub position: Option<Position>,
    /// The path of the field; empty if it concerns all of the file.
    pub field: String,
    /// What is wrong, and what to do about it.
    pub reason: String,
    /// The pods (`namespace/name`) that keep running as the file last said.
    pub kept: Vec<String>,
}

impl SourceError {
    fn text(&self) -> String {
        let mut text = self.file.display().to_string();
        if let Some(position) = self.position {
            text.push_str(&format!(":{}:{}", position.line, position.column));
        }
        if !self.field.is_empty() {
            text.push_str(": ");
            text.push_str(&self.field);
        }
        text.push_str(": ");
        text.push_str(&self.reason);
        if !self.kept.is_empty() {
            text.push_str(&format!("; {} keeps running as the file said before", self.kept.join(", ")));
        }
        text
    }
}

/// What is wanted on the node, and what stands in the way.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// The pods.
    pub pods: BTreeMap<PodUid, Arc<DesiredPod>>,
    /// By file and line.
    pub errors: Vec<SourceError>,
}

/// The files of a manifest directory.
#[derive(Debug, Clone, Default)]
pub struct PodSources {
    files: BTreeMap<PathBuf, File>,
    batches: u64,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What it last said when it was good.
    pods: Vec<Arc<DesiredPod>>,
    /// In which batch it first claimed each pod that it claims now.
    since: BTreeMap<PodName, u64>,
    /// Why its pods are not what it says now.
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone)]
enum Trouble {
    Broken(ManifestErrors),
    Empty,
    Unreadable(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PodName {
    namespace: String,
    name: String,
}

impl PodName {
    fn of(pod: &DesiredPod) -> Self {
        Self { namespace: pod.namespace().to_owned(), name: pod.name().to_owned() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodSources {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of changes that were seen at the same time. The last one of a file counts.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.batches += 1;
        for change in changes {
            match change {
                Change::Seen(path, content) => {
                    let batch = self.batches;
                    self.files.entry(path).or_default().see(content, batch);
                }
                Change::Removed(path) => {
                    self.files.remove(&path);
                }
            }
        }
    }

    /// Takes note of a whole directory: files that are not in it are gone.
    pub fn apply_directory(&mut self, directory: BTreeMap<PathBuf, Content>) {
        let gone: Vec<PathBuf> =
            self.files.keys().filter(|path| !directory.contains_key(*path)).cloned().collect();
        let removed = gone.into_iter().map(Change::Removed);
        let seen = directory.into_iter().map(|(path, content)| Change::Seen(path, content));
        self.apply(removed.chain(seen));
    }

    /// The files that are known, for finding out which of them are gone.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// What is wanted now.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        let mut holders: BTreeMap<PodName, &Path> = BTreeMap::new();
        for (path, pod) in self.claims() {
            let name = PodName::of(pod);
            let holder = holders.get(&name).copied();
            let same_uid = wanted.pods.get(&pod.uid);
            match (holder, same_uid) {
                (None, None) => {
                    holders.insert(name, path);
                    wanted.pods.insert(pod.uid.clone(), Arc::clone(pod));
                }
                (Some(holder), _) => wanted.errors.push(refused(path, &name, holder)),
                (None, Some(other)) => wanted.errors.push(refused_uid(path, pod, other)),
            }
        }
        for (path, file) in &self.files {
            wanted.errors.extend(file.errors(path, |name| holders.get(name) == Some(&path.as_path())));
        }
        wanted.errors.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
        wanted
    }

    /// Every claim on a pod, the one with the best right first.
    fn claims(&self) -> impl Iterator<Item = (&Path, &Arc<DesiredPod>)> {
        let mut claims: Vec<(u64, &Path, &Arc<DesiredPod>)> = self
            .files
            .iter()
            .flat_map(|(path, file)| file.pods.iter().map(move |pod| (file.since(pod), path.as_path(), pod)))
            .collect();
        // Stable: claims of one file stay in the file's order.
        claims.sort_by_key(|(since, path, _)| (*since, *path));
        claims.into_iter().map(|(_, path, pod)| (path, pod))
    }
}

impl File {
    fn see(&mut self, content: Content, batch: u64) {
        self.trouble = match content {
            Content::Pods(pods) => {
                self.take(pods, batch);
                None
            }
            Content::Broken(errors) => Some(Trouble::Broken(errors)),
            Content::Empty => Some(Trouble::Empty),
            Content::Unreadable(reason) => Some(Trouble::Unreadable(reason)),
        };
    }

    /// Takes over pods. One that says the same as before stays the same object, with the time it was first seen.
    fn take(&mut self, pods: Vec<DesiredPod>, batch: u64) {
        let before = std::mem::take(&mut self.pods);
        let same = |pod: &DesiredPod| {
            before.iter().find(|old| {
                old.uid == pod.uid && old.hash == pod.hash && PodName::of(old) == PodName::of(pod)
            })
        };
        self.pods = pods
            .into_iter()
            .map(|pod| same(&pod).map_or_else(|| Arc::new(pod.clone()), Arc::clone))
            .collect();
        let names: BTreeSet<PodName> = self.pods.iter().map(|pod| PodName::of(pod)).collect();
        self.since.retain(|name, _| names.contains(name));
        for name in names {
            self.since.entry(name).or_insert(batch);
        }
    }

    fn since(&self, pod: &DesiredPod) -> u64 {
        self.since.get(&PodName::of(pod)).copied().unwrap_or(u64::MAX)
    }

    /// What is wrong with the file. `holds` says which of the pods that it claims are its own.
    fn errors(&self, path: &Path, holds: impl Fn(&PodName) -> bool) -> Vec<SourceError> {
        let kept: Vec<String> = self
            .pods
            .iter()
            .map(|pod| PodName::of(pod))
            .filter(|name| holds(name))
            .map(|name| name.to_string())
            .collect();
        let error = |reason: String| SourceError {
            file: path.to_owned(),
            position: None,
            field: String::new(),
            reason,
            kept: kept.clone(),
        };
        match &self.trouble {
            None => Vec::new(),
            // A file that never said anything is just empty.
            Some(Trouble::Empty) if self.pods.is_empty() => Vec::new(),
            Some(Trouble::Empty) => vec![error("the file is empty; delete it to remove its pods".to_owned())],
            Some(Trouble::Unreadable(reason)) => vec![error(format!("the file cannot be read: {reason}"))],
            Some(Trouble::Broken(errors)) => broken(errors, &error),
        }
    }
}

fn broken(errors: &ManifestErrors, error: &impl Fn(String) -> SourceError) -> Vec<SourceError> {
    let mut list: Vec<SourceError> = errors
        .errors
        .iter()
        .map(|found| SourceError {
            position: Some(found.position),
            field: found.field.clone(),
            ..error(match &found.help {
                Some(help) => format!("{}; {help}", found.reason),
                None => found.reason.clone(),
            })
        })
        .collect();
    if errors.omitted > 0 {
        let position = errors.errors.last().map(|last| last.position);
        list.push(SourceError { position, ..error(format!("and {} more errors", errors.omitted)) });
    }
    list
}

fn refused(path: &Path, name: &PodName, holder: &Path) -> SourceError {
    let reason = if path == holder {
        format!("pod {name} is claimed twice in this file; only the first is run")
    } else {
        format!("pod {name} is already claimed by {}; this one is not run", holder.display())
    };
    SourceError {
        file: path.to_owned(),
        position: None,
        field: "metadata.name".to_owned(),
        reason,
        kept: Vec::new(),
    }
}

fn refused_uid(path: &Path, pod: &DesiredPod, other: &DesiredPod) -> SourceError {
    let reason = format!(
        "pod {} has the uid of pod {} in {}; this one is not run",
        PodName::of(pod),
        PodName::of(other),
        other.source
    );
    SourceError {
        file: path.to_owned(),
        position: None,
        field: "metadata.uid".to_owned(),
        reason,
        kept: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_manifest_name;

    #[test]
    fn only_names_that_a_person_gave_to_a_manifest_count() {
        for name in ["web.yaml", "web.yml", "web.json", "10-web.pod.yaml", "a#b.yaml"] {
            assert!(is_manifest_name(name), "{name}");
        }
        for name in [
            "",
            ".yaml",
            ".web.yaml",
            ".web.yaml.swp",
            ".#web.yaml",
            "web.yaml~",
            "#web.yaml#",
            "web.yaml#",
            "4913",
            "web.yaml.bak",
            "web.yaml.tmp",
            "web.swp",
            "web.txt",
            "README",
            "yaml",
        ] {
            assert!(!is_manifest_name(name), "{name}");
        }
    }
}
