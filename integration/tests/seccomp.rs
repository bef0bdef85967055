//! Seccomp profiles as a pod asks for them, seen from inside: what the kernel says of a process, and what a call gets.
//!
//! What the default profile holds against a hostile program is tried in `escape.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Output;

use pintle_integration::{Manifest, Node, container_status, hostile_image, wait_until};
use serde_json::{Value, json};

/// The kernel's words for "no filter" and "a filter".
const OPEN: &str = "0";
const FILTERED: &str = "2";
const NO_DIRECTORIES: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#;
/// What a static busybox needs to sleep, say a word and end, and to be executed.
const FEW_CALLS: [&str; 21] = [
    "execve",
    "exit_group",
    "brk",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "readlink",
    "readlinkat",
    "getrandom",
    "mprotect",
    "mmap",
    "munmap",
    "prctl",
    "getuid",
    "newfstatat",
    "ioctl",
    "write",
    "nanosleep",
    "clock_nanosleep",
];

/// The field `Seccomp` of a process' status.
fn mode(status: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    line.expect("the kernel knows seccomp").trim().to_owned()
}

/// The modes of the container's first process and of an exec.
fn modes(node: &Node, pod: &str) -> (String, String) {
    let pid = node.container(pod, "app").pid;
    let first = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    (mode(&first), mode(&node.exec(pod, "app", &["cat", "/proc/self/status"])))
}

fn assert_mode(node: &Node, pod: &str, expected: &str) {
    assert_eq!(modes(node, pod), (expected.to_owned(), expected.to_owned()), "{pod}");
}

fn assert_refused(output: &Output, words: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(words), "{}: {told}", output.status);
}

/// Writes a profile where the node's are.
fn profile(node: &Node, file: &str, text: &str) {
    let folder = node.path("root/seccomp");
    fs::create_dir_all(&folder).expect("a directory can be made");
    fs::write(folder.join(file), text).expect("a profile can be written");
}

fn localhost(file: &str) -> String {
    format!("{{seccompProfile: {{type: Localhost, localhostProfile: {file}}}}}")
}

#[test]
fn by_default_a_container_and_its_execs_are_filtered_and_may_have_no_namespaces_and_mounts() {
    let node = Node::start();
    let said =
        "for kind in U m n; do unshare -$kind true 2>&1; done; mount -t tmpfs none /tmp 2>&1; sleep infinity";
    node.manifest("a.yaml", &Manifest::sleeper("a").shell(said));
    node.wait_ready("a");
    assert_mode(&node, "a", FILTERED);
    let logs = wait_until("the last refusal", || {
        let logs = node.logs("a", "app");
        logs.contains("mount:").then_some(logs)
    });
    assert_eq!(
        logs.matches("Operation not permitted").count() + logs.matches("permission denied").count(),
        4,
        "{logs}"
    );
    for command in [["unshare", "-U", "true"], ["unshare", "-m", "true"]] {
        assert_refused(&node.try_exec("a", "app", &command), "Operation not permitted");
    }
    // The pod's other process is our own, and does nothing that could be refused.
    let (infra, _) = node.sandbox("a");
    assert_eq!(mode(&fs::read_to_string(format!("/proc/{infra}/status")).expect("it runs")), OPEN);
    node.finish();
}

#[test]
fn a_container_is_open_only_if_it_or_its_pod_asks_for_it_or_it_is_privileged_or_the_node_says_so() {
    let (default, none) =
        ("{seccompProfile: {type: RuntimeDefault}}", "{seccompProfile: {type: Unconfined}}");
    let mut node = Node::start();
    let privileged = "{privileged: true, seccompProfile: {type: RuntimeDefault}}";
    let cases = [
        ("asks", Manifest::sleeper("asks").with("securityContext", none), OPEN),
        ("pod", Manifest::sleeper("pod").spec("securityContext", none), OPEN),
        (
            "own",
            Manifest::sleeper("own").spec("securityContext", none).with("securityContext", default),
            FILTERED,
        ),
        ("privileged", Manifest::sleeper("privileged").with("securityContext", privileged), OPEN),
    ];
    for (name, pod, _) in &cases {
        node.manifest(&format!("{name}.yaml"), pod);
    }
    for (name, _, expected) in &cases {
        node.wait_ready(name);
        assert_mode(&node, name, expected);
    }
    node.stop_agent();
    node.set_config("seccompDefault: false\n");
    node.start_agent();
    for (name, pod, expected) in [
        ("lax", Manifest::sleeper("lax"), OPEN),
        ("strict", Manifest::sleeper("strict").with("securityContext", default), FILTERED),
    ] {
        node.manifest(&format!("{name}.yaml"), &pod);
        node.wait_ready(name);
        assert_mode(&node, name, expected);
    }
    node.finish();
}

#[test]
fn a_profile_of_the_node_binds_a_container_and_its_execs_whoever_starts_them() {
    let mut node = Node::start();
    profile(&node, "no-directories.json", NO_DIRECTORIES);
    let script = "mkdir /tmp/made 2>&1; sleep infinity";
    let pod = Manifest::new("a")
        .spec("securityContext", &localhost("no-directories.json"))
        .container("app")
        .shell(script)
        .container("other")
        .shell(script)
        .with("securityContext", "{seccompProfile: {type: RuntimeDefault}}");
    node.manifest("a.yaml", &pod);
    node.wait_ready("a");
    assert_mode(&node, "a", FILTERED);
    wait_until("the refusal", || node.logs("a", "app").contains("Input/output error").then_some(()));
    node.exec("a", "other", &["test", "-d", "/tmp/made"]);
    let attempt = ["mkdir", "/tmp/again"];
    assert_refused(&node.try_exec("a", "app", &attempt), "Input/output error");
    // The file is read when a container is made. What it says later is for later containers.
    profile(&node, "no-directories.json", "{}");
    node.kill_agent();
    node.start_agent();
    assert_refused(&node.try_exec("a", "app", &attempt), "Input/output error");
    node.exec("a", "other", &attempt);
    node.finish();
}

/// Profiles that cannot be had, and what of the message says why.
const BAD_PROFILES: [(&str, &str); 4] = [
    ("missing", "No such file"),
    ("broken", "expected"),
    ("notify", "SCMP_ACT_NOTIFY"),
    ("link", "leads out"),
];

fn waits_because(pod: &Value) -> (&str, &str) {
    let waiting = &container_status(pod, "app")["state"]["waiting"];
    (waiting["reason"].as_str().unwrap_or_default(), waiting["message"].as_str().unwrap_or_default())
}

#[test]
fn a_profile_that_cannot_be_had_holds_up_its_container_and_is_named_until_it_is_mended() {
    let node = Node::start();
    profile(&node, "broken.json", "not json");
    profile(&node, "notify.json", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#);
    let outside = node.path("outside.json");
    fs::write(&outside, NO_DIRECTORIES).expect("a file can be written");
    symlink(&outside, node.path("root/seccomp/link.json")).expect("a link can be made");
    for (name, _) in BAD_PROFILES {
        let pod = Manifest::sleeper(name).with("securityContext", &localhost(&format!("{name}.json")));
        node.manifest(&format!("{name}.yaml"), &pod);
    }
    for (name, words) in BAD_PROFILES {
        let pod = node.wait_pod(name, words, |pod| waits_because(pod).1.contains(words));
        let (reason, told) = waits_because(&pod);
        assert!(["CreateContainerConfigError", "CreateContainerError"].contains(&reason), "{name}: {reason}");
        assert!(told.contains(&format!("{name}.json")), "{name}: {told}");
    }
    let containers: Value = serde_json::from_str(&node.pintle(&["ps", "-a", "-o", "json"])).expect("JSON");
    assert_eq!(containers["containers"].as_array().map_or(0, Vec::len), 0, "{containers:#}");
    node.assert_nothing_found("while profiles cannot be had");
    for (name, _) in BAD_PROFILES {
        let file = node.path("root/seccomp").join(format!("{name}.json"));
        fs::remove_file(&file).ok();
        profile(&node, &format!("{name}.json"), NO_DIRECTORIES);
    }
    for (name, _) in BAD_PROFILES {
        let pod = node.wait_ready(name);
        assert_eq!(container_status(&pod, "app")["restartCount"], 0, "{name}");
        assert_mode(&node, name, FILTERED);
    }
    node.finish();
}

#[test]
fn a_set_uid_program_works_under_the_default_profile_unless_privileges_may_not_grow() {
    let node = Node::start();
    let archive = hostile_image(&node.path(""), "localhost/set-uid:1", &json!({}), |layer| {
        let program = layer.join("as-root");
        fs::copy(layer.join("attacker"), &program).expect("it can be copied");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("its mode can be set");
    });
    node.pintle(&["import", &archive.to_string_lossy()]);
    fs::remove_file(archive).expect("the archive can be removed");
    for (name, more, effective) in [
        ("may", "", "00000000a80425fb"),
        ("may-not", ", allowPrivilegeEscalation: false", "0000000000000000"),
    ] {
        let user = format!("{{runAsUser: 1000{more}}}");
        let pod = Manifest::sleeper(name).of("localhost/set-uid:1").with("securityContext", &user);
        node.manifest(&format!("{name}.yaml"), &pod.shell("/as-root self; sleep infinity"));
        node.wait_ready(name);
        let main = wait_until("what it starts with", || {
            let told = node.logs(name, "app");
            told.contains("write_own_exe").then_some(told)
        });
        for told in [main, node.exec(name, "app", &["/as-root", "self"])] {
            for (field, value) in [("CapEff", effective), ("Seccomp", FILTERED)] {
                assert!(told.lines().any(|line| line == format!("{field}\t{value}")), "{name}: {told}");
            }
        }
    }
    node.finish();
}

#[test]
fn a_profile_of_few_calls_is_enough_for_a_program_that_may_gain_no_privileges() {
    let node = Node::start();
    let allowed = json!([{"names": FEW_CALLS, "action": "SCMP_ACT_ALLOW"}]);
    profile(&node, "few.json", &json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": allowed}).to_string());
    let context = "{runAsUser: 1000, allowPrivilegeEscalation: false, \
                    seccompProfile: {type: Localhost, localhostProfile: few.json}}";
    node.manifest("a.yaml", &Manifest::sleeper("a").with("securityContext", context));
    node.wait_ready("a");
    assert_eq!(node.exec("a", "app", &["echo", "said"]), "said");
    assert_refused(&node.try_exec("a", "app", &["mkdir", "/tmp/made"]), "Operation not permitted");
    assert_refused(&node.try_exec("a", "app", &["cat", "/etc/passwd"]), "Operation not permitted");
    let pid = node.container("a", "app").pid;
    assert_eq!(mode(&fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs")), FILTERED);
    let ends = Manifest::sleeper("ends").spec("restartPolicy", "Never").with("securityContext", context);
    node.manifest("ends.yaml", &ends.with("command", "['true']"));
    node.wait_pod("ends", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    node.finish();
}
