//! What the kernel and the disk have of an instance.
//!
//! In: its names and directories, and where its records say that something should be. Out: [`Found`]. It reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use pintle_shim_protocol::ExitRecord;

use super::Expected;
use crate::engine::{
    cgroups::Cgroups,
    error::{Error, Result},
    ids,
    layout::{self, Layout},
};

/// The most bytes taken of a process' command line; a supervisor's has a few hundred.
const MAX_COMMAND: usize = 16 * 1024;

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundGroup {
    /// Its path below every hierarchy's mount point.
    pub path: String,
    /// The hierarchies that have it.
    pub hierarchies: usize,
    /// How many processes are in it and below.
    pub processes: usize,
    /// Since when it is there.
    pub since: Option<SystemTime>,
}

/// A process that calls itself a supervisor of this state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSupervisor {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// The same as a time.
    pub since: Option<SystemTime>,
    /// Its sandbox.
    pub sandbox: String,
}

/// All that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Mount points below the instance's directories, as often as something is mounted there.
    pub mounts: BTreeMap<PathBuf, usize>,
    /// Cgroups one level below the supervisors', the pods' and, with a tag, the instance's own.
    pub groups: Vec<FoundGroup>,
    /// Supervisors, starting ones and helpers of theirs too.
    pub supervisors: Vec<FoundSupervisor>,
    /// The sandboxes and containers whose recorded first process lives, in its own cgroup.
    pub alive: BTreeSet<String>,
    /// Record files that were never finished.
    pub half_written: Vec<(PathBuf, Option<SystemTime>)>,
    /// The network.
    pub network: pintle_cni::Inspection,
    /// The image store.
    pub images: pintle_image::Inspection,
    /// When the things were made that the image store has and nobody needs.
    pub image_times: BTreeMap<PathBuf, SystemTime>,
}

impl Found {
    /// Looks.
    ///
    /// # Errors
    /// When something cannot be read: no answer is better than half of one.
    pub fn read(
        layout: &Layout,
        pod_cidr: Option<&str>,
        (expected, table): (&Expected, &MountTable),
    ) -> Result<Self> {
        let images = pintle_image::inspect(&layout.root).map_err(Error::image("looking at the images"))?;
        let network = pintle_cni::inspect(&network_config(layout, pod_cidr)?)
            .map_err(Error::network("looking at the pod network"))?;
        let unneeded = images.unfinished.iter().chain(&images.unneeded_layers).chain(&images.unneeded_blobs);
        let image_times =
            unneeded.filter_map(|path| changed(path).map(|time| (path.clone(), time))).collect();
        Ok(Self {
            mounts: mounts(layout, table),
            groups: groups(layout, expected)?,
            supervisors: supervisors(layout)?,
            alive: alive(expected),
            half_written: half_written(layout)?,
            network,
            images,
            image_times,
        })
    }
}

/// The network's configuration as the engine of this layout makes it.
///
/// # Errors
/// When the pod range is none.
pub fn network_config(layout: &Layout, pod_cidr: Option<&str>) -> Result<pintle_cni::NetworkConfig> {
    let parse = |text: &str| {
        text.parse().map_err(|e: pintle_cni::CidrError| Error::InvalidArgument(format!("pod CIDR: {e}")))
    };
    Ok(pintle_cni::NetworkConfig {
        state_dir: layout.network(),
        bridge: layout.bridge.clone(),
        nft_table: layout.nft_table.clone(),
        pod_cidr: pod_cidr.map(parse).transpose()?,
        mtu: None,
    })
}

/// When a file or directory changed last, also by being renamed.
#[must_use]
pub fn changed(path: &Path) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt as _;
    let seconds = u64::try_from(fs::symlink_metadata(path).ok()?.ctime()).ok()?;
    Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// The mount points of this mount namespace, as they were at one moment, each as often as it is mounted on.
#[derive(Debug, Clone, Default)]
pub struct MountTable(BTreeMap<PathBuf, usize>);

impl MountTable {
    /// Reads it. The kernel makes it anew, with all mounts of the host, for each reader.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let table = fs::read(path).map_err(Error::io("reading", path))?;
        let mut found = BTreeMap::new();
        for line in table.split(|byte| *byte == b'\n') {
            if let Some(point) = line.split(|byte| *byte == b' ').nth(4).map(unescaped) {
                *found.entry(point).or_insert(0) += 1;
            }
        }
        Ok(Self(found))
    }

    /// Those below a directory, which is none of them itself.
    #[must_use]
    pub fn below(&self, dir: &Path) -> BTreeMap<PathBuf, usize> {
        let below = self.0.iter().filter(|(point, _)| *point != dir && point.starts_with(dir));
        below.map(|(point, times)| (point.clone(), *times)).collect()
    }
}

/// The engine's directories; what is mounted on them is the operator's, what is mounted below them is not.
fn mounts(layout: &Layout, table: &MountTable) -> BTreeMap<PathBuf, usize> {
    let mut found = table.below(&layout.state);
    for name in ["snapshots", "layers", "pause"] {
        found.extend(table.below(&layout.root.join(name)));
    }
    found
}

/// The kernel writes blanks and their like as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).and_then(|three| std::str::from_utf8(three).ok());
        let code = digits.and_then(|three| u8::from_str_radix(three, 8).ok()).filter(|_| *first == b'\\');
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &more[3..] } else { more };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn groups(layout: &Layout, expected: &Expected) -> Result<Vec<FoundGroup>> {
    let cgroups = Cgroups::discover()?;
    let mut parents = BTreeSet::from([layout.supervisors_cgroup(), layout.default_pods_cgroup()]);
    parents.extend(expected.sandboxes.values().map(|record| record.cgroup_parent.clone()));
    if layout.cgroup_root != "/" {
        parents.insert(layout.cgroup_root.clone());
    }
    Ok(parents.iter().flat_map(|parent| groups_below(&cgroups, parent)).collect())
}

/// The groups one level below another, in whatever hierarchy.
#[must_use]
pub fn groups_below(cgroups: &Cgroups, parent: &str) -> Vec<FoundGroup> {
    let names = cgroups.children(parent);
    let describe = |name: &String| {
        let path = layout::join_cgroup(parent, name);
        let dirs: Vec<PathBuf> = cgroups.dirs(&path).filter(|dir| dir.is_dir()).collect();
        let made = dirs.iter().filter_map(|dir| fs::metadata(dir).and_then(|data| data.modified()).ok());
        FoundGroup {
            processes: cgroups.processes(&path).len(),
            hierarchies: dirs.len(),
            since: made.min(),
            path,
        }
    };
    // One that went meanwhile is none.
    names.iter().map(describe).filter(|group| group.hierarchies > 0).collect()
}

/// Every process whose command line names a sandbox's directory of this state directory as a supervisor's does.
fn supervisors(layout: &Layout) -> Result<Vec<FoundSupervisor>> {
    let entries = fs::read_dir("/proc").map_err(Error::io("listing", "/proc"))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(|pid| supervisor(layout, pid)).collect())
}

/// The supervisor with this number, if it is one of this state directory.
#[must_use]
pub fn supervisor(layout: &Layout, pid: i32) -> Option<FoundSupervisor> {
    let command = read_some(&format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let after = |name: &[u8]| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
    let sandbox = std::str::from_utf8(after(b"--sandbox")?).ok().filter(|id| ids::is_id(id))?;
    if **after(b"--dir")? != *layout.sandbox(sandbox).as_os_str().as_encoded_bytes() {
        return None;
    }
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()?;
    // A zombie holds nothing; whoever ought to reap it is not the engine.
    let ended = matches!(stat.state, 'Z' | 'X');
    (!ended).then(|| FoundSupervisor {
        pid,
        started: stat.starttime,
        since: started_at(stat.starttime),
        sandbox: sandbox.to_owned(),
    })
}

fn started_at(ticks: u64) -> Option<SystemTime> {
    let boot = procfs::boot_time_secs().ok()?;
    let seconds = boot + ticks / procfs::ticks_per_second();
    Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

fn alive(expected: &Expected) -> BTreeSet<String> {
    let infra = expected.sandboxes.values().map(|record| (&record.id, record.infra_pid));
    let containers = expected.containers.values().map(|known| (&known.record.id, known.record.pid));
    let lives = |id: &str, pid: Option<i32>| {
        let groups = pid.and_then(|pid| read_some(&format!("/proc/{pid}/cgroup")).ok()).unwrap_or_default();
        String::from_utf8_lossy(&groups).contains(id)
    };
    infra.chain(containers).filter(|(id, pid)| lives(id, *pid)).map(|(id, _)| id.clone()).collect()
}

fn read_some(path: &str) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_COMMAND as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn half_written(layout: &Layout) -> Result<Vec<(PathBuf, Option<SystemTime>)>> {
    let mut found = Vec::new();
    for dir in [layout.sandboxes(), layout.containers()] {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let entry = entry.map_err(Error::io("listing", &dir))?;
            // One that is being removed has none.
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|file| file.path());
            let unfinished = files.filter(|file| is_unfinished(file));
            found.extend(unfinished.map(|file| (file.clone(), changed(&file))));
        }
    }
    Ok(found)
}

/// Whether it is a record that was to be renamed. The room of an exit record is taken long before there is one.
fn is_unfinished(file: &Path) -> bool {
    let reserved = format!(".{}.tmp", ExitRecord::FILE);
    file.extension().is_some_and(|ending| ending == "tmp") && !file.ends_with(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescaped(b"/a\\040b\\134c\\"), Path::new("/a b\\c\\"));
        assert_eq!(unescaped(b"/plain"), Path::new("/plain"));
    }

    #[test]
    fn the_room_that_is_taken_for_an_exit_record_is_not_half_written() {
        assert!(is_unfinished(Path::new("/s/containers/c/container.tmp")));
        assert!(!is_unfinished(Path::new("/s/containers/c/.exit.json.tmp")));
        assert!(!is_unfinished(Path::new("/s/containers/c/container.json")));
    }

    #[test]
    fn a_process_is_a_supervisor_by_its_words_and_of_one_state_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&crate::EngineConfig::new("/r", dir.path()));
        let id = "a".repeat(64);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", "shim", "--sandbox", &id, "--dir"])
            .arg(layout.sandbox(&id))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        // The shell's name in /proc is the test's own until it is executed.
        let found = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            supervisor(&layout, pid)
        });
        assert_eq!(found.unwrap().sandbox, id);
        let other = Layout::new(&crate::EngineConfig::new("/r", "/elsewhere"));
        assert_eq!(supervisor(&other, pid), None);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(supervisor(&layout, pid), None);
    }
}
