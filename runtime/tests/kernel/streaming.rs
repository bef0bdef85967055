//! Commands for clients that come with a URL: `Exec`, on the real kernel, with our own client.

use bytes::Bytes;
use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use pintle_streaming::{
    Streams, TerminalSize,
    client::{self, ClientError, Command},
    spdy::Receiver,
};
use tonic::{Code, Request, Status};

use crate::support::{Node, eventually, limit, on_a_node, processes_of, security, shell};

/// Output only.
pub(crate) const OUT: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
/// All but a terminal.
pub(crate) const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
/// A terminal.
pub(crate) const TTY: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

/// The URL for a command.
async fn url(node: &Node, id: &str, cmd: Vec<String>, streams: Streams) -> Result<String, Status> {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let (container_id, audit_request_id) = (id.to_owned(), String::new());
    let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr, audit_request_id };
    node.engine().as_ref().exec(Request::new(request)).await.map(|answer| answer.into_inner().url)
}

async fn start(node: &Node, id: &str, script: &str, streams: Streams) -> Command {
    let url = url(node, id, shell(script), streams).await.unwrap();
    client::command(&url, streams).await.unwrap()
}

/// Everything that comes until the end.
pub(crate) async fn all(from: &mut Option<Receiver>) -> String {
    let mut from = from.take().unwrap();
    let mut text = Vec::new();
    while let Some(piece) = tokio::time::timeout(limit(), from.receive()).await.unwrap().unwrap() {
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap()
}

/// What comes until it ends with some words.
pub(crate) async fn until(from: &mut Receiver, words: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(words) {
        let piece = tokio::time::timeout(limit(), from.receive()).await;
        let piece = piece.unwrap_or_else(|_| panic!("in vain: {words:?} after {text:?}")).unwrap();
        text.push_str(std::str::from_utf8(&piece.unwrap_or_else(|| panic!("an end: {text:?}"))).unwrap());
    }
    text
}

#[test]
fn a_streamed_command_has_three_streams_and_its_code_comes_back() {
    on_a_node(|node| async {
        let pod = node.pod("stream").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        for (script, code) in [("true", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
            let mut command = start(&node, &id, &format!("echo out; echo err >&2; {script}"), OUT).await;
            assert_eq!(all(&mut command.stdout).await, "out\n");
            assert_eq!(all(&mut command.stderr).await, "err\n");
            assert_eq!(command.outcome.wait().await.unwrap(), code, "{script}");
        }
        // The command goes on after its input has ended.
        let mut command = start(&node, &id, "wc -c; echo after; exit 4", ALL).await;
        let mut stdin = command.stdin.take().unwrap();
        for _ in 0..100 {
            stdin.send(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
        }
        stdin.finish();
        assert_eq!(all(&mut command.stdout).await, "1000000\nafter\n");
        assert_eq!(command.outcome.wait().await.unwrap(), 4);
        // Input that nobody asked for is at its end; output that nobody asked for holds up nothing.
        let only_errors = Streams { stdout: false, ..OUT };
        let mut command = start(&node, &id, "cat; seq 1 100000; echo done >&2", only_errors).await;
        assert_eq!(all(&mut command.stderr).await, "done\n");
        assert_eq!(command.outcome.wait().await.unwrap(), 0);
        let missing = url(&node, &id, vec!["/no/such/program".to_owned()], OUT).await.unwrap();
        let error = client::command(&missing, OUT).await.unwrap().outcome.wait().await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_command_with_a_terminal_controls_it_owns_it_and_follows_its_size() {
    on_a_node(|node| async {
        let pod = node.pod("tty").await;
        let id = node
            .try_container(&pod, "c", |config| {
                config.command = shell("sleep 1000");
                security(config).run_as_user = Some(cri::Int64Value { value: 1000 });
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; busybox tty; echo named >$(busybox tty); \
            echo mine >/dev/tty; echo $TERM; stat -c %u $(busybox tty); trap 'busybox stty size; exit 7' WINCH; \
            echo ready; while :; do sleep 0.1; done";
        let mut command = start(&node, &id, script, TTY).await;
        let mut stdout = command.stdout.take().unwrap();
        let text = until(&mut stdout, "ready\r\n").await;
        assert_eq!(text, "all three\r\n/dev/pts/0\r\nnamed\r\nmine\r\nxterm\r\n1000\r\nready\r\n");
        let size = TerminalSize { width: 123, height: 45 };
        command.terminal.as_mut().unwrap().resize(size).await.unwrap();
        until(&mut stdout, "45 123\r\n").await;
        assert_eq!(command.outcome.wait().await.unwrap(), 7);
        // Control characters are signals: ^C.
        let mut command = start(&node, &id, "echo up; exec sleep 1000", TTY).await;
        let mut stdout = command.stdout.take().unwrap();
        until(&mut stdout, "up\r\n").await;
        command.stdin.as_mut().unwrap().send(Bytes::from_static(b"\x03")).await.unwrap();
        assert_eq!(command.outcome.wait().await.unwrap(), 130);
        // What is collected has no terminal, whatever the container has.
        assert_eq!(node.output(&id, "[ -t 0 ] || [ -t 1 ] || echo none").await, "none");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_client_that_goes_hangs_up_and_kills_nothing() {
    on_a_node(|node| async {
        let pod = node.pod("gone").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let runs = |what: &str| !processes_of(what, "no cgroup has this name").is_empty();
        let mut terminal = start(&node, &id, "echo up; sleep 98761; :", TTY).await;
        until(terminal.stdout.as_mut().unwrap(), "up\r\n").await;
        let mut reader = start(&node, &id, "echo up; cat; exec sleep 98762", ALL).await;
        until(reader.stdout.as_mut().unwrap(), "up\n").await;
        let mut writer = start(&node, &id, "echo up; while sleep 0.0983; do echo x; done", OUT).await;
        until(writer.stdout.as_mut().unwrap(), "up\n").await;
        assert!(runs("98761") && runs("sleep 0.0983"));
        drop((terminal, reader, writer));
        eventually("the terminal is hung up", || !runs("98761")).await;
        eventually("nobody reads the output", || !runs("sleep 0.0983")).await;
        // It has read the end of its input and goes on, since nothing tells it otherwise.
        eventually("the input has ended", || runs("98762")).await;
        assert_eq!(node.output(&id, "echo alive").await, "alive");
        node.remove_pod(&pod).await;
        assert!(!runs("98762"));
        node
    });
}

#[test]
fn streaming_requests_that_cannot_be_are_refused() {
    on_a_node(|node| async {
        let pod = node.pod("refused").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let created = node.try_container(&pod, "d", |config| config.command = shell("true")).await.unwrap();
        let (cmd, none) = (shell("true"), Streams::default());
        let both = Streams { stderr: true, ..TTY };
        for (id, cmd, streams, code) in [
            (id.as_str(), cmd.clone(), none, Code::InvalidArgument),
            (&id, cmd.clone(), both, Code::InvalidArgument),
            (&id, vec![], OUT, Code::InvalidArgument),
            (&id, vec!["a\0b".to_owned()], OUT, Code::InvalidArgument),
            ("no-such-container", cmd.clone(), OUT, Code::NotFound),
            (&created, cmd.clone(), OUT, Code::FailedPrecondition),
        ] {
            let refused = url(&node, id, cmd.clone(), streams).await.unwrap_err();
            assert_eq!(refused.code(), code, "{id} {cmd:?} {streams:?}: {refused}");
        }
        let attach = |container_id: &str, stdin, tty, stderr| {
            let container_id = container_id.to_owned();
            cri::AttachRequest { container_id, stdin, tty, stderr, ..Default::default() }
        };
        for (request, code) in [
            (attach(&id, false, false, false), Code::InvalidArgument),
            (attach(&id, true, true, true), Code::InvalidArgument),
            (attach("no-such-container", true, false, false), Code::NotFound),
            (attach(&created, true, false, false), Code::FailedPrecondition),
        ] {
            let refused = node.engine().as_ref().attach(Request::new(request.clone())).await.unwrap_err();
            assert_eq!(refused.code(), code, "{request:?}");
        }
        for (pod, port, code) in [
            (pod.as_str(), 0, Code::InvalidArgument),
            (&pod, 65_536, Code::InvalidArgument),
            (&pod, -1, Code::InvalidArgument),
            ("no-such-pod", 80, Code::NotFound),
        ] {
            let request = cri::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![port] };
            let refused = node.engine().as_ref().port_forward(Request::new(request)).await.unwrap_err();
            assert_eq!(refused.code(), code, "{pod} {port}");
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_url_is_on_loopback_good_once_and_told_what_became_of_its_container() {
    on_a_node(|node| async {
        let pod = node.pod("once").await;
        let id = node.script(&pod, "c", "sleep 1000").await;
        let once = url(&node, &id, shell("echo here"), OUT).await.unwrap();
        assert!(once.starts_with("http://127.0.0.1:"), "{once}");
        let mut command = client::command(&once, OUT).await.unwrap();
        assert_eq!(all(&mut command.stdout).await, "here\n");
        assert_eq!(command.outcome.wait().await.unwrap(), 0);
        let again = client::command(&once, OUT).await.unwrap_err();
        assert!(matches!(again, ClientError::Refused { .. }), "{again}");
        let late = url(&node, &id, shell("echo here"), OUT).await.unwrap();
        node.stop(&id, 0).await.unwrap();
        let error = client::command(&late, OUT).await.unwrap().outcome.wait().await.unwrap_err();
        assert!(error.to_string().contains("does not run"), "{error}");
        node.remove_pod(&pod).await;
        node
    });
}
