//! The cgroups around the containers, in every hierarchy of the node (v1, hybrid, v2).
//!
//! In: cgroup paths. Out: parent groups made for pods that name none; whatever runs in a dead pod's groups killed; the
//! engine's own groups removed. Containers' limits are the supervisor's business, the `kubepods` tree of an agent is
//! the agent's: nothing here touches a group that the engine was not given by name.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::error::{Error, Failures, Result};
use crate::spec::Hugetlb;

/// The most processes killed in one pass; passes repeat until a group is empty.
const MAX_PIDS: usize = 65_536;

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// One mounted hierarchy.
#[derive(Debug, Clone)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
    /// v1 without controllers (`name=systemd`): old programs want one beside v2.
    named: bool,
    cpuset: bool,
    /// v1 with the controller of huge pages.
    hugetlb: bool,
    /// v1: the controllers, among the mount's other options.
    options: Vec<String>,
}

/// The node's cgroup hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Finds the hierarchies that are mounted.
    ///
    /// # Errors
    /// When the list of mounts cannot be read, or holds none.
    pub fn discover() -> Result<Self> {
        let path = Path::new("/proc/self/mounts");
        let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
        let hierarchies: Vec<_> = text.lines().filter_map(parse_mount).collect();
        if hierarchies.is_empty() {
            return Err(Error::FailedPrecondition(
                "no cgroup file system is mounted on this node".to_owned(),
            ));
        }
        Ok(Self { hierarchies })
    }

    /// Whether the controllers are the unified hierarchy's.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.hierarchies.iter().all(|h| h.unified || h.named)
    }

    /// Where limits on huge pages are set.
    #[must_use]
    pub fn hugetlb(&self) -> Hugetlb {
        let of_unified = |h: &Hierarchy| {
            let controllers = fs::read_to_string(h.mount.join("cgroup.controllers")).unwrap_or_default();
            h.unified && controllers.split_whitespace().any(|name| name == "hugetlb")
        };
        if self.hierarchies.iter().any(|h| h.hugetlb) {
            return Hugetlb::Legacy;
        }
        if self.hierarchies.iter().any(of_unified) { Hugetlb::Unified } else { Hugetlb::None }
    }

    /// On a hybrid node, where nobody else does: lets the groups below the one above `cgroup` limit huge pages.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub fn hand_down_hugetlb(&self, cgroup: &str) -> Result<()> {
        let above = cgroup.trim_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
        for hierarchy in self.hierarchies.iter().filter(|h| h.unified) {
            let mut dir = hierarchy.mount.clone();
            for part in std::iter::once("").chain(above.split('/').filter(|part| !part.is_empty())) {
                dir.push(part);
                let control = dir.join("cgroup.subtree_control");
                let present = fs::read_to_string(&control).map_err(Error::io("reading", &control))?;
                if !present.split_whitespace().any(|name| name == "hugetlb") {
                    fs::write(&control, "+hugetlb").map_err(Error::io("writing", &control))?;
                }
            }
        }
        Ok(())
    }

    /// Writes into files of a group, all or none: what was written before one that fails is put back.
    ///
    /// # Errors
    /// When a file is missing or the kernel does not take a value.
    pub fn write_all(&self, cgroup: &str, writes: &[(String, String)]) -> Result<()> {
        let mut before: Vec<(PathBuf, String)> = Vec::new();
        for (file, value) in writes {
            let written = self.write_one(cgroup, file, value);
            match written {
                Ok(former) => before.push(former),
                Err(error) => {
                    for (path, value) in before.iter().rev() {
                        if let Err(error) = fs::write(path, format!("{}\n", value.trim())) {
                            tracing::warn!(path = %path.display(), %error, "a limit cannot be put back");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn write_one(&self, cgroup: &str, file: &str, value: &str) -> Result<(PathBuf, String)> {
        let missing = || Error::FailedPrecondition(format!("the cgroup {cgroup} has no file {file}"));
        let path = self.file(cgroup, file).ok_or_else(missing)?;
        let former = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, value).map_err(|source| match source.raw_os_error() {
            // The kernel's word for "more is in use, and cannot be taken away".
            Some(number) if number == rustix::io::Errno::BUSY.raw_os_error() => {
                Error::FailedPrecondition(format!("{file}: {value} is less than what is in use"))
            }
            _ => Error::io("writing", &path)(source),
        })?;
        Ok((path, former))
    }

    /// The directory of a group in the hierarchy that has a file of this name, if any has.
    #[must_use]
    pub fn file(&self, cgroup: &str, file: &str) -> Option<PathBuf> {
        self.dirs(cgroup).map(|dir| dir.join(file)).find(|path| path.exists())
    }

    /// The directory of a group in the hierarchy of a controller: on v1 the controller's own, else the unified one.
    #[must_use]
    pub(crate) fn controller_dir(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let own = self.hierarchies.iter().find(|h| h.options.iter().any(|option| option == controller));
        own.map(|h| h.mount.join(cgroup.trim_matches('/'))).or_else(|| self.unified_dir(cgroup))
    }

    /// The directory of a group in the unified hierarchy, if there is one.
    #[must_use]
    pub(crate) fn unified_dir(&self, cgroup: &str) -> Option<PathBuf> {
        let unified = self.hierarchies.iter().find(|h| h.unified);
        unified.map(|h| h.mount.join(cgroup.trim_matches('/')))
    }

    /// Makes a group and those above it, with every controller handed down.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn ensure(&self, cgroup: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.mount.clone();
            for part in cgroup.split('/').filter(|part| !part.is_empty()) {
                if hierarchy.unified && self.is_v2() {
                    hand_down_controllers(&dir)?;
                }
                let parent = dir.clone();
                dir.push(part);
                make_dir(&dir)?;
                if hierarchy.cpuset {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
            if hierarchy.unified && self.is_v2() {
                hand_down_controllers(&dir)?;
            }
        }
        Ok(())
    }

    /// Kills every process in a group and the groups below it, and removes them all. Done already: nothing happens.
    ///
    /// # Errors
    /// When a process does not go away or a group cannot be removed.
    pub fn kill_and_remove(&self, cgroup: &str) -> Result<()> {
        let deadline = Instant::now() + KILL_LIMIT;
        let mut failures = Failures::default();
        for dir in self.dirs(cgroup) {
            failures.note(remove_tree(&dir, cgroup, deadline));
        }
        failures.into_result()
    }

    /// Removes a group in every hierarchy where it is empty and has none below it.
    pub fn remove_if_empty(&self, cgroup: &str) {
        for dir in self.dirs(cgroup) {
            // EBUSY and ENOENT are what "if empty" is about.
            fs::remove_dir(&dir).unwrap_or(());
        }
    }

    /// Whether any process is in a group or below it.
    #[must_use]
    pub fn is_populated(&self, cgroup: &str) -> bool {
        self.dirs(cgroup).any(|dir| !subtree_pids(&dir).is_empty())
    }

    /// Whether a group exists in any hierarchy.
    #[must_use]
    pub fn exists(&self, cgroup: &str) -> bool {
        self.dirs(cgroup).any(|dir| dir.exists())
    }

    /// The names of the groups right below another, in whatever hierarchy.
    pub(crate) fn children(&self, cgroup: &str) -> std::collections::BTreeSet<String> {
        let entries = self.dirs(cgroup).filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The processes in a group and below it.
    pub(crate) fn processes(&self, cgroup: &str) -> std::collections::BTreeSet<i32> {
        self.dirs(cgroup).flat_map(|dir| subtree_pids(&dir)).collect()
    }

    /// Whether a process is in a group and runs, or whether that cannot be found out for want of descriptors or memory.
    #[must_use]
    pub fn may_hold(&self, cgroup: &str, pid: i32) -> bool {
        let read = |file: &str| match fs::read_to_string(format!("/proc/{pid}/{file}")) {
            // ESRCH: it ended between the opening and the reading.
            Err(e) if e.kind() == io::ErrorKind::NotFound || is_no_process(&e) => Some(String::new()),
            other => other.ok(),
        };
        let (Some(stat), Some(groups)) = (read("stat"), read("cgroup")) else { return true };
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        let ended = matches!(state, None | Some('Z' | 'X'));
        !ended && is_in(&groups, cgroup)
    }

    /// A group's directory in every hierarchy.
    pub(crate) fn dirs<'a>(&'a self, cgroup: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        let relative = cgroup.trim_matches('/');
        self.hierarchies.iter().map(move |h| h.mount.join(relative))
    }
}

/// The groups named by an id in which processes run, wherever in the tree they are: for an id whose record is lost.
#[must_use]
pub fn occupied_groups_of(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
            found.extend(paths.filter_map(|path| up_to(path, id)));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A path up to and with the component that is the name.
fn up_to(path: &str, name: &str) -> Option<String> {
    let mut walked = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        walked = format!("{walked}/{part}");
        if part == name {
            return Some(walked);
        }
    }
    None
}

fn parse_mount(line: &str) -> Option<Hierarchy> {
    let mut fields = line.split(' ').skip(1);
    let mount = PathBuf::from(fields.next()?);
    let (kind, options) = (fields.next()?, fields.next()?);
    let unified = kind == "cgroup2";
    let named = options.split(',').any(|option| option.starts_with("name="));
    let cpuset = options.split(',').any(|option| option == "cpuset");
    let hugetlb = options.split(',').any(|option| option == "hugetlb");
    let own = if unified { "" } else { options };
    let options = own.split(',').map(str::to_owned).collect();
    (unified || kind == "cgroup").then_some(Hierarchy { mount, unified, named, cpuset, hugetlb, options })
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("making the cgroup", dir)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Enables, for the groups below `dir`, every controller that `dir` has.
fn hand_down_controllers(dir: &Path) -> Result<()> {
    let available = dir.join("cgroup.controllers");
    let wanted = fs::read_to_string(&available).map_err(Error::io("reading", &available))?;
    let control = dir.join("cgroup.subtree_control");
    let present = fs::read_to_string(&control).map_err(Error::io("reading", &control))?;
    for controller in wanted.split_whitespace().filter(|c| !present.split_whitespace().any(|p| p == *c)) {
        // One by one: a controller that cannot be enabled (a real-time process for cpu) must not cost the others.
        if let Err(error) = fs::write(&control, format!("+{controller}")) {
            tracing::warn!(cgroup = %dir.display(), controller, %error, "a cgroup controller cannot be enabled");
        }
    }
    Ok(())
}

/// On v1 a new cpuset group takes no process until it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), dir.join(file));
        let present = fs::read_to_string(&to).map_err(Error::io("reading", &to))?;
        if present.trim().is_empty() {
            let value = fs::read(&from).map_err(Error::io("reading", &from))?;
            fs::write(&to, value).map_err(Error::io("writing", &to))?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path, cgroup: &str, deadline: Instant) -> Result<()> {
    loop {
        kill_subtree(dir, cgroup);
        match remove_dirs(dir) {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > deadline => return Err(Error::io("removing the cgroup", dir)(e)),
            // Not woken by cgroup.events: v1 has none, and what forks meanwhile has to be killed again anyway.
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Removes a group after those below it.
fn remove_dirs(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_dirs(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn kill_subtree(dir: &Path, cgroup: &str) {
    let kill = fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill"));
    if kill.and_then(|mut file| file.write_all(b"1")).is_ok() {
        return;
    }
    for pid in subtree_pids(dir) {
        if let Some(pidfd) = pidfd_in_cgroup(pid, cgroup) {
            // ESRCH says that it is gone.
            rustix::process::pidfd_send_signal(pidfd, Signal::KILL).unwrap_or(());
        }
    }
}

fn subtree_pids(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(dir.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).take(MAX_PIDS).collect())
        .unwrap_or_default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(subtree_pids(&entry.path()));
        }
    }
    pids
}

/// A handle on a process that is known to be in the group: its number may have been given to another since it was read.
fn pidfd_in_cgroup(pid: i32, cgroup: &str) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    is_in(&groups, cgroup).then_some(pidfd)
}

/// Whether a process with this `/proc/<pid>/cgroup` is in a group or below it.
pub(crate) fn is_in(groups: &str, cgroup: &str) -> bool {
    let inside = |path: &str| {
        path.strip_prefix(cgroup.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(inside)
}

fn is_no_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions_are_told_apart() {
        let v2 = parse_mount("cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0").unwrap();
        assert!(v2.unified && !v2.cpuset);
        let v1 = parse_mount("cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0").unwrap();
        assert!(v1.cpuset && !v1.unified && !v1.named);
        let named = parse_mount("cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0").unwrap();
        assert!(Cgroups { hierarchies: vec![v2.clone(), named.clone()] }.is_v2(), "only v2 has controllers");
        assert!(!Cgroups { hierarchies: vec![v2, named, v1] }.is_v2());
        assert!(parse_mount("tmpfs /sys/fs/cgroup tmpfs rw 0 0").is_none());
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        assert_eq!(up_to("/kubepods/podx/abc/sub", "abc").as_deref(), Some("/kubepods/podx/abc"));
        assert_eq!(up_to("/kubepods/podx/abcd", "abc"), None);
    }

    #[test]
    fn a_group_is_made_in_every_hierarchy_and_removed_with_what_runs_in_it() {
        let cgroups = Cgroups::discover().unwrap();
        let name = format!("/pintle-test-{}", std::process::id());
        let child = format!("{name}/a/b");
        cgroups.ensure(&child).unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        // On v2 a group that hands its controllers down takes no process itself.
        let leaf = if cgroups.is_v2() { format!("{child}/leaf") } else { child.clone() };
        for dir in cgroups.dirs(&leaf) {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        }
        assert!(cgroups.is_populated(&name));
        let reaper = std::thread::spawn(move || sleeper.wait().unwrap());
        cgroups.kill_and_remove(&name).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(cgroups.dirs(&name).all(|dir| !dir.exists()));
        cgroups.kill_and_remove(&name).unwrap();
    }
}
