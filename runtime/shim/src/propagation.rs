//! Makes mounts travel between a container and the node where that was asked for, and nowhere else.
//!
//! In: the configuration's mounts. Out: the propagation of every mount of the calling process's namespace. The library sets one
//! for the whole tree (`rootfsPropagation`), from which every bind has its own, and takes no notice of what a mount itself
//! says: in a container with one shared volume all volumes would be shared. The kernel's list of mounts is read again until
//! nothing is wrong in it, so that no path that leads elsewhere meanwhile leaves a mount behind.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::mount::{MountPropagationFlags, mount_change};

const MOUNTS: &str = "/proc/self/mountinfo";
/// How often the list of mounts is read; once is enough unless somebody interferes.
const PASSES: usize = 5;

/// Which way mounts travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Travel {
    Nowhere,
    FromTheNode,
    BothWays,
}

/// Which way they are to travel, mount point by mount point.
#[derive(Debug, Clone)]
pub(crate) struct Wishes(Vec<(PathBuf, Travel)>);

impl Wishes {
    /// Nothing where the whole tree is private already.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        let tree = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
        if matches!(tree, Some("private")) {
            return None;
        }
        let wish = |mount: &oci_spec::runtime::Mount| {
            let has = |names: [&str; 2]| {
                mount.options().iter().flatten().any(|option| names.contains(&option.as_str()))
            };
            let travel = match (has(["rshared", "shared"]), has(["rslave", "slave"])) {
                (true, _) => Travel::BothWays,
                (false, true) => Travel::FromTheNode,
                (false, false) => Travel::Nowhere,
            };
            (mount.destination().clone(), travel)
        };
        Some(Self(spec.mounts().iter().flatten().map(wish).collect()))
    }

    /// Changes the calling process's mounts. Its root is the container's.
    pub(crate) fn fulfil(&self) -> io::Result<()> {
        // Inside another mount a path may hold links.
        let real = |(path, travel): &(PathBuf, Travel)| {
            (fs::canonicalize(path).unwrap_or_else(|_| path.clone()), *travel)
        };
        let wishes = Self(self.0.iter().map(real).collect());
        for _ in 0..PASSES {
            let wrong = wishes.wrong(&fs::read(MOUNTS)?);
            if wrong.is_empty() {
                return Ok(());
            }
            for (point, change) in wrong {
                mount_change(&point, change)?;
            }
        }
        Err(io::Error::other("mounts do not stay as they are made"))
    }

    /// The mounts that travel otherwise than they should, each with the change that mends it.
    fn wrong(&self, mounts: &[u8]) -> BTreeMap<PathBuf, MountPropagationFlags> {
        let mut wrong = BTreeMap::new();
        for line in mounts.split(|byte| *byte == b'\n') {
            let Some((point, shared, slave)) = read(line) else { continue };
            let change = match self.at(&point) {
                Travel::Nowhere if shared || slave => Some(MountPropagationFlags::PRIVATE),
                Travel::FromTheNode if shared => Some(MountPropagationFlags::DOWNSTREAM),
                Travel::Nowhere | Travel::FromTheNode | Travel::BothWays => None,
            };
            // Of several mounts at one point the last is on top; the others are out of reach.
            wrong.remove(&point);
            // The root has neither peers nor a master: it was made private before it was mounted.
            if let Some(change) = change.filter(|_| point != Path::new("/")) {
                wrong.insert(point, change);
            }
        }
        wrong
    }

    /// By the mount asked for that the point is at, or below.
    fn at(&self, point: &Path) -> Travel {
        let over = self.0.iter().filter(|(path, _)| point.starts_with(path));
        // The later of two at one path is on top.
        over.max_by_key(|(path, _)| path.components().count()).map_or(Travel::Nowhere, |(_, travel)| *travel)
    }
}

/// A line's mount point, and whether the mount shares with peers and follows a master.
fn read(line: &[u8]) -> Option<(PathBuf, bool, bool)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |prefix: &[u8]| optional.iter().any(|field| field.starts_with(prefix));
    Some((PathBuf::from(std::ffi::OsString::from_vec(point)), has(b"shared:"), has(b"master:")))
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(tree: &str, mounts: &[(&str, &str)]) -> Spec {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(path, option)| serde_json::json!({"destination": path, "type": "bind", "source": "/s", "options": [option]}))
            .collect();
        let linux = serde_json::json!({"rootfsPropagation": tree});
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "mounts": mounts, "linux": linux}))
            .unwrap()
    }

    const MOUNTINFO: &[u8] = b"1 0 0:1 / / rw shared:9 - overlay o rw\n\
        2 1 0:2 / /both rw shared:1 - tmpfs t rw\n\
        3 2 0:3 / /both/below rw shared:2 master:7 - tmpfs t rw\n\
        4 1 0:4 / /from rw shared:3 - tmpfs t rw\n\
        5 1 0:5 / /none rw shared:4 - tmpfs t rw\n\
        6 5 0:6 / /none/a\\040b rw master:5 - tmpfs t rw\n\
        7 1 0:7 / /proc rw - proc p rw\n";

    #[test]
    fn every_mount_travels_as_the_one_asked_for_that_it_is_in() {
        let wishes = [("/both", "rshared"), ("/from", "rslave"), ("/none", "rprivate"), ("/proc", "ro")];
        let wishes = Wishes::of(&spec("shared", &wishes)).unwrap();
        let wrong = wishes.wrong(MOUNTINFO);
        let expected = [
            ("/from", MountPropagationFlags::DOWNSTREAM),
            ("/none", MountPropagationFlags::PRIVATE),
            ("/none/a b", MountPropagationFlags::PRIVATE),
        ];
        let expected = expected.map(|(point, change)| (PathBuf::from(point), change));
        assert_eq!(wrong.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_private_mount_inside_a_shared_one_stays_private() {
        let wishes =
            Wishes::of(&spec("shared", &[("/both", "rshared"), ("/both/below", "rprivate")])).unwrap();
        assert_eq!(
            wishes.wrong(MOUNTINFO).get(Path::new("/both/below")),
            Some(&MountPropagationFlags::PRIVATE)
        );
        assert!(!wishes.wrong(MOUNTINFO).contains_key(Path::new("/both")));
    }

    #[test]
    fn in_a_private_tree_there_is_nothing_to_do() {
        assert!(Wishes::of(&spec("private", &[("/a", "rprivate")])).is_none());
        assert!(Wishes::of(&spec("slave", &[("/a", "rslave")])).is_some());
    }
}
