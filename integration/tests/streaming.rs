//! Exec, attach and port-forward as people use them: with our command line and with an unmodified kubectl.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use pintle_cri_api::v1::ExecRequest;
use pintle_integration::{ApiServer, Manifest, Memory, NODE, Node, ask, program, wait_until};

/// How many bytes go through a connection, unless `PINTLE_TEST_STREAM_BYTES` says otherwise.
const MUCH: u64 = 64 * 1024 * 1024;
/// What they may cost the daemon for as long as they flow: buffers, and what the allocator keeps.
const DAEMON_GROWTH: u64 = 24 * 1024 * 1024;
const SUPERVISOR_GROWTH: u64 = 1024 * 1024;

fn much() -> u64 {
    let bytes = std::env::var("PINTLE_TEST_STREAM_BYTES").ok();
    bytes.map_or(MUCH, |text| text.parse().expect("a number of bytes"))
}

/// Our command line on the node, with everything but its endpoint left to say.
fn pintle(node: &Node) -> Command {
    let mut command = node.command(&program("pintle").to_string_lossy());
    command.env("CONTAINER_RUNTIME_ENDPOINT", node.endpoint()).stderr(Stdio::piped());
    command
}

/// Runs a program with some input and takes what it says.
fn talk(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap_or_default());
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("it only writes");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a line on a terminal of its own, types some keys, and gives what was on the screen and the exit code.
fn on_a_terminal(command: &Command, keys: &[(&str, &str)]) -> (String, Option<i32>) {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 33 cols 77; {quoted}; echo \"code $?\"; stty -a"), "/dev/null"]);
    for (name, value) in command.get_envs() {
        script.env(name, value.expect("set"));
    }
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) is installed");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let screen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let shown = std::sync::Arc::clone(&screen);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            shown.lock().expect("nobody panics with it").push_str(&text(&buffer[..length]));
        }
    });
    for (awaited, typed) in keys {
        let see = || screen.lock().expect("nobody panics with it").contains(awaited).then_some(());
        wait_until(&format!("{awaited:?} on the screen"), see);
        stdin.write_all(typed.as_bytes()).expect("it reads");
    }
    let status = child.wait().expect("script ends");
    drop(stdin);
    reader.join().expect("it only reads");
    let screen = screen.lock().expect("nobody panics with it").clone();
    (screen, status.code())
}

#[test]
fn exec_attach_and_port_forward_work_from_our_command_line() {
    let node = Node::start();
    let echo = "while read x; do echo got $x; done; echo end; sleep 1000";
    let pod = Manifest::new("web")
        .container("app")
        .with("command", "[sh, -c, 'httpd -p 127.0.0.1:80 -h /www; exec sleep infinity']")
        .container("echo")
        .with("command", &format!("[sh, -c, '{echo}']"))
        .with("stdin", "true");
    node.manifest("web.yaml", &pod);
    node.wait_ready("web");
    let (app, echo) = (node.container("web", "app").id, node.container("web", "echo").id);

    let run = |args: &[&str], input: &[u8]| {
        let mut command = pintle(&node);
        command.args(args);
        talk(command, input)
    };
    let done = run(&["exec", &app, "sh", "-c", "echo out; echo err >&2; exit 9"], b"");
    assert_eq!((text(&done.stdout), text(&done.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(done.status.code(), Some(9));
    let input = "0123456789abcde\n".repeat(100_000);
    let done = run(&["exec", "-i", &app, "sh", "-c", "cat; echo after"], input.as_bytes());
    assert_eq!(text(&done.stdout), format!("{input}after\n"));
    let refused = run(&["exec", "-it", &app, "sh"], b"");
    assert!(text(&refused.stderr).contains("not a terminal"), "{}", text(&refused.stderr));
    let done = run(&["attach", "-i", &echo], b"hello\n");
    assert_eq!((text(&done.stdout), done.status.code()), ("got hello\n".into(), Some(0)));

    let mut command = pintle(&node);
    command.args(["exec", "-it", &app, "sh", "-c", "stty size; echo $TERM; read x; echo got $x; exit 5"]);
    let (screen, _) = on_a_terminal(&command, &[("xterm", "keys\r")]);
    assert!(screen.contains("33 77\r\n") && screen.contains("got keys\r\ncode 5\r\n"), "{screen}");
    assert!(screen.contains(" echo ") && screen.contains(" icanon "), "the terminal stays raw: {screen}");
    let mut command = pintle(&node);
    command.args(["exec", "-it", &app, "sh", "-c", "echo up; sleep 1000"]);
    let (screen, _) = on_a_terminal(&command, &[("up", "\x10\x11")]);
    assert!(screen.contains("code 0") && screen.contains(" icanon "), "{screen}");

    let sandbox = text(&run(&["pods", "--name", &format!("web-{NODE}"), "-q", "--no-trunc"], b"").stdout);
    let mut command = pintle(&node);
    command.args(["port-forward", sandbox.trim(), ":80"]);
    let (mut forward, port) = forwarding(command);
    assert_eq!(fetch(&node, port, "index.html"), "Hello from a pod that Pintle runs.\n");
    forward.kill().expect("it runs");
    forward.wait().expect("it ends");
    node.finish();
}

/// Starts a port-forward and finds out which port it chose.
fn forwarding(mut command: Command) -> (Child, u16) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("it tells");
    let address = line.split_whitespace().nth(2).expect("an address in it");
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    // It goes on to tell of every connection.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()).unwrap_or_default());
    (child, port.expect("a port in it"))
}

fn fetch(node: &Node, port: u16, file: &str) -> String {
    node.in_netns("busybox", &["wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/{file}")])
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line is there");
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("the line is there");
    line.trim().parse().expect("a number")
}

#[test]
fn a_lot_goes_through_exec_and_port_forward_in_bounded_memory() {
    let node = Node::start();
    let bytes = much();
    let script = format!(
        "mkdir /tmp/www; truncate -s {bytes} /tmp/www/big; httpd -p 127.0.0.1:80 -h /tmp/www; exec sleep infinity"
    );
    let pod = Manifest::new("big").container("app").with("command", &format!("[sh, -c, '{script}']"));
    node.manifest("big.yaml", &pod);
    node.wait_ready("big");
    let app = node.container("big", "app");
    let (agent, supervisor) = (node.agent_pid(), parent(app.pid));
    let run = |args: &[&str]| {
        let mut command = pintle(&node);
        command.args(args).stdin(Stdio::null());
        command
    };
    // Once with little, so that what is needed once is there.
    run(&["exec", &app.id, "head", "-c", "1000000", "/tmp/www/big"]).output().expect("it runs");
    let before = (Memory::of(agent).rss.max(peak(agent)), peak(supervisor));

    let mut child =
        run(&["exec", &app.id, "cat", "/tmp/www/big"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let out = std::io::copy(&mut stdout, &mut std::io::sink()).expect("it can be read");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(out, bytes);

    let mut child = run(&["exec", "-i", &app.id, "wc", "-c"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::copy(&mut std::io::repeat(7).take(bytes), &mut stdin).expect("it takes all");
    drop(stdin);
    assert_eq!(text(&child.wait_with_output().expect("it ends").stdout).trim(), bytes.to_string());

    let sandbox = node.pintle(&["pods", "--name", &format!("big-{NODE}"), "-q", "--no-trunc"]);
    let (mut forward, port) = forwarding(run(&["port-forward", sandbox.trim(), ":80"]));
    let url = format!("http://127.0.0.1:{port}/big");
    let mut child = node.command("busybox");
    let mut child =
        child.args(["wget", "-q", "-O", "-", &url]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let out = std::io::copy(&mut stdout, &mut std::io::sink()).expect("it can be read");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(out, bytes);
    forward.kill().expect("it runs");
    forward.wait().expect("it ends");

    let grown = (peak(agent).saturating_sub(before.0), peak(supervisor).saturating_sub(before.1));
    println!(
        "{bytes} bytes three times: the daemon grew by {} KiB, the supervisor by {} KiB",
        grown.0 / 1024,
        grown.1 / 1024
    );
    assert!(grown.0 < DAEMON_GROWTH && grown.1 < SUPERVISOR_GROWTH, "{grown:?}");
    node.finish();
}

/// The kubectl under test: `PINTLE_TEST_KUBECTL`, else the one in the PATH.
fn kubectl(node: &Node, server: &ApiServer, websocket: bool) -> Command {
    let program = std::env::var("PINTLE_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let mut command = node.command(&program);
    command.args(["--server", &server.url(), "--kubeconfig", "/dev/null"]);
    for name in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
        command.env(name, websocket.to_string());
    }
    command.env("HOME", node.path("state"));
    command
}

fn works_with_kubectl(websocket: bool) {
    let node = Node::start();
    let server = ApiServer::start(&node.netns(), &node.endpoint());
    let once = "while read x; do echo got $x; done; echo end; sleep 1000";
    let pod = Manifest::new("web")
        .container("app")
        .with("command", "[sh, -c, 'httpd -p 127.0.0.1:80 -h /www; exec sleep infinity']")
        .container("once")
        .with("command", &format!("[sh, -c, '{once}']"))
        .with("stdin", "true")
        .with("stdinOnce", "true")
        .container("tty")
        .with("command", "[sh, -c, 'while read x; do echo got $x; done']")
        .with("stdin", "true")
        .with("tty", "true");
    node.manifest("web.yaml", &pod);
    node.wait_ready("web");
    let pod = format!("web-{NODE}");
    let line = |args: &[&str]| {
        let mut command = kubectl(&node, &server, websocket);
        command.args(args);
        command
    };

    let script = "echo out; echo err >&2; exit 9";
    let done = talk(line(&["exec", &pod, "-c", "app", "--", "sh", "-c", script]), b"");
    assert_eq!(text(&done.stdout), "out\n", "{}", text(&done.stderr));
    assert!(text(&done.stderr).starts_with("err\n"), "{}", text(&done.stderr));
    assert_eq!(done.status.code(), Some(9));
    let input = "0123456789abcde\n".repeat(100_000);
    let done = talk(line(&["exec", "-i", &pod, "-c", "app", "--", "md5sum"]), input.as_bytes());
    let sum = talk(Command::new("md5sum"), input.as_bytes());
    assert_eq!(text(&done.stdout), text(&sum.stdout), "{}", text(&done.stderr));

    let script = "stty size; echo $TERM; read x; echo got $x; exit 5";
    let command = line(&["exec", "-it", &pod, "-c", "app", "--", "sh", "-c", script]);
    let (screen, _) = on_a_terminal(&command, &[("xterm", "keys\r")]);
    assert!(screen.contains("33 77\r\n") && screen.contains("got keys\r\n"), "{screen}");
    assert!(screen.contains("code 5"), "{screen}");

    let file = node.path("file");
    fs::write(&file, &input).expect("a file can be written");
    let there = format!("{pod}:/tmp/there");
    let done = talk(line(&["cp", "-c", "app", &file.to_string_lossy(), &there]), b"");
    assert!(done.status.success(), "{}", text(&done.stderr));
    let back = node.path("back");
    let done = talk(line(&["cp", "-c", "app", &there, &back.to_string_lossy()]), b"");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(fs::read_to_string(&back).expect("it is there") == input, "what came back is something else");

    let command = line(&["attach", "-it", &pod, "-c", "tty"]);
    let (screen, _) = on_a_terminal(&command, &[("pressing enter", "a\r"), ("got a", "\x04"), ("code", "")]);
    assert!(screen.contains("got a\r\n"), "{screen}");
    let mut attached = line(&["attach", "-i", &pod, "-c", "once"]);
    let mut attached = attached.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    attached.stdin.take().expect("a pipe").write_all(b"hello\n").expect("it reads");
    let mut lines = BufReader::new(attached.stdout.take().expect("a pipe")).lines();
    let seen = lines.by_ref().map_while(Result::ok).find(|line| line == "end");
    assert!(seen.is_some(), "the container's input does not end");
    attached.kill().expect("it runs");
    attached.wait().expect("it ends");

    let (mut forward, port) = forwarding(line(&["port-forward", &pod, ":80"]));
    for _ in 0..3 {
        assert_eq!(fetch(&node, port, "index.html"), "Hello from a pod that Pintle runs.\n");
    }
    forward.kill().expect("it runs");
    forward.wait().expect("it ends");
    // It did not fall back.
    assert_eq!(server.upgrades(), [if websocket { "websocket" } else { "spdy/3.1" }]);
    node.finish();
}

#[test]
#[ignore = "needs kubectl"]
fn an_unmodified_kubectl_is_served_over_spdy() {
    works_with_kubectl(false);
}

#[test]
#[ignore = "needs kubectl"]
fn an_unmodified_kubectl_is_served_over_websocket() {
    works_with_kubectl(true);
}

#[test]
#[ignore = "needs Python's kubernetes package (pip install kubernetes)"]
fn pythons_kubernetes_package_is_served_by_the_daemon() {
    let node = Node::start();
    let command = "[sh, -c, 'nc -ll -p 7000 -e cat & exec sleep infinity']";
    node.manifest("web.yaml", &Manifest::new("web").container("app").with("command", command));
    node.wait_ready("web");
    let app = node.container("web", "app").id;
    let url = |cmd: &[&str], stdin| {
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        let request = ExecRequest {
            container_id: app.clone(),
            cmd,
            stdin,
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        ask::exec(&node.endpoint(), request).expect("a URL")
    };
    let python = |arguments: &[&str]| {
        let script =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/streaming/tests/foreign/kubernetes_client.py");
        let mut command = node.command("python3");
        command.arg(script).args(arguments);
        let output = talk(command, b"");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(python(&["exec", &url(&["cat"], true)]), "\"done\"");
    let script = "printf out; printf err >&2; exit 3";
    assert_eq!(python(&["exit", &url(&["sh", "-c", script], false)]), r#"["out", "err", 3]"#);
    let forward = ask::port_forward(&node.endpoint(), &format!("web-{NODE}"), vec![7000]).expect("a URL");
    assert_eq!(python(&["forward", &forward, "7000"]), r#"["hello, pod", null]"#);
    node.finish();
}
