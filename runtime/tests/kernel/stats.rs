//! Statistics and metrics, against the kernel's own files and under real load.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::StreamExt as _;
use pintle_cri_api::v1::{
    self as cri, image_service_server::ImageService as _, runtime_service_server::RuntimeService as _,
};
use tonic::Request;

use crate::support::{Node, eventually, on_a_node, own_pids, shell};

/// A controller's file of a group, on either version.
fn file(cgroup: &str, v1: &str, v2: &str) -> String {
    let unified = format!("/sys/fs/cgroup{cgroup}/{v2}");
    let path = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => unified,
        false => format!("/sys/fs/cgroup/{}{cgroup}/{v1}", v1.split('.').next().unwrap()),
    };
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn keyed(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {key}")).trim().parse().unwrap()
}

fn cpu_nanoseconds(cgroup: &str) -> u64 {
    let text = file(cgroup, "cpuacct.usage", "cpu.stat");
    text.trim().parse().unwrap_or_else(|_| keyed(&text, "usage_usec") * 1000)
}

fn memory_bytes(cgroup: &str) -> u64 {
    file(cgroup, "memory.usage_in_bytes", "memory.current").trim().parse().unwrap()
}

/// The total of one resource's pressure on some task, where the kernel tells.
fn stalled(cgroup: &str, resource: &str) -> Option<u64> {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter();
    let mut texts =
        roots.filter_map(|root| std::fs::read_to_string(format!("{root}{cgroup}/{resource}.pressure")).ok());
    Some(texts.next()?.lines().next()?.rsplit_once("total=")?.1.parse().unwrap())
}

async fn cgroup(node: &Node, id: &str) -> String {
    node.info(id).await["cgroup"].as_str().unwrap().to_owned()
}

fn du(paths: &[PathBuf]) -> u64 {
    let done = Command::new("du").args(["-s", "-c", "-B1"]).args(paths).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().last().unwrap().split('\t').next().unwrap().parse().unwrap()
}

fn number(value: Option<cri::UInt64Value>) -> u64 {
    value.expect("a number").value
}

#[track_caller]
fn close(measured: u64, truth: u64) {
    assert!(measured.abs_diff(truth) <= truth / 100, "{measured} is not within 1 % of {truth}");
}

fn limits() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 80_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    }
}

async fn limited(node: &Node, pod: &str, name: &str, script: &str) -> String {
    let made = node.try_container(pod, name, |config| {
        config.command = shell(script);
        config.linux.as_mut().unwrap().resources = Some(limits());
    });
    let id = made.await.unwrap();
    node.start(&id).await.unwrap();
    id
}

#[test]
fn what_a_container_uses_is_what_its_cgroup_says() {
    on_a_node(|node| async {
        let pod = node.pod("pod").await;
        let burns = node.script(&pod, "burns", "while :; do :; done").await;
        let fill =
            "dd if=/dev/zero of=/dev/shm/filled bs=1M count=20 2>/dev/null; echo full; exec sleep 1000";
        let fills = limited(&node, &pod, "fills", fill).await;
        eventually("it is full", || node.log("pod", "fills") == "full").await;

        let group = cgroup(&node, &fills).await;
        let stats = node.engine().container_stats(&fills).await.unwrap();
        let memory = stats.memory.unwrap();
        close(number(memory.usage_bytes), memory_bytes(&group));
        let stat = file(&group, "memory.stat", "memory.stat");
        let v1 = stat.contains("total_rss");
        let inactive = keyed(&stat, if v1 { "total_inactive_file" } else { "inactive_file" });
        close(number(memory.working_set_bytes), memory_bytes(&group) - inactive);
        assert!(number(memory.working_set_bytes) >= 20 << 20, "what was written to shared memory counts");
        close(number(memory.available_bytes), (64 << 20) - number(memory.working_set_bytes));
        close(number(memory.rss_bytes), keyed(&stat, if v1 { "total_rss" } else { "anon" }));
        assert!(number(memory.page_faults) > 0);
        if stat.contains("total_swap") || stalled(&group, "memory").is_some() && !v1 {
            assert_eq!(number(stats.swap.unwrap().swap_usage_bytes), 0);
        }
        assert_eq!(stats.attributes.unwrap().metadata.unwrap().name, "fills");

        let group = cgroup(&node, &burns).await;
        let mut samples = Vec::new();
        for _ in 0..2 {
            let before = (cpu_nanoseconds(&group), stalled(&group, "cpu"));
            let cpu = node.engine().container_stats(&burns).await.unwrap().cpu.unwrap();
            let after = (cpu_nanoseconds(&group), stalled(&group, "cpu"));
            let used = number(cpu.usage_core_nano_seconds);
            assert!((before.0..=after.0).contains(&used), "{before:?} {used} {after:?}");
            assert_eq!(cpu.psi.is_some(), after.1.is_some());
            if let (Some(psi), Some(before), Some(after)) = (cpu.psi, before.1, after.1) {
                assert!((before..=after).contains(&psi.some.unwrap().total));
            }
            samples.push(cpu);
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        let [first, second] = <[cri::CpuUsage; 2]>::try_from(samples).unwrap();
        let time = u64::try_from(second.timestamp - first.timestamp).unwrap();
        let used = number(second.usage_core_nano_seconds) - number(first.usage_core_nano_seconds);
        let expected = u128::from(used) * 1_000_000_000 / u128::from(time);
        let told = u128::from(number(second.usage_nano_cores));
        assert!(told.abs_diff(expected) <= expected / 20, "{told} {expected}");
        let memory = node.engine().container_stats(&burns).await.unwrap().memory.unwrap();
        assert!(memory.available_bytes.is_none(), "there is no limit");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_a_container_has_written_is_told_with_its_time_and_no_call_walks() {
    on_a_node(|node| async {
        let pod = node.pod("pod").await;
        let script =
            "mkdir /tmp/d; dd if=/dev/zero of=/tmp/d/f bs=1M count=5 2>/dev/null; echo done; exec sleep 1000";
        let id = node.script(&pod, "writes", script).await;
        eventually("it has written", || node.log("pod", "writes") == "done").await;
        let upper = node.path("root/snapshots").join(&id).join("upper");
        let layer = async || {
            // The first figures are waited for, but not for long.
            loop {
                let stats = node.engine().container_stats(&id).await.unwrap();
                if let Some(layer) = stats.writable_layer {
                    break layer;
                }
            }
        };
        let first = layer().await;
        close(number(first.used_bytes), du(&[upper]));
        assert!(number(first.used_bytes) >= 5 << 20 && number(first.inodes_used) >= 4);
        let info =
            node.engine().as_ref().image_fs_info(Request::new(cri::ImageFsInfoRequest {})).await.unwrap();
        let cri::ImageFsInfoResponse { image_filesystems, container_filesystems } = info.into_inner();
        assert_eq!(container_filesystems[0].fs_id, first.fs_id);
        assert_eq!(number(container_filesystems[0].used_bytes), number(first.used_bytes));
        assert_eq!(container_filesystems[0].timestamp, first.timestamp);
        let images = du(&["images", "layers"].map(|dir| node.path("root").join(dir)));
        let told = number(image_filesystems[0].used_bytes);
        assert!(told.abs_diff(images) <= images / 20, "{told} {images}");

        node.output(&id, "dd if=/dev/zero of=/tmp/d/g bs=1M count=5 2>/dev/null").await;
        assert_eq!(layer().await, first, "the last figures, with their time, until they are old");
        node.stop(&id, 0).await.unwrap();
        let ended = node.engine().container_stats(&id).await.unwrap();
        assert!(ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_pods_traffic_is_counted_by_interface_and_its_processor_time_never_goes_back() {
    on_a_node(|node| async {
        let (server, client) = (node.pod("server").await, node.pod("client").await);
        let address = node.pod_status(&server).await.0.network.unwrap().ip;
        let serve = "dd if=/dev/zero of=/tmp/x bs=1M count=4 2>/dev/null; echo up; httpd -f -p 8080 -h /tmp";
        node.script(&server, "httpd", serve).await;
        let fetches = node.script(&client, "fetches", "exec sleep 1000").await;
        eventually("it serves", || node.log("server", "httpd") == "up").await;
        let fetch = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O /dev/null http://{address}:8080/x && exit; sleep 0.5; done; exit 1"
        );
        node.output(&fetches, &fetch).await;
        let stats = async |pod: &str| node.engine().sandbox_stats(pod).await.unwrap().linux.unwrap();
        let network = stats(&client).await.network.unwrap();
        let interface = network.default_interface.unwrap();
        assert!(interface.name == "eth0" && network.interfaces.is_empty());
        let inside = node.output(&fetches, "grep eth0 /proc/net/dev").await;
        let counters: Vec<u64> =
            inside.split_once(':').unwrap().1.split_whitespace().map(|word| word.parse().unwrap()).collect();
        close(number(interface.rx_bytes), counters[0]);
        close(number(interface.tx_bytes), counters[8]);
        assert!(number(interface.rx_bytes) > 4 << 20);
        assert!(number(stats(&server).await.network.unwrap().default_interface.unwrap().tx_bytes) > 4 << 20);

        let burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let burns = node.script(&client, "burns", burn).await;
        node.ended(&burns).await;
        let before = stats(&client).await;
        assert_eq!(before.containers.len(), 1, "what has ended is not among the containers");
        assert!(number(before.process.unwrap().process_count) >= 2);
        node.remove(&burns).await.unwrap();
        let after = stats(&client).await;
        let used =
            |stats: &cri::LinuxPodSandboxStats| number(stats.cpu.as_ref().unwrap().usage_core_nano_seconds);
        assert!(used(&after) >= used(&before), "{} {}", used(&after), used(&before));
        node.remove_pod(&server).await;
        node.remove_pod(&client).await;

        let on_the_node = |config: &mut cri::PodSandboxConfig| {
            let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..own_pids() };
            let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            context.namespace_options = Some(options);
            config.hostname.clear();
        };
        let host = node.try_pod("host", on_the_node).await.unwrap();
        assert!(stats(&host).await.network.is_none(), "the node's interfaces are not the pod's");
        node.remove_pod(&host).await;
        node
    });
}

/// What a kubelet's users know from cAdvisor and every kernel here counts.
const EXPECTED: &str = "container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total \
    container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_usage_seconds_total \
    container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free container_fs_inodes_total \
    container_fs_limit_bytes container_fs_usage_bytes container_last_seen container_log_usage_bytes \
    container_memory_cache container_memory_failcnt container_memory_failures_total container_memory_kernel_usage \
    container_memory_mapped_file container_memory_rss container_memory_usage_bytes \
    container_memory_working_set_bytes container_network_receive_bytes_total container_network_receive_errors_total \
    container_network_receive_packets_dropped_total container_network_receive_packets_total \
    container_network_transmit_bytes_total container_network_transmit_errors_total \
    container_network_transmit_packets_dropped_total container_network_transmit_packets_total \
    container_oom_events_total container_processes container_sockets container_spec_cpu_period \
    container_spec_cpu_quota container_spec_cpu_shares container_spec_memory_limit_bytes \
    container_spec_memory_reservation_limit_bytes container_start_time_seconds container_threads \
    container_threads_max container_ulimits_soft";

/// Metrics of block devices, which a container that has read nothing has none of.
const OF_DEVICES: [&str; 5] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
];

#[test]
fn every_metric_that_is_described_is_measured_and_labelled_as_described() {
    on_a_node(|node| async {
        let pod = node.pod("web").await;
        let id = limited(&node, &pod, "app", "echo up; exec sleep 1000").await;
        eventually("it is up", || node.log("web", "app") == "up").await;
        let engine = node.engine().as_ref();
        let described = engine.list_metric_descriptors(Request::new(cri::ListMetricDescriptorsRequest {}));
        let described = described.await.unwrap().into_inner().descriptors;
        let keys: BTreeMap<&str, &Vec<String>> =
            described.iter().map(|descriptor| (descriptor.name.as_str(), &descriptor.label_keys)).collect();
        let list = engine.list_pod_sandbox_metrics(Request::new(cri::ListPodSandboxMetricsRequest {}));
        let list = list.await.unwrap().into_inner().pod_metrics;
        assert_eq!((list.len(), list[0].pod_sandbox_id.as_str()), (1, pod.as_str()));
        let own = &list[0].container_metrics[0];
        assert_eq!(own.container_id, id);
        let all: Vec<&cri::Metric> = list[0].metrics.iter().chain(&own.metrics).collect();
        for metric in &all {
            let keys =
                keys.get(metric.name.as_str()).unwrap_or_else(|| panic!("{} is not described", metric.name));
            assert_eq!(metric.label_values.len(), keys.len(), "{metric:?} {keys:?}");
        }
        let measured: BTreeSet<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
        let lacking: Vec<_> =
            keys.keys().filter(|name| !measured.contains(*name) && !OF_DEVICES.contains(name)).collect();
        assert!(lacking.is_empty(), "described and not measured: {lacking:?}");
        let lacking: Vec<_> = EXPECTED.split_whitespace().filter(|name| !keys.contains_key(name)).collect();
        assert!(lacking.is_empty(), "not described: {lacking:?}");
        assert_eq!(
            keys.contains_key("container_pressure_cpu_waiting_seconds_total"),
            stalled("/", "cpu").is_some() || Path::new("/proc/pressure/cpu").exists()
        );

        let value = |metrics: &[cri::Metric], name: &str| {
            let found = metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}"));
            number(found.value)
        };
        assert_eq!(value(&own.metrics, "container_spec_memory_limit_bytes"), 64 << 20);
        assert_eq!(value(&own.metrics, "container_spec_cpu_quota"), 80_000);
        assert_eq!(value(&own.metrics, "container_spec_cpu_shares"), 512);
        assert_eq!(value(&own.metrics, "container_processes"), 1);
        assert_eq!(value(&own.metrics, "container_file_descriptors"), 3);
        close(value(&own.metrics, "container_memory_usage_bytes"), memory_bytes(&cgroup(&node, &id).await));
        let usage =
            own.metrics.iter().find(|metric| metric.name == "container_cpu_usage_seconds_total").unwrap();
        assert_eq!(usage.label_values[1..], [&id, crate::image::NAME, "app", "web", "test", "total"]);
        assert!(value(&list[0].metrics, "container_network_receive_packets_total") < 1000);

        let request = Request::new(cri::StreamPodSandboxMetricsRequest {});
        let mut stream = engine.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
        let first = stream.next().await.unwrap().unwrap().pod_sandbox_metrics;
        assert_eq!((first.len(), first[0].container_metrics.len()), (1, 1));
        assert!(stream.next().await.is_none());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn lists_of_statistics_are_filtered_and_the_same_as_streams() {
    on_a_node(|node| async {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        let labelled = |config: &mut cri::ContainerConfig| {
            config.command = shell("exec sleep 1000");
            config.labels.insert("app".to_owned(), "db".to_owned());
        };
        let one = node.try_container(&a, "one", labelled).await.unwrap();
        node.start(&one).await.unwrap();
        let two = node.script(&b, "two", "exec sleep 1000").await;
        let over = node.script(&b, "over", "exit 0").await;
        node.ended(&over).await;
        let engine = node.engine().as_ref();
        let ids = async |filter: Option<cri::ContainerStatsFilter>| {
            let request = cri::ListContainerStatsRequest { filter: filter.clone() };
            let list = engine.list_container_stats(Request::new(request)).await.unwrap().into_inner().stats;
            let request = cri::StreamContainerStatsRequest { filter };
            let stream = engine.stream_container_stats(Request::new(request)).await.unwrap().into_inner();
            let streamed: Vec<_> = stream.map(|message| message.unwrap().container_stats).collect().await;
            let id = |stats: &cri::ContainerStats| stats.attributes.as_ref().unwrap().id.clone();
            let listed: Vec<String> = list.iter().map(id).collect();
            assert_eq!(listed, streamed.iter().flatten().map(id).collect::<Vec<_>>());
            listed
        };
        assert_eq!(
            ids(None).await,
            [&two, &one].map(Clone::clone),
            "the newest first, and not what has ended"
        );
        let of = |filter: cri::ContainerStatsFilter| Some(filter);
        assert_eq!(
            ids(of(cri::ContainerStatsFilter { id: one[..12].to_owned(), ..Default::default() })).await,
            [one.as_str()]
        );
        let of_b = cri::ContainerStatsFilter { pod_sandbox_id: b.clone(), ..Default::default() };
        assert_eq!(ids(of(of_b)).await, [two.as_str()]);
        let label_selector = BTreeMap::from([("app".to_owned(), "db".to_owned())]);
        assert_eq!(
            ids(of(cri::ContainerStatsFilter { label_selector, ..Default::default() })).await,
            [one.as_str()]
        );

        let filter = Some(cri::PodSandboxStatsFilter { id: b.clone(), ..Default::default() });
        let request = cri::ListPodSandboxStatsRequest { filter: filter.clone() };
        let list = engine.list_pod_sandbox_stats(Request::new(request)).await.unwrap().into_inner().stats;
        let request = cri::StreamPodSandboxStatsRequest { filter };
        let mut stream = engine.stream_pod_sandbox_stats(Request::new(request)).await.unwrap().into_inner();
        let streamed = stream.next().await.unwrap().unwrap().pod_sandbox_stats;
        assert!(stream.next().await.is_none());
        assert_eq!((list.len(), streamed.len()), (1, 1));
        assert_eq!(list[0].attributes, streamed[0].attributes);
        for id in [&a, &b] {
            node.remove_pod(id).await;
        }
        node
    });
}
