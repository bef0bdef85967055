//! Escape attempts from a container with the default security context: root inside, nothing asked for.
//!
//! A hostile program in the image (`integration/attacker`) tries many things in one container and reports each; what has
//! to be refused, and how, is judged here, and so is that the host's things are as they were.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use pintle_integration::{
    Manifest, Mode, Node, cgroup_mode, cgroup_path_of, container_status, hostile_image, read_cgroup_file,
    time_out, wait_until,
};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/attacker:1";
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
/// AUDIT_WRITE, SETFCAP: containerd's default.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

/// The memory limit of the attackers that have one: 64Mi.
const LIMIT: u32 = 64 << 20;

/// What each attempt came to, by its name.
type Report = BTreeMap<String, String>;

/// A node on which the attacker's image is known.
fn attacked_node() -> Node {
    let node = Node::start();
    import(&node, IMAGE, &json!({}), |_| {});
    node
}

fn import(node: &Node, name: &str, config: &Value, fill: impl FnOnce(&Path)) {
    let archive = hostile_image(&node.path(""), name, config, fill);
    node.pintle(&["import", &archive.to_string_lossy()]);
    fs::remove_file(archive).expect("the archive can be removed");
}

/// A pod that may attack: it sleeps until it is told how.
fn attacker(name: &str) -> Manifest {
    Manifest::sleeper(name).of(IMAGE)
}

/// With a volume, mounted to be written and to be read.
fn with_volume(pod: Manifest) -> Manifest {
    pod.volume("data", "emptyDir: {}", "/volume").with(
        "volumeMounts",
        "[{name: data, mountPath: /volume}, {name: data, mountPath: /readonly, readOnly: true}]",
    )
}

fn attack(node: &Node, pod: &str, arguments: &[&str]) -> Report {
    let told = node.exec(pod, "app", &[&["/attacker"][..], arguments].concat());
    println!("{arguments:?}:\n{told}");
    parsed(&told)
}

fn parsed(told: &str) -> Report {
    let lines = told.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect()
}

/// Checks that each of at least `many` attempts was refused with EPERM or what `otherwise` names instead. What begins with
/// `info_` or `detail_` is told, not judged.
fn assert_refused(report: &Report, many: usize, otherwise: &[(&str, &[&str])]) {
    let judged = report.iter().filter(|(name, _)| !name.starts_with("info_") && !name.starts_with("detail_"));
    let judged = judged.collect::<Vec<_>>();
    assert!(judged.len() >= many, "only {} attempts: {report:#?}", judged.len());
    for (name, outcome) in judged {
        let exception = otherwise.iter().find(|(prefix, _)| name.starts_with(prefix));
        let fits = exception.map_or(&["EPERM"][..], |(_, outcomes)| outcomes);
        assert!(fits.contains(&outcome.as_str()), "{name}: {outcome}, not one of {fits:?}");
    }
}

/// Whether this process, and so the agent, may lower an `oom_score_adj` for good.
fn may_set_resources() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("it can be read");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it is there");
    u64::from_str_radix(effective.trim(), 16).expect("hexadecimal") & (1 << 24) != 0
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What the attempts would have changed.
fn node_facts() -> (String, String, Vec<String>) {
    let mounts = read("/proc/mounts");
    // Others mount below /tmp meanwhile.
    let own =
        |line: &&str| line.split(' ').nth(1).is_some_and(|at| ["/", "/proc", "/sys", "/dev"].contains(&at));
    let mounts = mounts.lines().filter(own).map(str::to_owned).collect();
    (read("/proc/sys/kernel/core_pattern"), read("/proc/sys/kernel/hostname"), mounts)
}

/// No filter, as a pod may ask for it.
fn unconfined(pod: Manifest) -> Manifest {
    pod.spec("securityContext", "{seccompProfile: {type: Unconfined}}")
}

/// Pods `a`, to be told what to try, and `b`, which tries namespaces.
fn start_attackers(node: &Node, dressed: impl Fn(Manifest) -> Manifest) {
    let limited = |name: &str| {
        dressed(with_volume(attacker(name).with("resources", "{limits: {memory: 64Mi, cpu: 500m}}")))
    };
    node.manifest("a.yaml", &limited("a"));
    // Not by exec, whose processes are in a group of their own below the container's.
    node.manifest("b.yaml", &limited("b").shell("/attacker namespaces; sleep infinity"));
    node.wait_ready("a");
}

fn end_attackers(node: Node) {
    for name in ["a", "b"] {
        node.remove_manifest(&format!("{name}.yaml"));
        node.wait_gone(name);
    }
    node.finish();
}

#[test]
fn system_calls_mounts_and_limits_of_the_node_are_refused() {
    let node = attacked_node();
    start_attackers(&node, |pod| pod);
    let before = node_facts();
    let calls = attack(&node, "a", &["kernel"]);
    check_calls(&calls);
    for name in ["info_userfaultfd", "info_io_uring", "info_syslog_read"] {
        assert_eq!(calls[name], "EPERM", "{name}");
    }
    check_mounts(&attack(&node, "a", &["mounts"]), "EPERM");
    let told = tried_namespaces(&node);
    // The device cannot be opened; to make its node is a default capability.
    let otherwise = [("clone3_user", &["ENOSYS"][..]), ("user_sysctl", &["EROFS"]), ("user_mknod", &["ok"])];
    assert_refused(&told, 25, &otherwise);
    let pid = node.container("b", "app").pid;
    assert_eq!(read_cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max"), LIMIT.to_string());
    assert_pods_limit(&node);
    check_limits(&attack(&node, "a", &["limits"]));
    assert_eq!(node_facts(), before);
    end_attackers(node);
}

#[test]
fn without_a_seccomp_filter_a_user_namespace_changes_nothing_of_the_node_either() {
    let node = attacked_node();
    start_attackers(&node, unconfined);
    let before = node_facts();
    check_calls(&attack(&node, "a", &["kernel"]));
    check_mounts(&attack(&node, "a", &["mounts"]), "ok");
    check_user_namespace(&node, tried_namespaces(&node));
    check_limits(&attack(&node, "a", &["limits"]));
    assert_eq!(node_facts(), before);
    end_attackers(node);
}

fn check_calls(calls: &Report) {
    let missing = ["EPERM", "ENOSYS"];
    let harmless = [
        ("kexec", &missing[..]),
        ("init_module", &missing),
        ("finit_module", &missing),
        ("delete_module", &missing),
        ("acct", &missing),
        ("clock_gettime", &["ok"]),
        ("perf_event_open", &["EPERM", "EACCES"]),
        ("nice", &["EACCES"]),
    ];
    assert_refused(calls, 18, &harmless);
}

/// A descriptor of a mount, and not of a copy, is no more than one of a directory.
fn check_mounts(mounts: &Report, plain_tree: &str) {
    let otherwise = [
        ("umount_kcore", &["EPERM", "ENOENT"][..]),
        ("open_tree_plain", &[plain_tree]),
        ("write_readonly", &["EROFS"]),
        ("chroot", &["EXDEV"]),
    ];
    assert_refused(mounts, 25, &otherwise);
}

fn tried_namespaces(node: &Node) -> Report {
    wait_until("the attempts with a user namespace", || {
        let told = parsed(&node.logs("b", "app"));
        println!("{told:#?}");
        told.contains_key("user_v1_limit").then_some(told)
    })
}

/// In a user namespace a process may mount a cgroup v1 hierarchy and lift the limits of the group it is in: the pod's group,
/// out of its sight, has the last word.
fn check_user_namespace(node: &Node, mut told: Report) {
    told.remove("user_v1_limit").expect("it is told");
    if told["unshare_user"] != "ok" {
        // The node allows none.
        told.retain(|name, _| !name.starts_with("user_"));
    }
    let delegated =
        read("/proc/mounts").lines().any(|line| line.contains(" cgroup2 ") && line.contains("nsdelegate"));
    let v2_limit: &[&str] = match (cgroup_mode(), delegated) {
        (Mode::V2, true) => &["EPERM"],
        (Mode::V2, false) => &["ok"],
        (Mode::V1, _) => &["EACCES", "ENOENT"],
    };
    let made: &[&str] = &["ok", "EPERM", "ENOSPC"];
    let otherwise = [
        ("clone", made),
        ("unshare_user", made),
        ("user_umount", &["EINVAL", "ENOENT"]),
        ("user_open_tree", &["EINVAL"]),
        ("user_bind_proc", &["EINVAL"]),
        ("user_sysctl", &["EROFS"]),
        ("user_v2_limit", v2_limit),
    ];
    assert_refused(&told, 10, &otherwise);
    if cgroup_mode() == Mode::V2 {
        let pid = node.container("b", "app").pid;
        assert_eq!(read_cgroup_file(pid, "memory", "", "memory.max"), LIMIT.to_string());
    }
    assert_pods_limit(node);
}

fn assert_pods_limit(node: &Node) {
    let pods = cgroup_path_of(node.container("b", "app").pid, "memory");
    let pods = pods.parent().expect("the pod's group");
    let file = if cgroup_mode() == Mode::V1 { "memory.limit_in_bytes" } else { "memory.max" };
    let limit = fs::read_to_string(pods.join(file)).expect("the pod's limit");
    assert_eq!(limit.trim(), LIMIT.to_string());
}

fn check_limits(limits: &Report) {
    let a_little: &[&str] = if may_set_resources() { &["EACCES"] } else { &["EACCES", "ok"] };
    let otherwise = [
        ("getrlimit", &["ok"][..]),
        ("oom_score_adj_a_little", a_little),
        ("oom_score_adj", &["EACCES"]),
        ("mkdir_cgroup", &["EROFS", "ENOENT"]),
        ("cgroup_files", &[]),
        ("cgroup ", &["EROFS"]),
    ];
    let mut limits = limits.clone();
    let files = limits.remove("cgroup_files").expect("it is told");
    limits.remove("oom_score_adj_is").expect("it is told");
    assert_refused(&limits, 5, &otherwise);
    assert_eq!(files != "0", cgroup_mode() == Mode::V2, "only v2's ro is honoured, so only that is mounted");
}

#[test]
fn files_of_the_kernel_and_devices_of_the_node_cannot_be_opened() {
    let node = Node::start();
    import(&node, IMAGE, &json!({}), |layer| {
        fs::create_dir(layer.join("shipped")).expect("a directory can be made");
        for (name, kind, major, minor) in
            [("mem", "c", "1", "1"), ("loop", "b", "7", "0"), ("fuse", "c", "10", "229")]
        {
            let path = layer.join("shipped").join(name);
            let made =
                Command::new("mknod").arg(path).args([kind, major, minor]).status().expect("mknod runs");
            assert!(made.success());
        }
    });
    node.manifest("a.yaml", &with_volume(attacker("a")));
    node.wait_ready("a");
    let written = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/irq/0/smp_affinity",
        "/proc/bus/pci/00/00.0",
        "/proc/fs/ext4",
        "/sys/power/state",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/kernel/profiling",
        "/sys/module/kernel/parameters/crash_kexec_post_notifiers",
        "/sys/class/net/lo/mtu",
        "/sys/block/loop0/uevent",
    ];
    let report = attack(&node, "a", &[&["write"][..], &written].concat());
    // A file that this kernel does not have is not there to be refused.
    let gone: &[&str] = &["EROFS", "ENOENT", "EISDIR"];
    assert_refused(&report, written.len(), &[("/", gone)]);
    assert!(report.values().filter(|outcome| *outcome == "EROFS").count() >= 6, "{report:#?}");
    let hidden = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/interrupts",
        "/proc/latency_stats",
        "/proc/acpi",
        "/proc/scsi",
        "/proc/asound",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let report = attack(&node, "a", &[&["read"][..], &hidden].concat());
    let nothing: &[&str] = &["0 bytes", "0 entries", "ENOENT"];
    assert_refused(&report, hidden.len(), &[("/", nothing)]);
    for path in hidden {
        // What the kernel has is there and empty.
        assert_eq!(report[path] == "ENOENT", !Path::new(path).exists(), "{path}: {}", report[path]);
    }
    let swept = node.exec("a", "app", &["/attacker", "sweep", "/proc", "/sys"]);
    let writable = swept.lines().filter_map(|line| line.strip_prefix("writable\t"));
    // Where anybody may ask to be woken up under pressure.
    let writable = writable.filter(|path| !path.starts_with("/proc/pressure/")).collect::<Vec<_>>();
    assert!(parsed(&swept)["looked"].parse::<u32>().expect("a number") > 50, "{swept}");
    assert!(writable.is_empty(), "{writable:#?}");
    check_devices(&node);
    node.remove_manifest("a.yaml");
    node.wait_gone("a");
    node.finish();
}

fn check_devices(node: &Node) {
    let disk = fs::metadata("/").expect("the root is there").dev();
    let disk = format!("b:{}:{}", rustix::fs::major(disk), rustix::fs::minor(disk));
    let made = [
        // The root's disk, memory, ports, the kernel's log, terminals, the console, fuse, loop, kvm.
        disk.as_str(),
        "c:1:1",
        "c:1:2",
        "c:1:4",
        "c:1:11",
        "c:4:0",
        "c:4:64",
        "c:5:1",
        "c:7:1",
        "c:10:229",
        "c:10:237",
        "c:10:232",
        "c:10:130",
        "b:7:0",
        "b:8:0",
        "b:253:0",
        "b:259:0",
    ];
    let shipped = ["/shipped/mem", "/shipped/loop", "/shipped/fuse"];
    let report = attack(node, "a", &[&["devices"][..], &made, &shipped].concat());
    // The volume lies on the test's file system, which may be mounted without devices.
    let volume = "open /volume";
    assert_refused(&report, made.len() * 3 + shipped.len(), &[(volume, &["EPERM", "EACCES"])]);
    let usual = attack(node, "a", &["devices", "c:1:3", "c:1:5", "c:1:9"]);
    assert_refused(&usual, 9, &[(volume, &["ok", "EACCES"]), ("open", &["ok"])]);
}

#[test]
fn a_process_starts_with_containerds_capabilities_and_three_descriptors_of_its_own() {
    let node = attacked_node();
    let started = |name: &str| attacker(name).shell("/attacker self; sleep infinity");
    node.manifest("root.yaml", &started("root"));
    let user = "{runAsUser: 1000, allowPrivilegeEscalation: false}";
    node.manifest("user.yaml", &started("user").with("securityContext", user));
    for (name, held, no_new) in [("root", DEFAULT_CAPABILITIES, "0"), ("user", "0000000000000000", "1")] {
        node.wait_ready(name);
        let main = wait_until("what it starts with", || {
            let told = parsed(&node.logs(name, "app"));
            told.contains_key("write_own_exe").then_some(told)
        });
        for (how, told) in [("main", main), ("exec", attack(&node, name, &["self"]))] {
            let what = format!("{name} by {how}: {told:#?}");
            for (set, value) in [("CapPrm", held), ("CapEff", held), ("CapBnd", DEFAULT_CAPABILITIES)] {
                assert_eq!(told[set], value, "{set} of {what}");
            }
            for (set, value) in
                [("CapInh", "0000000000000000"), ("CapAmb", "0000000000000000"), ("NoNewPrivs", no_new)]
            {
                assert_eq!(told[set], value, "{set} of {what}");
            }
            for (set, value) in
                [("Seccomp", "2"), ("securebits", "0"), ("personality", "0"), ("Umask", "0022"), ("cwd", "/")]
            {
                assert_eq!(told[set], value, "{set} of {what}");
            }
            let descriptors = told.iter().filter(|(key, _)| key.starts_with("fd ")).collect::<Vec<_>>();
            assert_eq!(descriptors.len(), 3, "{what}");
            for (_, link) in descriptors {
                let fine = link.starts_with("pipe:") || link.starts_with("/dev/null device:own");
                assert!(fine, "a descriptor of the node's: {what}");
            }
        }
    }
    for name in ["root", "user"] {
        node.remove_manifest(&format!("{name}.yaml"));
        node.wait_gone(name);
    }
    node.finish();
}

#[test]
fn no_process_or_socket_of_the_node_is_in_reach() {
    let node = attacked_node();
    node.manifest("a.yaml", &attacker("a"));
    node.manifest("shared.yaml", &attacker("shared").spec("shareProcessNamespace", "true"));
    node.manifest("hostnet.yaml", &attacker("hostnet").spec("hostNetwork", "true"));
    for name in ["a", "shared", "hostnet"] {
        node.wait_ready(name);
    }
    let (infra, sandbox) = node.sandbox("a");
    let supervisor = sandbox["info"]["supervisorPid"].to_string();
    let other = node.container("shared", "app").pid.to_string();
    let (infra, own) = (infra.to_string(), std::process::id().to_string());
    for name in ["a", "shared", "hostnet"] {
        let told = attack(&node, name, &["processes", &supervisor, &infra, &other, &own]);
        let mut told = told.clone();
        let seen =
            told.keys().filter_map(|key| key.strip_prefix("sees ")).map(str::to_owned).collect::<Vec<_>>();
        let own = ["sleep", "attacker", "pause", "busybox"];
        assert!(seen.iter().all(|comm| own.contains(&comm.as_str())), "{name} sees {seen:?}");
        told.retain(|key, _| !key.starts_with("sees "));
        let inside = name == "shared";
        let otherwise = [
            ("root_of_1", &["ok"][..]),
            // The pause program's root is shared by all pods.
            ("write_root_of_1", if inside { &["EROFS"] } else { &["ok"] }),
            ("write_exe_of_1", if inside { &["EROFS", "ETXTBSY"] } else { &["ETXTBSY"] }),
            // Sent, but a namespace's first process does not hear it from inside.
            ("kill_1", &["ok"]),
            ("fd_of_1", &["/dev/null"]),
            ("proc ", &["ENOENT"]),
            ("", &["ESRCH"]),
        ];
        told.retain(|key, link| !(key.starts_with("fd_of_1") && link.starts_with("pipe:")));
        assert_refused(&told, 20, &otherwise);
    }
    let sockets = node.exec("hostnet", "app", &["/attacker", "sockets"]);
    let state = node.path("");
    let (own, abstract_ones): (Vec<_>, Vec<_>) = sockets
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(_, name)| name)
        .partition(|name| !name.starts_with('@'));
    assert!(abstract_ones.is_empty(), "in the node's network anybody may connect to {abstract_ones:?}");
    for path in own.iter().filter(|path| Path::new(path).starts_with(&state)) {
        let reached = node.try_exec("hostnet", "app", &["ls", path]);
        assert!(!reached.status.success(), "{path} is in reach");
    }
    for name in ["a", "shared", "hostnet"] {
        assert_eq!(container_status(&node.pod(name).expect("it is known"), "app")["restartCount"], 0);
        node.remove_manifest(&format!("{name}.yaml"));
        node.wait_gone(name);
    }
    node.finish();
}

#[test]
fn the_supervisors_program_can_neither_be_looked_into_nor_written_from_a_container() {
    let node = Node::start();
    import(&node, IMAGE, &json!({}), |layer| {
        symlink("/proc/self/exe", layer.join("exe")).expect("a link can be made");
        for (name, interpreter) in [("script", "/proc/self/exe"), ("nested", "/script"), ("linked", "/exe")] {
            fs::write(layer.join(name), format!("#!{interpreter}\n")).expect("a script can be written");
            let made = Command::new("chmod").arg("755").arg(layer.join(name)).status().expect("chmod runs");
            assert!(made.success());
        }
    });
    // Long enough for some commands to be run meanwhile.
    let seconds = time_out(4).as_secs();
    let shared = Manifest::new("a")
        .of(IMAGE)
        .spec("shareProcessNamespace", "true")
        .spec("restartPolicy", "Never")
        .container("watcher")
        .with("command", &format!("[/attacker, watch, '{seconds}']"))
        .container("app");
    node.manifest("a.yaml", &shared);
    wait_until("the watcher", || {
        node.try_pod("a").filter(|pod| !container_status(pod, "watcher")["state"]["running"].is_null())
    });
    for program in ["/proc/self/exe", "/exe", "/script", "/nested", "/linked"] {
        let output = node.try_exec("a", "app", &[program, "--help"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("supervisor itself"), "{program}: {told}");
    }
    let container = node.container("a", "watcher");
    let told = wait_until("the watcher's report", || {
        assert!(node.try_exec("a", "app", &["true"]).status.success());
        let told = node.pintle(&["logs", &container.id]);
        told.contains("looked").then_some(told)
    });
    println!("{told}");
    let closed = parsed(&told)["closed"].parse::<u32>().expect("a number");
    assert!(closed > 0, "no process of the supervisor's was seen, so nothing was tried");
    assert!(!told.contains("opened"), "a container looked into the supervisor's process:\n{told}");
    let (_, sandbox) = node.sandbox("a");
    let exe = format!("/proc/{}/exe", sandbox["info"]["supervisorPid"]);
    let flags = rustix::fs::statvfs(&exe).expect("it runs").f_flag;
    assert!(
        flags.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        "the supervisor's program could be written through it"
    );
    node.remove_manifest("a.yaml");
    node.wait_gone("a");
    node.finish();
}

#[test]
fn keys_of_the_node_and_of_neighbours_are_not_found() {
    let mut node = Node::prepare();
    node.start_agent_with_key("node-secret");
    import(&node, IMAGE, &json!({}), |_| {});
    let finds = attacker("a").shell("/attacker keys find node-secret; sleep infinity");
    node.manifest("a.yaml", &unconfined(finds));
    node.manifest("b.yaml", &unconfined(attacker("b")));
    node.manifest("c.yaml", &attacker("c"));
    node.wait_ready("a");
    node.wait_ready("b");
    let main = wait_until("the search", || {
        let told = parsed(&node.logs("a", "app"));
        told.contains_key("info_search_user").then_some(told)
    });
    let no_keys: &[&str] = &["ENOKEY", "ENOSYS", "EACCES"];
    let unknown = [("search_session", no_keys), ("read_by_serial", &["EACCES", "ENOKEY", "ENOSYS"])];
    assert_refused(&main, 1, &unknown);
    assert_refused(&attack(&node, "a", &["keys", "find", "node-secret"]), 1, &unknown);
    let added = attack(&node, "a", &["keys", "add", "pod-secret"]);
    for name in ["a", "b"] {
        let found = attack(&node, name, &["keys", "find", "pod-secret", &added["serial"]]);
        assert_refused(&found, 1, &unknown);
    }
    // With the default profile there are no keys at all.
    node.wait_ready("c");
    assert_eq!(attack(&node, "c", &["keys", "add", "pod-secret"])["serial"], "EPERM");
    let found = attack(&node, "c", &["keys", "find", "pod-secret", &added["serial"]]);
    assert_refused(&found, 2, &[]);
    assert_eq!(found["info_search_user"], "EPERM");
    for name in ["a", "b", "c"] {
        node.remove_manifest(&format!("{name}.yaml"));
        node.wait_gone(name);
    }
    node.finish();
}

/// Waits until the pod is held up by something that `explain` tells in these words.
/// `words`: one of what may be said, between `|`.
fn wait_refused(node: &Node, name: &str, words: &str) {
    wait_until(&format!("{name} to be refused because of {words:?}"), || {
        // It may not be known yet.
        let told = node.try_pintle(&["explain", &format!("pod/{name}-node1")]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        words.split('|').any(|words| told.contains(words)).then_some(())
    });
    let pod = node.pod(name).expect("it is known");
    assert!(container_status(&pod, "app")["state"]["running"].is_null(), "{name} runs: {pod:#?}");
}

/// Images whose files are links out or odd, with what refuses them.
const ODD_IMAGES: [(&str, &str); 7] = [
    ("dev", "the image's /dev is a link"),
    ("proc", "the image's /proc is a link"),
    ("sys", "the image's /sys is a link"),
    ("etc", "inside the container's root"),
    ("hosts", "inside the container's root"),
    ("user", "no user"),
    // Which descriptor leads where differs between kernels: it cannot be entered, or where it leads is found to be outside.
    ("work", "failed to chdir|failed to verify cwd"),
];

/// Mounts over what has to be the kernel's own.
const ODD_MOUNTS: [(&str, &str, &str); 3] = [
    ("covers-p", "/to-proc", "\"/proc\" cannot be mounted on"),
    ("covers-d", "/to-dev", "\"/dev\" cannot be mounted on"),
    ("covers-s", "/proc/sys/kernel", "cannot be mounted on"),
];

fn odd_image(name: &str) -> String {
    format!("localhost/{name}:1")
}

fn odd(name: &str) -> Manifest {
    Manifest::sleeper(name).of(&odd_image("odd"))
}

fn import_odd_images(node: &Node, victim: &Path) {
    let replaced = |layer: &Path, name: &str, target: &Path| {
        fs::create_dir_all(layer.join(name).parent().expect("it has one")).expect("a directory can be made");
        symlink(target, layer.join(name)).expect("a link can be made");
    };
    let image = odd_image;
    for name in ["dev", "proc", "sys"] {
        import(node, &image(name), &json!({}), |layer| {
            // The image has a directory of that name too, so that the link leads somewhere inside as well.
            let inside = layer.join(victim.strip_prefix("/").expect("it is absolute"));
            fs::create_dir_all(inside).expect("a directory can be made");
            replaced(layer, name, victim);
        });
    }
    import(node, &image("etc"), &json!({}), |layer| replaced(layer, "etc", victim));
    import(node, &image("hosts"), &json!({}), |layer| replaced(layer, "etc/hosts", &victim.join("hosts")));
    let as_host = json!({"User": "host"});
    import(node, &image("user"), &as_host, |layer| replaced(layer, "etc/passwd", &victim.join("passwd")));
    import(node, &image("work"), &json!({"WorkingDir": "/proc/self/fd/5"}), |_| {});
    import(node, &image("odd"), &json!({}), |layer| {
        fs::create_dir(layer.join("etc")).expect("a directory can be made");
        for (name, node) in [("passwd", &["p"][..]), ("group", &["c", "4095", "4095"])] {
            let made = Command::new("mknod").arg(layer.join("etc").join(name)).args(node).status();
            assert!(made.expect("mknod runs").success());
        }
        for (name, target) in [("to-proc", "/proc"), ("to-dev", "/dev")] {
            replaced(layer, name, Path::new(target));
        }
    });
}

#[test]
fn links_and_devices_of_an_image_lead_nowhere_on_the_node() {
    let node = Node::start();
    let victim = node.path("victim");
    fs::create_dir(&victim).expect("a directory can be made");
    fs::write(victim.join("passwd"), "host:x:4242:4242::/:/bin/sh\n").expect("a file can be written");
    import_odd_images(&node, &victim);
    for (name, _) in ODD_IMAGES {
        node.manifest(&format!("{name}.yaml"), &Manifest::sleeper(name).of(&odd_image(name)));
    }
    for (name, path, _) in ODD_MOUNTS {
        let covering = odd(name).volume("data", "emptyDir: {}", path);
        node.manifest(&format!("{name}.yaml"), &covering);
    }
    let message = odd("message").with("terminationMessagePath", "/proc/sys/kernel/core_pattern");
    node.manifest("message.yaml", &message);
    node.manifest("odd.yaml", &odd("odd"));
    let fds = 3..=9;
    let in_each = fds.clone().fold(Manifest::new("fds").of(&odd_image("odd")), |pod, fd| {
        pod.container(&format!("fd{fd}")).with("workingDir", &format!("/proc/self/fd/{fd}"))
    });
    node.manifest("fds.yaml", &in_each);
    let covering = ODD_MOUNTS.map(|(name, _, words)| (name, words));
    let refused = ODD_IMAGES.into_iter().chain(covering).chain([("message", "cannot be mounted on")]);
    for (name, words) in refused.clone() {
        wait_refused(&node, name, words);
    }
    node.wait_ready("odd");
    for fd in fds {
        node.wait_pod("fds", "refused its working directories", |pod| {
            let state = &container_status(pod, &format!("fd{fd}"))["state"];
            assert!(state["running"].is_null(), "a working directory of descriptor {fd}: {pod:#}");
            let told = state["waiting"]["message"].as_str().unwrap_or_default();
            told.contains("cwd") || told.contains("chdir")
        });
    }
    let left = fs::read_dir(&victim).expect("it is there").flatten().map(|entry| entry.file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["passwd"], "an image wrote to the node");
    let pods = refused.map(|(name, _)| name).chain(["odd", "fds"]).collect::<Vec<_>>();
    for name in &pods {
        node.remove_manifest(&format!("{name}.yaml"));
    }
    for name in &pods {
        node.wait_gone(name);
    }
    node.finish();
}

#[test]
fn what_a_container_does_to_its_volume_message_and_directory_stays_inside() {
    let node = attacked_node();
    let victim = node.path("victim");
    fs::create_dir(&victim).expect("a directory can be made");
    fs::write(victim.join("secret"), "of the node").expect("a file can be written");
    let links = format!(
        "rm -f /dev/termination-log; ln -s {0} /dev/termination-log; mkfifo /dev/termination-log; \
         ln -s {0} /volume/link; mv /volume /etc; mv /etc/hosts /tmp; exit 3",
        victim.join("secret").display()
    );
    node.manifest("a.yaml", &with_volume(attacker("a").shell(&links)));
    let ended = node.wait_pod("a", "restarted", |pod| container_status(pod, "app")["restartCount"] == 1);
    let last = &container_status(&ended, "app")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3, "{ended:#}");
    assert!(last["message"].as_str().is_none_or(str::is_empty), "{last}");
    // The directory that an exec starts in, exchanged for ways out.
    node.manifest("b.yaml", &attacker("b").with("workingDir", "/work"));
    node.wait_ready("b");
    for target in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/cwd/../../..", "/proc/self/root/.."] {
        let script = format!("rm -rf /work; ln -s {target} /work");
        if node.try_exec("b", "app", &["/bin/sh", "-c", &script]).status.success() {
            let output = node.try_exec("b", "app", &["ls", "-di", ".", "/"]);
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let inodes = told.split_whitespace().step_by(2).collect::<Vec<_>>();
            assert!(!output.status.success() || inodes[0] == inodes[1], "{target}: {told}");
        }
        let mend = node.container("b", "app").pid;
        let work = format!("/proc/{mend}/root/work");
        fs::remove_file(&work).ok();
        fs::create_dir_all(&work).expect("a directory can be made");
    }
    assert_eq!(fs::read_to_string(victim.join("secret")).expect("it is there"), "of the node");
    for name in ["a", "b"] {
        node.remove_manifest(&format!("{name}.yaml"));
        node.wait_gone(name);
    }
    node.finish();
}

#[test]
fn a_containers_flood_and_greed_harm_neither_supervisor_nor_neighbours() {
    let node = attacked_node();
    let pod = Manifest::new("a")
        .of(IMAGE)
        .spec("restartPolicy", "Never")
        .container("flood")
        .with("command", "[/attacker, flood, bytes, '64']")
        .container("hog")
        .with("command", "[/attacker, memory]")
        .with("resources", "{limits: {memory: 24Mi}}")
        .container("calm");
    node.manifest("a.yaml", &pod);
    let pod = node.wait_pod("a", "through", |pod| {
        container_status(pod, "calm")["state"]["running"].is_object()
            && ["flood", "hog"]
                .iter()
                .all(|name| container_status(pod, name)["state"]["terminated"].is_object())
    });
    let of = |name: &str| container_status(&pod, name)["state"]["terminated"].clone();
    assert_eq!((&of("hog")["reason"], &of("hog")["exitCode"]), (&"OOMKilled".into(), &137.into()));
    assert_eq!(of("flood")["exitCode"], 0);
    let log = node.container("a", "flood").inspect["status"]["logPath"].as_str().expect("a path").to_owned();
    let folder = Path::new(&log).parent().expect("it has one");
    let mut bytes = 0;
    for entry in fs::read_dir(folder).expect("the logs are there").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a log");
        for line in text.lines() {
            let text = line.splitn(4, ' ').nth(3).expect("CRI's four parts");
            assert!(text.len() <= 16 * 1024, "a line of {}", text.len());
            bytes += text.len();
        }
    }
    assert_eq!(bytes, 64 << 20);
    assert_eq!(container_status(&pod, "calm")["restartCount"], 0);
    node.exec("a", "calm", &["true"]);
    let (_, sandbox) = node.sandbox("a");
    let status = read(&format!("/proc/{}/status", sandbox["info"]["supervisorPid"]));
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it lives");
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    // A build with debug information is larger than the released one; 64 MiB of output would show.
    assert!(peak < 40 << 10, "the supervisor held {peak} kB");
    node.remove_manifest("a.yaml");
    node.wait_gone("a");
    node.finish();
}
