//! Requests that ask for too much, for nonsense or for harm, and bytes that are no requests at all: each gets a clear
//! answer, leaves nothing, and disturbs nobody. All of it goes over the socket.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use pintle_cri_api::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use tonic::{Code, Status, transport::Channel};

use crate::{
    image,
    raw_call::{self, call},
    support::{Node, Served, eventually, on_a_node, own_pids, security, shell},
};

type Pod = fn(&mut cri::PodSandboxConfig);
type Container = fn(&mut cri::ContainerConfig);
type Resources = fn(&mut cri::LinuxContainerResources);
type Exec = fn(&mut cri::ExecSyncRequest);

/// What a row asks for: a good request, changed in one place.
enum Ask {
    Pod(Pod),
    Container(Container),
    Resources(Resources),
    Update(Resources),
    Exec(Exec),
}

/// What is asked, the expected code, a word of the message.
type Row<T> = (T, Code, &'static str);

use Code::{InvalidArgument as Invalid, Unimplemented as NotYet};

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn metadata(config: &mut cri::PodSandboxConfig) -> &mut cri::PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    linux(config).security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

fn dns(config: &mut cri::PodSandboxConfig, servers: &[&str], options: usize) {
    config.dns_config = Some(cri::DnsConfig {
        servers: servers.iter().map(ToString::to_string).collect(),
        options: (0..options).map(|i| format!("o{i}")).collect(),
        ..Default::default()
    });
}

fn pods() -> Vec<Row<Pod>> {
    vec![
        (|c| c.metadata = None, Invalid, "metadata.name"),
        (|c| metadata(c).uid.clear(), Invalid, "metadata.uid"),
        (|c| metadata(c).name = "a\nb".to_owned(), Invalid, "metadata.name"),
        (|c| metadata(c).name = text(300), Invalid, "metadata.name"),
        (|c| metadata(c).namespace = "a\0b".to_owned(), Invalid, "metadata.namespace"),
        (|c| metadata(c).uid = text(300), Invalid, "metadata.uid"),
        (|c| drop(c.labels.insert(String::new(), "v".to_owned())), Invalid, "labels"),
        (|c| drop(c.labels.insert("k".to_owned(), "\0".to_owned())), Invalid, "labels"),
        (|c| drop(c.annotations.insert("k".to_owned(), text(600_000))), Invalid, "annotations"),
        (|c| c.hostname = text(65), Invalid, "hostname"),
        (|c| c.hostname = "a\nb".to_owned(), Invalid, "hostname"),
        (|c| c.hostname = "a/../b".to_owned(), Invalid, "hostname"),
        (|c| c.log_directory = "logs".to_owned(), Invalid, "log_directory"),
        (|c| c.log_directory = "/var/log/../../etc".to_owned(), Invalid, "log_directory"),
        (|c| dns(c, &["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"], 0), Invalid, "dns_config.servers"),
        (|c| dns(c, &["one.one.one.one"], 0), Invalid, "dns_config.servers"),
        (|c| dns(c, &["1.1.1.1\noptions x"], 0), Invalid, "dns_config"),
        (|c| dns(c, &[], 33), Invalid, "dns_config.options"),
        (|c| drop(linux(c).sysctls.insert("kernel.panic".to_owned(), "1".to_owned())), Invalid, "sysctls"),
        (|c| linux(c).cgroup_parent = "/a/../../b".to_owned(), Invalid, "cgroup_parent"),
        (|c| linux(c).cgroup_parent = format!("/{}", text(256)), Invalid, "cgroup_parent"),
        (
            |c| c.port_mappings.push(cri::PortMapping { host_port: 70_000, ..Default::default() }),
            Invalid,
            "port_mappings",
        ),
        (
            |c| c.port_mappings.push(cri::PortMapping { host_port: 80, ..Default::default() }),
            Invalid,
            "port_mappings.container_port",
        ),
        (|c| namespaces(c).network = 99, Invalid, "namespace_options.network"),
        (|c| namespaces(c).ipc = cri::NamespaceMode::Target.into(), Invalid, "namespace_options.ipc"),
        (|c| namespaces(c).userns_options = Some(cri::UserNamespace::default()), Invalid, "userns_options"),
    ]
}

fn mount(host_path: &str, container_path: &str) -> cri::Mount {
    cri::Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        ..Default::default()
    }
}

fn variable(config: &mut cri::ContainerConfig, key: &str, value: String) {
    config.envs.push(cri::KeyValue { key: key.to_owned(), value });
}

fn device(config: &mut cri::ContainerConfig, host: &str, inside: &str, permissions: &str) {
    config.devices.push(cri::Device {
        host_path: host.to_owned(),
        container_path: inside.to_owned(),
        permissions: permissions.to_owned(),
    });
}

fn capability(config: &mut cri::ContainerConfig, name: &str) {
    security(config).capabilities.get_or_insert_default().add_capabilities.push(name.to_owned());
}

fn programs() -> Vec<Row<Container>> {
    vec![
        (|c| c.metadata = None, Invalid, "metadata.name"),
        (
            |c| c.metadata = Some(cri::ContainerMetadata { name: text(300), attempt: 0 }),
            Invalid,
            "metadata.name",
        ),
        (|c| c.image = None, Invalid, "image"),
        (
            |c| c.image.get_or_insert_default().image = "test.invalid/none:1".to_owned(),
            Code::NotFound,
            "none",
        ),
        (|c| c.image.get_or_insert_default().image = text(5000), Invalid, "image"),
        (|c| c.command = vec!["/bin/echo\0".to_owned()], Invalid, "command"),
        (|c| c.args = vec![text(200_000)], Invalid, "args"),
        (|c| (0..20).for_each(|i| variable(c, &format!("K{i}"), text(100_000))), Invalid, "envs"),
        (|c| variable(c, "A=B", String::new()), Invalid, "envs"),
        (|c| variable(c, "", String::new()), Invalid, "envs"),
        (|c| variable(c, "A", "\0".to_owned()), Invalid, "envs"),
        (|c| c.working_dir = "relative".to_owned(), Invalid, "working_dir"),
        (|c| c.working_dir = "/a\0b".to_owned(), Invalid, "working_dir"),
        (|c| c.log_path = "/etc/passwd".to_owned(), Invalid, "log_path"),
        (|c| c.log_path = "../../x.log".to_owned(), Invalid, "log_path"),
        (|c| c.log_path = "a\n.log".to_owned(), Invalid, "log_path"),
        (|c| c.log_path = text(256), Invalid, "log_path"),
        (|c| c.stop_signal = 999, Invalid, "stop_signal"),
        (|c| drop(c.annotations.insert(text(400), String::new())), Invalid, "annotations"),
    ]
}

fn places() -> Vec<Row<Container>> {
    vec![
        (|c| c.mounts = (0..1025).map(|i| mount("/tmp", &format!("/m{i}"))).collect(), Invalid, "mounts"),
        (|c| c.mounts.push(mount("/tmp", "relative")), Invalid, "mounts"),
        (|c| c.mounts.push(mount("/tmp", "/")), Invalid, "mounts.container_path"),
        (|c| c.mounts.push(mount("/tmp", "/a/../../b")), Invalid, "mounts.container_path"),
        (|c| c.mounts.push(mount("", "/a")), Invalid, "mounts"),
        (|c| c.mounts.push(mount("/tmp\0", "/a")), Invalid, "mounts.host_path"),
        (|c| c.mounts.push(mount(&text(5000), "/a")), Invalid, "mounts.host_path"),
        (|c| c.mounts.push(cri::Mount { propagation: 9, ..mount("/tmp", "/a") }), Invalid, "propagation"),
        (
            |c| c.mounts.push(cri::Mount { recursive_read_only: true, ..mount("/tmp", "/a") }),
            Invalid,
            "recursive_read_only",
        ),
        (
            |c| c.mounts.push(cri::Mount { mount_options: vec!["x".to_owned()], ..mount("/tmp", "/a") }),
            NotYet,
            "mount_options",
        ),
        (
            |c| c.mounts.push(cri::Mount { image_sub_path: "x".to_owned(), ..mount("/tmp", "/a") }),
            Invalid,
            "image_sub_path",
        ),
        (|c| device(c, "/etc/passwd", "/dev/x", "rw"), Invalid, "not a device"),
        (|c| device(c, "/dev/no-such-device", "/dev/x", "rw"), Invalid, "devices.host_path"),
        (|c| device(c, "/dev/null", "/dev/x", "rwx"), Invalid, "permissions"),
        (|c| device(c, "/dev/null", "x", "rw"), Invalid, "devices.container_path"),
        (|c| device(c, "/dev/null", "/dev/../x", "rw"), Invalid, "devices.container_path"),
        (|c| c.cdi_devices.push(cri::CdiDevice { name: "a/b=c".to_owned() }), Invalid, "CDI"),
        (|c| security(c).masked_paths.push("proc/kcore".to_owned()), Invalid, "masked_paths"),
    ]
}

fn identities() -> Vec<Row<Container>> {
    vec![
        (|c| security(c).run_as_user = Some(cri::Int64Value { value: -1 }), Invalid, "run_as_user"),
        (|c| security(c).run_as_user = Some(cri::Int64Value { value: 1 << 40 }), Invalid, "run_as_user"),
        (|c| security(c).run_as_group = Some(cri::Int64Value { value: 5 }), Invalid, "run_as_group"),
        (|c| security(c).run_as_username = "nobody-here".to_owned(), Invalid, "nobody-here"),
        (|c| security(c).supplemental_groups.push(-1), Invalid, "supplemental_groups"),
        (|c| security(c).supplemental_groups = (0..70_000).collect(), Invalid, "supplemental_groups"),
        (|c| capability(c, "CAP_FLY"), Invalid, "CAP_FLY"),
        (|c| (0..200).for_each(|_| capability(c, "CAP_KILL")), Invalid, "capabilities"),
        (|c| security(c).privileged = true, Invalid, "privileged"),
        (|c| security(c).namespace_options.get_or_insert_default().pid = 77, Invalid, "namespace mode"),
        (
            |c| {
                let options = security(c).namespace_options.get_or_insert_default();
                options.pid = cri::NamespaceMode::Target.into();
                options.target_id = "no-such-container".to_owned();
            },
            Code::NotFound,
            "no-such-container",
        ),
    ]
}

fn resources() -> Vec<Row<Resources>> {
    vec![
        (|r| r.memory_limit_in_bytes = i64::MIN, Invalid, "memory_limit_in_bytes"),
        (|r| r.memory_limit_in_bytes = 1, Invalid, "memory_limit_in_bytes"),
        (
            |r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (1 << 30, 1 << 20),
            Invalid,
            "memory_swap_limit_in_bytes",
        ),
        (|r| r.cpu_period = 10, Invalid, "cpu_period"),
        (|r| r.cpu_quota = i64::MAX, Invalid, "cpu_quota"),
        (|r| r.cpu_quota = -2, Invalid, "cpu_quota"),
        (|r| r.cpu_shares = i64::MIN, Invalid, "cpu_shares"),
        (|r| r.cpu_shares = i64::MAX, Invalid, "cpu_shares"),
        (|r| r.oom_score_adj = 2000, Invalid, "oom_score_adj"),
        (|r| r.cpuset_cpus = "0\n1".to_owned(), Invalid, "cpuset_cpus"),
        (|r| r.cpuset_mems = "../x".to_owned(), Invalid, "cpuset_mems"),
        (
            |r| r.hugepage_limits.push(cri::HugepageLimit { page_size: "../x".to_owned(), limit: 1 }),
            Invalid,
            "hugepage_limits",
        ),
        (|r| drop(r.unified.insert("../../cgroup.procs".to_owned(), "1".to_owned())), Invalid, "unified"),
        (|r| drop(r.unified.insert("cgroup.kill".to_owned(), "1".to_owned())), Invalid, "unified"),
    ]
}

fn commands() -> Vec<Row<Exec>> {
    vec![
        (|e| e.cmd.clear(), Invalid, "command"),
        (|e| e.cmd = vec![String::new()], Invalid, "command"),
        (|e| e.cmd.push("a\0b".to_owned()), Invalid, "cmd"),
        (|e| e.cmd.push(text(200_000)), Invalid, "cmd"),
        (|e| e.timeout = -1, Invalid, "timeout"),
        (|e| e.timeout = i64::MIN, Invalid, "timeout"),
        (|e| e.container_id.clear(), Code::NotFound, "container"),
        (|e| e.container_id = "../../etc".to_owned(), Code::NotFound, "container"),
        (|e| e.container_id = text(1_000_000), Code::NotFound, "container"),
    ]
}

/// Every row.
fn rows() -> Vec<Row<Ask>> {
    fn of<T>(rows: Vec<Row<T>>, ask: impl Fn(T) -> Ask) -> impl Iterator<Item = Row<Ask>> {
        rows.into_iter().map(move |(change, code, word)| (ask(change), code, word))
    }
    let containers = [programs(), places(), identities()].concat();
    of(pods(), Ask::Pod)
        .chain(of(containers, Ask::Container))
        .chain(of(resources(), Ask::Resources))
        .chain(of(resources(), Ask::Update))
        .chain(of(commands(), Ask::Exec))
        .collect()
}

type Client = RuntimeServiceClient<Channel>;

/// The pod that must not notice anything.
struct Healthy {
    pod: String,
    container: String,
    pid: serde_json::Value,
}

#[test]
fn every_bad_request_is_refused_in_words_leaves_nothing_and_disturbs_nobody() {
    on_a_node(|node| async {
        let served = Served::start(&node).await;
        let healthy = Healthy::make(&node).await;
        let mut client = pintle_cri_api::runtime_client(served.channel().await);
        let before = traces(&node);
        let all = rows();
        assert!(all.len() >= 90, "{}", all.len());
        for (number, (ask, code, word)) in all.into_iter().enumerate() {
            let refused = asked(&mut client, &healthy, ask).await;
            let status = refused.err().unwrap_or_else(|| panic!("row {number} ({word}) is taken"));
            assert_eq!(status.code(), code, "row {number} ({word}): {}", status.message());
            assert!(status.message().contains(word), "row {number} ({word}): {}", status.message());
            eventually("nothing is left", || traces(&node) == before).await;
        }
        healthy.assert_undisturbed(&node).await;
        drop(client);
        node.remove_pod(&healthy.pod).await;
        served.stop().await;
        node
    });
}

async fn asked(client: &mut Client, healthy: &Healthy, ask: Ask) -> Result<(), Status> {
    let container_id = healthy.container.clone();
    match ask {
        Ask::Pod(change) => {
            let mut config = good_pod("bad");
            change(&mut config);
            let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
            client.run_pod_sandbox(request).await.map(drop)
        }
        Ask::Container(change) => create(client, &healthy.pod, change).await,
        Ask::Resources(change) => {
            create(client, &healthy.pod, |config| {
                change(config.linux.get_or_insert_default().resources.get_or_insert_default());
            })
            .await
        }
        Ask::Update(change) => {
            let mut linux = cri::LinuxContainerResources::default();
            change(&mut linux);
            let request = cri::UpdateContainerResourcesRequest {
                container_id,
                linux: Some(linux),
                ..Default::default()
            };
            client.update_container_resources(request).await.map(drop)
        }
        Ask::Exec(change) => {
            let mut request = cri::ExecSyncRequest { container_id, cmd: shell("true"), timeout: 5 };
            change(&mut request);
            client.exec_sync(request).await.map(drop)
        }
    }
}

async fn create(
    client: &mut Client,
    pod: &str,
    change: impl FnOnce(&mut cri::ContainerConfig),
) -> Result<(), Status> {
    let mut config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "bad".to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image::NAME.to_owned(), ..Default::default() }),
        command: shell("sleep 1000"),
        ..Default::default()
    };
    security(&mut config).namespace_options = Some(own_pids());
    change(&mut config);
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: None,
    };
    client.create_container(request).await.map(drop)
}

fn good_pod(name: &str) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: "test".to_owned(),
        attempt: 0,
    };
    cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
}

impl Healthy {
    async fn make(node: &Node) -> Self {
        let pod = node.pod("healthy").await;
        let container = node.script(&pod, "c", "while :; do echo tick; sleep 0.1; done").await;
        let pid = node.info(&container).await["pid"].clone();
        Self { pod, container, pid }
    }

    /// It runs on: the same process, still writing.
    async fn assert_undisturbed(&self, node: &Node) {
        assert_eq!(node.info(&self.container).await["pid"], self.pid);
        assert_eq!(node.output(&self.container, "echo alive").await, "alive");
        let length = node.log("healthy", "c").len();
        eventually("its log grows", || node.log("healthy", "c").len() > length).await;
    }
}

/// What a node has of sandboxes and containers: directories, leases, mounts, cgroups.
fn traces(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["state/sandboxes", "state/containers", "root/snapshots", "state/network/leases"] {
        let entries = std::fs::read_dir(node.path(dir)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().to_string_lossy().into_owned()));
    }
    let own = node.path("").to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = mounts.lines().filter(|line| line.contains(&own)).filter_map(|line| line.split(' ').nth(4));
    found.extend(places.map(str::to_owned));
    let root = node.engine().layout().cgroup_root.trim_matches('/').to_owned();
    let mut hierarchies = vec![Path::new("/sys/fs/cgroup").to_owned()];
    hierarchies.extend(std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()));
    hierarchies.iter().for_each(|hierarchy| directories(&hierarchy.join(&root), &mut found));
    found.sort();
    found
}

fn directories(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // Those of execs come and go.
        let is_exec = entry.file_name().to_string_lossy().starts_with("exec-");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !is_exec {
            found.push(entry.path().to_string_lossy().into_owned());
            directories(&entry.path(), found);
        }
    }
}

#[test]
fn bytes_that_are_no_requests_end_their_own_connection_and_nothing_else() {
    on_a_node(|node| async {
        let served = Served::start(&node).await;
        let healthy = Healthy::make(&node).await;
        let before = traces(&node);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let huge_frame = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
        let headers_of_nothing = [0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        let hostile: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            vec![0xa5; 100_000],
            vec![0; 3],
            [preface, &settings[..5]].concat(),
            [preface, &settings, &huge_frame].concat(),
            [preface, &settings, &headers_of_nothing].concat(),
            [preface, &settings, &[0; 4096]].concat(),
        ];
        for bytes in hostile {
            let mut stream = UnixStream::connect(served.path()).unwrap();
            // The server may have had enough before the end.
            stream.write_all(&bytes).unwrap_or(());
            stream.shutdown(std::net::Shutdown::Write).unwrap_or(());
            stream.set_read_timeout(Some(crate::support::limit())).unwrap();
            let mut answer = Vec::new();
            tokio::task::spawn_blocking(move || stream.read_to_end(&mut answer).unwrap_or(0)).await.unwrap();
            assert_eq!(node.output(&healthy.container, "echo alive").await, "alive");
        }
        // Who says nothing, or half a word, keeps nobody else from being served.
        let slow: Vec<UnixStream> = (0..20)
            .map(|_| {
                let mut stream = UnixStream::connect(served.path()).unwrap();
                stream.write_all(&preface[..7]).unwrap();
                stream
            })
            .collect();
        let mut client = pintle_cri_api::runtime_client(served.channel().await);
        client.version(cri::VersionRequest::default()).await.unwrap();
        drop(slow);
        healthy.assert_undisturbed(&node).await;
        eventually("nothing is left", || traces(&node) == before).await;
        drop(client);
        node.remove_pod(&healthy.pod).await;
        served.stop().await;
        node
    });
}

#[test]
fn messages_that_cannot_be_decoded_are_refused() {
    on_a_node(|node| async {
        let served = Served::start(&node).await;
        let channel = served.channel().await;
        let nested = raw_call::nested_groups(10_000);
        let rows: Vec<(&str, Vec<u8>, Code)> = vec![
            ("/runtime.v1.RuntimeService/NoSuchCall", Vec::new(), Code::Unimplemented),
            ("/no.such.Service/Call", Vec::new(), Code::Unimplemented),
            ("/runtime.v1.RuntimeService/ContainerStatus", vec![0x0a, 2, 0xff, 0xfe], Code::Internal),
            ("/runtime.v1.RuntimeService/ContainerStatus", vec![0x0a, 0x7f, b'x'], Code::Internal),
            ("/runtime.v1.RuntimeService/ContainerStatus", vec![0x09, 1, 2, 3], Code::Internal),
            ("/runtime.v1.RuntimeService/ContainerStatus", vec![0xff; 32], Code::Internal),
            ("/runtime.v1.RuntimeService/RunPodSandbox", nested, Code::Internal),
            ("/runtime.v1.RuntimeService/RunPodSandbox", vec![0; 17 * 1024 * 1024], Code::OutOfRange),
            ("/runtime.v1.ImageService/PullImage", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], Code::Internal),
        ];
        for (path, message, code) in rows {
            let status = call(channel.clone(), path, message).await.unwrap_err();
            assert_eq!(status.code(), code, "{path}: {}", status.message());
        }
        drop(channel);
        served.stop().await;
        node
    });
}

#[test]
fn a_thousand_connections_opened_and_dropped_leave_no_descriptor() {
    on_a_node(|node| async {
        let served = Served::start(&node).await;
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        for i in 0..1000 {
            let mut stream = UnixStream::connect(served.path()).unwrap();
            if i % 3 == 0 {
                stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(());
            }
            if i % 100 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        eventually("their descriptors are closed", || descriptors() <= before).await;
        let mut client = pintle_cri_api::runtime_client(served.channel().await);
        client.version(cri::VersionRequest::default()).await.unwrap();
        drop(client);
        served.stop().await;
        node
    });
}

#[test]
fn the_same_sandbox_is_made_once_however_often_it_is_asked_for() {
    on_a_node(|node| async {
        let ask = || node.try_pod("once", |_| {});
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        let id = a.unwrap();
        assert_eq!((&id, &id), (&b.unwrap(), &c.unwrap()));
        // A caller who goes away blocks nobody, and what it began is found.
        let engine = std::sync::Arc::clone(node.engine());
        let request = || cri::RunPodSandboxRequest { config: Some(good_pod("left")), ..Default::default() };
        let begun = tokio::spawn({
            let request = request();
            async move { engine.run_pod_sandbox(request).await.map(drop) }
        });
        tokio::task::yield_now().await;
        begun.abort();
        let left = node.engine().run_pod_sandbox(request()).await.unwrap();
        assert_eq!(node.engine().list_sandboxes(None).len(), 2);
        let other = node.try_pod("once", |config| config.hostname = "other".to_owned()).await.unwrap_err();
        assert_eq!(other.code(), Code::AlreadyExists);
        assert!(other.message().contains(&id), "{}", other.message());
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        use cri::runtime_service_server::RuntimeService as _;
        node.engine().as_ref().stop_pod_sandbox(tonic::Request::new(stop)).await.unwrap();
        assert_eq!(ask().await.unwrap_err().code(), Code::AlreadyExists);
        let next = node.try_pod("once", |config| metadata(config).attempt = 1).await.unwrap();
        node.remove_pod(&id).await;
        // What was removed may be made again.
        let again = ask().await.unwrap();
        assert_ne!(again, id);
        for pod in [left, next, again] {
            node.remove_pod(&pod).await;
        }
        node
    });
}

#[test]
fn a_command_whose_caller_goes_away_is_ended() {
    on_a_node(|node| async {
        let served = Served::start(&node).await;
        let pod = node.pod("left").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let mut client = pintle_cri_api::runtime_client(served.channel().await);
        let exec = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: shell("touch /begun; sleep 76543"),
            timeout: 0,
        };
        let call = tokio::spawn(async move { client.exec_sync(exec).await.map(drop) });
        let sleeping = || {
            crate::support::processes_of("76543", "no cgroup has this name")
                .iter()
                .any(|process| process.contains("sleep"))
        };
        eventually("the command runs", sleeping).await;
        call.abort();
        eventually("the command is ended", || !sleeping()).await;
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        served.stop().await;
        node
    });
}
