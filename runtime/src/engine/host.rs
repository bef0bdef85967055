//! What the node is and can do, found out once when the engine opens.
//!
//! In: /proc and the cgroup mounts. Out: [`HostFacts`] for `spec`, the boot's id, the kernel's version, the time.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    cgroups::Cgroups,
    error::{Error, Result},
};
use crate::spec::{HostFacts, capabilities};

/// Finds out what the node can do.
///
/// # Errors
/// When /proc does not say.
pub fn facts(cgroups: &Cgroups) -> Result<HostFacts> {
    Ok(HostFacts {
        cgroup_v2: cgroups.is_v2(),
        swap_limits: swap_limits(cgroups),
        hugetlb: cgroups.hugetlb(),
        hugepage_sizes: hugepage_sizes(),
        capabilities: own_capabilities()?,
        oom_floor: oom_floor()?,
        open_files: None,
    })
}

/// The id of this boot.
///
/// # Errors
/// When /proc does not say.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(read(path)?.trim().to_owned())
}

/// The kernel's release, for the status.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Now, in nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn swap_limits(cgroups: &Cgroups) -> bool {
    if !cgroups.is_v2() {
        return cgroups.file("/", "memory.memsw.limit_in_bytes").is_some();
    }
    // The root group of v2 has no memory.swap.max; any other group tells, and our own is one.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    path == "/" || cgroups.file(path, "memory.swap.max").is_some()
}

/// `/sys/kernel/mm/hugepages/hugepages-2048kB` and so on, as the names of cgroup files have them.
fn hugepage_sizes() -> Vec<String> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let sizes = names.filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
    let mut sizes: Vec<u64> = sizes.collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

/// A size in KiB with the unit in which it is least.
fn page_size(kib: u64) -> String {
    match (kib % 1024, kib % (1024 * 1024)) {
        (_, 0) => format!("{}GB", kib / (1024 * 1024)),
        (0, _) => format!("{}MB", kib / 1024),
        _ => format!("{kib}KB"),
    }
}

/// The capabilities of the permitted set.
fn own_capabilities() -> Result<Vec<String>> {
    let have = caps::read(None, caps::CapSet::Permitted)
        .map_err(|e| Error::Internal(format!("reading the engine's capabilities: {e}")))?;
    let names: Vec<String> = have.iter().map(ToString::to_string).collect();
    Ok(capabilities::all()
        .iter()
        .filter(|name| names.iter().any(|n| n == *name))
        .map(ToString::to_string)
        .collect())
}

/// Without CAP_SYS_RESOURCE a process may not go below the lowest value it ever had.
fn oom_floor() -> Result<i32> {
    const CAP: caps::Capability = caps::Capability::CAP_SYS_RESOURCE;
    if caps::has_cap(None, caps::CapSet::Effective, CAP).unwrap_or(false) {
        return Ok(-1000);
    }
    let text = read("/proc/self/oom_score_adj")?;
    Ok(text.trim().parse().unwrap_or(0))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("reading", Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_the_kernel_names_them() {
        for (kib, name) in [(64, "64KB"), (2048, "2MB"), (32768, "32MB"), (1_048_576, "1GB")] {
            assert_eq!(page_size(kib), name);
        }
    }
}
