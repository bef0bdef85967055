//! Containers that an external OCI runtime makes (`PINTLE_TEST_OCI_RUNTIME`, else runc), and runtimes that misbehave.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pintle_shim_protocol::*;

use crate::harness::*;

/// What holds for containers of the supervisor's own making and does not depend on who makes them. Not here: what is about
/// libcontainer's weaknesses, a runtime's own words, or the time it takes; nor about the soft limit on open files, which
/// runc of Debian 12 now and then raises to the hard one (a mistake of the Go it is built with).
const ALSO_EXTERNAL: [&str; 25] = [
    "execs::an_exec_ends_with_its_container",
    "execs::an_exec_is_in_every_namespace_and_cgroup_of_the_container",
    "execs::an_exec_runs_inside_and_its_exit_code_comes_back",
    "execs::a_time_out_kills_the_whole_tree_also_what_made_itself_independent",
    "execs::at_a_normal_end_leftovers_live_on_and_go_with_the_container",
    "execs::execs_leave_no_zombie_no_descriptor_and_no_cgroup",
    "guards::guard_10_failed_creates_leave_no_zombie_no_descriptor_and_no_cgroup",
    "guards::guard_14_removal_is_recursive_and_kills_what_is_left",
    "guards::guard_18_a_container_holds_no_descriptor_of_the_supervisor_s",
    "guards::guard_19_a_container_is_in_its_own_cgroup_in_every_hierarchy",
    "guards::guard_5_a_forbidden_device_cannot_be_opened_and_an_allowed_one_can",
    "guards::guard_7_a_pid_in_the_library_s_state_is_never_trusted",
    "guards::guard_8_many_creates_at_once_all_work",
    "guards::guard_9_the_supervisor_s_own_process_stays_as_it_was",
    "lifecycle::a_container_runs_and_its_exit_code_is_recorded_before_it_is_told",
    "lifecycle::a_second_connection_finds_everything_after_the_first_one_died",
    "lifecycle::a_signal_that_ends_a_container_is_told",
    "lifecycle::a_terminated_supervisor_takes_its_containers_along_and_records_their_ends",
    "lifecycle::every_request_may_come_twice",
    "lifecycle::kill_all_reaches_every_process_of_the_container",
    "lifecycle::running_out_of_memory_is_told_and_recorded",
    "lifecycle::shutdown_kills_what_runs",
    "lifecycle::without_a_pid_namespace_the_rest_is_killed_when_the_first_process_ends",
    "output::a_container_with_a_terminal_is_logged_and_its_master_is_handed_out",
    "output::both_streams_are_logged_in_cri_format_with_parts_of_long_lines",
];

#[test]
fn r11_what_holds_for_containers_of_our_own_holds_for_those_of_an_external_runtime() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads", "2"])
        .args(ALSO_EXTERNAL)
        .env(HANDLER, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let all = format!("{} passed; 0 failed", ALSO_EXTERNAL.len());
    assert!(told.contains(&all), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
}

impl Shim {
    fn create_with(&mut self, id: &str, script: &str, runtime: OciRuntime) -> Result<i32, Failure> {
        let config = self.config(id, script);
        let create = CreateContainer { runtime: Some(runtime), ..self.bundle(id, &config) };
        self.create(create)
    }

    fn run_with(&mut self, id: &str, script: &str, runtime: OciRuntime) -> i32 {
        let pid = self.create_with(id, script, runtime).unwrap();
        self.start_container(id).unwrap();
        pid
    }

    /// A runtime that is a shell script.
    fn scripted(&self, script: &str) -> OciRuntime {
        let path = self.path("runtime");
        // In place of one that may run.
        fs::write(self.path("runtime.new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.path("runtime.new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(self.path("runtime.new"), &path).unwrap();
        OciRuntime { path: path.to_str().unwrap().to_owned(), ..oci_runtime() }
    }

    /// The real runtime, but for one verb.
    fn scripted_for(&self, verb: &str, script: &str) -> OciRuntime {
        let real = oci_runtime().path;
        self.scripted(&format!("case \" $* \" in *\" {verb} \"*) {script};; esac\nexec {real} \"$@\""))
    }

    /// What is left of the programs of runtimes: their groups.
    fn groups_of_runtimes(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for (mount, _) in hierarchies() {
            let own = mount.join(&self.base[1..]).join("shim");
            let groups = fs::read_dir(own).into_iter().flatten().flatten().map(|entry| entry.path());
            found.extend(groups.filter(|path| path.is_dir()));
        }
        found
    }

    fn assert_nothing_of_runtimes(&self) {
        until("no group of a runtime is left", || self.groups_of_runtimes().is_empty().then_some(()));
    }
}

/// Whether a process whose command line has the word lives.
fn lives(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let command = |path: PathBuf| fs::read_to_string(path.join("cmdline")).unwrap_or_default();
    let ours = std::process::id().to_string();
    processes.filter(|entry| *entry.file_name() != *ours).any(|entry| command(entry.path()).contains(word))
}

#[test]
fn a_container_of_an_external_runtime_is_the_supervisor_s_child_and_leaves_nothing() {
    let mut shim = Shim::start();
    let pid = shim.run_with("one", "echo up; sleep 1000", oci_runtime());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap();
    assert_eq!(parent, shim.pid.to_string());
    shim.wait_for_line("one", "up");
    assert!(fs::read_dir(shim.path("containers/one/state")).unwrap().next().is_some());
    let (code, output) = shim.exec("one", "e1", "echo inside; exit 5");
    assert_eq!((code, output.as_str()), (5, "inside\n"));
    shim.remove("one");
    assert!(!shim.path("containers/one/state").exists());
    let left = fs::read_dir(shim.path("containers/one")).unwrap().flatten();
    let mut left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["config.json", "exit.json"]);
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_container_that_ends_before_its_runtime_has_said_that_it_is_started_is_told_as_started_then_ended() {
    let mut shim = Shim::start();
    let real = oci_runtime().path;
    let slow = shim.scripted_for("start", &format!("{real} \"$@\"; sleep 0.5; exit 0"));
    shim.create_with("one", "exit 6", slow).unwrap();
    let started_at = shim.start_container("one").unwrap();
    let exit = shim.client.exit_of("one");
    assert_eq!((exit.code, exit.started_at), (6, started_at));
    assert!(exit.finished_at > 0);
}

#[test]
fn what_an_external_runtime_says_of_a_failure_is_told() {
    let mut shim = Shim::start();
    let config = shim.config_for("one", &["/no/such/program"]);
    let create = CreateContainer { runtime: Some(oci_runtime()), ..shim.bundle("one", &config) };
    let failure = shim.create(create).unwrap_err();
    assert!(failure.message.contains("/no/such/program"), "{failure}");
    assert!(failure.message.to_lowercase().contains("no such file"), "{failure}");
    shim.assert_no_cgroup("one");
    shim.run_with("two", "sleep 1000", oci_runtime());
    let process = shim.process("two", &["no-such-program"]);
    let seq = shim.begin_exec("two", "e1", &process, None);
    let failure = shim.client.answer(seq).unwrap_err();
    assert_eq!(failure.code, ErrorCode::ExecFailed);
    assert!(failure.message.contains("no-such-program"), "{failure}");
    shim.remove("two");
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_runtime_that_hangs_is_ended_with_everything_it_started() {
    let mut shim = Shim::start_impatient(Duration::from_secs(1));
    let hang = "sleep 98761 & setsid sleep 98761 & sleep 98761";
    let runtime = shim.scripted(hang);
    let begun = Instant::now();
    let failure = shim.create_with("one", "exit 0", runtime).unwrap_err();
    assert!(failure.message.contains("took longer"), "{failure}");
    assert!(begun.elapsed() < patience());
    until("the runtime's processes are gone", || (!lives("98761")).then_some(()));
    shim.assert_no_cgroup("one");
    shim.assert_nothing_of_runtimes();

    let runtime = shim.scripted_for("start", hang);
    shim.create_with("two", "exit 0", runtime).unwrap();
    let failure = shim.start_container("two").unwrap_err();
    assert!(failure.message.contains("took longer"), "{failure}");
    assert_eq!(shim.client.exit_of("two").signal, Some(9));
    shim.remove("two");

    let runtime = shim.scripted_for("exec", hang);
    shim.run_with("three", "sleep 1000", runtime);
    let process = shim.process("three", &["true"]);
    let seq = shim.begin_exec("three", "e1", &process, None);
    let failure = shim.client.answer(seq).unwrap_err();
    assert!(failure.message.contains("took too long"), "{failure}");
    let seq = shim.begin_exec("three", "e2", &process, Some(100));
    assert!(matches!(shim.client.answer(seq), Ok(Answer::ExecDone { timed_out: true, .. })));
    shim.remove("three");
    until("the runtime's processes are gone", || (!lives("98761")).then_some(()));
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_runtime_that_does_not_delete_its_container_does_not_keep_it_from_being_removed() {
    let mut shim = Shim::start();
    for (id, script) in [("one", "sleep 98762"), ("two", "exit 3"), ("three", "rm -f \"$0\"; exit 1")] {
        let runtime = shim.scripted_for("delete", script);
        shim.run_with(id, "sleep 1000", runtime);
        shim.remove(id);
        assert!(!shim.path(&format!("containers/{id}/state")).exists());
    }
    assert!(shim.shim_log().contains("does not delete it in time"), "{}", shim.shim_log());
    until("the runtime is gone", || (!lives("98762")).then_some(()));
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_runtime_that_fails_talks_nonsense_or_is_missing_is_told_by_name_and_kills_nobody() {
    let mut shim = Shim::start();
    let pid_file = "while [ $# -gt 0 ]; do [ \"$1\" = --pid-file ] && file=$2; shift; done";
    let log = "while [ $# -gt 0 ]; do [ \"$1\" = --log ] && log=$2; shift; done";
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let cases = [
        ("exit 7".to_owned(), "exit status: 7"),
        (
            format!("{log}; echo '{{\"level\":\"error\",\"msg\":\"no luck today\"}}' > $log; exit 1"),
            "no luck today",
        ),
        (
            format!("{log}; head -c 300000 /dev/urandom > $log; head -c 300000 /dev/urandom; exit 1"),
            "runtime create: ",
        ),
        ("exit 0".to_owned(), "reading its pid file"),
        (format!("{pid_file}; echo 1 > $file"), "\"1\", which is no child"),
        (format!("{pid_file}; echo {} > $file", bystander.id()), "which is no child"),
        (format!("{pid_file}; echo -1 > $file"), "which is no child"),
        (format!("{pid_file}; head -c 100000 /dev/zero | tr '\\0' 9 > $file"), "which is no child"),
        ("kill -9 $$".to_owned(), "signal: 9"),
    ];
    for (number, (script, reason)) in cases.into_iter().enumerate() {
        let runtime = shim.scripted(&script);
        let failure = shim.create_with(&format!("c{number}"), "exit 0", runtime).unwrap_err();
        assert!(failure.message.contains(reason), "{script}: {failure}");
        assert!(failure.message.len() < 8 * 1024);
    }
    let missing = OciRuntime { path: "/no/such/runtime".to_owned(), ..oci_runtime() };
    let failure = shim.create_with("missing", "exit 0", missing).unwrap_err();
    assert!(failure.message.contains("running /no/such/runtime: No such file"), "{failure}");
    let none =
        OciRuntime { path: shim.path("rootfs/etc/passwd").to_str().unwrap().to_owned(), ..oci_runtime() };
    let failure = shim.create_with("none", "exit 0", none).unwrap_err();
    assert!(failure.message.contains("Permission denied"), "{failure}");
    assert_eq!(bystander.try_wait().unwrap(), None);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    let Answer::List { containers } = shim.client.ask(Request::List).unwrap() else { panic!() };
    assert_eq!(containers, []);
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_runtime_that_cannot_start_its_container_ends_it_with_the_reason() {
    let mut shim = Shim::start();
    let runtime = shim.scripted_for("start", "exit 3");
    shim.create_with("one", "sleep 1000", runtime).unwrap();
    let failure = shim.start_container("one").unwrap_err();
    assert_eq!(failure.code, ErrorCode::ExecFailed);
    assert!(failure.message.contains("start: ended with exit status: 3"), "{failure}");
    assert_eq!(shim.client.exit_of("one").started_at, 0);
    shim.remove("one");
    shim.assert_nothing_of_runtimes();
}

#[test]
fn an_exec_with_a_terminal_by_an_external_runtime_follows_its_size_and_ends_with_its_time() {
    use std::io::{Read, Write};
    let mut shim = Shim::start();
    let mut config = shim.config("one", "sleep 1000");
    // The runtime makes the terminal in the container.
    config["mounts"].as_array_mut().unwrap().push(serde_json::json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    }));
    let create = CreateContainer { runtime: Some(oci_runtime()), ..shim.bundle("one", &config) };
    shim.create(create).unwrap();
    shim.start_container("one").unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut process =
        shim.process("one", &["sh", "-c", "trap 'stty size' WINCH; echo up; while :; do sleep 0.1; done"]);
    process["terminal"] = true.into();
    let file = shim.path("process.json");
    fs::write(&file, serde_json::to_vec(&process).unwrap()).unwrap();
    let exec = |exec: &str, timeout_ms| Request::Exec {
        container: "one".to_owned(),
        exec: exec.to_owned(),
        process: file.to_str().unwrap().to_owned(),
        timeout_ms,
    };
    let seq = shim.client.send(exec("e1", None), &[terminal.slave.as_fd(); 3]);
    let mut master = fs::File::from(terminal.master);
    let mut seen = String::new();
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    let mut read_until = |master: &mut fs::File, wanted: &str| {
        let end = Instant::now() + patience();
        while !seen.contains(wanted) {
            assert!(Instant::now() < end, "{wanted:?} is not in {seen:?}");
            std::thread::sleep(Duration::from_millis(5));
            let mut text = [0; 256];
            let length = master.read(&mut text).unwrap_or(0);
            seen.push_str(std::str::from_utf8(&text[..length]).unwrap());
        }
    };
    read_until(&mut master, "up");
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    read_until(&mut master, "33 77");
    master.write_all(b"\x03").unwrap();
    assert_eq!(shim.client.answer(seq).unwrap(), Answer::ExecDone { exit_code: 130, timed_out: false });
    let timed = shim.client.send(exec("e2", Some(1500)), &[terminal.slave.as_fd(); 3]);
    assert!(matches!(shim.client.answer(timed), Ok(Answer::ExecDone { timed_out: true, .. })));
    let groups = cgroup_directory(if is_v2() { "memory" } else { "freezer" }, &shim.cgroup("one"));
    until("nothing of the exec is left", || (!groups.join("exec-e2").exists()).then_some(()));
    shim.remove("one");
    shim.assert_nothing_of_runtimes();
}

#[test]
fn a_runtime_gets_the_options_it_is_configured_with_and_an_environment_without_secrets() {
    let mut shim = Shim::start();
    let told = shim.path("told");
    let real = oci_runtime().path;
    let script = format!(
        "echo \"$*\" >> {0}; env >> {0}; [ \"$1\" = --extra ] && shift; exec {real} \"$@\"",
        told.display()
    );
    let runtime = OciRuntime {
        args: vec!["--extra".to_owned()],
        create_args: vec!["--no-new-keyring".to_owned()],
        ..shim.scripted(&script)
    };
    shim.run_with("one", "exit 0", runtime);
    shim.client.exit_of("one");
    let told = fs::read_to_string(told).unwrap();
    let first = told.lines().next().unwrap();
    assert!(first.starts_with("--extra --root ") && first.contains(" --no-new-keyring "), "{told}");
    let names = told.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
    let foreign: Vec<_> =
        names.filter(|name| !["PATH", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
