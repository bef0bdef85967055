//! A container's limits.
//!
//! In: CRI's resources, what the node's cgroups can do. Out: OCI's resources; changing them later is `resource_change`.
//! 0 means "not given", as in CRI.

use pintle_cri_api::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::{Error, HostFacts, Hugetlb};

/// OCI's resources, without the device rules.
///
/// # Errors
/// When a value can never be set.
pub fn oci(wanted: &LinuxContainerResources, host: &HostFacts) -> Result<Map<String, Value>, Error> {
    check(wanted, host)?;
    let mut all = Map::new();
    let mut unified: Map<String, Value> =
        wanted.unified.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut cpu = Map::new();
    put(&mut cpu, "period", wanted.cpu_period != 0, json!(wanted.cpu_period));
    put(&mut cpu, "quota", wanted.cpu_quota != 0, json!(wanted.cpu_quota));
    put(&mut cpu, "cpus", !wanted.cpuset_cpus.is_empty(), json!(wanted.cpuset_cpus));
    put(&mut cpu, "mems", !wanted.cpuset_mems.is_empty(), json!(wanted.cpuset_mems));
    if host.cgroup_v2 && wanted.cpu_shares != 0 {
        let weight = cpu_weight(wanted.cpu_shares).to_string();
        unified.entry("cpu.weight").or_insert_with(|| json!(weight));
    }
    put(&mut cpu, "shares", !host.cgroup_v2 && wanted.cpu_shares != 0, json!(wanted.cpu_shares));
    let mut memory = Map::new();
    let limit = wanted.memory_limit_in_bytes;
    put(&mut memory, "limit", limit != 0, json!(limit));
    if host.cgroup_v2 {
        // Not by OCI's field: the library takes "no swap at all" for "not given".
        if let Some(swap) = swap_alone(wanted, host) {
            unified.entry("memory.swap.max").or_insert_with(|| json!(swap));
        }
    } else {
        let swap = with_swap(wanted);
        put(&mut memory, "swap", swap != 0 && host.swap_limits && limit != 0, json!(swap));
    }
    let by_library = host.cgroup_v2 || host.hugetlb == Hugetlb::Legacy;
    let pages: Vec<Value> = wanted
        .hugepage_limits
        .iter()
        .filter(|_| by_library && host.hugetlb != Hugetlb::None)
        .map(|l| json!({"pageSize": l.page_size, "limit": l.limit}))
        .collect();
    put(&mut all, "cpu", !cpu.is_empty(), Value::Object(cpu));
    put(&mut all, "memory", !memory.is_empty(), Value::Object(memory));
    put(&mut all, "hugepageLimits", !pages.is_empty(), json!(pages));
    put(&mut all, "unified", !unified.is_empty(), Value::Object(unified));
    Ok(all)
}

/// The limit on memory and swap together. Where nothing is said it is that on memory: nobody swaps who was not allowed to, as
/// with other runtimes.
pub(super) fn with_swap(wanted: &LinuxContainerResources) -> i64 {
    match wanted.memory_swap_limit_in_bytes {
        0 => wanted.memory_limit_in_bytes,
        swap => swap,
    }
}

/// What `memory.swap.max` of cgroup v2 is to be, where CRI counts memory and swap together; nothing: it stays.
pub(super) fn swap_alone(wanted: &LinuxContainerResources, host: &HostFacts) -> Option<String> {
    let (limit, swap) = (wanted.memory_limit_in_bytes, with_swap(wanted));
    match (swap, host.swap_limits) {
        (0, _) | (_, false) => None,
        (..0, true) => Some("max".to_owned()),
        (1.., true) => Some((swap - limit.max(0)).to_string()),
    }
}

/// cgroup v2's weight for v1's shares, so that one processor's 1024 shares become 100:
/// `ceil(10^(l(l+125)/612 - 7/34))` with `l = log2(shares)`.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded by the clamps")]
pub fn cpu_weight(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as i64).clamp(1, 10_000)
}

/// The bounds are the kernel's: what it would refuse, or silently make something else of, is refused here in words.
pub(super) fn check(wanted: &LinuxContainerResources, host: &HostFacts) -> Result<(), Error> {
    let ranges = [
        ("resources.cpu_period", wanted.cpu_period, CPU_PERIOD),
        ("resources.cpu_quota", wanted.cpu_quota, CPU_QUOTA),
        ("resources.cpu_shares", wanted.cpu_shares, CPU_SHARES),
        ("resources.memory_limit_in_bytes", wanted.memory_limit_in_bytes, MEMORY),
        ("resources.memory_swap_limit_in_bytes", wanted.memory_swap_limit_in_bytes, MEMORY),
        ("resources.oom_score_adj", wanted.oom_score_adj, OOM_SCORE_ADJ),
    ];
    for (field, value, (least, most)) in ranges {
        let unlimited = value == -1 && (field.contains("memory") || field.ends_with("quota"));
        if value != 0 && !unlimited && !(least..=most).contains(&value) {
            return Err(Error::invalid(field, format!("{value} is not between {least} and {most}")));
        }
    }
    let (limit, swap) = (wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    if swap > 0 && (limit <= 0 || swap < limit) {
        let limit = if limit <= 0 { "none".to_owned() } else { limit.to_string() };
        let reason = format!("{swap} is less than the memory limit ({limit}), which it includes");
        return Err(Error::invalid("resources.memory_swap_limit_in_bytes", reason));
    }
    cpuset("resources.cpuset_cpus", &wanted.cpuset_cpus)?;
    cpuset("resources.cpuset_mems", &wanted.cpuset_mems)?;
    hugepages(wanted, host)?;
    if wanted.unified.len() > MAX_UNIFIED {
        return Err(Error::invalid("resources.unified", format!("more than {MAX_UNIFIED}")));
    }
    if !wanted.unified.is_empty() && !host.cgroup_v2 {
        return Err(Error::invalid("resources.unified", "this node does not have cgroup v2"));
    }
    wanted.unified.iter().try_for_each(|(key, value)| unified(key, value))
}

/// Microseconds, as the kernel takes them.
const CPU_PERIOD: (i64, i64) = (1_000, 1_000_000);
/// Microseconds; a larger one overflows in the kernel.
const CPU_QUOTA: (i64, i64) = (1_000, (1 << 44) / 1_000);
pub(super) const CPU_SHARES: (i64, i64) = (2, 262_144);
/// Less than this does not hold the program that becomes the container's.
const MEMORY: (i64, i64) = (512 * 1024, i64::MAX);
const OOM_SCORE_ADJ: (i64, i64) = (-1000, 1000);
const MAX_UNIFIED: usize = 128;
const MAX_TEXT: usize = 4096;

/// A list of numbers and ranges. The file ends where the text would have a second line.
fn cpuset(field: &'static str, text: &str) -> Result<(), Error> {
    let fits = text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
    if fits { Ok(()) } else { Err(Error::invalid(field, "is no list of numbers and ranges such as 0-3,8")) }
}

/// Sizes the node has: they become part of a file's name. A kubelet sends a limit of 0 for each of them, which no node
/// without the controller need refuse; another limit cannot be kept there.
fn hugepages(wanted: &LinuxContainerResources, host: &HostFacts) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for limit in &wanted.hugepage_limits {
        let shown: String = limit.page_size.chars().take(32).collect();
        if !host.hugepage_sizes.contains(&limit.page_size) {
            let reason = format!("this node has no pages of {shown:?}, but {:?}", host.hugepage_sizes);
            return Err(Error::invalid("resources.hugepage_limits.page_size", reason));
        }
        if !seen.insert(&limit.page_size) {
            return Err(Error::invalid("resources.hugepage_limits", format!("{shown} twice")));
        }
        if limit.limit > 0 && host.hugetlb == Hugetlb::None {
            let reason = "this node's cgroups have no controller hugetlb";
            return Err(Error::invalid("resources.hugepage_limits", reason));
        }
    }
    Ok(())
}

/// The key is a file of the container's cgroup: of a controller, and not of the group itself, whose processes, freezing
/// and killing are the engine's.
fn unified(key: &str, value: &str) -> Result<(), Error> {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let fits = key.len() <= 64
        && key.contains('.')
        && key.split('.').all(word)
        && !key.starts_with("cgroup.")
        && value.len() <= MAX_TEXT
        && !value.contains(char::is_control);
    if fits {
        return Ok(());
    }
    let shown: String = key.chars().take(64).collect();
    Err(Error::invalid(
        "resources.unified",
        format!("{shown:?} is no limit of a controller, or its value none"),
    ))
}

fn put(map: &mut Map<String, Value>, key: &str, given: bool, value: Value) {
    if given {
        map.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1() -> HostFacts {
        HostFacts { swap_limits: true, hugepage_sizes: vec!["2MB".to_owned()], ..Default::default() }
    }

    fn v2() -> HostFacts {
        HostFacts { cgroup_v2: true, ..v1() }
    }

    fn wanted() -> LinuxContainerResources {
        LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 1 << 26,
            memory_swap_limit_in_bytes: 1 << 27,
            ..Default::default()
        }
    }

    #[test]
    fn one_processor_weighs_one_hundred() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (i64::MAX, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn shares_stay_shares_on_v1_and_become_a_weight_on_v2() {
        let old = oci(&wanted(), &v1()).unwrap();
        assert_eq!(old["cpu"], json!({"period": 100_000, "quota": 50_000, "shares": 1024}));
        assert_eq!(old["memory"], json!({"limit": 1 << 26, "swap": 1 << 27}));
        let new = oci(&wanted(), &v2()).unwrap();
        assert_eq!(new["cpu"], json!({"period": 100_000, "quota": 50_000}));
        assert_eq!(new["memory"], json!({"limit": 1 << 26}));
        assert_eq!(new["unified"], json!({"cpu.weight": "100", "memory.swap.max": (1 << 26).to_string()}));
    }

    #[test]
    fn who_has_a_memory_limit_and_no_word_on_swap_does_not_swap() {
        let silent = LinuxContainerResources { memory_swap_limit_in_bytes: 0, ..wanted() };
        assert_eq!(oci(&silent, &v1()).unwrap()["memory"], json!({"limit": 1 << 26, "swap": 1 << 26}));
        assert_eq!(oci(&silent, &v2()).unwrap()["unified"]["memory.swap.max"], "0");
    }

    #[test]
    fn no_swap_at_all_is_said_on_v2_and_the_requests_own_word_counts() {
        let mut none = LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 26, ..wanted() };
        assert_eq!(oci(&none, &v2()).unwrap()["unified"]["memory.swap.max"], "0");
        none.unified.insert("memory.swap.max".to_owned(), "7".to_owned());
        assert_eq!(oci(&none, &v2()).unwrap()["unified"]["memory.swap.max"], "7");
        let swap_only = LinuxContainerResources { memory_swap_limit_in_bytes: -1, ..Default::default() };
        assert!(oci(&swap_only, &v1()).unwrap().is_empty());
    }

    #[test]
    fn huge_pages_are_limited_by_the_library_where_it_can_and_never_left_out() {
        let limit = |size: &str, limit| LinuxContainerResources {
            hugepage_limits: vec![pintle_cri_api::v1::HugepageLimit { page_size: size.to_owned(), limit }],
            ..Default::default()
        };
        let with = |hugetlb, cgroup_v2| HostFacts { hugetlb, cgroup_v2, ..v1() };
        let of = |hugetlb, cgroup_v2| oci(&limit("2MB", 4), &with(hugetlb, cgroup_v2));
        assert!(of(Hugetlb::Unified, true).unwrap().contains_key("hugepageLimits"));
        assert!(of(Hugetlb::Legacy, false).unwrap().contains_key("hugepageLimits"));
        // By the engine itself: the library looks for a v1 hierarchy.
        assert!(of(Hugetlb::Unified, false).unwrap().is_empty());
        assert!(of(Hugetlb::None, false).is_err());
        assert!(oci(&limit("2MB", 0), &with(Hugetlb::None, false)).unwrap().is_empty());
        assert!(oci(&limit("3MB", 0), &with(Hugetlb::Unified, true)).is_err());
    }

    #[test]
    fn nothing_given_limits_nothing() {
        assert!(oci(&LinuxContainerResources::default(), &v2()).unwrap().is_empty());
    }

    #[test]
    fn swap_is_left_alone_where_the_kernel_cannot_limit_it() {
        let host = HostFacts { swap_limits: false, ..v1() };
        assert_eq!(oci(&wanted(), &host).unwrap()["memory"], json!({"limit": 1 << 26}));
    }

    #[test]
    fn what_the_kernel_would_refuse_or_overflow_on_is_refused_with_its_field() {
        type Change = fn(&mut LinuxContainerResources);
        let with = |change: Change| {
            let mut wanted = wanted();
            change(&mut wanted);
            oci(&wanted, &v2()).err().map(|error| error.to_string())
        };
        assert_eq!(with(|w| (w.cpu_quota, w.memory_swap_limit_in_bytes) = (-1, -1)), None);
        assert!(with(|w| w.memory_limit_in_bytes = i64::MAX).is_some_and(|text| text.contains("swap")));
        let refused: [(Change, &str); 10] = [
            (|w| w.cpu_period = -1, "cpu_period"),
            (|w| w.cpu_quota = -2, "cpu_quota"),
            (|w| w.cpu_quota = i64::MAX, "cpu_quota"),
            (|w| w.cpu_shares = i64::MIN, "cpu_shares"),
            (|w| w.memory_limit_in_bytes = -2, "memory_limit"),
            (|w| w.memory_limit_in_bytes = 0, "memory_swap_limit"),
            (|w| w.oom_score_adj = 1001, "oom_score_adj"),
            (|w| w.cpuset_cpus = "0\n1".to_owned(), "cpuset_cpus"),
            (|w| drop(w.unified.insert("../../cgroup.procs".to_owned(), "1".to_owned())), "unified"),
            (|w| drop(w.unified.insert("cgroup.kill".to_owned(), "1".to_owned())), "unified"),
        ];
        for (change, field) in refused {
            assert!(with(change).is_some_and(|text| text.contains(field)), "{field}");
        }
    }

    #[test]
    fn unified_keys_need_cgroup_v2() {
        let mut wanted = wanted();
        wanted.unified.insert("memory.high".to_owned(), "1".to_owned());
        assert!(oci(&wanted, &v1()).is_err());
        assert_eq!(oci(&wanted, &v2()).unwrap()["unified"]["memory.high"], "1");
    }
}
