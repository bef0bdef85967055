//! Checklist rows V01 and V02: emptyDir and hostPath.

use std::fs;

use pintle_integration::{Manifest, Node, container_status, wait_until};

fn pod(name: &str, source: &str) -> Manifest {
    Manifest::sleeper(name).volume("data", source, "/data")
}

#[test]
fn v01_an_empty_dir_outlives_its_containers_and_dies_with_the_pod() {
    for (name, volume) in [("disk", "emptyDir: {}"), ("memory", "emptyDir: {medium: Memory, sizeLimit: 1Mi}")]
    {
        let node = Node::start();
        node.manifest("a.yaml", &pod(name, volume));
        let uid = node.wait_ready(name)["metadata"]["uid"].as_str().expect("a uid").to_owned();
        node.exec(name, "app", &["sh", "-c", "echo kept > /data/file"]);
        let pid = rustix::process::Pid::from_raw(node.container(name, "app").pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
        node.wait_pod(name, "restarted", |pod| {
            let status = container_status(pod, "app");
            status["restartCount"] == 1 && status["state"]["running"].is_object()
        });
        assert_eq!(node.exec(name, "app", &["cat", "/data/file"]), "kept");
        if name == "memory" {
            assert!(
                node.exec(name, "app", &["mount"]).lines().any(|line| line.contains(" /data type tmpfs "))
            );
            let full =
                node.try_exec(name, "app", &["dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=2"]);
            assert!(!full.status.success(), "the size limit holds");
        }
        node.remove_manifest("a.yaml");
        node.wait_gone(name);
        assert!(!node.path("root/pods").join(uid).exists());
        node.finish();
    }
}

#[test]
fn v02_host_paths_of_every_type_are_checked_or_made() {
    let node = Node::start();
    let base = node.path("host");
    fs::create_dir(&base).expect("a directory can be made");
    fs::write(base.join("file"), "x").expect("a file can be written");
    let _socket = std::os::unix::net::UnixListener::bind(base.join("socket")).expect("a socket can be bound");
    let path = |name: &str| base.join(name).display().to_string();
    let good = [
        ("any", path("file"), ""),
        ("dir", base.display().to_string(), "Directory"),
        ("newdir", path("made/deep"), "DirectoryOrCreate"),
        ("file", path("file"), "File"),
        ("newfile", path("madefile"), "FileOrCreate"),
        ("socket", path("socket"), "Socket"),
        ("char", "/dev/null".to_owned(), "CharDevice"),
    ];
    for (name, path, kind) in &good {
        let volume = format!("hostPath: {{path: {path}, type: \"{kind}\"}}");
        node.manifest(&format!("{name}.yaml"), &pod(name, &volume));
    }
    let bad = [
        ("nodir", path("missing"), "Directory"),
        ("notdir", path("file"), "Directory"),
        ("nofile", path("missing"), "File"),
        ("notfile", base.display().to_string(), "File"),
        ("nosocket", path("file"), "Socket"),
        ("nochar", path("file"), "CharDevice"),
        ("noblock", "/dev/null".to_owned(), "BlockDevice"),
    ];
    for (name, path, kind) in &bad {
        let volume = format!("hostPath: {{path: {path}, type: {kind}}}");
        node.manifest(&format!("{name}.yaml"), &pod(name, &volume));
    }
    for (name, _, _) in &good {
        node.wait_ready(name);
    }
    assert!(base.join("made/deep").is_dir());
    assert!(base.join("madefile").is_file());
    for (name, path, _) in &bad {
        wait_until(&format!("{name} to be refused"), || {
            let told = node.pintle(&["explain", &format!("pod/{name}-node1")]);
            (told.contains("FailedMount") && told.contains(path.as_str())).then_some(())
        });
        assert_eq!(node.pod(name).expect("it is known")["status"]["phase"], "Pending", "{name}");
    }
    node.finish();
    assert!(!base.join("missing").exists());
}
