//! Changing the limits of a group that exists.
//!
//! In: the limits it has, the change that is wanted, what the node's cgroups can do. Out: the limits it has then, and the files
//! to write, in an order in which the kernel takes them whether limits rise or fall. 0 means "stays", as in CRI.

use pintle_cri_api::v1::LinuxContainerResources;

use super::{Error, HostFacts, Hugetlb, resources};

/// A file of the group, and what is written into it.
pub type Write = (String, String);

/// The limits after a change.
///
/// # Errors
/// When they can never be.
pub fn merged(
    present: &LinuxContainerResources,
    change: &LinuxContainerResources,
    host: &HostFacts,
) -> Result<LinuxContainerResources, Error> {
    let number = |change: i64, present: i64| if change == 0 { present } else { change };
    let text = |change: &String, present: &String| if change.is_empty() { present } else { change }.clone();
    let mut pages = present.hugepage_limits.clone();
    pages.retain(|old| change.hugepage_limits.iter().all(|new| new.page_size != old.page_size));
    pages.extend(change.hugepage_limits.iter().cloned());
    let mut unified = present.unified.clone();
    unified.extend(change.unified.clone());
    let merged = LinuxContainerResources {
        cpu_period: number(change.cpu_period, present.cpu_period),
        cpu_quota: number(change.cpu_quota, present.cpu_quota),
        cpu_shares: number(change.cpu_shares, present.cpu_shares),
        memory_limit_in_bytes: number(change.memory_limit_in_bytes, present.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: number(
            change.memory_swap_limit_in_bytes,
            present.memory_swap_limit_in_bytes,
        ),
        oom_score_adj: number(change.oom_score_adj, present.oom_score_adj),
        cpuset_cpus: text(&change.cpuset_cpus, &present.cpuset_cpus),
        cpuset_mems: text(&change.cpuset_mems, &present.cpuset_mems),
        hugepage_limits: pages,
        unified,
    };
    resources::check(&merged, host)?;
    Ok(merged)
}

/// What to write into a group for a change from some limits to `after`, the result of [`merged`].
#[must_use]
pub fn writes(
    before: &LinuxContainerResources,
    after: &LinuxContainerResources,
    host: &HostFacts,
) -> Vec<Write> {
    let mut list = Vec::new();
    let mut add = |changed: bool, file: &str, value: String| {
        if changed {
            list.push((file.to_owned(), value));
        }
    };
    let (cpus, mems) = (&after.cpuset_cpus, &after.cpuset_mems);
    add(*mems != before.cpuset_mems, "cpuset.mems", mems.clone());
    add(*cpus != before.cpuset_cpus, "cpuset.cpus", cpus.clone());
    let bandwidth = |limits: &LinuxContainerResources| (limits.cpu_quota, limits.cpu_period);
    let shares = after.cpu_shares != before.cpu_shares;
    if host.cgroup_v2 {
        add(shares, "cpu.weight", resources::cpu_weight(after.cpu_shares).to_string());
        add(bandwidth(before) != bandwidth(after), "cpu.max", cpu_max(after));
    } else {
        add(shares, "cpu.shares", after.cpu_shares.to_string());
    }
    if !host.cgroup_v2 {
        list.extend(legacy_bandwidth(before, after));
        list.extend(legacy_memory(before, after, host));
    } else {
        list.extend(unified_memory(before, after, host));
    }
    list.extend(hugepages(before, after, host.hugetlb));
    let own = after.unified.iter().filter(|(key, value)| before.unified.get(*key) != Some(value));
    list.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    list
}

/// The writes that bring about limits in a group just made which the library cannot: on a hybrid node, those of the v2
/// hierarchy.
#[must_use]
pub fn left_by_the_library(wanted: &LinuxContainerResources, host: &HostFacts) -> Vec<Write> {
    match (host.cgroup_v2, host.hugetlb) {
        (false, Hugetlb::Unified) => {
            hugepages(&LinuxContainerResources::default(), wanted, host.hugetlb).collect()
        }
        (true, _) | (false, Hugetlb::None | Hugetlb::Legacy) => Vec::new(),
    }
}

fn cpu_max(limits: &LinuxContainerResources) -> String {
    let quota = if limits.cpu_quota <= 0 { "max".to_owned() } else { limits.cpu_quota.to_string() };
    let period = if limits.cpu_period == 0 { DEFAULT_PERIOD } else { limits.cpu_period };
    format!("{quota} {period}")
}

/// The kernel's.
const DEFAULT_PERIOD: i64 = 100_000;

/// A group may not get a larger part of a processor than the one above it, not even between the two writes: so the
/// limit is made smaller first, be it by the quota or by the period.
fn legacy_bandwidth(before: &LinuxContainerResources, after: &LinuxContainerResources) -> Vec<Write> {
    let quota = ("cpu.cfs_quota_us".to_owned(), after.cpu_quota.to_string());
    let period = ("cpu.cfs_period_us".to_owned(), after.cpu_period.to_string());
    let quota_changed = after.cpu_quota != before.cpu_quota;
    match (quota_changed, after.cpu_period != before.cpu_period) {
        (false, false) => Vec::new(),
        (true, false) => vec![quota],
        (false, true) => vec![period],
        (true, true) => {
            let former = if before.cpu_period == 0 { DEFAULT_PERIOD } else { before.cpu_period };
            if after.cpu_period > former { vec![period, quota] } else { vec![quota, period] }
        }
    }
}

/// Memory and swap together may never be less than memory alone.
fn legacy_memory(
    before: &LinuxContainerResources,
    after: &LinuxContainerResources,
    host: &HostFacts,
) -> Vec<Write> {
    let (old, new) = (before.memory_limit_in_bytes, after.memory_limit_in_bytes);
    let (old_swap, new_swap) = (resources::with_swap(before), resources::with_swap(after));
    let mut list = Vec::new();
    if new != old {
        list.push(("memory.limit_in_bytes".to_owned(), new.to_string()));
    }
    if host.swap_limits && new_swap != old_swap {
        list.push(("memory.memsw.limit_in_bytes".to_owned(), new_swap.to_string()));
    }
    let rises = old > 0 && (new < 0 || new > old);
    if rises || new_swap < 0 {
        list.reverse();
    }
    list
}

fn unified_memory(
    before: &LinuxContainerResources,
    after: &LinuxContainerResources,
    host: &HostFacts,
) -> Vec<Write> {
    let limit = after.memory_limit_in_bytes;
    let mut list = Vec::new();
    if limit != before.memory_limit_in_bytes {
        let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        list.push(("memory.max".to_owned(), value));
    }
    let swap = resources::swap_alone(after, host);
    if let Some(swap) = swap.filter(|swap| resources::swap_alone(before, host).as_ref() != Some(swap)) {
        list.push(("memory.swap.max".to_owned(), swap));
    }
    list
}

fn hugepages(
    before: &LinuxContainerResources,
    after: &LinuxContainerResources,
    place: Hugetlb,
) -> impl Iterator<Item = Write> {
    let file = match place {
        Hugetlb::None => None,
        Hugetlb::Legacy => Some("limit_in_bytes"),
        Hugetlb::Unified => Some("max"),
    };
    let changed = after.hugepage_limits.iter().filter(|limit| !before.hugepage_limits.contains(limit));
    changed.filter_map(move |limit| {
        Some((format!("hugetlb.{}.{}", limit.page_size, file?), limit.limit.to_string()))
    })
}

/// The limits of a pod's own group: those of its containers together and what the pod itself costs. What its containers are
/// not limited in, the pod is not either.
#[must_use]
pub fn of_pod(
    resources: &LinuxContainerResources,
    overhead: &LinuxContainerResources,
) -> LinuxContainerResources {
    let sum = |of: fn(&LinuxContainerResources) -> i64| match of(resources) {
        limit @ 1.. => limit.saturating_add(of(overhead).max(0)),
        none => none,
    };
    let period =
        |of: &LinuxContainerResources| if of.cpu_period > 0 { of.cpu_period } else { DEFAULT_PERIOD };
    let quota = match resources.cpu_quota {
        quota @ 1.. => {
            let more = overhead.cpu_quota.max(0).saturating_mul(period(resources)) / period(overhead);
            quota.saturating_add(more)
        }
        none => none,
    };
    let memory = sum(|limits| limits.memory_limit_in_bytes);
    let mut limits = LinuxContainerResources {
        cpu_quota: quota,
        cpu_shares: sum(|limits| limits.cpu_shares).min(resources::CPU_SHARES.1),
        memory_limit_in_bytes: memory,
        // Its containers may swap each as it is allowed to.
        memory_swap_limit_in_bytes: match sum(|limits| limits.memory_swap_limit_in_bytes) {
            0 if memory > 0 => -1,
            swap => swap,
        },
        oom_score_adj: 0,
        ..resources.clone()
    };
    for extra in &overhead.hugepage_limits {
        if let Some(limit) = limits.hugepage_limits.iter_mut().find(|l| l.page_size == extra.page_size) {
            limit.limit = limit.limit.saturating_add(extra.limit);
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::HugepageLimit;

    use super::*;

    fn v1() -> HostFacts {
        let hugepage_sizes = vec!["2MB".to_owned()];
        HostFacts { swap_limits: true, hugetlb: Hugetlb::Unified, hugepage_sizes, ..Default::default() }
    }

    fn v2() -> HostFacts {
        HostFacts { cgroup_v2: true, ..v1() }
    }

    fn memory(limit: i64, swap: i64) -> LinuxContainerResources {
        LinuxContainerResources {
            memory_limit_in_bytes: limit << 20,
            memory_swap_limit_in_bytes: swap << 20,
            ..Default::default()
        }
    }

    fn changed(
        before: &LinuxContainerResources,
        change: &LinuxContainerResources,
        host: &HostFacts,
    ) -> Vec<(String, String)> {
        writes(before, &merged(before, change, host).unwrap(), host)
    }

    fn files(list: &[Write]) -> Vec<&str> {
        list.iter().map(|(file, _)| file.as_str()).collect()
    }

    const MEMORY: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";

    #[test]
    fn on_v1_swap_is_raised_before_and_lowered_after_the_memory_it_includes() {
        let (small, large) = (memory(16, 16), memory(64, 64));
        assert_eq!(files(&changed(&small, &large, &v1())), [SWAP, MEMORY]);
        assert_eq!(files(&changed(&large, &small, &v1())), [MEMORY, SWAP]);
        assert_eq!(files(&changed(&memory(0, 0), &small, &v1())), [MEMORY, SWAP]);
        let lifted = LinuxContainerResources {
            memory_limit_in_bytes: -1,
            memory_swap_limit_in_bytes: -1,
            ..Default::default()
        };
        assert_eq!(files(&changed(&small, &lifted, &v1())), [SWAP, MEMORY]);
        // Where nothing is said of swap it goes with the memory.
        let (small, large) = (memory(16, 0), memory(64, 0));
        assert_eq!(changed(&small, &large, &v1())[0], (SWAP.to_owned(), (64 << 20).to_string()));
        assert_eq!(files(&changed(&large, &small, &v1())), [MEMORY, SWAP]);
    }

    #[test]
    fn a_memory_limit_above_the_swap_limit_that_stays_is_refused() {
        let error = merged(&memory(16, 32), &memory(64, 0), &v1()).unwrap_err();
        assert!(error.to_string().contains("memory_swap_limit"), "{error}");
    }

    #[test]
    fn on_v2_swap_is_told_without_memory_also_when_only_memory_changes() {
        let list = changed(&memory(16, 16), &memory(64, 64), &v2());
        assert_eq!(list, [("memory.max".to_owned(), (64 << 20).to_string())]);
        let list = changed(&memory(16, 64), &memory(32, 0), &v2());
        assert_eq!(list[1], ("memory.swap.max".to_owned(), (32 << 20).to_string()));
    }

    #[test]
    fn what_is_not_given_stays_and_is_part_of_what_is_written() {
        let before = LinuxContainerResources { cpu_period: 50_000, cpu_quota: 10_000, ..Default::default() };
        let change = LinuxContainerResources { cpu_quota: 20_000, ..Default::default() };
        assert_eq!(changed(&before, &change, &v2()), [("cpu.max".to_owned(), "20000 50000".to_owned())]);
        assert_eq!(files(&changed(&before, &change, &v1())), ["cpu.cfs_quota_us"]);
        assert_eq!(changed(&before, &before, &v2()), []);
        let lifted = LinuxContainerResources { cpu_quota: -1, ..Default::default() };
        assert_eq!(changed(&before, &lifted, &v2())[0].1, "max 50000");
    }

    #[test]
    fn on_v1_a_longer_period_is_written_before_the_quota_and_a_shorter_one_after() {
        let of =
            |cpu_period, cpu_quota| LinuxContainerResources { cpu_period, cpu_quota, ..Default::default() };
        let period_first = |before: &LinuxContainerResources, after: &LinuxContainerResources| {
            changed(before, after, &v1())[0].0.contains("period")
        };
        assert!(period_first(&of(50_000, 10_000), &of(100_000, 30_000)));
        assert!(!period_first(&of(100_000, 30_000), &of(50_000, 10_000)));
    }

    #[test]
    fn huge_pages_and_unified_keys_change_one_by_one() {
        let pages = |limit| LinuxContainerResources {
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit }],
            ..Default::default()
        };
        assert_eq!(changed(&pages(4), &pages(8), &v1()), [("hugetlb.2MB.max".to_owned(), "8".to_owned())]);
        assert_eq!(left_by_the_library(&pages(4), &v1()).len(), 1);
        assert!(left_by_the_library(&pages(4), &v2()).is_empty());
        let legacy = HostFacts { hugetlb: Hugetlb::Legacy, ..v1() };
        assert_eq!(files(&changed(&pages(4), &pages(0), &legacy)), ["hugetlb.2MB.limit_in_bytes"]);
        let mut high = LinuxContainerResources::default();
        high.unified.insert("memory.high".to_owned(), "9".to_owned());
        assert_eq!(changed(&pages(4), &high, &v2()), [("memory.high".to_owned(), "9".to_owned())]);
        assert!(merged(&pages(4), &high, &v1()).is_err());
    }

    #[test]
    fn a_pod_has_its_containers_limits_and_its_overhead_and_none_where_they_have_none() {
        let resources = LinuxContainerResources { cpu_quota: 50_000, cpu_shares: 512, ..memory(64, 0) };
        let overhead =
            LinuxContainerResources { cpu_period: 50_000, cpu_quota: 5_000, cpu_shares: 10, ..memory(16, 0) };
        let pod = of_pod(&resources, &overhead);
        assert_eq!((pod.cpu_quota, pod.cpu_shares, pod.memory_limit_in_bytes), (60_000, 522, 80 << 20));
        assert_eq!(
            of_pod(&LinuxContainerResources::default(), &overhead),
            LinuxContainerResources::default()
        );
    }
}
