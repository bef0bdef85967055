//! Exec, attach and port-forward over SPDY/3.1.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pintle_streaming::client::{self, PortForward};
use pintle_streaming::spdy::{Connection, Headers, Receiver, Sender};
use pintle_streaming::{AttachRequest, Config, TerminalSize};

use crate::engine::*;

#[tokio::test]
async fn a_command_ends_with_its_output_and_its_exit_code() {
    let running = start(Config::default()).await;
    for code in [0, 3, 255] {
        let url = running.url(OUT, &["exit", &code.to_string()]);
        let mut command = client::command(&url, OUT).await.unwrap();
        assert_eq!(read_all(command.stdout.take().unwrap()).await, b"out");
        assert_eq!(read_all(command.stderr.take().unwrap()).await, b"err");
        assert_eq!(command.outcome.wait().await.unwrap(), code);
    }
}

#[tokio::test]
async fn an_engine_that_cannot_says_why() {
    let running = start(Config::default()).await;
    let mut command = client::command(&running.url(OUT, &[]), OUT).await.unwrap();
    let error = command.outcome.wait().await.unwrap_err();
    assert_eq!(error.to_string(), "the command failed: Internal error occurred: no command");
}

async fn stream(connection: &Connection, kind: &str) -> (Receiver, Sender) {
    connection.open(&Headers::default().with("streamType", kind)).await.unwrap().split()
}

#[tokio::test]
async fn before_v4_the_error_stream_carries_text() {
    let running = start(Config::default()).await;
    for protocol in ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"] {
        let connection = client::dial(&running.url(OUT, &["exit", "3"]), &[protocol]).await.unwrap();
        let (error, _) = stream(&connection, "error").await;
        let (out, _) = stream(&connection, "stdout").await;
        let (err, _) = stream(&connection, "stderr").await;
        assert_eq!((read_all(out).await, read_all(err).await), (b"out".to_vec(), b"err".to_vec()));
        let text = String::from_utf8(read_all(error).await).unwrap();
        assert_eq!(text, "command terminated with non-zero exit code: exit status 3", "{protocol}");
    }
}

#[tokio::test]
async fn the_end_of_input_ends_the_process_and_not_the_client() {
    let running = start(Config::default()).await;
    let request = AttachRequest { container: "c".to_owned(), streams: ALL };
    let url = running.server.attach(request).unwrap();
    let mut command = client::command(&url, ALL).await.unwrap();
    let mut stdin = command.stdin.take().unwrap();
    stdin.send("hello, ".into()).await.unwrap();
    stdin.send("world".into()).await.unwrap();
    stdin.finish();
    assert_eq!(read_all(command.stdout.take().unwrap()).await, b"hello, world");
    assert_eq!(command.outcome.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn a_terminal_gets_the_clients_size() {
    let running = start(Config::default()).await;
    let mut command = client::command(&running.url(TTY, &["size"]), TTY).await.unwrap();
    command.terminal.as_mut().unwrap().resize(TerminalSize { width: 132, height: 43 }).await.unwrap();
    assert_eq!(read_all(command.stdout.take().unwrap()).await, b"132x43");
}

const MUCH: u64 = 100_000_000;
/// What may lie between a process and its client: pipes, queues, and the sockets of the kernel, which are the most.
const BETWEEN: u64 = 16_000_000;

#[tokio::test]
async fn a_slow_reader_holds_up_the_process_and_gets_all() {
    let running = start(Config::default()).await;
    let mut command = client::command(&running.url(OUT, &["flood", &MUCH.to_string()]), OUT).await.unwrap();
    let (mut stdout, mut taken) = (command.stdout.take().unwrap(), 0);
    while let Some(piece) = stdout.receive().await.unwrap() {
        taken += u64::try_from(piece.len()).unwrap();
        // The process and the server run on while this reader waits.
        tokio::task::yield_now().await;
        let ahead = running.seen.flooded.load(Ordering::SeqCst) - taken;
        assert!(ahead < BETWEEN, "{ahead} bytes lie between");
    }
    assert_eq!(taken, MUCH);
    assert_eq!(command.outcome.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn much_input_arrives_whole() {
    let running = start(Config::default()).await;
    let mut command = client::command(&running.url(ALL, &["count"]), ALL).await.unwrap();
    let mut stdin = command.stdin.take().unwrap();
    let piece = bytes::Bytes::from(vec![1; 100_000]);
    for _ in 0..MUCH / 100_000 {
        stdin.send(piece.clone()).await.unwrap();
    }
    stdin.finish();
    assert_eq!(read_all(command.stdout.take().unwrap()).await, MUCH.to_string().as_bytes());
}

#[tokio::test]
async fn many_clients_are_served_at_once() {
    let running = start(Config::default()).await;
    let mut clients = Vec::new();
    for number in 0..50u32 {
        let url = running.url(ALL, &["cat"]);
        clients.push(tokio::spawn(async move {
            let mut command = client::command(&url, ALL).await.unwrap();
            let text = number.to_string().repeat(50_000);
            let (mut stdin, sent) = (command.stdin.take().unwrap(), text.clone());
            let send = async move {
                stdin.send(sent.into()).await.unwrap();
                stdin.finish();
            };
            let ((), got) = tokio::join!(send, read_all(command.stdout.take().unwrap()));
            assert!(got == text.as_bytes(), "client {number} got something else");
            assert_eq!(command.outcome.wait().await.unwrap(), 0);
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_goes_gives_up_its_session() {
    let running = start(Config::default()).await;
    let command = client::command(&running.url(ALL, &["deaf"]), ALL).await.unwrap();
    drop(command);
    while running.seen.ended.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_output_left_open_by_a_process_that_is_gone_ends_after_a_while() {
    let running = start(Config { drain: Duration::from_millis(50), ..Config::default() }).await;
    let mut command = client::command(&running.url(OUT, &["leave-open"]), OUT).await.unwrap();
    assert_eq!(command.outcome.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn an_idle_client_is_hung_up_on() {
    let running = start(Config { idle: Duration::from_millis(200), ..Config::default() }).await;
    let mut command = client::command(&running.url(ALL, &["deaf"]), ALL).await.unwrap();
    command.outcome.wait().await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_hung_up_on() {
    let running = start(Config { creation: Duration::from_millis(100), ..Config::default() }).await;
    let connection = client::dial(&running.url(OUT, &["exit"]), &["v4.channel.k8s.io"]).await.unwrap();
    connection.lost().await;
}

#[tokio::test]
async fn a_port_is_reached_many_times_over_one_connection() {
    let (running, port) = (start(Config::default()).await, echo_server().await);
    let mut forward = PortForward::connect(&running.forward_url(&[])).await.unwrap();
    let mut clients = Vec::new();
    for number in 0..20u8 {
        let (data, error) = forward.open(port).await.unwrap();
        clients.push(tokio::spawn(async move {
            let (from, mut to) = data.split();
            let send = async move {
                for _ in 0..50 {
                    to.send(vec![number; 20_000].into()).await.unwrap();
                }
                to.finish();
                to
            };
            let (_to, got) = tokio::join!(send, read_all(from));
            assert_eq!(got.len(), 1_000_000);
            assert!(got.iter().all(|byte| *byte == number));
            assert_eq!(read_all(error).await, b"");
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_told_on_the_error_stream() {
    let running = start(Config::default()).await;
    let mut forward = PortForward::connect(&running.forward_url(&[])).await.unwrap();
    let (data, error) = forward.open(1).await.unwrap();
    let text = String::from_utf8(read_all(error).await).unwrap();
    assert!(text.starts_with("error forwarding port 1: connecting failed"), "{text}");
    assert_eq!(read_all(data.split().0).await, b"");
}
