//! `pintle doctor` as a program: what an agent left, exit codes, both outputs.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use super::node::Node;

/// What the doctor says, with its exit code.
fn doctor(node: &Node, more: &[&str]) -> (i32, Value) {
    let (root, state) = (node.path("root"), node.path("state"));
    let own = ["doctor", "--root", root.to_str().unwrap(), "--state", state.to_str().unwrap(), "-o", "json"];
    let output = node.try_pintle(&[&own, more].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {told}"));
    (output.status.code().unwrap(), report)
}

fn kinds(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|f| (f["kind"].as_str().unwrap(), f["outcome"]["state"].as_str().unwrap())).collect()
}

/// The directories of a group of the node's instance in every hierarchy.
fn group_dirs(node: &Node, group: &str) -> Vec<PathBuf> {
    let top = format!("pintle-{}/kubepods", node.tag());
    let all = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let all = all.chain([PathBuf::from("/sys/fs/cgroup")]).map(|dir| dir.join(&top));
    all.filter(|dir| dir.is_dir()).map(|dir| dir.join(group)).collect()
}

#[test]
fn the_doctor_finds_and_repairs_what_an_agent_left() {
    let mut node = Node::start("");
    node.manifest("stays.yaml", &super::pod("stays", "", "exec sleep infinity"));
    node.wait_ready("stays");
    let (code, report) = doctor(&node, &[]);
    assert_eq!((code, &report["engineRuns"]), (0, &true.into()), "{report:#}");
    node.stop();
    let (code, report) = doctor(&node, &[]);
    assert_eq!((code, &report["engineRuns"]), (0, &false.into()), "{report:#}");
    let pods = node.path("root/pods");
    let (left, logs) = (pods.join("left"), node.path("root/log/pods/default_left_left"));
    let volume = left.join("volumes/kubernetes.io~empty-dir/m");
    fs::create_dir_all(&volume).unwrap();
    fs::create_dir_all(logs.join("app")).unwrap();
    rustix::mount::mount("tmpfs", &volume, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let outside = node.path("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, left.join("link")).unwrap();
    let groups = group_dirs(&node, "burstable/podlost");
    groups.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    let (code, report) = doctor(&node, &[]);
    let found = ["cgroup", "mount", "directory", "directory"];
    assert_eq!(code, 1);
    let mut seen = kinds(&report);
    seen.sort_by_key(|(kind, _)| found.iter().position(|wanted| wanted == kind));
    assert_eq!(seen, found.map(|kind| (kind, "found")), "{report:#}");
    let (code, report) = doctor(&node, &["--repair"]);
    assert!(code == 1 && kinds(&report).iter().all(|(_, state)| *state == "repaired"), "{report:#}");
    assert!(!left.exists() && !logs.exists() && groups.iter().all(|dir| !dir.exists()) && outside.is_dir());
    assert_eq!(doctor(&node, &[]).0, 0);
    fs::remove_dir(outside).unwrap();
    node.spawn();
    node.wait_ready("stays");
    node.finish();
}

#[test]
fn the_doctor_explains_in_words_and_says_when_it_cannot_look() {
    let mut node = Node::runtime();
    let (root, state) = (node.path("root"), node.path("state"));
    let (root, state) = (root.to_str().unwrap(), state.to_str().unwrap());
    let at = |root: &str, state: &str| node.try_pintle(&["doctor", "--root", root, "--state", state]);
    let text = String::from_utf8(at(root, state).stdout).unwrap();
    assert_eq!(text, "clean: nothing too much, nothing missing (daemon running)\n");
    let nowhere = at("/nonexistent/r", "/nonexistent/s");
    let told = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(nowhere.status.code() == Some(2) && told.contains("nothing was ever run there"), "{told}");
    let point = Path::new(state).join("stray");
    fs::create_dir(&point).unwrap();
    rustix::mount::mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let found = at(root, state);
    let text = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.status.code(), Some(1), "{text}");
    for word in
        ["surplus  mount", "ours because it is below", "should have gone by", "--repair puts it right"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    rustix::mount::unmount(&point, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(&point).unwrap();
    node.stop();
    node.finish();
}
