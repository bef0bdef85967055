//! Checklist rows R01 to R12 as an operator would check them: a real pod, looked at from the host and from inside.

use std::fs;

use pintle_integration::{Manifest, Mode, Node, cgroup_mode, container_status, read_cgroup_file};

fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the process lives");
    link.to_string_lossy().into_owned()
}

#[test]
fn r01_a_container_has_namespaces_of_its_own() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.wait_ready("a");
    let pid = node.container("a", "app").pid;
    let own = i32::try_from(std::process::id()).expect("a pid");
    for kind in ["pid", "mnt", "uts", "ipc", "net"] {
        assert_ne!(namespace(pid, kind), namespace(own, kind), "{kind}");
    }
    node.finish();
}

#[test]
fn r02_cpu_and_memory_limits_stand_in_the_cgroup() {
    let node = Node::start();
    let limits = "{requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}";
    node.manifest("a.yaml", &Manifest::sleeper("a").with("resources", limits));
    node.wait_ready("a");
    let pid = node.container("a", "app").pid;
    assert_eq!(
        read_cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    match cgroup_mode() {
        Mode::V1 => {
            assert_eq!(read_cgroup_file(pid, "cpu", "cpu.cfs_quota_us", ""), "50000");
            assert_eq!(read_cgroup_file(pid, "cpu", "cpu.cfs_period_us", ""), "100000");
            assert_eq!(read_cgroup_file(pid, "cpu", "cpu.shares", ""), "256");
        }
        Mode::V2 => {
            assert_eq!(read_cgroup_file(pid, "cpu", "", "cpu.max"), "50000 100000");
            assert_eq!(read_cgroup_file(pid, "cpu", "", "cpu.weight"), "35");
            assert_eq!(read_cgroup_file(pid, "memory", "", "memory.oom.group"), "1");
            inside_its_own_cgroup(&node);
        }
    }
    node.finish();
}

/// On v2 a container is shown its own group as the root of a file system that it can only read.
fn inside_its_own_cgroup(node: &Node) {
    assert_eq!(node.exec("a", "app", &["cat", "/proc/1/cgroup"]), "0::/");
    assert_eq!(node.exec("a", "app", &["cat", "/sys/fs/cgroup/memory.max"]), (64 << 20).to_string());
    let raise = ["sh", "-c", "echo max > /sys/fs/cgroup/memory.max"];
    assert!(!node.try_exec("a", "app", &raise).status.success());
}

#[test]
fn r03_the_root_is_switched_and_the_host_is_out_of_sight() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.wait_ready("a");
    assert!(!node.try_exec("a", "app", &["test", "-e", "/usr/lib/os-release"]).status.success());
    let mounts = node.exec("a", "app", &["cat", "/proc/self/mountinfo"]);
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("there is a root");
    assert!(root.contains(" - overlay "), "{root}");
    assert!(!mounts.contains("/sys/fs/cgroup/memory/kubepods"), "{mounts}");
    let pid = node.container("a", "app").pid;
    let host = fs::read_link("/proc/self/ns/mnt").expect("a mount namespace");
    assert_ne!(fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("the process lives"), host);
    node.finish();
}

#[test]
fn r04_layers_are_unpacked_once_and_shared() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.manifest("b.yaml", &Manifest::sleeper("b"));
    node.wait_ready("a");
    node.wait_ready("b");
    // Every container's root names the same unpacked directories as its lower ones.
    let layers = fs::read_dir(node.path("root/layers")).expect("layers").count();
    assert_eq!(layers, 2, "the image has two layers, unpacked once each");
    let inode = |pod: &str| node.exec(pod, "app", &["stat", "-c", "%i %h", "/bin/busybox"]);
    assert_eq!(inode("a"), inode("b"), "both containers see the same file of the shared layer");
    node.exec("a", "app", &["sh", "-c", "echo changed > /etc/passwd"]);
    assert!(
        node.exec("b", "app", &["cat", "/etc/passwd"]).starts_with("root:"),
        "a write stays in its container"
    );
    node.finish();
}

#[test]
fn r05_exec_enters_the_containers_namespaces_and_returns_the_exit_code() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.wait_ready("a");
    let pid = node.container("a", "app").pid;
    for kind in ["pid", "mnt", "uts", "ipc", "net"] {
        assert_eq!(
            node.exec("a", "app", &["readlink", &format!("/proc/self/ns/{kind}")]),
            namespace(pid, kind),
            "{kind}"
        );
    }
    assert_eq!(node.try_exec("a", "app", &["sh", "-c", "exit 42"]).status.code(), Some(42));
    node.finish();
}

#[test]
fn r06_a_volume_is_the_hosts_own_directory() {
    use std::os::unix::fs::MetadataExt;
    let node = Node::start();
    let source = node.path("data");
    fs::create_dir(&source).expect("a directory can be made");
    fs::write(source.join("file"), "from the host\n").expect("a file can be written");
    let volume = format!("hostPath: {{path: {}, type: Directory}}", source.display());
    node.manifest("a.yaml", &Manifest::sleeper("a").volume("data", &volume, "/data"));
    node.wait_ready("a");
    let inode = fs::metadata(source.join("file")).expect("the file is there").ino();
    assert_eq!(node.exec("a", "app", &["stat", "-c", "%i", "/data/file"]), inode.to_string());
    node.finish();
}

#[test]
fn r07_an_image_that_is_there_needs_no_registry() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a").with("imagePullPolicy", "IfNotPresent"));
    node.wait_ready("a");
    let missing = Manifest::sleeper("b").of("localhost/nowhere:1").with("imagePullPolicy", "Never");
    node.manifest("b.yaml", &missing);
    node.wait_pod("b", "ErrImageNeverPull", |pod| {
        container_status(pod, "app")["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    node.finish();
}

#[test]
fn r09_a_container_counts_its_own_processes() {
    let node = Node::start();
    node.manifest("a.yaml", &Manifest::sleeper("a"));
    node.wait_ready("a");
    assert_eq!(node.exec("a", "app", &["cat", "/proc/1/comm"]), "sleep");
    assert_ne!(node.container("a", "app").pid, 1, "the host sees another pid");
    node.finish();
}

#[test]
fn r12_a_container_over_its_memory_limit_is_killed_and_told_so() {
    let node = Node::start();
    let pod = Manifest::sleeper("hog")
        .spec("restartPolicy", "Never")
        .with("resources", "{limits: {memory: 16Mi}}")
        .shell("tail /dev/zero");
    node.manifest("a.yaml", &pod);
    let pod = node.wait_pod("hog", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let ended = &container_status(&pod, "app")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");
    node.finish();
}
