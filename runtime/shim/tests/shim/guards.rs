//! One test per known weakness of the container library: each tries the attack or the failure. The numbers are the rows of
//! the list that the design of this crate started from; 0 is for what is not in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pintle_shim_protocol::*;
use serde_json::json;

use crate::harness::*;

fn children(shim: &Shim) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid)).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

fn descriptors(pid: i32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut links = links
        .map(|entry| fs::read_link(entry.path()).unwrap_or_default().display().to_string())
        .collect::<Vec<_>>();
    links.sort();
    links
}

#[test]
fn guard_2_a_container_cannot_raise_its_own_memory_limit() {
    let mut shim = Shim::start();
    let script = "for f in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
        [ -e $f ] && (echo 999999999 > $f) 2>/dev/null && echo raised; done; mount -t cgroup -o memory x /tmp 2>/dev/null && echo mounted; echo end";
    let mut config = shim.config("one", script);
    config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    let without = config.clone();
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]});
    fs::create_dir_all(shim.path("rootfs/sys/fs/cgroup")).unwrap();
    config["mounts"].as_array_mut().unwrap().push(mount);
    if is_v2() {
        assert_eq!(shim.output_of("one", &config), (0, vec!["stdout F end".to_owned()]));
    } else {
        let create = shim.bundle("one", &config);
        let failure = shim.create(create).unwrap_err();
        assert!(failure.message.contains("cgroup mount"), "{failure}");
    }
    let mut without = without;
    without["linux"]["cgroupsPath"] = shim.cgroup("two").into();
    assert_eq!(shim.output_of("two", &without), (0, vec!["stdout F end".to_owned()]));
}

#[test]
fn guard_3_no_new_privileges_works_both_ways_and_seccomp_is_never_ignored() {
    let mut shim = Shim::start();
    for (id, value) in [("one", Some(true)), ("two", Some(false)), ("three", None)] {
        let mut config = shim.config(id, "grep NoNewPrivs /proc/self/status");
        if let Some(value) = value {
            config["process"]["noNewPrivileges"] = value.into();
        }
        let expected = format!("stdout F NoNewPrivs:\t{}", i32::from(value == Some(true)));
        assert_eq!(shim.output_of(id, &config), (0, vec![expected]));
    }
    let mut config = shim.config("four", "exit 0");
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let create = shim.bundle("four", &config);
    assert!(shim.create(create).unwrap_err().message.contains("seccomp"));
}

#[test]
fn guard_5_a_forbidden_device_cannot_be_opened_and_an_allowed_one_can() {
    let mut shim = Shim::start();
    let script =
        "mknod /dev/xmem c 1 1 && mknod /dev/xnone c 1 200 && mknod /dev/xdisk b 259 77 && mknod /dev/xnull c 1 3
        cat /dev/xnull && echo null
        for f in mem none disk; do head -c 1 /dev/x$f 2>&1; done";
    let mut config = shim.config("one", script);
    config["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 200, "access": "r"},
    ]);
    let (_, lines) = shim.output_of("one", &config);
    let lines = lines.join("\n");
    assert!(lines.contains("F null"), "{lines}");
    assert!(lines.contains("/dev/xmem: Operation not permitted"), "{lines}");
    assert!(lines.contains("/dev/xdisk: Operation not permitted"), "{lines}");
    assert!(lines.contains("/dev/xnone: No such device or address"), "{lines}");
    let mut config = shim.config("two", "exit 0");
    config["linux"]["resources"].as_object_mut().unwrap().remove("devices");
    let create = shim.bundle("two", &config);
    assert!(shim.create(create).unwrap_err().message.contains("devices"));
}

#[test]
fn guard_7_a_pid_in_the_library_s_state_is_never_trusted() {
    let mut shim = Shim::start();
    let mut innocent = Command::new("sleep").arg("1000").spawn().unwrap();
    shim.run("one", "sleep 1000");
    let state = shim.path("containers/one/state/one/state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    json["pid"] = innocent.id().into();
    fs::write(&state, serde_json::to_vec(&json).unwrap()).unwrap();
    shim.kill("one", 9, KillScope::Init);
    shim.client.exit_of("one");
    shim.kill("one", 9, KillScope::Init);
    shim.kill("one", 9, KillScope::All);
    shim.remove("one");
    assert!(innocent.try_wait().unwrap().is_none());
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn guard_8_many_creates_at_once_all_work() {
    let mut shim = Shim::start();
    let ids = (0..24).map(|number| format!("c{number}")).collect::<Vec<_>>();
    let creates = ids.iter().map(|id| {
        let config = shim.config(id, &format!("echo {id}"));
        shim.bundle(id, &config)
    });
    let creates = creates.collect::<Vec<_>>();
    let sent =
        creates.into_iter().map(|create| shim.client.send(Request::Create(create), &[])).collect::<Vec<_>>();
    for seq in sent {
        shim.client.answer(seq).unwrap();
    }
    let start = |id: &String| Request::Start { container: id.clone() };
    let sent = ids.iter().map(|id| shim.client.send(start(id), &[])).collect::<Vec<_>>();
    for seq in sent {
        shim.client.answer(seq).unwrap();
    }
    for id in &ids {
        assert_eq!(shim.client.exit_of(id).code, 0);
        assert_eq!(shim.log_lines(id), [format!("stdout F {id}")]);
    }
}

#[test]
fn guard_9_the_supervisor_s_own_process_stays_as_it_was() {
    let mut shim = Shim::start();
    let own = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", shim.pid)).unwrap_or_default();
    let cwd = || fs::read_link(format!("/proc/{}/cwd", shim.pid)).unwrap();
    let before = (own("oom_score_adj"), own("cgroup"), cwd());
    let config = shim.config("one", "sleep 1000");
    let mut create = shim.bundle("one", &config);
    create.oom_score_adj = Some(500);
    let pid = shim.create(create).unwrap();
    shim.start_container("one").unwrap();
    let own = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", shim.pid)).unwrap_or_default();
    let cwd = || fs::read_link(format!("/proc/{}/cwd", shim.pid)).unwrap();
    assert_eq!((own("oom_score_adj"), own("cgroup"), cwd()), before);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "500\n");
    // A group of its own where it is tracked, the supervisors' common one elsewhere.
    let own_group = format!("{}/shim", shim.base);
    let in_a_supervisors_group = |line: &str| line.ends_with(&own_group) || line.ends_with(&shim.base);
    assert!(own("cgroup").lines().all(in_a_supervisors_group), "{}", own("cgroup"));
    assert!(own("cgroup").lines().any(|line| line.ends_with(&own_group)), "{}", own("cgroup"));
}

#[test]
fn guard_10_failed_creates_leave_no_zombie_no_descriptor_and_no_cgroup() {
    let mut shim = Shim::start();
    shim.run("keep", "sleep 1000");
    let before = descriptors(shim.pid).len();
    for number in 0..10 {
        let mut config = shim.config("bad", "exit 0");
        if number % 2 == 0 {
            config["mounts"].as_array_mut().unwrap().push(
                json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]}),
            );
        } else {
            config["process"]["cwd"] = "/does/not/exist/../../proc/1/root".into();
            config["linux"]["namespaces"][0]["path"] = "/proc/1/ns/nothing".into();
        }
        let create = shim.bundle("bad", &config);
        assert_eq!(shim.create(create).unwrap_err().code, ErrorCode::Internal);
        shim.assert_no_cgroup("bad");
        assert!(!shim.path("containers/bad/state").exists());
    }
    until("only the container is left", || (children(&shim).len() == 1).then_some(()));
    until("descriptors are closed", || (descriptors(shim.pid).len() <= before).then_some(()));
    let Answer::List { containers } = shim.client.ask(Request::List).unwrap() else { panic!() };
    assert_eq!(containers.len(), 1);
}

#[test]
fn guard_11_a_failure_names_its_cause() {
    let mut shim = Shim::start();
    let mut config = shim.config("one", "exit 0");
    let mount =
        json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]});
    config["mounts"].as_array_mut().unwrap().push(mount);
    let create = shim.bundle("one", &config);
    let message = shim.create(create).unwrap_err().message;
    println!("{message}");
    assert!(message.contains("/does/not/exist") && message.contains("No such file"), "{message}");
}

#[test]
fn guard_12_programs_are_found_as_the_kernel_would_and_never_given_to_a_shell() {
    let mut shim = Shim::start();
    fs::copy("/bin/busybox", shim.path("rootfs/tmp/busybox")).unwrap();
    fs::set_permissions(shim.path("rootfs/tmp/busybox"), fs::Permissions::from_mode(0o700)).unwrap();
    let config = shim.config_for("private", &["/tmp/busybox", "echo", "private"]);
    assert_eq!(shim.output_of("private", &config), (0, vec!["stdout F private".to_owned()]));
    let mut config = shim.config_for("nopath", &["echo", "found"]);
    config["process"]["env"] = json!([]);
    assert_eq!(shim.output_of("nopath", &config), (0, vec!["stdout F found".to_owned()]));
    fs::write(shim.path("rootfs/tmp/garbage"), "echo a shell ran this\n").unwrap();
    fs::set_permissions(shim.path("rootfs/tmp/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    let config = shim.config_for("garbage", &["/tmp/garbage"]);
    let create = shim.bundle("garbage", &config);
    shim.create(create).unwrap();
    let failure = shim.start_container("garbage").unwrap_err();
    assert!(
        failure.code == ErrorCode::ExecFailed && failure.message.contains("exec format error"),
        "{failure}"
    );
    assert!(shim.log_lines("garbage").is_empty());
}

#[test]
fn guard_13_a_program_that_cannot_be_executed_fails_the_start_with_the_reason() {
    let mut shim = Shim::start();
    let cases = [("nothere", "executable file not found in $PATH"), ("/etc/passwd", "permission denied")];
    for (number, (program, reason)) in cases.into_iter().enumerate() {
        let id = format!("c{number}");
        let config = shim.config_for(&id, &[program]);
        let create = shim.bundle(&id, &config);
        shim.create(create).unwrap();
        let failure = shim.start_container(&id).unwrap_err();
        assert_eq!(failure.code, ErrorCode::ExecFailed);
        assert!(failure.message.contains(reason) && failure.message.contains(program), "{failure}");
        let exit = shim.client.exit_of(&id);
        assert_eq!((exit.code, exit.started_at), (127, 0));
        shim.remove(&id);
    }
}

#[test]
fn guard_14_removal_is_recursive_and_kills_what_is_left() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000 & sleep 1000");
    let inside = |shim: &Shim| {
        let directory = cgroup_directory("freezer", &shim.cgroup("one"));
        fs::read_to_string(directory.join("cgroup.procs"))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    until("both run", || (inside(&shim).len() >= 2).then_some(()));
    let victim = inside(&shim).pop().unwrap();
    for (mount, _) in hierarchies() {
        let below = mount.join(&shim.cgroup("one")[1..]).join("below/further");
        // Not every v1 hierarchy allows it (cpuset); where it does, a process is moved there.
        if fs::create_dir_all(&below).is_ok() && !below.join("cpuset.cpus").exists() {
            fs::write(below.join("cgroup.procs"), &victim).unwrap();
        }
    }
    shim.remove("one");
    assert!(!fs::exists(format!("/proc/{victim}")).unwrap());
}

#[test]
fn guard_15_execs_leave_no_file_behind() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let files = |shim: &Shim| {
        let entries = fs::read_dir(shim.path("containers/one/state/one")).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name()).collect::<Vec<_>>();
        names.sort();
        names
    };
    let before = files(&shim);
    for number in 0..5 {
        shim.exec("one", &format!("e{number}"), "true");
    }
    assert_eq!(files(&shim), before);
}

#[test]
fn guard_16_removal_works_right_after_a_kill_from_outside() {
    let mut shim = Shim::start();
    for number in 0..10 {
        let id = format!("c{number}");
        let pid = shim.run(&id, "sleep 1000 & sleep 1000 & sleep 1000");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        shim.remove(&id);
        assert_eq!(shim.client.exit_of(&id).signal, Some(9));
    }
}

#[test]
fn guard_18_a_container_holds_no_descriptor_of_the_supervisor_s() {
    let mut shim = Shim::start();
    let script = "ls /proc/self/fd | tr '\\n' ' '; echo; sleep 1000";
    let config = shim.config("one", script);
    let create = shim.bundle("one", &config);
    let pid = shim.create(create).unwrap();
    for number in 0..3 {
        let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap().display().to_string();
        assert!(link.starts_with("pipe:") || link == "/dev/null", "{number}: {link}");
    }
    shim.start_container("one").unwrap();
    // ls itself opens the directory as descriptor 3.
    shim.wait_for_line("one", "0 1 2 3 ");
    assert_eq!(descriptors(pid).len(), 3);
    assert_eq!(shim.exec("one", "e1", "ls /proc/self/fd | tr '\\n' ' '").1, "0 1 2 3 ");
    let links = descriptors(shim.pid);
    assert!(links.iter().all(|link| !link.contains("/proc/")), "{links:?}");
}

#[test]
fn guard_19_a_container_is_in_its_own_cgroup_in_every_hierarchy() {
    let mut shim = Shim::start();
    let pid = shim.run("one", "sleep 1000");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in text.lines() {
        assert!(line.ends_with(&format!(":{}", shim.cgroup("one"))), "{line}");
    }
    assert_eq!(text.lines().count(), hierarchies().len());
    if is_v2() {
        let group = cgroup_directory("memory", &shim.cgroup("one")).join("memory.oom.group");
        assert_eq!(fs::read_to_string(group).unwrap(), "1\n");
    }
}

#[test]
fn guard_0_the_supervisor_s_executable_cannot_be_reached_from_inside() {
    let mut shim = Shim::start();
    fs::write(shim.path("rootfs/tmp/script"), "#!/proc/self/exe --help\n").unwrap();
    fs::set_permissions(shim.path("rootfs/tmp/script"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shim.path("rootfs/tmp/nested"), "#!/tmp/script\n").unwrap();
    fs::set_permissions(shim.path("rootfs/tmp/nested"), fs::Permissions::from_mode(0o755)).unwrap();
    for (number, program) in ["/proc/self/exe", "/tmp/script", "/tmp/nested"].into_iter().enumerate() {
        let id = format!("c{number}");
        let config = shim.config_for(&id, &[program]);
        let create = shim.bundle(&id, &config);
        shim.create(create).unwrap();
        let failure = shim.start_container(&id).unwrap_err();
        assert!(failure.code == ErrorCode::ExecFailed && failure.message.contains("supervisor"), "{failure}");
    }
    shim.run("one", "sleep 1000");
    let process = shim.process("one", &["/proc/self/exe"]);
    let seq = shim.begin_exec("one", "e1", &process, None);
    assert!(shim.client.answer(seq).unwrap_err().message.contains("supervisor"));
}

#[test]
fn an_exec_whose_directory_is_gone_or_outside_is_refused() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    for (number, directory) in ["/not/there", "/proc/self/fd/3", "/proc/self/fd/7"].into_iter().enumerate() {
        let mut process = shim.process("one", &["pwd"]);
        process["cwd"] = directory.into();
        let seq = shim.begin_exec("one", &format!("e{number}"), &process, None);
        let failure = shim.client.answer(seq).unwrap_err();
        assert!(failure.message.contains("working directory"), "{directory}: {failure}");
    }
}

#[test]
fn guard_1_an_exec_into_a_container_with_a_user_namespace_runs_in_that_namespace() {
    let mut shim = Shim::start();
    let mut config = shim.config("one", "cat /proc/self/uid_map; sleep 1000");
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let pid = shim.run_config("one", &config);
    shim.wait_for_line("one", "65536");
    let (code, output) = shim.exec("one", "e1", "id -u; readlink /proc/self/ns/user; cat /proc/self/uid_map");
    let space = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap().display().to_string();
    assert_ne!(space, fs::read_link("/proc/self/ns/user").unwrap().display().to_string());
    let lines =
        output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!((code, lines), (0, vec!["0".to_owned(), space, "0 100000 65536".to_owned()]));
}
