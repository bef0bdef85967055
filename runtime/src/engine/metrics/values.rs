//! The values of the metrics: of a container's or pod's cgroup, of its interfaces, its file system, its processes.
//!
//! In: a cgroup and what else was found out. Out: CRI's metrics with labels in the descriptors' order. What the kernel does
//! not tell is left out.

use std::{collections::BTreeMap, fs, path::Path};

use pintle_cri_api::v1 as cri;

use super::catalogue::{self, Offers};
use crate::engine::{
    cgroups::Cgroups,
    stats::{
        disk::Measured,
        group::{Group, keyed},
        network::Interface,
    },
};

/// Whose descriptors are counted: more processes or descriptors than these are not, and the metric is left out.
const MAX_PROCESSES: usize = 4096;
const MAX_DESCRIPTORS: u64 = 65_536;

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// Takes metrics of one container or pod.
#[derive(Debug)]
pub(super) struct Metrics {
    base: Vec<String>,
    taken: Vec<cri::Metric>,
}

impl Metrics {
    /// With the values of the labels that every metric has.
    pub(super) fn new(base: [&str; catalogue::BASE_LABELS.len()]) -> Self {
        Self { base: base.map(str::to_owned).to_vec(), taken: Vec::new() }
    }

    pub(super) fn into_taken(self) -> Vec<cri::Metric> {
        self.taken
    }

    pub(super) fn put(&mut self, name: &str, value: impl Into<Option<u64>>) {
        self.put_with(name, &[], value);
    }

    fn put_with(&mut self, name: &str, labels: &[&str], value: impl Into<Option<u64>>) {
        // A timestamp of 0 says that it was taken for this answer.
        self.put_of(name, labels, value.into(), 0);
    }

    fn put_of(&mut self, name: &str, labels: &[&str], value: Option<u64>, timestamp: i64) {
        let (Some(value), Some(descriptor)) = (value, catalogue::find(name)) else { return };
        let labels = labels.iter().map(|label| (*label).to_owned());
        self.taken.push(cri::Metric {
            name: name.to_owned(),
            timestamp,
            metric_type: descriptor.kind.into(),
            label_values: self.base.iter().cloned().chain(labels).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    /// What a cgroup counts.
    pub(super) fn group(&mut self, group: &Group<'_>, page_sizes: &[String]) {
        self.cpu(group);
        self.memory(group);
        self.pressure(group);
        self.block_devices(group);
        let tasks = group.tasks();
        self.put("container_threads", tasks);
        for size in page_sizes {
            let of = |v1: &str, v2: &str| {
                let v1 = group.number("hugetlb", &format!("hugetlb.{size}.{v1}"));
                v1.or_else(|| group.number("hugetlb", &format!("hugetlb.{size}.{v2}")))
            };
            self.put_with("container_hugetlb_usage_bytes", &[size], of("usage_in_bytes", "current"));
            self.put_with("container_hugetlb_max_usage_bytes", &[size], of("max_usage_in_bytes", "peak"));
        }
    }

    fn cpu(&mut self, group: &Group<'_>) {
        let Some(cpu) = group.cpu() else { return };
        let seconds = |nanos: Option<u64>| nanos.map(|nanos| nanos / NANOS);
        self.put_with("container_cpu_usage_seconds_total", &["total"], cpu.used / NANOS);
        self.put("container_cpu_user_seconds_total", seconds(cpu.user));
        self.put("container_cpu_system_seconds_total", seconds(cpu.system));
        self.put("container_cpu_cfs_periods_total", cpu.periods);
        self.put("container_cpu_cfs_throttled_periods_total", cpu.throttled_periods);
        self.put("container_cpu_cfs_throttled_seconds_total", seconds(cpu.throttled));
    }

    fn memory(&mut self, group: &Group<'_>) {
        let Some(memory) = group.memory() else { return };
        let events = group.text("memory", "memory.events").unwrap_or_default();
        let stat = group.text("memory", "memory.stat").unwrap_or_default();
        let oom = group.text("memory", "memory.oom_control").unwrap_or_default();
        let number = |file| group.number("memory", file);
        let peak = number("memory.max_usage_in_bytes").or_else(|| number("memory.peak"));
        let hits = number("memory.failcnt").or_else(|| keyed(&events, "max"));
        let kernel = number("memory.kmem.usage_in_bytes").or_else(|| keyed(&stat, "kernel"));
        self.put("container_memory_usage_bytes", memory.used);
        self.put("container_memory_working_set_bytes", memory.working_set());
        self.put("container_memory_cache", memory.cache);
        self.put("container_memory_rss", memory.rss);
        self.put("container_memory_mapped_file", memory.mapped_file);
        self.put("container_memory_kernel_usage", kernel);
        self.put("container_memory_max_usage_bytes", peak);
        self.put("container_memory_failcnt", hits);
        self.put("container_memory_swap", group.swap().map(|swap| swap.used));
        self.put(
            "container_oom_events_total",
            keyed(&oom, "oom_kill").or_else(|| keyed(&events, "oom_kill")),
        );
        for scope in ["container", "hierarchy"] {
            self.put_with("container_memory_failures_total", &["pgfault", scope], memory.faults);
            self.put_with("container_memory_failures_total", &["pgmajfault", scope], memory.major_faults);
        }
    }

    fn pressure(&mut self, group: &Group<'_>) {
        for resource in ["cpu", "memory", "io"] {
            let Some(found) = group.pressure(resource) else { continue };
            let seconds = |stalls: Option<cri::PsiData>| stalls.map(|stalls| stalls.total / MICROS);
            self.put(&format!("container_pressure_{resource}_waiting_seconds_total"), seconds(found.some));
            self.put(&format!("container_pressure_{resource}_stalled_seconds_total"), seconds(found.full));
        }
    }

    fn block_devices(&mut self, group: &Group<'_>) {
        for (number, used) in block_devices(group) {
            let name = device_name(&number);
            let (major, minor) = number.split_once(':').unwrap_or((&number, ""));
            for (operation, bytes) in [("Read", used.bytes_read), ("Write", used.bytes_written)] {
                let labels = [&name, major, minor, operation];
                self.put_with("container_blkio_device_usage_total", &labels, bytes);
            }
            self.put_with("container_fs_reads_bytes_total", &[&name], used.bytes_read);
            self.put_with("container_fs_reads_total", &[&name], used.reads);
            self.put_with("container_fs_writes_bytes_total", &[&name], used.bytes_written);
            self.put_with("container_fs_writes_total", &[&name], used.writes);
        }
    }

    /// The limits as they stand in the cgroup.
    pub(super) fn limits(&mut self, group: &Group<'_>) {
        let memory =
            |file| group.text("memory", file).map(|_| group.limit("memory", file).unwrap_or_default());
        let (quota, period, shares) = processor_limits(group);
        self.put("container_spec_cpu_period", period);
        self.put("container_spec_cpu_quota", quota);
        self.put("container_spec_cpu_shares", shares);
        let [limit, soft, swap] = match group.is_v2() {
            true => ["memory.max", "memory.high", "memory.swap.max"],
            false => ["memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"],
        };
        self.put("container_spec_memory_limit_bytes", memory(limit));
        self.put("container_spec_memory_reservation_limit_bytes", memory(soft));
        self.put("container_spec_memory_swap_limit_bytes", memory(swap));
        let threads = group.text("pids", "pids.max");
        self.put("container_threads_max", threads.map(|text| text.trim().parse().unwrap_or(0)));
    }

    /// The processes of a container, and what they have open. `first` is its first one.
    pub(super) fn processes(&mut self, cgroups: &Cgroups, group: &Group<'_>, first: Option<i32>) {
        let pids = cgroups.processes(group.path());
        self.put("container_processes", u64::try_from(pids.len()).ok());
        if let Some((descriptors, sockets)) = open_files(&pids) {
            self.put("container_file_descriptors", descriptors);
            self.put("container_sockets", sockets);
        }
        let files = first.filter(|pid| pids.contains(pid)).and_then(open_files_limit);
        self.put_with("container_ulimits_soft", &["max_open_files"], files);
    }

    pub(super) fn interface(&mut self, interface: &Interface) {
        for (direction, counted) in [("receive", interface.received), ("transmit", interface.sent)] {
            let values = [
                ("bytes", counted.bytes),
                ("packets", counted.packets),
                ("packets_dropped", counted.dropped),
                ("errors", counted.errors),
            ];
            for (what, value) in values {
                let name = format!("container_network_{direction}_{what}_total");
                self.put_with(&name, &[&interface.name], value);
            }
        }
    }

    /// The use of disk as it was last measured, and the file system that it is on.
    pub(super) fn disk(&mut self, measured: Option<Measured>, layers: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let (Ok(metadata), Ok(found)) = (fs::metadata(layers), rustix::fs::statvfs(layers)) else { return };
        let device = metadata.dev();
        let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let name = device_name(&number);
        self.put_with("container_fs_limit_bytes", &[&name], found.f_blocks.saturating_mul(found.f_frsize));
        self.put_with("container_fs_inodes_total", &[&name], found.f_files);
        self.put_with("container_fs_inodes_free", &[&name], found.f_ffree);
        if let Some(Measured { at, layer, logs }) = measured {
            self.put_of("container_fs_usage_bytes", &[&name], Some(layer.bytes), at);
            self.put_of("container_log_usage_bytes", &[], Some(logs.bytes), at);
        }
    }
}

/// What the kernel counts in a group beyond the usual.
pub(super) fn offers(group: &Group<'_>, page_sizes: &[String]) -> Offers {
    let huge = |file: &str| {
        page_sizes.iter().any(|size| group.number("hugetlb", &format!("hugetlb.{size}.{file}")).is_some())
    };
    let number = |file| group.number("memory", file).is_some();
    Offers {
        pressure: group.pressure("cpu").is_some(),
        swap: group.swap().is_some(),
        peak: number("memory.max_usage_in_bytes") || number("memory.peak"),
        huge_pages: huge("usage_in_bytes") || huge("current"),
        huge_pages_peak: huge("max_usage_in_bytes") || huge("peak"),
    }
}

/// The sizes of huge pages as the cgroup files name them: 2MB, 1GB.
pub(super) fn page_sizes() -> Vec<String> {
    let named = |name: &str| {
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kilobytes {
            k if k >= 1 << 20 => format!("{}GB", k >> 20),
            k if k >= 1 << 10 => format!("{}MB", k >> 10),
            k => format!("{k}KB"),
        })
    };
    let found = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<_> = found.filter_map(|entry| named(entry.file_name().to_str()?)).collect();
    sizes.sort();
    sizes
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    bytes_read: Option<u64>,
    bytes_written: Option<u64>,
    reads: Option<u64>,
    writes: Option<u64>,
}

/// By the device's number, as `major:minor`.
fn block_devices(group: &Group<'_>) -> BTreeMap<String, Used> {
    if group.is_v2() {
        return block_devices_v2(&group.text("io", "io.stat").unwrap_or_default());
    }
    let text = |file| group.text("blkio", file).unwrap_or_default();
    let bytes = text("blkio.throttle.io_service_bytes_recursive");
    block_devices_v1(&bytes, &text("blkio.throttle.io_serviced_recursive"))
}

/// Lines of `8:0 Read 4096`.
fn block_devices_v1(bytes: &str, operations: &str) -> BTreeMap<String, Used> {
    let lines = |text: &str| -> Vec<(String, String, u64)> {
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    };
    let mut devices: BTreeMap<String, Used> = BTreeMap::new();
    for (device, operation, value) in lines(bytes) {
        match operation.as_str() {
            "Read" => devices.entry(device).or_default().bytes_read = Some(value),
            "Write" => devices.entry(device).or_default().bytes_written = Some(value),
            _ => {}
        }
    }
    for (device, operation, value) in lines(operations) {
        match operation.as_str() {
            "Read" => devices.entry(device).or_default().reads = Some(value),
            "Write" => devices.entry(device).or_default().writes = Some(value),
            _ => {}
        }
    }
    devices
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn block_devices_v2(text: &str) -> BTreeMap<String, Used> {
    let device = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let of = |key: &str| {
            let value = rest.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok())
        };
        let used = Used {
            bytes_read: of("rbytes"),
            bytes_written: of("wbytes"),
            reads: of("rios"),
            writes: of("wios"),
        };
        Some((device.to_owned(), used))
    };
    text.lines().filter_map(device).collect()
}

/// `/dev/vda`; its number where it has no name.
fn device_name(number: &str) -> String {
    let text = fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| number.to_owned(), |name| format!("/dev/{name}"))
}

/// Quota and period in microseconds, and shares.
fn processor_limits(group: &Group<'_>) -> (Option<u64>, Option<u64>, Option<u64>) {
    if group.is_v2() {
        let text = group.text("cpu", "cpu.max").unwrap_or_default();
        let mut words = text.split_whitespace();
        let quota = words.next().and_then(|word| word.parse().ok());
        let period = words.next().and_then(|word| word.parse().ok());
        return (quota, period, group.number("cpu", "cpu.weight").map(shares_of_weight));
    }
    let number = |file| group.number("cpu", file);
    (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"), number("cpu.shares"))
}

/// The shares that become this weight on cgroup v2 ([`cpu_weight`](crate::spec::resources::cpu_weight) turned round).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a weight is between 1 and 10,000"
)]
fn shares_of_weight(weight: u64) -> u64 {
    let exponent = (weight.clamp(1, 10_000) as f64).log10() + 7.0 / 34.0;
    let l = ((125.0f64 * 125.0 + 4.0 * 612.0 * exponent).sqrt() - 125.0) / 2.0;
    l.exp2().round() as u64
}

/// Open descriptors, and the sockets among them; nothing when they are too many to count.
fn open_files(pids: &std::collections::BTreeSet<i32>) -> Option<(u64, u64)> {
    let (mut descriptors, mut sockets) = (0, 0);
    if pids.len() > MAX_PROCESSES {
        return None;
    }
    for pid in pids {
        // One that has ended meanwhile has none.
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            descriptors += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            if descriptors > MAX_DESCRIPTORS {
                return None;
            }
        }
    }
    Some((descriptors, sockets))
}

/// The soft limit on open files of a process.
fn open_files_limit(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_devices_of_both_versions_are_read_alike() {
        let used =
            Used { bytes_read: Some(4096), bytes_written: Some(8192), reads: Some(1), writes: Some(2) };
        let bytes = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\nTotal 12288\n";
        let operations = "254:0 Read 1\n254:0 Write 2\nTotal 3\n";
        let expected = BTreeMap::from([("254:0".to_owned(), used)]);
        assert_eq!(block_devices_v1(bytes, operations), expected);
        assert_eq!(
            block_devices_v2("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"),
            expected
        );
        assert!(block_devices_v1("Total 0\n", "").is_empty() && block_devices_v2("").is_empty());
    }

    #[test]
    fn a_weight_is_told_as_the_shares_that_were_asked_for() {
        use crate::spec::resources::cpu_weight;
        for shares in [100u64, 512, 1024, 2048, 10_240] {
            let weight = u64::try_from(cpu_weight(i64::try_from(shares).unwrap())).unwrap();
            let told = shares_of_weight(weight);
            assert!(told.abs_diff(shares) <= shares / 10, "{shares} {weight} {told}");
        }
        assert_eq!(shares_of_weight(100), 1024);
    }

    #[test]
    fn own_open_files_are_counted() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = open_files(&[pid].into()).unwrap();
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let after = open_files(&[pid].into()).unwrap();
        assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
        drop(held);
        assert!(open_files_limit(pid).is_some());
    }
}
