//! What an instance could leave on the host, found by asking the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Looks for everything that belongs to the instance with this directory and tag.
#[derive(Debug)]
pub struct Residue {
    dir: PathBuf,
    tag: String,
}

impl Residue {
    /// Of the instance whose root and state lie below `dir` and whose host names carry `tag`.
    pub fn of(dir: &Path, tag: &str) -> Self {
        Self { dir: dir.to_owned(), tag: tag.to_owned() }
    }

    /// Everything there is, a line each; empty when nothing is left.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.mounts().into_iter().map(|mount| format!("mount {}", mount.display())));
        lines.extend(self.cgroups().into_iter().map(|cgroup| format!("cgroup {}", cgroup.display())));
        lines.extend(self.processes().into_iter().map(|(pid, command)| format!("process {pid} {command}")));
        lines
    }

    /// Mount points below the directory, deepest first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|point| point.starts_with(&self.dir))
            .collect();
        found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
        found
    }

    /// Cgroups of the instance in every hierarchy, deepest first.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(folder) = folders.pop() {
            let ours = folder.components().any(|part| part.as_os_str().to_string_lossy().contains(&self.tag));
            if ours {
                found.push(folder.clone());
            }
            // Hierarchies, then our own top: nothing else is worth a walk.
            let depth = folder.components().count() - 4;
            if ours || depth <= 1 {
                let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
                folders.extend(
                    entries
                        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                        .map(|entry| entry.path()),
                );
            }
        }
        found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        found
    }

    /// Processes that name the directory on their command line or live in one of the cgroups. A process that has ended
    /// and waits for the host's init to notice holds nothing and does not count.
    pub fn processes(&self) -> BTreeSet<(i32, String)> {
        let dir = self.dir.to_string_lossy().into_owned();
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let command =
                fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if !stat.contains(") Z ") && (command.contains(&dir) || cgroup.contains(&self.tag)) {
                found.insert((pid, command));
            }
        }
        found
    }
}
