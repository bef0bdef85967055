//! A container's limits.
//!
//! In: CRI's resources, what the node's cgroups can do. Out: OCI's resources and the values of the same limits in
//! cgroup files, for changing them later. 0 means "not given", as in CRI.

use pintle_cri_api::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::{Error, HostFacts};

/// OCI's resources, without the device rules.
///
/// # Errors
/// When a value can never be set.
pub fn oci(wanted: &LinuxContainerResources, host: &HostFacts) -> Result<Map<String, Value>, Error> {
    check(wanted)?;
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
    let (limit, swap) = (wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    put(&mut memory, "limit", limit != 0, json!(limit));
    put(&mut memory, "swap", swap != 0 && host.swap_limits, json!(swap));
    let pages: Vec<Value> =
        wanted.hugepage_limits.iter().map(|l| json!({"pageSize": l.page_size, "limit": l.limit})).collect();
    put(&mut all, "cpu", !cpu.is_empty(), Value::Object(cpu));
    put(&mut all, "memory", !memory.is_empty(), Value::Object(memory));
    put(&mut all, "hugepageLimits", !pages.is_empty(), json!(pages));
    if !unified.is_empty() && !host.cgroup_v2 {
        return Err(Error::invalid("resources.unified", "this node does not have cgroup v2"));
    }
    put(&mut all, "unified", !unified.is_empty(), Value::Object(unified));
    Ok(all)
}

/// The files and values that change the limits of a group that exists, in an order in which the kernel takes them.
///
/// # Errors
/// When a value can never be set.
pub fn files(
    wanted: &LinuxContainerResources,
    host: &HostFacts,
) -> Result<Vec<(&'static str, String)>, Error> {
    check(wanted)?;
    let mut files = Vec::new();
    let mut add = |given: bool, file, value: String| {
        if given {
            files.push((file, value));
        }
    };
    add(!wanted.cpuset_cpus.is_empty(), "cpuset.cpus", wanted.cpuset_cpus.clone());
    add(!wanted.cpuset_mems.is_empty(), "cpuset.mems", wanted.cpuset_mems.clone());
    let limit = wanted.memory_limit_in_bytes;
    if host.cgroup_v2 {
        add(wanted.cpu_shares != 0, "cpu.weight", cpu_weight(wanted.cpu_shares).to_string());
        let quota = if wanted.cpu_quota < 0 { "max".to_owned() } else { wanted.cpu_quota.to_string() };
        let period = if wanted.cpu_period == 0 { 100_000 } else { wanted.cpu_period };
        add(wanted.cpu_quota != 0, "cpu.max", format!("{quota} {period}"));
        let memory = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        add(limit != 0, "memory.max", memory);
    } else {
        add(wanted.cpu_shares != 0, "cpu.shares", wanted.cpu_shares.to_string());
        add(wanted.cpu_period != 0, "cpu.cfs_period_us", wanted.cpu_period.to_string());
        add(wanted.cpu_quota != 0, "cpu.cfs_quota_us", wanted.cpu_quota.to_string());
        add(limit != 0, "memory.limit_in_bytes", limit.to_string());
    }
    Ok(files)
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
fn check(wanted: &LinuxContainerResources) -> Result<(), Error> {
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
    if limit > 0 && swap > 0 && swap < limit {
        let reason = format!("{swap} is less than the memory limit of {limit}, which it includes");
        return Err(Error::invalid("resources.memory_swap_limit_in_bytes", reason));
    }
    cpuset("resources.cpuset_cpus", &wanted.cpuset_cpus)?;
    cpuset("resources.cpuset_mems", &wanted.cpuset_mems)?;
    for limit in &wanted.hugepage_limits {
        hugepage_size(&limit.page_size)?;
    }
    if wanted.hugepage_limits.len() > MAX_HUGEPAGE_SIZES {
        return Err(Error::invalid("resources.hugepage_limits", format!("more than {MAX_HUGEPAGE_SIZES}")));
    }
    if wanted.unified.len() > MAX_UNIFIED {
        return Err(Error::invalid("resources.unified", format!("more than {MAX_UNIFIED}")));
    }
    wanted.unified.iter().try_for_each(|(key, value)| unified(key, value))
}

/// Microseconds, as the kernel takes them.
const CPU_PERIOD: (i64, i64) = (1_000, 1_000_000);
/// Microseconds; a larger one overflows in the kernel.
const CPU_QUOTA: (i64, i64) = (1_000, (1 << 44) / 1_000);
const CPU_SHARES: (i64, i64) = (2, 262_144);
/// Less than this does not hold the program that becomes the container's.
const MEMORY: (i64, i64) = (512 * 1024, i64::MAX);
const OOM_SCORE_ADJ: (i64, i64) = (-1000, 1000);
/// No processor has as many page sizes.
const MAX_HUGEPAGE_SIZES: usize = 16;
const MAX_UNIFIED: usize = 128;
const MAX_TEXT: usize = 4096;

/// A list of numbers and ranges. The file ends where the text would have a second line.
fn cpuset(field: &'static str, text: &str) -> Result<(), Error> {
    let fits = text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
    if fits { Ok(()) } else { Err(Error::invalid(field, "is no list of numbers and ranges such as 0-3,8")) }
}

/// `2MB`, `1GB`: it becomes part of a file's name.
fn hugepage_size(text: &str) -> Result<(), Error> {
    let number = text.strip_suffix("KB").or(text.strip_suffix("MB")).or(text.strip_suffix("GB"));
    let fits = number.is_some_and(|n| (1..=8).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()));
    if fits {
        return Ok(());
    }
    let shown: String = text.chars().take(32).collect();
    Err(Error::invalid("resources.hugepage_limits.page_size", format!("{shown:?} is no size such as 2MB")))
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
        HostFacts { swap_limits: true, ..Default::default() }
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
        assert_eq!(new["unified"], json!({"cpu.weight": "100"}));
    }

    #[test]
    fn nothing_given_limits_nothing() {
        assert!(oci(&LinuxContainerResources::default(), &v2()).unwrap().is_empty());
        assert!(files(&LinuxContainerResources::default(), &v1()).unwrap().is_empty());
    }

    #[test]
    fn swap_is_left_alone_where_the_kernel_cannot_limit_it() {
        let host = HostFacts { swap_limits: false, ..v1() };
        assert_eq!(oci(&wanted(), &host).unwrap()["memory"], json!({"limit": 1 << 26}));
    }

    #[test]
    fn a_change_is_written_to_the_files_of_the_nodes_version() {
        assert!(files(&wanted(), &v2()).unwrap().contains(&("cpu.max", "50000 100000".to_owned())));
        assert!(files(&wanted(), &v1()).unwrap().contains(&("cpu.cfs_quota_us", "50000".to_owned())));
    }

    #[test]
    fn what_the_kernel_would_refuse_or_overflow_on_is_refused_with_its_field() {
        type Change = fn(&mut LinuxContainerResources);
        let with = |change: Change| {
            let mut wanted = wanted();
            change(&mut wanted);
            let errors = [oci(&wanted, &v2()).err(), files(&wanted, &v2()).err()];
            assert_eq!(errors[0], errors[1]);
            errors[0].as_ref().map(ToString::to_string)
        };
        assert_eq!(with(|w| (w.cpu_quota, w.memory_swap_limit_in_bytes) = (-1, -1)), None);
        assert!(with(|w| w.memory_limit_in_bytes = i64::MAX).is_some_and(|text| text.contains("swap")));
        let refused: [(Change, &str); 9] = [
            (|w| w.cpu_period = -1, "cpu_period"),
            (|w| w.cpu_quota = -2, "cpu_quota"),
            (|w| w.cpu_quota = i64::MAX, "cpu_quota"),
            (|w| w.cpu_shares = i64::MIN, "cpu_shares"),
            (|w| w.memory_limit_in_bytes = -2, "memory_limit"),
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
