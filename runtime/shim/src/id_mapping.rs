//! Which users and groups of the node a user namespace's are.
//!
//! In: OCI's `uidMappings` and `gidMappings`. Out: the kernel's `uid_map` and `gid_map` of a process in a new user
//! namespace, written by the node's root; the process that becomes the namespace's root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Linux, LinuxIdMapping};
use rustix::fs::{CWD, Mode, OFlags, openat};

/// Both mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mappings {
    users: Vec<LinuxIdMapping>,
    groups: Vec<LinuxIdMapping>,
}

impl Mappings {
    /// Those of a configuration; nothing when it has none.
    pub(crate) fn of(linux: &Linux) -> Option<Self> {
        let some = |list: &Option<Vec<LinuxIdMapping>>| list.clone().filter(|list| !list.is_empty());
        Some(Self { users: some(linux.uid_mappings())?, groups: some(linux.gid_mappings())? })
    }

    /// Writes them for a process; `proc` is the node's `/proc`.
    pub(crate) fn write(&self, proc: &ProcDirectory, pid: i32) -> io::Result<()> {
        for (file, list) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            // The kernel takes the whole map in one write or not at all.
            proc.open(&format!("{pid}/{file}"))?.write_all(lines(list).as_bytes())?;
        }
        Ok(())
    }

    /// The node's number for a user and a group of the namespace's.
    pub(crate) fn on_the_node(&self, (user, group): (u32, u32)) -> Option<(u32, u32)> {
        Some((on_the_node(&self.users, user)?, on_the_node(&self.groups, group)?))
    }
}

fn lines(list: &[LinuxIdMapping]) -> String {
    list.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
}

fn on_the_node(list: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let inside = |map: &&LinuxIdMapping| id.checked_sub(map.container_id()).is_some_and(|at| at < map.size());
    let map = list.iter().find(inside)?;
    map.host_id().checked_add(id - map.container_id())
}

/// The node's number for a user and a group of the namespace that a process is in.
pub(crate) fn of_process(pid: i32, (user, group): (u32, u32)) -> io::Result<Option<(u32, u32)>> {
    let find = |file: &str, id: u32| -> io::Result<Option<u32>> {
        Ok(find(&fs::read_to_string(format!("/proc/{pid}/{file}"))?, id))
    };
    Ok(find("uid_map", user)?.zip(find("gid_map", group)?))
}

fn find(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let at = id
            .checked_sub(inside)
            .filter(|at| numbers.next().and_then(Result::ok).is_some_and(|n| *at < n))?;
        outside.checked_add(at)
    })
}

/// The node's `/proc`, for when it is out of sight.
#[derive(Debug)]
pub(crate) struct ProcDirectory(OwnedFd);

impl ProcDirectory {
    pub(crate) fn open_now() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, "/proc", flags, Mode::empty())?))
    }

    fn open(&self, path: &str) -> io::Result<File> {
        Ok(openat(&self.0, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

/// Waits until the mappings of the caller's namespace are written. An error: they never will be.
pub(crate) fn await_mappings(told: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::io::read(told, &mut [0; 1])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Becomes root of the caller's user namespace.
pub(crate) fn become_root() -> nix::Result<()> {
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(root, root, root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings() -> Mappings {
        let linux = serde_json::json!({
            "uidMappings": [
                {"containerID": 0, "hostID": 70_000, "size": 10},
                {"containerID": 10, "hostID": 90_000, "size": 5},
            ],
            "gidMappings": [{"containerID": 0, "hostID": 80_000, "size": 10}],
        });
        Mappings::of(&serde_json::from_value(linux).unwrap()).unwrap()
    }

    #[test]
    fn a_mapping_is_written_a_line_each_inside_outside_and_how_many() {
        assert_eq!(lines(&mappings().users), "0 70000 10\n10 90000 5\n");
    }

    #[test]
    fn an_id_has_a_number_on_the_node_if_it_is_mapped() {
        assert_eq!(mappings().on_the_node((0, 9)), Some((70_000, 80_009)));
        assert_eq!(mappings().on_the_node((12, 0)), Some((90_002, 80_000)));
        assert_eq!(mappings().on_the_node((15, 0)), None);
        assert_eq!(mappings().on_the_node((0, 10)), None);
    }

    #[test]
    fn the_kernels_map_of_a_process_says_the_same() {
        let map = "         0      70000         10\n        10      90000          5\n";
        assert_eq!([0, 9, 12, 15].map(|id| find(map, id)), [Some(70_000), Some(70_009), Some(90_002), None]);
        assert_eq!(find("0 0 4294967295\n", 1000), Some(1000));
        assert_eq!(find("nonsense\n", 0), None);
    }

    #[test]
    fn without_both_lists_there_is_no_mapping() {
        let linux = serde_json::json!({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
        assert_eq!(Mappings::of(&serde_json::from_value(linux).unwrap()), None);
    }
}
