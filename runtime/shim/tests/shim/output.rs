//! What containers write, and where it goes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use pintle_shim_protocol::*;

use crate::harness::*;

#[test]
fn both_streams_are_logged_in_cri_format_with_parts_of_long_lines() {
    let mut shim = Shim::start();
    let script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\000' x; echo; printf end";
    let config = shim.config("one", script);
    let (code, lines) = shim.output_of("one", &config);
    assert_eq!(code, 0);
    let stdout = lines.iter().filter(|line| line.starts_with("stdout")).cloned().collect::<Vec<_>>();
    let x = |count| "x".repeat(count);
    let expected = [
        "stdout F one".to_owned(),
        format!("stdout P {}", x(16384)),
        format!("stdout P {}", x(16384)),
        format!("stdout F {}", x(40000 - 2 * 16384)),
        "stdout F end".to_owned(),
    ];
    assert_eq!(stdout, expected);
    assert!(lines.contains(&"stderr F two".to_owned()));
    let text = fs::read_to_string(shim.path("one.log")).unwrap();
    let time = text.split(' ').next().unwrap();
    assert!(time.len() == 30 && time.ends_with('Z'), "{time}");
    assert_eq!(fs::metadata(shim.path("one.log")).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_hundred_thousand_lines_arrive_complete_and_quickly() {
    let mut shim = Shim::start();
    let before = Instant::now();
    let config = shim.config("one", "seq 1 100000");
    let (code, lines) = shim.output_of("one", &config);
    println!("100000 lines in {:?}", before.elapsed());
    assert_eq!((code, lines.len()), (0, 100_000));
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("stdout F {}", number + 1));
    }
}

#[test]
fn after_a_rotation_lines_go_to_the_new_file() {
    let mut shim = Shim::start();
    shim.run(
        "one",
        "echo before; read x; echo after; sleep 0.2; until [ -e /tmp/go ]; do sleep 0.05; done; echo after",
    );
    shim.wait_for_line("one", "before");
    fs::rename(shim.path("one.log"), shim.path("one.log.1")).unwrap();
    assert_eq!(shim.client.ask(Request::ReopenLog { container: "one".into() }).unwrap(), Answer::Done);
    fs::write(shim.path("rootfs/tmp/go"), "").unwrap();
    shim.client.exit_of("one");
    assert!(shim.log_lines("one").contains(&"stdout F after".to_owned()));
    assert!(fs::read_to_string(shim.path("one.log.1")).unwrap().contains("before"));
}

#[test]
fn a_log_that_cannot_be_opened_fails_the_create_and_a_link_is_not_followed() {
    let mut shim = Shim::start();
    let config = shim.config("one", "echo secret");
    let mut create = shim.bundle("one", &config);
    std::os::unix::fs::symlink(shim.path("elsewhere"), shim.path("one.log")).unwrap();
    assert!(shim.create(create.clone()).unwrap_err().message.contains("one.log"));
    assert!(!shim.path("elsewhere").exists());
    create.log_path = Some("/nonexistent/dir/0.log".to_owned());
    assert_eq!(shim.create(create).unwrap_err().code, ErrorCode::Internal);
}

#[test]
fn without_a_log_output_goes_nowhere_and_does_not_fail() {
    let mut shim = Shim::start();
    let config = shim.config("one", "echo x && echo y >&2 && exit 5; exit 6");
    let mut create = shim.bundle("one", &config);
    create.log_path = None;
    shim.create(create).unwrap();
    shim.start_container("one").unwrap();
    assert_eq!(shim.client.exit_of("one").code, 5);
}

#[test]
fn a_log_that_can_no_longer_be_written_loses_lines_with_a_note_and_does_not_hang_the_container() {
    let mut shim = Shim::start();
    fs::create_dir(shim.path("logs")).unwrap();
    let config =
        shim.config("one", "echo first; until [ -e /tmp/go ]; do sleep 0.05; done; seq 1 100000; exit 4");
    let mut create = shim.bundle("one", &config);
    create.log_path = Some(shim.path("logs/one.log").to_str().unwrap().to_owned());
    shim.create(create).unwrap();
    shim.start_container("one").unwrap();
    fs::remove_dir_all(shim.path("logs")).unwrap();
    let reopened = shim.client.ask(Request::ReopenLog { container: "one".into() });
    assert_eq!(reopened.unwrap_err().code, ErrorCode::Internal);
    fs::write(shim.path("rootfs/tmp/go"), "").unwrap();
    assert_eq!(shim.client.exit_of("one").code, 4);
    assert_eq!(shim.shim_log().matches("output is being lost").count(), 1);
}

#[test]
fn standard_input_is_null_or_held_open_as_asked_for() {
    let mut shim = Shim::start();
    assert_eq!(
        {
            shim.run("one", "read x; exit 5");
            shim.client.exit_of("one").code
        },
        5
    );
    let config = shim.config("two", "echo up; read x; exit 5");
    let mut create = shim.bundle("two", &config);
    create.stdin = true;
    shim.create(create).unwrap();
    shim.start_container("two").unwrap();
    shim.wait_for_line("two", "up");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(
        !shim
            .client
            .events
            .iter()
            .any(|event| matches!(event, Event::Exited { container, .. } if container == "two"))
    );
    let Answer::List { containers } = shim.client.ask(Request::List).unwrap() else { panic!() };
    assert!(containers[1].exit.is_none());
}

/// Attaches; returns the readers of both outputs and the container's input.
fn attach(shim: &mut Shim, id: &str) -> ([File; 2], Option<OwnedFd>) {
    let (out, to_out) = rustix::pipe::pipe().unwrap();
    let (err, to_err) = rustix::pipe::pipe().unwrap();
    let request = Request::Attach { container: id.to_owned() };
    let seq = shim.client.send(request, &[to_out.as_fd(), to_err.as_fd()]);
    assert_eq!(shim.client.answer(seq).unwrap(), Answer::Done);
    ([File::from(out), File::from(err)], shim.client.descriptors.pop())
}

#[test]
fn an_attached_client_gets_a_copy_of_the_output_and_may_write_to_the_input() {
    let mut shim = Shim::start();
    let config =
        shim.config("one", "echo early; while read x; do echo got $x; echo err $x >&2; done; echo end");
    let mut create = shim.bundle("one", &config);
    create.stdin = true;
    shim.create(create).unwrap();
    let ([mut first, mut errors], input) = attach(&mut shim, "one");
    shim.start_container("one").unwrap();
    shim.wait_for_line("one", "early");
    let ([mut second, _], _) = attach(&mut shim, "one");
    let mut input = File::from(input.unwrap());
    input.write_all(b"a\nb\n").unwrap();
    shim.wait_for_line("one", "got b");
    assert_eq!(shim.client.ask(Request::CloseStdin { container: "one".into() }).unwrap(), Answer::Done);
    drop(shim.client.descriptors.drain(..));
    drop(input);
    assert_eq!(shim.client.exit_of("one").code, 0);
    let mut texts = [String::new(), String::new(), String::new()];
    first.read_to_string(&mut texts[0]).unwrap();
    second.read_to_string(&mut texts[1]).unwrap();
    errors.read_to_string(&mut texts[2]).unwrap();
    assert_eq!(texts, ["early\ngot a\ngot b\nend\n", "got a\ngot b\nend\n", "err a\nerr b\n"]);
}

#[test]
fn an_attached_client_that_does_not_read_delays_nobody() {
    let mut shim = Shim::start();
    let config = shim.config("one", "seq 1 100000");
    let create = shim.bundle("one", &config);
    shim.create(create).unwrap();
    let (readers, input) = attach(&mut shim, "one");
    assert!(input.is_none());
    shim.start_container("one").unwrap();
    shim.client.exit_of("one");
    assert_eq!(shim.log_lines("one").len(), 100_000);
    drop(readers);
}

#[test]
fn a_container_with_a_terminal_is_logged_and_its_master_is_handed_out() {
    let mut shim = Shim::start();
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; read x; echo got $x; stty size; exit 3";
    let mut config = shim.config("one", script);
    config["process"]["terminal"] = true.into();
    let devpts = serde_json::json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]});
    config["mounts"].as_array_mut().unwrap().push(devpts);
    let create = shim.bundle("one", &config);
    shim.create(create).unwrap();
    let ([mut output, _], master) = attach(&mut shim, "one");
    let master = File::from(master.unwrap());
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    shim.start_container("one").unwrap();
    shim.wait_for_line("one", "terminal");
    (&master).write_all(b"hello\n").unwrap();
    assert_eq!(shim.client.exit_of("one").code, 3);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "terminal\r\nhello\r\ngot hello\r\n33 77\r\n");
    assert!(shim.log_lines("one").contains(&"stdout F 33 77".to_owned()));
}
