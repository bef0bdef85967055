//! All verbs against Debian's containerd, a runtime we did not write.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

mod support;

use std::process::ExitCode;

use pintle_cli::CliError;
use serde_json::Value;
use support::{Containerd, IMAGE};

const POD: &str = r#"
metadata: {name: web, namespace: shop, uid: pod-1}
log_directory: LOGS
labels: {app: web}
linux:
  cgroup_parent: CGROUP
  security_context: {namespace_options: {network: NODE, pid: CONTAINER}}
"#;

const CONTAINER: &str = r#"{
  "metadata": {"name": "main"},
  "image": {"image": "IMAGE"},
  "command": ["/bin/sh", "-c", "echo to-out; echo to-err >&2; exec sleep 1000"],
  "labels": {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop"},
  "log_path": "main/0.log",
  "linux": {"security_context": {"namespace_options": {"network": 2, "pid": 1}}}
}"#;

fn files(containerd: &Containerd) -> (String, String) {
    let logs = containerd.path("pods");
    std::fs::create_dir_all(logs.join("main")).unwrap();
    let pod = POD.replace("LOGS", &logs.display().to_string()).replace("CGROUP", &containerd.cgroup);
    let container = CONTAINER.replace("IMAGE", IMAGE);
    (containerd.write("pod.yaml", &pod), containerd.write("container.json", &container))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_dies_through_our_verbs() {
    let containerd = Containerd::start().await;
    containerd.load_image();
    let (pod_file, container_file) = files(&containerd);

    let pod = containerd.ok(&["runp", &pod_file]).await;
    let container = containerd.ok(&["create", &pod, &container_file, &pod_file]).await;
    assert_eq!(containerd.ok(&["start", &container[..12]]).await, container);
    running(&containerd, &pod, &container).await;
    used(&containerd, &pod, &container).await;
    updated(&containerd, &container).await;
    exec(&containerd).await;
    logs(&containerd).await;
    inspect(&containerd, &pod, &container).await;
    following_ends_with_the_container(&containerd, &container).await;
    removed(&containerd, &pod, &container).await;
    let deleted = containerd.ok(&["rmi", IMAGE]).await;
    assert!(deleted.contains(IMAGE), "{deleted}");
    assert_eq!(containerd.ok(&["images", "-q"]).await, "");
}

async fn running(containerd: &Containerd, pod: &str, container: &str) {
    let pods = containerd.ok(&["pods"]).await;
    let row: Vec<&str> = pods.lines().nth(1).unwrap().split("  ").filter(|w| !w.is_empty()).collect();
    assert_eq!(row[0], &pod[..13]);
    assert_eq!(
        row[2..].iter().map(|w| w.trim()).collect::<Vec<_>>(),
        ["Ready", "web", "shop", "0", "(default)"]
    );
    let containers = containerd.ok(&["ps"]).await;
    let header: Vec<&str> =
        containers.lines().next().unwrap().split("  ").filter(|w| !w.is_empty()).collect();
    let expected =
        ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];
    assert_eq!(header.iter().map(|w| w.trim()).collect::<Vec<_>>(), expected);
    assert!(containers.contains("Running") && containers.contains(IMAGE), "{containers}");
    assert_eq!(
        containerd.ok(&["ps", "-q", "--name", "^ma", "--pod", &pod[..8], "--image", IMAGE]).await,
        container
    );
    assert_eq!(containerd.ok(&["ps", "-q", "--state", "exited"]).await, "");
    assert_eq!(containerd.ok(&["pods", "-q", "--label", "app=web", "--state", "ready"]).await, pod);
    assert_eq!(containerd.ok(&["pods", "-q", "--label", "app=db"]).await, "");
}

async fn used(containerd: &Containerd, pod: &str, container: &str) {
    let table = containerd.ok(&["stats", "--seconds", "1"]).await;
    let mut lines = table.lines();
    let header: Vec<&str> =
        lines.next().unwrap().split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
    assert_eq!(header, ["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..2], [&container[..13], "main"]);
    assert!(row[2].parse::<f64>().unwrap() < 100.0 && row[3].ends_with('B'), "{table}");
    for args in [
        &["main"][..],
        &["--id", &container[..10]],
        &["-p", "web"],
        &["--label", "io.kubernetes.pod.name=web"],
    ] {
        let list = containerd.ok(&[&["stats", "-o", "json"], args].concat()).await;
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["stats"][0]["attributes"]["id"], container, "{args:?}");
        assert!(list["stats"][0]["cpu"]["usageCoreNanoSeconds"]["value"].is_string(), "{list}");
    }
    let none: Value =
        serde_json::from_str(&containerd.ok(&["stats", "-o", "json", "--label", "app=db"]).await).unwrap();
    assert!(none["stats"].as_array().is_none_or(Vec::is_empty), "{none}");
    let pods = containerd.ok(&["statsp", "-s", "1"]).await;
    assert!(pods.contains("web") && pods.contains(&pod[..13]), "{pods}");
    let yaml = containerd.ok(&["statsp", "-o", "yaml", pod]).await;
    assert!(yaml.contains(&format!("id: {pod}")), "{yaml}");
    let info: Value = serde_json::from_str(&containerd.ok(&["imagefsinfo"]).await).unwrap();
    assert!(
        info["status"]["imageFilesystems"][0]["fsId"]["mountpoint"].as_str().unwrap().contains("native"),
        "{info}"
    );
    assert!(containerd.ok(&["imagefsinfo", "-o", "table"]).await.contains("images"));
}

async fn updated(containerd: &Containerd, container: &str) {
    assert_eq!(
        containerd.ok(&["update", "--cpu-share", "512", "--memory", "67108864", "main"]).await,
        container
    );
    let cgroup = format!("{}/{container}", containerd.cgroup);
    let read = |v1: &str, v2: &str| {
        let controller = v1.split('.').next().unwrap();
        let path = format!("/sys/fs/cgroup/{controller}{cgroup}/{v1}");
        let text = std::fs::read_to_string(path)
            .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/{v2}")));
        text.unwrap().trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "67108864");
    assert!(["512", "20", "59"].contains(&read("cpu.shares", "cpu.weight").as_str()));
    let refused = containerd.pintle(&["update", "--memory", "67108864", "nobody"]).await.unwrap_err();
    assert!(matches!(refused, CliError::NotFound { .. }), "{refused:?}");
}

async fn exec(containerd: &Containerd) {
    let ran = containerd
        .pintle(&["exec", "-s", "main", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .await
        .unwrap();
    assert_eq!((ran.out.as_str(), ran.err.as_str(), ran.code), ("out\n", "err\n", ExitCode::from(7)));
    let streamed =
        containerd.pintle(&["exec", "main", "sh", "-c", "seq 1 20000; echo err >&2; exit 8"]).await.unwrap();
    assert_eq!((streamed.out.lines().count(), streamed.out.ends_with("\n20000\n")), (20_000, true));
    assert_eq!((streamed.err.as_str(), streamed.code), ("err\n", ExitCode::from(8)));
    let refused = containerd.pintle(&["exec", "-t", "main", "sh"]).await.unwrap_err().report();
    assert!(refused.contains("--tty"), "{refused}");
}

async fn logs(containerd: &Containerd) {
    for args in [&["logs", "main"][..], &["logs", "web"], &["logs", "shop/web", "-c", "main", "--tail", "2"]]
    {
        let ran = containerd.pintle(args).await.unwrap();
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("to-out\n", "to-err\n"), "{args:?}");
    }
    let none = containerd.pintle(&["logs", "main", "--since", "2100-01-01T00:00:00Z"]).await.unwrap();
    assert_eq!(none.out, "");
    let error = containerd.pintle(&["logs", "main", "--previous"]).await.unwrap_err();
    assert!(matches!(error, CliError::NoLog { .. }), "{error:?}");
}

async fn inspect(containerd: &Containerd, pod: &str, container: &str) {
    let value: Value = serde_json::from_str(&containerd.ok(&["inspect", "main"]).await).unwrap();
    assert_eq!(value["status"]["id"], container);
    assert_eq!(value["status"]["state"], "CONTAINER_RUNNING");
    assert!(value["status"]["startedAt"].as_str().unwrap().ends_with('Z'), "{value}");
    assert!(value["info"]["pid"].as_u64().unwrap() > 1, "{value}");
    let value: Value = serde_json::from_str(&containerd.ok(&["inspectp", &pod[..10]]).await).unwrap();
    assert_eq!(value["status"]["metadata"]["namespace"], "shop");
    let yaml = containerd.ok(&["inspecti", "-q", "-o", "yaml", IMAGE]).await;
    assert!(yaml.contains("repoTags:") && yaml.contains(IMAGE), "{yaml}");
    let list: Value = serde_json::from_str(&containerd.ok(&["ps", "-o", "json"]).await).unwrap();
    assert_eq!(list["containers"][0]["podSandboxId"], pod);
}

async fn following_ends_with_the_container(containerd: &Containerd, container: &str) {
    let log = containerd.path("pods/main/0.log");
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        support::append_line(&log, "2026-01-01T00:00:00Z stdout F late");
        containerd.ok(&["stop", "-t", "0", container]).await
    };
    let (ran, stopped) = tokio::join!(containerd.pintle(&["logs", "-f", "main"]), late);
    assert_eq!(ran.unwrap().out, "to-out\nlate\n");
    assert_eq!(stopped, container);
}

async fn removed(containerd: &Containerd, pod: &str, container: &str) {
    assert!(containerd.ok(&["ps", "-a"]).await.contains("Exited"));
    let ready = containerd.pintle(&["rmp", pod]).await.unwrap_err();
    assert!(matches!(ready, CliError::StillReady { .. }), "{ready:?}");
    assert_eq!(containerd.ok(&["rm", "main"]).await, container);
    assert_eq!(containerd.ok(&["stopp", "web"]).await, format!("Stopped sandbox {pod}"));
    assert_eq!(containerd.ok(&["rmp", "web"]).await, format!("Removed sandbox {pod}"));
    assert_eq!(containerd.ok(&["pods", "-q"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_runtime_says_what_it_is_and_what_it_cannot_do() {
    let containerd = Containerd::start().await;
    let version = containerd.ok(&["version"]).await;
    assert!(
        version.contains("RuntimeName:  containerd") && version.contains("RuntimeApiVersion:  v1"),
        "{version}"
    );
    let info: Value = serde_json::from_str(&containerd.ok(&["info"]).await).unwrap();
    let conditions = info["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "RuntimeReady"), "{info}");
    containerd.ok(&["update-runtime-config", "--pod-cidr", "10.99.0.0/24"]).await;
    // Calls that this containerd is too old for say so, whatever it answers to the others.
    for verb in [&["metricdescs"][..], &["metricsp"], &["runtime-config"]] {
        match containerd.pintle(verb).await {
            Ok(ran) => drop(serde_json::from_str::<Value>(&ran.out).unwrap()),
            Err(error) => assert!(is_unimplemented(&error), "{verb:?}: {}", error.report()),
        }
    }
    let archive = containerd.write("empty.tar", "");
    for args in [&["import", &archive][..], &["get", "pods"]] {
        let error = containerd.pintle(args).await.unwrap_err();
        assert!(matches!(error, CliError::NotPintle { .. }), "{error:?}");
    }
    for (args, hint) in [
        (&["inspect", "nothing"][..], "pintle ps -a"),
        (&["inspectp", "nothing"], "pintle pods"),
        (&["inspecti", "nothing"], "pintle images"),
    ] {
        let report = containerd.pintle(args).await.unwrap_err().report();
        assert!(report.contains(hint), "{report}");
    }
}

fn is_unimplemented(error: &CliError) -> bool {
    matches!(error, CliError::Call { code: tonic::Code::Unimplemented, .. })
}
