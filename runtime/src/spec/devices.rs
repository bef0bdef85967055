//! Which device nodes a container gets and which it may open.
//!
//! In: the node's devices that were asked for, already looked up. Out: OCI's devices and device rules. The usual nodes
//! (null, zero, full, random, urandom, tty) are made by the library; here is the rule that lets them be opened.

use std::path::PathBuf;

use serde_json::{Value, json};

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Its path inside.
    pub path: String,
    /// Its path on the node; empty: it is made by its numbers.
    pub host_path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permissions of the node.
    pub mode: u32,
    /// Owner of the node.
    pub uid: u32,
    /// Group of the node.
    pub gid: u32,
    /// What may be done: some of `rwm`.
    pub access: String,
}

/// Whether a device is where the library makes nodes. Elsewhere the node's own is bound.
#[must_use]
pub fn is_below_dev(device: &HostDevice) -> bool {
    device.path.starts_with("/dev/")
}

/// The nodes to make.
#[must_use]
pub fn nodes(devices: &[HostDevice]) -> Vec<Value> {
    let node = |d: &HostDevice| {
        json!({
            "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor,
            "fileMode": d.mode, "uid": d.uid, "gid": d.gid,
        })
    };
    devices.iter().filter(|device| is_below_dev(device)).map(node).collect()
}

/// The rules: everything for a privileged container, else the usual list and what was asked for.
#[must_use]
pub fn rules(devices: &[HostDevice], privileged: bool) -> Vec<Value> {
    if privileged {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let allow = |kind: &str, major: Option<u32>, minor: Option<u32>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        for (key, number) in [("major", major), ("minor", minor)] {
            if let Some(number) = number {
                rule[key] = json!(number);
            }
        }
        rule
    };
    let mut list = vec![json!({"allow": false, "access": "rwm"})];
    list.push(allow("c", None, None, "m"));
    list.push(allow("b", None, None, "m"));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        list.push(allow("c", Some(major), Some(minor), "rwm"));
    }
    list.push(allow("c", Some(136), None, "rwm"));
    let asked = devices.iter();
    list.extend(asked.map(|d| allow(&d.kind.to_string(), Some(d.major), Some(d.minor), &d.access)));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_forbidden_first_and_then_the_usual_and_the_wanted_allowed() {
        let fuse = HostDevice {
            path: "/dev/fuse".to_owned(),
            host_path: PathBuf::from("/dev/fuse"),
            kind: 'c',
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rw".to_owned(),
        };
        let list = rules(std::slice::from_ref(&fuse), false);
        assert_eq!(list[0], json!({"allow": false, "access": "rwm"}));
        let last = list.last().unwrap();
        assert_eq!(*last, json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}));
        assert_eq!(nodes(std::slice::from_ref(&fuse))[0]["path"], "/dev/fuse");
        let elsewhere = HostDevice { path: "/data/fuse".to_owned(), ..fuse };
        assert!(nodes(std::slice::from_ref(&elsewhere)).is_empty());
        assert_eq!(rules(&[elsewhere], false).len(), list.len(), "it may be opened all the same");
    }

    #[test]
    fn a_privileged_container_may_open_everything() {
        assert_eq!(rules(&[], true), [json!({"allow": true, "access": "rwm"})]);
    }
}
