//! Which capabilities a container's process gets.
//!
//! In: CRI's add and drop lists, whether it is privileged, what the node has. Out: the sets of OCI. Names come with or
//! without `CAP_`, in any case; an unknown name is an error.

use pintle_cri_api::v1::Capability;
use serde_json::{Value, json};

use super::Error;

/// What every container gets unless it is dropped: the list of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability Linux has.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capability sets of a container's process.
///
/// # Errors
/// When a name is unknown.
pub fn sets(wanted: Option<&Capability>, privileged: bool, available: &[String]) -> Result<Value, Error> {
    let empty = Capability::default();
    let wanted = wanted.unwrap_or(&empty);
    let mut names: Vec<&str> = if privileged || has_all(&wanted.add_capabilities) {
        ALL.to_vec()
    } else if has_all(&wanted.drop_capabilities) {
        Vec::new()
    } else {
        DEFAULT.to_vec()
    };
    for name in explicit(&wanted.drop_capabilities)? {
        names.retain(|have| *have != name);
    }
    for name in explicit(&wanted.add_capabilities)? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let ambient = explicit(&wanted.add_ambient_capabilities)?;
    names.extend(ambient.iter().filter(|name| !names.contains(name)).copied().collect::<Vec<_>>());
    let names: Vec<_> = names.into_iter().filter(|name| available.iter().any(|have| have == name)).collect();
    Ok(json!({
        "bounding": names, "effective": names, "permitted": names,
        "inheritable": ambient, "ambient": ambient,
    }))
}

/// The names of every capability Linux has.
#[must_use]
pub fn all() -> &'static [&'static str] {
    &ALL
}

fn has_all(names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL"))
}

/// The names other than ALL, in Linux's spelling.
fn explicit(names: &[String]) -> Result<Vec<&'static str>, Error> {
    let named = names.iter().filter(|name| !has_all(std::slice::from_ref(*name)));
    named.map(|name| canonical(name)).collect()
}

fn canonical(name: &str) -> Result<&'static str, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL.iter().copied().find(|known| known.strip_prefix("CAP_") == Some(bare));
    known.ok_or_else(|| Error::invalid("capabilities", format!("there is no capability {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn have_all() -> Vec<String> {
        ALL.iter().map(ToString::to_string).collect()
    }

    fn bounding(add: &[&str], drop: &[&str], privileged: bool) -> Vec<String> {
        let wanted = Capability {
            add_capabilities: add.iter().map(ToString::to_string).collect(),
            drop_capabilities: drop.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let sets = sets(Some(&wanted), privileged, &have_all()).unwrap();
        let names = sets["bounding"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned());
        names.collect()
    }

    #[test]
    fn without_wishes_a_container_gets_the_default_list() {
        assert_eq!(bounding(&[], &[], false), DEFAULT);
    }

    #[test]
    fn add_and_drop_take_names_in_any_spelling() {
        let names = bounding(&["net_admin"], &["CAP_CHOWN", "Kill"], false);
        assert!(names.contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!names.contains(&"CAP_CHOWN".to_owned()));
        assert!(!names.contains(&"CAP_KILL".to_owned()));
    }

    #[test]
    fn drop_all_leaves_what_is_added() {
        assert_eq!(bounding(&["NET_BIND_SERVICE"], &["ALL"], false), ["CAP_NET_BIND_SERVICE"]);
        assert!(bounding(&[], &["all"], false).is_empty());
    }

    #[test]
    fn add_all_leaves_out_what_is_dropped() {
        let names = bounding(&["ALL"], &["SYS_ADMIN"], false);
        assert_eq!(names.len(), ALL.len() - 1);
        assert!(!names.contains(&"CAP_SYS_ADMIN".to_owned()));
    }

    #[test]
    fn privileged_means_everything_the_node_has() {
        assert_eq!(bounding(&[], &[], true).len(), ALL.len());
        let sets = sets(None, true, &["CAP_CHOWN".to_owned()]).unwrap();
        assert_eq!(sets["bounding"], json!(["CAP_CHOWN"]));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let wanted = Capability { add_capabilities: vec!["FLY".to_owned()], ..Default::default() };
        assert!(sets(Some(&wanted), false, &have_all()).is_err());
    }
}
