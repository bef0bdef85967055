//! The cgroups of containers and of the supervisor itself, in every hierarchy the host has.
//!
//! In: checked paths below the hierarchies' roots. Out: processes joined, listed, killed; directories removed; counts of
//! OOM kills. Works on pure v2, on pure v1 and on hybrid hosts. It sets no limits: libcontainer does that at creation and
//! the engine afterwards. "Tracking" is the one hierarchy in which every process of a container is sure to be and to
//! which sub-groups can be added without a side effect: v2 where there is one (also on hybrid hosts), else the freezer.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::sys::{self, Fork};

/// Why something could not be done to a cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("reading /proc/self/mountinfo")]
    Mounts { source: io::Error },
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    #[error("cgroup path {path:?}: must be absolute, without . and .. and not the root")]
    Path { path: String },
    #[error("creating cgroup {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("moving process {pid} into cgroup {}", path.display())]
    Join { path: PathBuf, pid: i32, source: io::Error },
    #[error("removing cgroup {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// An absolute path below the root of every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupPath(String);

impl CgroupPath {
    pub(crate) fn parse(path: &str) -> Result<Self, CgroupError> {
        let relative = path.strip_prefix('/').unwrap_or_default();
        let fine = relative.split('/').all(|name| !matches!(name, "" | "." | "..")) && path.len() < 4096;
        if fine { Ok(Self(path.to_owned())) } else { Err(CgroupError::Path { path: path.to_owned() }) }
    }

    /// The group `name` in it.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(&self.0[1..])
    }
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Legacy {
    mount: PathBuf,
    /// As in /proc/PID/cgroup: `cpu,cpuacct` or `name=systemd`.
    controllers: String,
}

impl Legacy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

/// Where the host has its cgroup hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    legacy: Vec<Legacy>,
    unified: Option<PathBuf>,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Self, CgroupError> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(|source| CgroupError::Mounts { source })?;
        let found = Self::from_mountinfo(&mounts);
        if found.legacy.is_empty() && found.unified.is_none() {
            Err(CgroupError::NoHierarchy)
        } else {
            Ok(found)
        }
    }

    fn from_mountinfo(mounts: &str) -> Self {
        let mut found = Self { legacy: Vec::new(), unified: None };
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(mount), mut right) = (left.split(' ').nth(4).map(PathBuf::from), right.split(' '))
            else {
                continue;
            };
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) if found.unified.is_none() => found.unified = Some(mount),
                (Some("cgroup"), Some(options)) => {
                    let general = ["rw", "ro", "xattr", "noprefix", "clone_children"];
                    let wanted =
                        |option: &&str| !general.contains(option) && !option.starts_with("release_agent=");
                    let controllers = options.split(',').filter(wanted).collect::<Vec<_>>().join(",");
                    if found.legacy.iter().all(|other| other.controllers != controllers) {
                        found.legacy.push(Legacy { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether controllers live in the v2 hierarchy.
    pub(crate) fn is_v2(&self) -> bool {
        self.legacy.iter().all(|legacy| legacy.controllers.starts_with("name="))
    }

    /// The directory of the path in the v2 hierarchy.
    pub(crate) fn unified(&self, path: &CgroupPath) -> Option<PathBuf> {
        self.unified.as_deref().map(|mount| path.below(mount))
    }

    /// The directory of the path in the v1 hierarchy of a controller.
    pub(crate) fn legacy(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        self.legacy.iter().find(|legacy| legacy.has(controller)).map(|legacy| path.below(&legacy.mount))
    }

    /// The directory under which sub-groups track processes.
    pub(crate) fn tracking(&self, path: &CgroupPath) -> Option<PathBuf> {
        self.unified(path).or_else(|| self.legacy("freezer", path))
    }

    /// The path's directory in every hierarchy.
    pub(crate) fn directories(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let legacy = self.legacy.iter().map(|legacy| path.below(&legacy.mount));
        legacy.chain(self.unified(path)).collect()
    }

    /// Creates what is above the path. libcontainer does so itself, but fails when another create does it at once.
    pub(crate) fn create_parents(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        self.directories(path).iter().filter_map(|directory| directory.parent()).try_for_each(create)
    }

    /// On v1 and hybrid hosts: moves the calling process into the path in the hierarchies without controllers, which
    /// libcontainer leaves out. In the v2 one that takes the kernel's grace period, and shortly before the library moves
    /// the process on, so that it has to wait only once.
    pub(crate) fn enter_uncontrolled(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        if self.is_v2() {
            return Ok(());
        }
        let named = self.legacy.iter().filter(|legacy| legacy.controllers.starts_with("name="));
        named
            .map(|legacy| path.below(&legacy.mount))
            .try_for_each(|directory| enter_directory(&directory))?;
        let own = std::process::id().cast_signed();
        self.unified(path).map_or(Ok(()), |directory| join_directory(&directory, own))
    }

    /// Moves the calling process into groups that only keep track of it or limit it by one of `controllers`; in the other
    /// v1 hierarchies into the group above, because each group costs memory and time. Not in the v2 hierarchy: for that
    /// see [`Self::birthplace`].
    pub(crate) fn enter_sparsely(&self, path: &CgroupPath, controllers: &[&str]) -> Result<(), CgroupError> {
        for legacy in &self.legacy {
            let directory = path.below(&legacy.mount);
            let tracks = self.unified.is_none() && legacy.has("freezer");
            match directory.parent() {
                Some(above) if !tracks && !controllers.iter().any(|name| legacy.has(name)) => {
                    enter_directory(above)?;
                }
                Some(_) | None => enter_directory(&directory)?,
            }
        }
        Ok(())
    }

    /// The path's directory in the v2 hierarchy, made if need be, for a process to be born in: a move into it would wait
    /// for all processors.
    pub(crate) fn birthplace(&self, path: &CgroupPath) -> Result<Option<Birthplace>, CgroupError> {
        self.unified(path).map(Birthplace::open).transpose()
    }

    /// As [`Self::birthplace`], of the group `name` below the path.
    pub(crate) fn birthplace_below(
        &self,
        path: &CgroupPath,
        name: &str,
    ) -> Result<Option<Birthplace>, CgroupError> {
        self.unified(path).map(|directory| Birthplace::open(directory.join(name))).transpose()
    }

    /// Where there is no v2 hierarchy for it to be born in: moves the calling process into the path's tracking group.
    pub(crate) fn enter_tracking(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let tracking = self.tracking(path).filter(|_| self.unified.is_none());
        tracking.map_or(Ok(()), |directory| enter_directory(&directory))
    }

    /// Moves the calling process into the path's tracking group the slow way. For the grace period that follows, such moves
    /// are quick, whoever makes them.
    pub(crate) fn move_slowly(&self, path: &CgroupPath) {
        if let Some(directory) = self.tracking(path) {
            // Nothing depends on it.
            write_file(&directory.join("cgroup.procs"), "0").unwrap_or_default();
        }
    }

    /// Moves a process into the path in every hierarchy where it is somewhere else.
    pub(crate) fn join(&self, path: &CgroupPath, pid: i32) -> Result<(), CgroupError> {
        let present = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let is_there = |controllers: &str| {
            present.lines().any(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                fields.next() == Some(controllers) && fields.next() == Some(path.0.as_str())
            })
        };
        for legacy in &self.legacy {
            if !is_there(&legacy.controllers) {
                join_directory(&path.below(&legacy.mount), pid)?;
            }
        }
        match self.unified(path) {
            Some(directory) if !is_there("") => join_directory(&directory, pid),
            Some(_) | None => Ok(()),
        }
    }

    /// Moves the calling process into the cgroup in the v1 hierarchies, but in the tracking one into the group `name` below.
    pub(crate) fn enter_below(&self, path: &CgroupPath, name: &str) -> Result<(), CgroupError> {
        let tracking = self.tracking(path);
        for directory in self.legacy.iter().map(|legacy| path.below(&legacy.mount)) {
            if tracking.as_ref() == Some(&directory) {
                enter_directory(&directory.join(name))?;
            } else {
                enter_directory(&directory)?;
            }
        }
        Ok(())
    }

    /// Sends SIGKILL to every process of the cgroup and the groups below it, in every hierarchy.
    pub(crate) fn kill(&self, path: &CgroupPath) {
        if let Some(directory) = self.tracking(path) {
            kill_tree(&directory);
        }
        for pid in self.processes(path) {
            signal_member(pid, path, libc::SIGKILL);
        }
    }

    /// Sends a signal to every process of the cgroup and the groups below it.
    pub(crate) fn signal(&self, path: &CgroupPath, signal: i32) {
        for pid in self.processes(path) {
            signal_member(pid, path, signal);
        }
    }

    /// Every process in the cgroup and the groups below it, in any hierarchy.
    pub(crate) fn processes(&self, path: &CgroupPath) -> Vec<i32> {
        let mut found = Vec::new();
        for directory in self.directories(path) {
            collect_processes(&directory, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Removes the cgroup and the groups below it. False: something still lives there.
    pub(crate) fn remove(&self, path: &CgroupPath) -> Result<bool, CgroupError> {
        let mut gone = true;
        for directory in self.directories(path) {
            gone &= remove_tree(&directory)?;
        }
        Ok(gone)
    }

    /// How many processes of the cgroup the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self, path: &CgroupPath) -> u64 {
        let count = |file: PathBuf| {
            let text = fs::read_to_string(file).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        };
        let file = match self.legacy("memory", path) {
            Some(directory) => Some(directory.join("memory.oom_control")),
            None => self.unified(path).map(|directory| directory.join("memory.events")),
        };
        file.and_then(count).unwrap_or(0)
    }
}

/// A group of the v2 hierarchy for a process to be born in.
#[derive(Debug)]
pub(crate) struct Birthplace {
    directory: PathBuf,
    group: OwnedFd,
}

impl Birthplace {
    fn open(directory: PathBuf) -> Result<Self, CgroupError> {
        create(&directory)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&directory, flags, Mode::empty()) {
            Ok(group) => Ok(Self { directory, group }),
            Err(source) => Err(CgroupError::Create { path: directory, source: source.into() }),
        }
    }

    /// Forks; the child is in the group.
    pub(crate) fn fork(place: Option<&Self>) -> io::Result<Fork> {
        let Some(place) = place else { return sys::fork() };
        match sys::fork_into(place.group.as_fd()) {
            Err(error) if cannot(&error) => place.follow(sys::fork()?),
            other => other,
        }
    }

    /// As [`Self::fork`], as a sibling of the caller and in new namespaces.
    pub(crate) fn fork_sibling_apart(place: Option<&Self>, namespaces: u64) -> io::Result<Fork> {
        let Some(place) = place else { return sys::fork_sibling_apart(namespaces, None) };
        match sys::fork_sibling_apart(namespaces, Some(place.group.as_fd())) {
            Err(error) if cannot(&error) => place.follow(sys::fork_sibling_apart(namespaces, None)?),
            other => other,
        }
    }

    /// Linux before 5.7: the child moves. It never runs outside.
    fn follow(&self, forked: Fork) -> io::Result<Fork> {
        if forked == Fork::Child && write_file(&self.directory.join("cgroup.procs"), "0").is_err() {
            sys::exit_now(126);
        }
        Ok(forked)
    }
}

/// Whether the kernel does not know how to make a process in a cgroup.
fn cannot(error: &io::Error) -> bool {
    [Some(libc::ENOSYS), Some(libc::EINVAL), Some(libc::E2BIG)].contains(&error.raw_os_error())
}

/// Creates the v1 directory if need be and moves the calling process, which has one thread, into it. Through `tasks` and
/// as 0, because for any other move the kernel first waits until no processor is inside fork or exit: 8 to 16 ms.
fn enter_directory(directory: &Path) -> Result<(), CgroupError> {
    let enter = || write_file(&directory.join("tasks"), "0");
    let entered = match enter() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory)?;
            enter()
        }
        // Whoever made the cpuset died before it had processors.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
            inherit_cpuset(directory)?;
            enter()
        }
        other => other,
    };
    let pid = std::process::id().cast_signed();
    entered.map_err(|source| CgroupError::Join { path: directory.to_owned(), pid, source })
}

/// Creates the directory if need be and moves the process into it.
pub(crate) fn join_directory(directory: &Path, pid: i32) -> Result<(), CgroupError> {
    create(directory)?;
    write_file(&directory.join("cgroup.procs"), &pid.to_string()).map_err(|source| CgroupError::Join {
        path: directory.to_owned(),
        pid,
        source,
    })
}

/// Creates a cgroup directory and those above it.
pub(crate) fn create(directory: &Path) -> Result<(), CgroupError> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create(parent)?;
    }
    let failed = |source| CgroupError::Create { path: directory.to_owned(), source };
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(failed)?,
    }
    inherit_cpuset(directory)
}

/// A v1 cpuset is born without processors and takes no process then: it gets its parent's, as its parent does first.
fn inherit_cpuset(directory: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Create { path: directory.to_owned(), source };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        let is_empty = fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty());
        // On v2 an empty value means "as above" and has to stay.
        let (true, Some(parent)) =
            (is_empty && !directory.join("cgroup.controllers").exists(), directory.parent())
        else {
            continue;
        };
        inherit_cpuset(parent)?;
        let value = fs::read_to_string(parent.join(file)).map_err(failed)?;
        write_file(&own, value.trim()).map_err(failed)?;
    }
    Ok(())
}

/// Writes one value to an existing file of the kernel's.
pub(crate) fn write_file(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Sends SIGKILL to everything in the directory's cgroup and below, such that no fork escapes.
pub(crate) fn kill_tree(directory: &Path) {
    const ROUNDS: usize = 50;
    if write_file(&directory.join("cgroup.kill"), "1").is_ok() || !directory.is_dir() {
        return;
    }
    for _ in 0..ROUNDS {
        freeze(directory, Freeze::Frozen);
        let mut left = Vec::new();
        collect_processes(directory, &mut left);
        for pid in &left {
            // A failure means that it has ended by itself.
            sys::open_process(*pid)
                .and_then(|process| sys::signal(&process, libc::SIGKILL))
                .unwrap_or_default();
        }
        freeze(directory, Freeze::Thawed);
        if left.is_empty() {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Freeze {
    Frozen,
    Thawed,
}

/// Best effort: without a freezer the rounds of [`kill_tree`] still win against anything but a fork bomb.
fn freeze(directory: &Path, state: Freeze) {
    let (legacy, unified) = match state {
        Freeze::Frozen => ("FROZEN", "1"),
        Freeze::Thawed => ("THAWED", "0"),
    };
    if write_file(&directory.join("freezer.state"), legacy).is_err() {
        write_file(&directory.join("cgroup.freeze"), unified).unwrap_or_default();
    }
}

fn signal_member(pid: i32, path: &CgroupPath, signal: i32) {
    let Ok(process) = sys::open_process(pid) else { return };
    // The pid may have been given to another process between the reading and the opening.
    let present = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let inside = |line: &str| {
        let rest = line.splitn(3, ':').nth(2).and_then(|there| there.strip_prefix(path.0.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if present.lines().any(inside) {
        // A failure means that it has ended by itself.
        sys::signal(&process, signal).unwrap_or_default();
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// Every process in the directory's cgroup and below it.
pub(crate) fn collect_processes(directory: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process outside our pid namespace.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in subdirectories(directory) {
        collect_processes(&below, found);
    }
}

/// Removes the directory and those below it. False: something still lives there.
pub(crate) fn remove_tree(directory: &Path) -> Result<bool, CgroupError> {
    let mut gone = true;
    for below in subdirectories(directory) {
        gone &= remove_tree(&below)?;
    }
    match fs::remove_dir(directory) {
        Ok(()) => Ok(gone),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(gone),
        Err(error) if [Some(libc::EBUSY), Some(libc::ENOTEMPTY)].contains(&error.raw_os_error()) => Ok(false),
        Err(source) => Err(CgroupError::Remove { path: directory.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const HYBRID: &str = "25 20 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        26 25 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
        28 25 0:25 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_hybrid_host_is_recognised() {
        let found = Hierarchies::from_mountinfo(HYBRID);
        let path = CgroupPath::parse("/a/b").unwrap();
        assert!(!found.is_v2());
        assert_eq!(found.legacy("cpuacct", &path), Some("/sys/fs/cgroup/cpu/a/b".into()));
        assert_eq!(found.legacy("name=systemd", &path), Some("/sys/fs/cgroup/systemd/a/b".into()));
        assert_eq!(found.tracking(&path), Some("/sys/fs/cgroup/unified/a/b".into()));
    }

    #[test]
    fn a_pure_v2_host_is_recognised() {
        let found = Hierarchies::from_mountinfo("26 25 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(found.is_v2());
    }

    #[test]
    fn paths_that_leave_or_are_the_root_are_refused() {
        for path in ["", "/", "a", "/a/../b", "/a//b", "/a/", "/./a"] {
            assert!(CgroupPath::parse(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_cpuset_that_its_maker_left_without_processors_gets_them_when_it_is_entered() {
        let hierarchies = Hierarchies::detect().expect("this host has cgroups");
        let name = format!("/pintle-shim-test-{}-cpuset", std::process::id());
        let path = CgroupPath::parse(&format!("{name}/pod")).expect("a path");
        let Some(directory) = hierarchies.legacy("cpuset", &path) else { return };
        fs::create_dir_all(&directory).expect("made as one who dies at once would");
        let entered = std::thread::spawn({
            let directory = directory.clone();
            move || {
                enter_directory(&directory)?;
                enter_directory(directory.ancestors().nth(2).expect("the root of the hierarchy"))
            }
        });
        let entered = entered.join().expect("it does not panic");
        let top = CgroupPath::parse(&name).expect("a path");
        hierarchies.remove(&top).expect("removed");
        entered.expect("a process may enter");
        assert!(!directory.exists());
    }

    #[test]
    fn guard_14_killing_by_freezing_ends_a_tree_that_keeps_forking_and_removal_is_recursive() {
        let hosts = Hierarchies::detect().unwrap();
        let path = CgroupPath::parse(&format!("/pintle-test-freezer-{}", std::process::id())).unwrap();
        let Some(directory) = hosts.legacy("freezer", &path) else { return };
        let inner = directory.join("inner");
        let script = "while :; do (sleep 30 &) ; sleep 0.001; done";
        create(&inner).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("read x; {script}")]);
        let mut child = shell.stdin(std::process::Stdio::piped()).spawn().unwrap();
        join_directory(&inner, i32::try_from(child.id()).unwrap()).unwrap();
        drop(child.stdin.take());
        std::thread::sleep(std::time::Duration::from_millis(100));
        kill_tree(&directory);
        child.wait().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !remove_tree(&directory).unwrap() {
            assert!(std::time::Instant::now() < end, "cgroup still busy");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(!directory.exists());
    }
}
