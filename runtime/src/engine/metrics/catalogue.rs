//! Every metric there is: its name, kind and labels, as cAdvisor has them at a kubelet's `/metrics/cadvisor`, so that
//! dashboards and alerts go on. Pure data.
//!
//! In: what this node's kernel counts ([`Offers`]). Out: the descriptors of what is really measured here.

use pintle_cri_api::v1 as cri;

/// The labels that every metric has; a pod's own metrics leave those of a container empty.
pub(super) const BASE_LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// One metric.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    pub(super) kind: cri::MetricType,
    help: &'static str,
    /// Labels after those that every metric has.
    pub(super) labels: &'static [&'static str],
    needs: Need,
}

/// What of a kernel a metric needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Pressure,
    Swap,
    Peak,
    HugePages,
    HugePagesPeak,
}

/// What this node's kernel counts beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offers {
    pub(super) pressure: bool,
    pub(super) swap: bool,
    pub(super) peak: bool,
    pub(super) huge_pages: bool,
    pub(super) huge_pages_peak: bool,
}

/// The descriptors of what is measured on a node.
pub(super) fn descriptors(offers: Offers) -> Vec<cri::MetricDescriptor> {
    CATALOGUE.iter().filter(|metric| offers.meet(metric.needs)).map(Descriptor::to_cri).collect()
}

/// The metric with a name.
pub(super) fn find(name: &str) -> Option<&'static Descriptor> {
    CATALOGUE.binary_search_by_key(&name, |metric| metric.name).ok().and_then(|at| CATALOGUE.get(at))
}

impl Offers {
    fn meet(self, need: Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Pressure => self.pressure,
            Need::Swap => self.swap,
            Need::Peak => self.peak,
            Need::HugePages => self.huge_pages,
            Need::HugePagesPeak => self.huge_pages_peak,
        }
    }
}

impl Descriptor {
    const fn labels(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    const fn needs(self, needs: Need) -> Self {
        Self { needs, ..self }
    }

    fn to_cri(&self) -> cri::MetricDescriptor {
        let labels = BASE_LABELS.iter().chain(self.labels);
        cri::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: labels.map(|label| (*label).to_owned()).collect(),
        }
    }
}

const fn counter(name: &'static str, help: &'static str) -> Descriptor {
    Descriptor { name, kind: cri::MetricType::Counter, help, labels: &[], needs: Need::Nothing }
}

const fn gauge(name: &'static str, help: &'static str) -> Descriptor {
    Descriptor { name, kind: cri::MetricType::Gauge, help, labels: &[], needs: Need::Nothing }
}

const BLOCK: &[&str] = &["device", "major", "minor", "operation"];
const DEVICE: &[&str] = &["device"];
const FAULT: &[&str] = &["failure_type", "scope"];
const INTERFACE: &[&str] = &["interface"];
const PAGES: &[&str] = &["pagesize"];

/// Sorted by name. Values are whole numbers in CRI, so seconds are whole seconds.
const CATALOGUE: &[Descriptor] = &[
    counter("container_blkio_device_usage_total", "Bytes read from and written to a device").labels(BLOCK),
    counter("container_cpu_cfs_periods_total", "Periods of the processor limit that have passed"),
    counter("container_cpu_cfs_throttled_periods_total", "Periods in which the limit held tasks back"),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the limit held tasks back, in seconds",
    ),
    counter("container_cpu_system_seconds_total", "Processor time used in the kernel, in seconds"),
    counter("container_cpu_usage_seconds_total", "Processor time used, in seconds").labels(&["cpu"]),
    counter("container_cpu_user_seconds_total", "Processor time used outside of the kernel, in seconds"),
    gauge("container_file_descriptors", "Open file descriptors of all processes"),
    gauge("container_fs_inodes_free", "Free inodes of the file system of the writable layer").labels(DEVICE),
    gauge("container_fs_inodes_total", "Inodes of the file system of the writable layer").labels(DEVICE),
    gauge("container_fs_limit_bytes", "Size of the file system of the writable layer").labels(DEVICE),
    counter("container_fs_reads_bytes_total", "Bytes read from a device").labels(DEVICE),
    counter("container_fs_reads_total", "Reads from a device").labels(DEVICE),
    gauge("container_fs_usage_bytes", "Bytes that the writable layer occupies").labels(DEVICE),
    counter("container_fs_writes_bytes_total", "Bytes written to a device").labels(DEVICE),
    counter("container_fs_writes_total", "Writes to a device").labels(DEVICE),
    gauge("container_hugetlb_max_usage_bytes", "Most huge pages ever used, in bytes")
        .labels(PAGES)
        .needs(Need::HugePagesPeak),
    gauge("container_hugetlb_usage_bytes", "Huge pages used, in bytes").labels(PAGES).needs(Need::HugePages),
    gauge("container_last_seen", "When these figures were taken, in seconds since 1970"),
    gauge("container_log_usage_bytes", "Bytes that the log and its rotated files occupy"),
    gauge("container_memory_cache", "Page cache, in bytes"),
    counter("container_memory_failcnt", "How often the memory limit was hit"),
    counter("container_memory_failures_total", "Page faults, and those that read from a disk").labels(FAULT),
    gauge("container_memory_kernel_usage", "Memory of the kernel on behalf of the container, in bytes"),
    gauge("container_memory_mapped_file", "Mapped files in memory, in bytes"),
    gauge("container_memory_max_usage_bytes", "Most memory ever used, in bytes").needs(Need::Peak),
    gauge("container_memory_rss", "Anonymous memory, in bytes"),
    gauge("container_memory_swap", "Swap used, in bytes").needs(Need::Swap),
    gauge("container_memory_usage_bytes", "Memory used, with caches, in bytes"),
    gauge("container_memory_working_set_bytes", "Memory used but for inactive file cache, in bytes"),
    counter("container_network_receive_bytes_total", "Bytes received").labels(INTERFACE),
    counter("container_network_receive_errors_total", "Errors while receiving").labels(INTERFACE),
    counter("container_network_receive_packets_dropped_total", "Received packets dropped").labels(INTERFACE),
    counter("container_network_receive_packets_total", "Packets received").labels(INTERFACE),
    counter("container_network_transmit_bytes_total", "Bytes sent").labels(INTERFACE),
    counter("container_network_transmit_errors_total", "Errors while sending").labels(INTERFACE),
    counter("container_network_transmit_packets_dropped_total", "Packets dropped instead of sent")
        .labels(INTERFACE),
    counter("container_network_transmit_packets_total", "Packets sent").labels(INTERFACE),
    counter("container_oom_events_total", "Processes killed for want of memory"),
    counter("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a processor")
        .needs(Need::Pressure),
    counter("container_pressure_cpu_waiting_seconds_total", "Time in which a task waited for a processor")
        .needs(Need::Pressure),
    counter("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a device")
        .needs(Need::Pressure),
    counter("container_pressure_io_waiting_seconds_total", "Time in which a task waited for a device")
        .needs(Need::Pressure),
    counter("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory")
        .needs(Need::Pressure),
    counter("container_pressure_memory_waiting_seconds_total", "Time in which a task waited for memory")
        .needs(Need::Pressure),
    gauge("container_processes", "Processes"),
    gauge("container_sockets", "Open sockets of all processes"),
    gauge("container_spec_cpu_period", "Period of the processor limit, in microseconds"),
    gauge("container_spec_cpu_quota", "Processor time allowed in a period, in microseconds"),
    gauge("container_spec_cpu_shares", "Weight among those who want a processor"),
    gauge("container_spec_memory_limit_bytes", "Memory limit in bytes; 0: none"),
    gauge("container_spec_memory_reservation_limit_bytes", "Soft memory limit in bytes; 0: none"),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit on swap in bytes (on cgroup v1 with memory); 0: none",
    )
    .needs(Need::Swap),
    gauge("container_start_time_seconds", "When it was started, in seconds since 1970"),
    gauge("container_threads", "Threads of all processes"),
    gauge("container_threads_max", "Most threads allowed; 0: any number"),
    gauge("container_ulimits_soft", "Soft resource limit of the first process").labels(&["ulimit"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sorted_and_tells_only_what_the_node_counts() {
        assert!(CATALOGUE.is_sorted_by_key(|metric| metric.name));
        let few = descriptors(Offers::default());
        assert!(few.iter().all(|d| !d.name.contains("pressure") && !d.help.is_empty()));
        let all = Offers { pressure: true, swap: true, peak: true, huge_pages: true, huge_pages_peak: true };
        assert_eq!(descriptors(all).len(), CATALOGUE.len());
        let bytes = find("container_network_receive_bytes_total").unwrap().to_cri();
        assert_eq!(bytes.label_keys.join(","), "id,name,image,container,pod,namespace,interface");
        assert!(find("container_none").is_none());
    }
}
