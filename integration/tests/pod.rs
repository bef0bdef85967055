//! Checklist rows P01 to P25 as far as they are built: what makes a pod more than its containers.

use std::fs;

use pintle_integration::{Manifest, Node, condition, container_status, wait_until};

fn two(name: &str, first: &str) -> Manifest {
    Manifest::new(name).container("first").shell(first).container("second")
}

const SLEEP: &str = "exec sleep infinity";

fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19))
        .expect("a start time")
        .parse()
        .expect("ticks")
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
}

#[test]
fn p01_the_infra_container_comes_first_and_costs_next_to_nothing() {
    let node = Node::start();
    node.manifest("a.yaml", &two("a", SLEEP));
    node.wait_ready("a");
    let (infra, _) = node.sandbox("a");
    for name in ["first", "second"] {
        assert!(
            started(infra) <= started(node.container("a", name).pid),
            "{name} is older than the infra process"
        );
    }
    let status = fs::read_to_string(format!("/proc/{infra}/status")).expect("it lives");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS").trim().to_owned();
    let kib: u64 = rss.split(' ').next().expect("a number").parse().expect("a number");
    println!("infra RSS: {rss}");
    assert!(kib < 256, "the infra process has {rss}");
    kill(node.container("a", "first").pid);
    node.wait_pod("a", "restarted", |pod| container_status(pod, "first")["restartCount"] == 1);
    assert_eq!(node.sandbox("a").0, infra, "the sandbox outlives its containers");
    node.finish();
}

#[test]
fn p02_the_infra_container_is_the_life_of_the_pod() {
    let node = Node::start();
    node.manifest("a.yaml", &two("a", SLEEP));
    let before = node.wait_ready("a");
    let second = node.container("a", "second").id;
    kill(node.container("a", "first").pid);
    let after = node.wait_pod("a", "restarted", |pod| {
        container_status(pod, "first")["restartCount"] == 1 && condition(pod, "Ready") == "True"
    });
    assert_eq!(
        before["status"]["podIP"], after["status"]["podIP"],
        "a restarted container keeps the address"
    );
    assert_eq!(node.container("a", "second").id, second, "the other container is left alone");

    let (infra, _) = node.sandbox("a");
    kill(infra);
    node.wait_pod("a", "rebuilt", |pod| {
        container_status(pod, "second")["restartCount"] == 1 && condition(pod, "Ready") == "True"
    });
    assert_ne!(node.sandbox("a").0, infra);
    node.finish();
}

#[test]
fn p03_the_containers_of_a_pod_share_network_ipc_and_name() {
    let node = Node::start();
    node.manifest("a.yaml", &two("a", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"));
    node.wait_ready("a");
    let (infra, _) = node.sandbox("a");
    for kind in ["net", "ipc", "uts"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the process lives");
        assert_eq!(of(node.container("a", "first").pid), of(infra), "{kind}");
        assert_eq!(of(node.container("a", "second").pid), of(infra), "{kind}");
    }
    assert_eq!(node.exec("a", "second", &["hostname"]), node.exec("a", "first", &["hostname"]));
    let page = wait_until("the page", || {
        let got = node.try_exec("a", "second", &["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
        got.status.success().then(|| String::from_utf8_lossy(&got.stdout).into_owned())
    });
    assert_eq!(page, "hello\n");
    node.finish();
}

#[test]
fn p04_process_ids_are_shared_only_when_asked_for() {
    let node = Node::start();
    node.manifest("own.yaml", &two("own", SLEEP));
    node.manifest("shared.yaml", &two("shared", SLEEP).spec("shareProcessNamespace", "true"));
    node.wait_ready("own");
    node.wait_ready("shared");
    assert_eq!(node.exec("own", "first", &["cat", "/proc/1/comm"]), "sleep");
    assert_eq!(node.exec("shared", "first", &["cat", "/proc/1/comm"]), "pause");
    let seen = |pod: &str| {
        let list = node.exec(pod, "first", &["ps", "-o", "comm"]);
        list.lines().filter(|line| line.trim() == "sleep").count()
    };
    assert_eq!(seen("own"), 1);
    assert_eq!(seen("shared"), 2);
    node.finish();
}

#[test]
fn p05_ports_are_shared_in_a_pod_and_independent_across_pods() {
    let node = Node::start();
    let listen = "exec nc -l -p 7000";
    node.manifest("a.yaml", &two("a", listen));
    node.manifest("b.yaml", &two("b", listen));
    node.wait_ready("a");
    node.wait_ready("b");
    wait_until("the port to be taken", || {
        let listening = node.exec("a", "second", &["netstat", "-ltn"]);
        listening.contains(":7000").then_some(())
    });
    let again = node.try_exec("a", "second", &["nc", "-l", "-p", "7000"]);
    assert!(!again.status.success());
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(why.contains("in use"), "{why}");
    assert_eq!(
        container_status(&node.pod("b").expect("b"), "first")["restartCount"],
        0,
        "the other pod has the port too"
    );
    node.finish();
}

#[test]
fn p06_a_pod_has_an_address_and_a_name_of_its_own() {
    let node = Node::start();
    node.manifest("a.yaml", &two("a", SLEEP));
    node.manifest("b.yaml", &two("b", SLEEP));
    let (a, b) = (node.wait_ready("a"), node.wait_ready("b"));
    let address = |pod: &serde_json::Value| pod["status"]["podIP"].as_str().expect("an address").to_owned();
    assert_ne!(address(&a), address(&b));
    assert_eq!(node.exec("a", "first", &["hostname"]), "a-node1");
    let shown = node.exec("a", "first", &["ip", "-4", "addr", "show", "eth0"]);
    assert!(shown.contains(&format!("inet {}/", address(&a))), "{shown}");
    let hosts = node.exec("a", "first", &["cat", "/etc/hosts"]);
    assert!(hosts.lines().any(|line| line.starts_with(&address(&a)) && line.contains("a-node1")), "{hosts}");
    node.exec("a", "first", &["ping", "-c", "1", "-W", "5", &address(&b)]);
    node.finish();
}

#[test]
fn p08_a_volume_is_shared_by_the_containers_of_a_pod() {
    let node = Node::start();
    let shared = |pod: Manifest| pod.volume("shared", "emptyDir: {}", "/shared");
    let pod = shared(Manifest::new("a").container("first"));
    node.manifest("a.yaml", &shared(pod.container("second")));
    node.wait_ready("a");
    node.exec("a", "first", &["sh", "-c", "echo from first > /shared/file"]);
    assert_eq!(node.exec("a", "second", &["cat", "/shared/file"]), "from first");
    node.finish();
}

#[test]
fn p13_the_restart_policy_decides_what_an_exit_code_means() {
    let node = Node::start();
    let mut wanted = Vec::new();
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [0, 1] {
            let name = format!("{}-{code}", policy.to_lowercase());
            let restarts = policy == "Always" || (policy == "OnFailure" && code == 1);
            let phase = match (restarts, code) {
                (true, _) => "Running",
                (false, 0) => "Succeeded",
                (false, _) => "Failed",
            };
            let manifest =
                Manifest::sleeper(&name).spec("restartPolicy", policy).shell(&format!("exit {code}"));
            node.manifest(&format!("{name}.yaml"), &manifest);
            wanted.push((name, restarts, phase, code));
        }
    }
    for (name, restarts, phase, code) in wanted {
        let pod = node.wait_pod(&name, phase, |pod| {
            let status = container_status(pod, "app");
            pod["status"]["phase"] == phase && (!restarts || status["restartCount"].as_u64() >= Some(1))
        });
        let status = container_status(&pod, "app");
        let ended =
            if restarts { &status["lastState"]["terminated"] } else { &status["state"]["terminated"] };
        assert_eq!(ended["exitCode"], code, "{name}: {status}");
        if !restarts {
            assert_eq!(status["restartCount"], 0, "{name}");
        }
    }
    node.finish();
}

#[test]
fn p24_manifests_may_be_yaml_or_json_and_unknown_fields_are_named() {
    let node = Node::start();
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j"},"spec":{"containers":[
        {"name":"app","image":"localhost/pintle-demo:1","command":["sleep","infinity"]}],"terminationGracePeriodSeconds":1}}"#;
    node.manifest("j.json", json);
    node.manifest("text.yaml", &two("text", SLEEP));
    node.manifest("bad.yaml", &two("bad", SLEEP).spec("restartPolcy", "Never"));
    node.wait_ready("j");
    node.wait_ready("text");
    wait_until("the error to be told", || {
        let log = node.agent_log();
        (log.contains("bad.yaml") && log.contains("restartPolcy") && log.contains("restartPolicy"))
            .then_some(())
    });
    assert!(node.pod("bad").is_none());
    node.finish();
}

#[test]
fn p25_get_pods_prints_kubectls_columns() {
    let node = Node::start();
    node.manifest("a.yaml", &two("a", SLEEP));
    node.manifest("c.yaml", &two("c", "exit 1"));
    node.wait_ready("a");
    node.wait_pod("c", "backing off", |pod| {
        container_status(pod, "first")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let table = node.pintle(&["get", "pods"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], "{table}");
    assert_eq!(rows[1][..4], ["a-node1", "2/2", "Running", "0"], "{table}");
    assert_eq!(rows[2][..3], ["c-node1", "1/2", "CrashLoopBackOff"], "{table}");
    node.finish();
}
