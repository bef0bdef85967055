//! Create, start, exit, kill, remove, reconnect, shutdown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pintle_shim_protocol::*;
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn a_container_runs_and_its_exit_code_is_recorded_before_it_is_told() {
    let mut shim = Shim::start();
    let pid = shim.run("one", "echo hello; exit 7");
    let exit = shim.client.exit_of("one");
    assert_eq!((exit.v, exit.code, exit.signal, exit.oom_killed), (1, 7, None, false));
    assert!(exit.started_at > 0 && exit.finished_at >= exit.started_at);
    let record = fs::read(shim.path("containers/one/exit.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ExitRecord>(&record).unwrap(), exit);
    assert_eq!(shim.log_lines("one"), ["stdout F hello"]);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    shim.remove("one");
    assert!(!shim.path("containers/one/state").exists());
}

#[test]
fn a_signal_that_ends_a_container_is_told() {
    let mut shim = Shim::start();
    shim.run("one", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done");
    shim.wait_for_line("one", "up");
    shim.kill("one", libc::SIGTERM, KillScope::Init);
    assert_eq!(shim.client.exit_of("one").code, 3);
    shim.run("two", "sleep 1000");
    shim.kill("two", libc::SIGKILL, KillScope::Init);
    let exit = shim.client.exit_of("two");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    shim.kill("two", libc::SIGKILL, KillScope::All);
}

#[test]
fn kill_all_reaches_every_process_of_the_container() {
    let mut shim = Shim::start();
    let script = "(trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.05; done) & trap 'wait; exit 4' USR1; echo up; wait; wait";
    shim.run("one", script);
    shim.wait_for_line("one", "ready");
    shim.wait_for_line("one", "up");
    shim.kill("one", libc::SIGUSR1, KillScope::All);
    shim.wait_for_line("one", "child");
    shim.kill("one", libc::SIGKILL, KillScope::All);
    shim.client.exit_of("one");
}

#[test]
fn without_a_pid_namespace_the_rest_is_killed_when_the_first_process_ends() {
    let mut shim = Shim::start();
    let mut config = shim.config("one", "sleep 1000 & echo $!; exit 0");
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    config["mounts"][0] =
        serde_json::json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
    let mut create = shim.bundle("one", &config);
    create.kill_all_on_exit = true;
    shim.create(create).unwrap();
    shim.start_container("one").unwrap();
    assert_eq!(shim.client.exit_of("one").code, 0);
    let sleeper = shim.log_lines("one")[0].trim_start_matches("stdout F ").to_owned();
    until("the child is gone", || (!fs::exists(format!("/proc/{sleeper}")).unwrap()).then_some(()));
    shim.remove("one");
}

#[test]
fn every_request_may_come_twice() {
    let mut shim = Shim::start();
    let config = shim.config("one", "sleep 1000");
    let create = shim.bundle("one", &config);
    let first = shim.client.send(Request::Create(create.clone()), &[]);
    let second = shim.client.send(Request::Create(create.clone()), &[]);
    let answer = shim.client.answer(first).unwrap();
    assert_eq!(shim.client.answer(second).unwrap(), answer);
    assert_eq!(shim.client.ask(Request::Create(create)).unwrap(), answer);
    let started = shim.start_container("one").unwrap();
    assert_eq!(shim.start_container("one").unwrap(), started);
    shim.remove("one");
    shim.remove("one");
    assert_eq!(shim.start_container("one").unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_second_connection_finds_everything_after_the_first_one_died() {
    let mut shim = Shim::start();
    shim.run("one", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
    shim.wait_for_line("one", "up");
    // The first connection dies without a word.
    shim.client = Client::greeted(shim.dir.path());
    let Answer::List { containers } = shim.client.ask(Request::Subscribe).unwrap() else { panic!() };
    assert_eq!(containers.len(), 1);
    assert!(
        containers[0].pid.is_some() && containers[0].started_at.is_some() && containers[0].exit.is_none()
    );
    shim.kill("one", libc::SIGTERM, KillScope::Init);
    let exit = shim.client.exit_of("one");
    assert_eq!(exit.code, 5);
    let Answer::List { containers } = Client::greeted(shim.dir.path()).ask(Request::List).unwrap() else {
        panic!()
    };
    assert_eq!(containers[0].exit, Some(exit));
}

#[test]
fn running_out_of_memory_is_told_and_recorded() {
    let mut shim = Shim::start();
    let mut config = shim.config("one", "echo up; x=y; while :; do x=$x$x; done");
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    shim.run_config("one", &config);
    let exit = shim.client.exit_of("one");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    assert!(shim.client.events.contains(&Event::Oom { container: "one".to_owned() }));
}

#[test]
fn running_out_of_memory_is_told_while_the_container_goes_on() {
    let mut shim = Shim::start();
    let script = "echo up; sh -c 'x=y; while :; do x=$x$x; done'; echo survived; sleep 1000";
    let mut config = shim.config("one", script);
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    shim.run_config("one", &config);
    shim.client.event(|event| matches!(event, Event::Oom { container } if container == "one"));
    if is_v2() {
        // memory.oom.group: the container ends as a whole.
        assert!(shim.client.exit_of("one").oom_killed);
    } else {
        shim.wait_for_line("one", "survived");
    }
}

#[test]
fn malformed_packets_are_refused_and_hurt_nobody() {
    let mut shim = Shim::start();
    shim.client.send_raw(b"nonsense");
    assert_eq!(shim.client.answer(0).unwrap_err().code, ErrorCode::BadRequest);
    shim.client.send_raw(br#"{"seq":77,"request":{"type":"dance"}}"#);
    assert_eq!(shim.client.answer(77).unwrap_err().code, ErrorCode::BadRequest);
    shim.client.send_raw(&vec![b' '; MAX_MESSAGE + 10]);
    assert_eq!(shim.client.answer(0).unwrap_err().code, ErrorCode::BadRequest);
    let mut other = Client::connect(shim.dir.path());
    assert_eq!(other.ask(Request::List).unwrap_err().code, ErrorCode::BadRequest);
    assert_eq!(other.ask(Request::Hello { oldest: 8, newest: 9 }).unwrap_err().code, ErrorCode::Version);
    let kill = Request::Kill { container: "none".into(), signal: 9, scope: KillScope::All };
    assert_eq!(shim.client.ask(kill).unwrap_err().code, ErrorCode::NotFound);
    let config = shim.config("one", "exit 0");
    let mut create = shim.bundle("one", &config);
    create.container = "../one".to_owned();
    assert_eq!(shim.create(create).unwrap_err().code, ErrorCode::BadRequest);
    shim.run("two", "exit 0");
}

#[test]
fn a_create_that_hangs_is_ended_and_can_be_tried_again() {
    let mut shim = Shim::start_impatient(Duration::from_millis(500));
    let config = shim.config("one", "exit 9");
    let create = shim.bundle("one", &config);
    let file = shim.path("containers/one/config.json");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = Instant::now();
    let failure = shim.create(create).unwrap_err();
    assert!(failure.message.contains("took longer"), "{failure}");
    assert!(before.elapsed() < patience());
    fs::remove_file(&file).unwrap();
    let mut shim = shim;
    shim.run("one", "exit 9");
    assert_eq!(shim.client.exit_of("one").code, 9);
}

#[test]
fn shutdown_kills_what_runs() {
    let mut shim = Shim::start();
    let pids = [shim.run("one", "sleep 1000"), shim.run("two", "trap '' TERM; sleep 1000")];
    drop(shim);
    for pid in pids {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    }
}

#[test]
fn a_terminated_supervisor_takes_its_containers_along_and_records_their_ends() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim.pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(shim.client.exit_of("one").signal, Some(9));
    assert!(shim.path("containers/one/exit.json").exists());
    shim.has_ended = true;
}

/// As the engine writes it.
fn infra_config(shim: &Shim) -> Value {
    fs::write(shim.path("rootfs/pause"), pintle_pause::PAUSE).unwrap();
    fs::set_permissions(shim.path("rootfs/pause"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = shim.config_for("infra", &["/pause"]);
    config["mounts"] = json!([]);
    config["root"]["readonly"] = true.into();
    config["process"]["noNewPrivileges"] = true.into();
    config["process"]["capabilities"] = json!({
        "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [],
    });
    config["linux"]["resources"]["cpu"] = json!({"shares": 2});
    config
}

#[test]
fn an_infra_container_has_one_mount_no_capability_no_device_and_runs_only_when_it_is_started() {
    let mut shim = Shim::start();
    let config = infra_config(&shim);
    let mut create = shim.bundle("infra", &config);
    create.infra = true;
    create.log_path = None;
    let pid = shim.create(create).unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert!(!read("cmdline").starts_with("/pause"));
    assert_eq!(
        read("cgroup").lines().filter(|line| line.ends_with("/pod/infra")).count(),
        if is_v2() { 1 } else { 3 }
    );
    shim.start_container("infra").unwrap();
    until("pause runs", || (read("cmdline") == "/pause\0").then_some(()));
    let mounts = read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / ro,nosuid,nodev"), "{mounts}");
    let status = read("status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1"));
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(descriptors, 3);
    if !is_v2() {
        let group = |controller| cgroup_directory(controller, &shim.cgroup("infra"));
        assert_eq!(fs::read_to_string(group("devices").join("devices.list")).unwrap(), "");
        assert_eq!(fs::read_to_string(group("cpu").join("cpu.shares")).unwrap(), "2\n");
    }
    shim.kill("infra", libc::SIGKILL, KillScope::All);
    assert_eq!(shim.client.exit_of("infra").signal, Some(libc::SIGKILL));
}

#[test]
fn an_infra_container_that_is_asked_for_more_or_cannot_run_is_told_so_and_leaves_nothing() {
    let mut shim = Shim::start();
    let mut config = infra_config(&shim);
    config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    let mut create = shim.bundle("infra", &config);
    create.infra = true;
    create.log_path = None;
    let failure = shim.create(create.clone()).unwrap_err();
    assert!(failure.message.contains("mounts"), "{failure}");
    shim.assert_no_cgroup("infra");
    fs::write(shim.path("rootfs/pause"), "no program").unwrap();
    config["mounts"] = json!([]);
    shim.bundle("infra", &config);
    shim.create(create).unwrap();
    let failure = shim.start_container("infra").unwrap_err();
    assert_eq!(failure.code, ErrorCode::ExecFailed, "{failure}");
    shim.remove("infra");
}

#[test]
fn an_infra_container_from_the_embedded_pause_shares_its_namespaces() {
    let mut shim = Shim::start();
    let config = infra_config(&shim);
    let mut create = shim.bundle("infra", &config);
    create.infra = true;
    create.log_path = None;
    let infra = shim.create(create).unwrap();
    shim.start_container("infra").unwrap();
    let mut config = shim.config("one", "readlink /proc/self/ns/net; hostname");
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    for namespace in namespaces.iter_mut() {
        let kind = namespace["type"].as_str().unwrap().to_owned();
        let file = match kind.as_str() {
            "network" => "net",
            "ipc" => "ipc",
            "uts" => "uts",
            _ => continue,
        };
        namespace["path"] = format!("/proc/{infra}/ns/{file}").into();
    }
    config.as_object_mut().unwrap().remove("hostname");
    let (code, lines) = shim.output_of("one", &config);
    let net = fs::read_link(format!("/proc/{infra}/ns/net")).unwrap();
    assert_eq!((code, &lines), (0, &vec![format!("stdout F {}", net.display()), "stdout F box".to_owned()]));
    shim.kill("infra", libc::SIGTERM, KillScope::Init);
    assert_eq!(shim.client.exit_of("infra").code, 0);
}

#[test]
fn create_and_start_are_quick() {
    let mut shim = Shim::start();
    let mut times = Vec::new();
    for number in 0..10 {
        let id = format!("c{number}");
        let config = shim.config(&id, "exit 0");
        let create = shim.bundle(&id, &config);
        let before = Instant::now();
        shim.create(create).unwrap();
        let created = before.elapsed();
        shim.start_container(&id).unwrap();
        times.push((before.elapsed(), created));
        shim.client.exit_of(&id);
        shim.remove(&id);
    }
    times.sort();
    println!("create+start: median {:?} (create {:?}), best {:?}", times[5].0, times[5].1, times[0].0);
    // Far above what it takes, far below what a poll or a time-out in the way would take.
    assert!(times[0].0 < scaled(Duration::from_millis(500)), "{times:?}");
}

/// Resident and private dirty memory, in kB.
fn memory(pid: i32) -> (u64, u64) {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let value = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (value("Rss:"), value("Private_Dirty:"))
}

#[test]
fn the_supervisor_s_memory_does_not_grow_with_use() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    println!("with one container: rss and private dirty {:?} kB", memory(shim.pid));
    let round = |shim: &mut Shim, name: &str, count: usize| {
        for number in 0..count {
            let id = format!("{name}{number}");
            shim.run(&id, "seq 1 2000");
            shim.client.exit_of(&id);
            shim.remove(&id);
            assert_eq!(shim.exec("one", &id, "true").0, 0);
        }
        shim.client.events.clear();
    };
    round(&mut shim, "warm", 5);
    let (_, before) = memory(shim.pid);
    round(&mut shim, "used", 40);
    let after = memory(shim.pid);
    println!("after 45 containers and execs: {after:?} kB; before {before}");
    assert!(after.1 <= before + 64, "private dirty {} kB, was {before} kB", after.1);
}

#[test]
fn a_supervisor_that_nobody_waits_for_any_more_ends() {
    let shim = Shim::start();
    let (dir, cgroup) = (shim.path("late"), shim.cgroup("late"));
    fs::create_dir(&dir).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut launched = std::process::Command::new(env!("CARGO_BIN_EXE_pintle-shim"))
        .args(["--sandbox", "late", "--cgroup", &cgroup, "--dir"])
        .arg(&dir)
        .stdin(std::process::Stdio::null())
        .stdout(writer)
        .spawn()
        .unwrap();
    launched.wait().unwrap();
    let groups: Vec<_> = hierarchies().into_iter().map(|(mount, _)| mount.join(&cgroup[1..])).collect();
    until("the late supervisor ends", || {
        let gone = groups.iter().all(|group| fs::remove_dir(group).is_ok() || !group.exists());
        gone.then_some(())
    });
    assert!(fs::read_to_string(dir.join("shim.log")).unwrap().contains("telling the engine"));
}
