//! The user namespace of a pod.
//!
//! In: CRI's `userns_options` of a sandbox, a container, and the mappings of a mount. Out: [`IdMappings`], or nothing where
//! the pod's users are the node's. A container is in its pod's user namespace: one that says otherwise is refused, one that
//! says nothing is taken for the same.

use pintle_cri_api::v1::{IdMapping as CriMapping, NamespaceMode as CriMode, NamespaceOption};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Error;

const FIELD: &str = "namespace_options.userns_options";
/// The most ranges; the kernel's `UID_GID_MAP_MAX_EXTENTS`.
const MAX_RANGES: usize = 340;

/// A range of ids inside, and the node's that they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdRange {
    /// The first one inside.
    pub inside: u32,
    /// The first one on the node.
    pub on_node: u32,
    /// How many.
    pub length: u32,
}

/// Which of the node's users and groups a user namespace's are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdMappings {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
}

impl IdMappings {
    /// OCI's `uidMappings` and `gidMappings`.
    #[must_use]
    pub fn oci(&self) -> (Value, Value) {
        let list = |ranges: &[IdRange]| -> Value {
            let one = |r: &IdRange| json!({"containerID": r.inside, "hostID": r.on_node, "size": r.length});
            ranges.iter().map(one).collect()
        };
        (list(&self.users), list(&self.groups))
    }

    /// CRI's mappings, for the status.
    #[must_use]
    pub fn cri(&self) -> (Vec<CriMapping>, Vec<CriMapping>) {
        let list = |ranges: &[IdRange]| {
            let one =
                |r: &IdRange| CriMapping { host_id: r.on_node, container_id: r.inside, length: r.length };
            ranges.iter().map(one).collect()
        };
        (list(&self.users), list(&self.groups))
    }

    /// The node's numbers for the namespace's root.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        let of = |ranges: &[IdRange]| ranges.iter().find(|r| r.inside == 0).map_or(0, |r| r.on_node);
        (of(&self.users), of(&self.groups))
    }
}

/// The user namespace that a sandbox asks for.
///
/// # Errors
/// When the mappings are none, or the pod shares a namespace with the node that such a pod cannot.
pub fn of_sandbox(options: Option<&NamespaceOption>) -> Result<Option<IdMappings>, Error> {
    let Some(options) = options else { return Ok(None) };
    let Some(mappings) = asked(options)? else { return Ok(None) };
    for (kind, mode) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
        if mode == CriMode::Node as i32 {
            let reason = format!("a pod with users of its own cannot share the node's {kind} namespace");
            return Err(Error::invalid(FIELD, reason));
        }
    }
    Ok(Some(mappings))
}

/// Checks what a container asks for against its pod's.
///
/// # Errors
/// When they differ.
pub fn check_container(options: Option<&NamespaceOption>, pod: Option<&IdMappings>) -> Result<(), Error> {
    let Some(options) = options.filter(|options| options.userns_options.is_some()) else { return Ok(()) };
    if asked(options)?.as_ref() == pod {
        return Ok(());
    }
    Err(Error::invalid(FIELD, "a container's has to be that of its sandbox"))
}

/// Checks the mappings of a mount against its pod's; whether there are any.
///
/// # Errors
/// When they differ.
pub fn check_mount(
    users: &[CriMapping],
    groups: &[CriMapping],
    pod: Option<&IdMappings>,
) -> Result<bool, Error> {
    if users.is_empty() && groups.is_empty() {
        return Ok(false);
    }
    const FIELD: &str = "mounts.uidMappings";
    let asked = IdMappings { users: ranges(FIELD, users)?, groups: ranges(FIELD, groups)? };
    match pod {
        Some(pod) if *pod == asked => Ok(true),
        Some(_) => Err(Error::invalid(FIELD, "a mount's mappings have to be those of its sandbox")),
        None => Err(Error::invalid(FIELD, "the sandbox has no user namespace")),
    }
}

fn asked(options: &NamespaceOption) -> Result<Option<IdMappings>, Error> {
    let Some(wanted) = &options.userns_options else { return Ok(None) };
    match CriMode::try_from(wanted.mode) {
        Ok(CriMode::Pod) => {
            Ok(Some(IdMappings { users: ranges(FIELD, &wanted.uids)?, groups: ranges(FIELD, &wanted.gids)? }))
        }
        Ok(CriMode::Node) if wanted.uids.is_empty() && wanted.gids.is_empty() => Ok(None),
        Ok(CriMode::Node) => Err(Error::invalid(FIELD, "the node's users cannot be mapped")),
        Ok(CriMode::Container | CriMode::Target) => Err(Error::invalid(FIELD, "the mode is POD or NODE")),
        Err(_) => Err(Error::invalid(FIELD, format!("there is no namespace mode {}", wanted.mode))),
    }
}

/// Ranges in ascending order that the kernel takes.
fn ranges(field: &'static str, list: &[CriMapping]) -> Result<Vec<IdRange>, Error> {
    let refused = |reason: &str| Err(Error::invalid(field, reason));
    if list.is_empty() || list.len() > MAX_RANGES {
        return refused("users and groups need 1 to 340 mappings each");
    }
    let mut found: Vec<IdRange> = Vec::with_capacity(list.len());
    for map in list {
        let range = IdRange { inside: map.container_id, on_node: map.host_id, length: map.length };
        let fits = |first: u32| first.checked_add(range.length).is_some();
        if range.length == 0 || !fits(range.inside) || !fits(range.on_node) {
            return refused("a mapping is empty or goes beyond the highest id");
        }
        found.push(range);
    }
    found.sort_unstable_by_key(|range| range.inside);
    let overlap = |first: fn(&IdRange) -> u32| {
        let mut ordered: Vec<&IdRange> = found.iter().collect();
        ordered.sort_unstable_by_key(|range| first(range));
        ordered.windows(2).any(|pair| first(pair[0]) + pair[0].length > first(pair[1]))
    };
    if overlap(|range| range.inside) || overlap(|range| range.on_node) {
        return refused("mappings overlap");
    }
    match found.first() {
        Some(range) if range.inside == 0 => Ok(found),
        Some(_) | None => refused("id 0 has to be mapped"),
    }
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::UserNamespace;

    use super::*;

    fn map(container_id: u32, host_id: u32, length: u32) -> CriMapping {
        CriMapping { host_id, container_id, length }
    }

    fn options(mode: CriMode, maps: &[CriMapping]) -> NamespaceOption {
        let users = UserNamespace { mode: mode as i32, uids: maps.to_vec(), gids: maps.to_vec() };
        NamespaceOption { userns_options: Some(users), ..Default::default() }
    }

    fn pod() -> IdMappings {
        of_sandbox(Some(&options(CriMode::Pod, &[map(0, 65_536, 65_536)]))).unwrap().unwrap()
    }

    #[test]
    fn a_pods_users_are_mapped_or_the_nodes() {
        assert_eq!(pod().root(), (65_536, 65_536));
        assert_eq!(pod().oci().0, json!([{"containerID": 0, "hostID": 65_536, "size": 65_536}]));
        assert_eq!(pod().cri().1, [map(0, 65_536, 65_536)]);
        assert_eq!(of_sandbox(None).unwrap(), None);
        assert_eq!(of_sandbox(Some(&NamespaceOption::default())).unwrap(), None);
        assert_eq!(of_sandbox(Some(&options(CriMode::Node, &[]))).unwrap(), None);
    }

    #[test]
    fn what_can_be_no_mapping_is_refused() {
        for (mode, maps) in [
            (CriMode::Pod, vec![]),
            (CriMode::Pod, vec![map(0, 1000, 0)]),
            (CriMode::Pod, vec![map(1, 1000, 10)]),
            (CriMode::Pod, vec![map(0, u32::MAX, 10)]),
            (CriMode::Pod, vec![map(0, 1000, 10), map(5, 9000, 10)]),
            (CriMode::Pod, vec![map(0, 1000, 10), map(10, 1009, 10)]),
            (CriMode::Pod, (0..341).map(|i| map(i, i, 1)).collect()),
            (CriMode::Node, vec![map(0, 1000, 10)]),
            (CriMode::Container, vec![map(0, 1000, 10)]),
            (CriMode::Target, vec![map(0, 1000, 10)]),
        ] {
            assert!(
                matches!(of_sandbox(Some(&options(mode, &maps))), Err(Error::Invalid { .. })),
                "{maps:?}"
            );
        }
        let shared =
            NamespaceOption { network: CriMode::Node as i32, ..options(CriMode::Pod, &[map(0, 1, 9)]) };
        assert!(of_sandbox(Some(&shared)).unwrap_err().to_string().contains("network"));
    }

    #[test]
    fn containers_and_mounts_have_to_agree_with_their_pod() {
        let (same, other) = (map(0, 65_536, 65_536), map(0, 200_000, 65_536));
        check_container(None, Some(&pod())).unwrap();
        check_container(Some(&NamespaceOption::default()), Some(&pod())).unwrap();
        check_container(Some(&options(CriMode::Pod, &[same])), Some(&pod())).unwrap();
        assert!(check_container(Some(&options(CriMode::Pod, &[other])), Some(&pod())).is_err());
        assert!(check_container(Some(&options(CriMode::Pod, &[same])), None).is_err());
        assert!(check_container(Some(&options(CriMode::Node, &[])), Some(&pod())).is_err());
        check_container(Some(&options(CriMode::Node, &[])), None).unwrap();
        assert!(check_mount(&[same], &[same], Some(&pod())).unwrap());
        assert!(!check_mount(&[], &[], Some(&pod())).unwrap());
        assert!(check_mount(&[same], &[other], Some(&pod())).is_err());
        assert!(check_mount(&[same], &[], Some(&pod())).is_err());
        assert!(check_mount(&[same], &[same], None).is_err());
    }
}
