//! Processes run inside a container that runs already.

use std::fs;
use std::time::{Duration, Instant};

use pintle_shim_protocol::*;
use serde_json::json;

use crate::harness::*;

#[test]
fn an_exec_runs_inside_and_its_exit_code_comes_back() {
    let mut shim = Shim::start();
    let pid = shim.run("one", "sleep 1000");
    let (code, output) =
        shim.exec("one", "e1", "hostname; echo $A $HOME; readlink /proc/self/ns/net; echo oops >&2; exit 3");
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!((code, output), (3, format!("box\nb /root\n{}\noops\n", net.display())));
    let (code, _) = shim.exec("one", "e2", "kill -9 $$");
    assert_eq!(code, 137);
}

#[test]
fn an_exec_is_in_every_namespace_and_cgroup_of_the_container() {
    let mut shim = Shim::start();
    let pid = shim.run("one", "sleep 1000");
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let (_, output) = shim.exec(
        "one",
        "e1",
        "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done",
    );
    let expected =
        kinds.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string());
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    let (_, output) = shim.exec("one", "e2", "cat /proc/self/cgroup");
    for line in output.lines() {
        assert!(line.contains(&shim.cgroup("one")), "{line}");
    }
}

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    let mut shim = Shim::start();
    fs::write(shim.path("rootfs/tmp/text"), "just text").unwrap();
    fs::write(shim.path("rootfs/tmp/noexec"), "").unwrap();
    fs::write(shim.path("rootfs/tmp/script"), "#!/not/there\n").unwrap();
    for name in ["text", "script"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(shim.path(&format!("rootfs/tmp/{name}")), fs::Permissions::from_mode(0o755))
            .unwrap();
    }
    shim.run("one", "sleep 1000");
    let cases = [
        ("nothere", "executable file not found in $PATH"),
        ("/nothere", "no such file or directory"),
        ("/tmp/text", "exec format error"),
        ("/tmp/noexec", "permission denied"),
        ("/tmp/script", "interpreter or loader"),
        ("/tmp", "permission denied"),
    ];
    for (number, (program, reason)) in cases.into_iter().enumerate() {
        let process = shim.process("one", &[program]);
        let seq = shim.begin_exec("one", &format!("e{number}"), &process, None);
        let failure = shim.client.answer(seq).unwrap_err();
        assert_eq!(failure.code, ErrorCode::ExecFailed, "{failure}");
        assert!(
            failure.message.contains(reason) && failure.message.contains(program),
            "{program}: {failure}"
        );
    }
}

#[test]
fn user_groups_directory_limits_and_privileges_are_as_asked_for() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let script = "id -u; id -g; id -G; pwd; ulimit -n; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; echo $HOME";
    let mut process = shim.process("one", &["sh", "-c", script]);
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [20, 30]});
    process["cwd"] = "/tmp".into();
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
    process["noNewPrivileges"] = true.into();
    process["capabilities"] = json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    let seq = shim.begin_exec("one", "e1", &process, None);
    let answer = shim.client.answer(seq);
    let output = shim.exec_output("e1");
    assert_eq!(answer, Ok(Answer::ExecDone { exit_code: 0, timed_out: false }), "{output}");
    let kill = "0000000000000020";
    let expected = format!(
        "1000\n1000\n1000 20 30\n/tmp\n99\nCapEff:\t{kill}\nCapBnd:\t{kill}\nNoNewPrivs:\t1\n/home/user\n"
    );
    assert_eq!(output, expected);
}

#[test]
fn all_capabilities_means_all_that_we_have_and_none_means_none() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let mut process = shim.process("one", &["grep", "CapEff", "/proc/self/status"]);
    let every = json!(["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN", "CAP_KILL"]);
    process["capabilities"] = json!({"bounding": every, "permitted": every, "effective": every});
    let seq = shim.begin_exec("one", "e1", &process, None);
    shim.client.answer(seq).unwrap();
    let bits =
        u64::from_str_radix(shim.exec_output("e1").trim().trim_start_matches("CapEff:\t"), 16).unwrap();
    assert_eq!(bits & 0x20_0020, 0x20_0020, "{bits:x}");
    process.as_object_mut().unwrap().remove("capabilities");
    let seq = shim.begin_exec("one", "e2", &process, None);
    shim.client.answer(seq).unwrap();
    assert_eq!(shim.exec_output("e2"), "CapEff:\t0000000000000000\n");
}

#[test]
fn a_time_out_kills_the_whole_tree_also_what_made_itself_independent() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let script = "(setsid sleep 777 &) ; sleep 777 & echo started; sleep 777";
    let process = shim.process("one", &["sh", "-c", script]);
    let (before, timeout) = (Instant::now(), scaled(Duration::from_millis(500)));
    let milliseconds = u64::try_from(timeout.as_millis()).unwrap();
    let seq = shim.begin_exec("one", "e1", &process, Some(milliseconds));
    until("it started", || shim.exec_output("e1").contains("started").then_some(()));
    assert_eq!(shim.client.answer(seq).unwrap(), Answer::ExecDone { exit_code: 137, timed_out: true });
    assert!(before.elapsed() >= timeout);
    let (_, output) = shim.exec("one", "e2", "cat /proc/[0-9]*/cmdline");
    assert!(!output.contains("777"), "{output:?}");
    assert!(output.contains("1000"));
}

#[test]
fn at_a_normal_end_leftovers_live_on_and_go_with_the_container() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    assert_eq!(shim.exec("one", "e1", "setsid sleep 777 >/dev/null 2>&1 & exit 0").0, 0);
    let (_, output) = shim.exec("one", "e2", "cat /proc/[0-9]*/cmdline");
    assert!(output.contains("777"));
    shim.remove("one");
}

#[test]
fn execs_leave_no_zombie_no_descriptor_and_no_cgroup() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    shim.exec("one", "e0", "true");
    let descriptors = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = descriptors(shim.pid);
    for number in 1..=20 {
        assert_eq!(shim.exec("one", &format!("e{number}"), "true").0, 0);
        let process = shim.process("one", &["nothere"]);
        let seq = shim.begin_exec("one", &format!("f{number}"), &process, None);
        shim.client.answer(seq).unwrap_err();
    }
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid)).unwrap();
    until("all stages are reaped", || (children().split_whitespace().count() == 1).then_some(()));
    until("descriptors are closed", || (descriptors(shim.pid) <= before).then_some(()));
    for (mount, _) in hierarchies() {
        until("the tracking groups are removed", || {
            let inside = fs::read_dir(mount.join(&shim.cgroup("one")[1..])).unwrap().flatten();
            (inside.filter(|entry| entry.path().is_dir()).count() == 0).then_some(())
        });
    }
}

#[test]
fn an_exec_ends_with_its_container() {
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let process = shim.process("one", &["sh", "-c", "echo up; sleep 1000"]);
    let seq = shim.begin_exec("one", "e1", &process, None);
    until("it started", || shim.exec_output("e1").contains("up").then_some(()));
    shim.remove("one");
    assert_eq!(shim.client.answer(seq).unwrap(), Answer::ExecDone { exit_code: 137, timed_out: false });
    let seq = shim.begin_exec("one", "e2", &process, None);
    assert_eq!(shim.client.answer(seq).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn an_exec_that_hangs_before_it_runs_is_ended() {
    let mut shim = Shim::start_impatient(Duration::from_secs(1));
    shim.run("one", "sleep 1000");
    let process = shim.path("fifo.json");
    nix::unistd::mkfifo(&process, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let request = Request::Exec {
        container: "one".to_owned(),
        exec: "e1".to_owned(),
        process: process.to_str().unwrap().to_owned(),
        timeout_ms: None,
    };
    let descriptor = std::os::fd::AsFd::as_fd(&null);
    let seq = shim.client.send(request.clone(), &[descriptor; 3]);
    // Meanwhile others have their turn.
    assert_eq!(shim.exec("one", "e2", "true").0, 0);
    let failure = shim.client.answer(seq).unwrap_err();
    assert!(failure.message.contains("too long"), "{failure}");
    let seq = shim.client.send(request, &[descriptor; 2]);
    assert_eq!(shim.client.answer(seq).unwrap_err().code, ErrorCode::BadRequest);
}

#[test]
fn an_exec_with_a_terminal_has_it_as_its_controlling_one() {
    use std::io::Read;
    use std::os::fd::AsFd;
    let mut shim = Shim::start();
    shim.run("one", "sleep 1000");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut process = shim.process("one", &["sh", "-c", "[ -t 1 ] && : >/dev/tty && echo mine; exit 6"]);
    process["terminal"] = true.into();
    let file = shim.path("process.json");
    fs::write(&file, serde_json::to_vec(&process).unwrap()).unwrap();
    let request = Request::Exec {
        container: "one".to_owned(),
        exec: "e1".to_owned(),
        process: file.to_str().unwrap().to_owned(),
        timeout_ms: None,
    };
    let seq = shim.client.send(request, &[terminal.slave.as_fd(); 3]);
    assert_eq!(shim.client.answer(seq).unwrap(), Answer::ExecDone { exit_code: 6, timed_out: false });
    let mut text = [0; 64];
    let length = fs::File::from(terminal.master).read(&mut text).unwrap();
    assert_eq!(&text[..length], b"mine\r\n");
}
