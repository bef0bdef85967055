//! Clients that join a container's own process: `Attach`, terminals, `stdin` and `stdin_once`.

use std::time::Duration;

use bytes::Bytes;
use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use pintle_streaming::{
    Streams, TerminalSize,
    client::{self, Command},
};
use tonic::Request;

use crate::{
    streaming::{ALL, OUT, TTY, all, until},
    support::{Node, eventually, on_a_node, security, shell},
};

async fn attach(node: &Node, id: &str, streams: Streams) -> Command {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let (container_id, audit_request_id) = (id.to_owned(), String::new());
    let request = cri::AttachRequest { container_id, stdin, tty, stdout, stderr, audit_request_id };
    let url = node.engine().as_ref().attach(Request::new(request)).await.unwrap().into_inner().url;
    client::command(&url, streams).await.unwrap()
}

async fn say(client: &mut Command, text: &'static str) {
    client.stdin.as_mut().unwrap().send(Bytes::from_static(text.as_bytes())).await.unwrap();
}

/// Has one say something until another sees it: an attach is under way for a moment after its streams are there.
async fn joins(client: &mut Command, speaker: &mut Command) {
    for _ in 0..100 {
        say(speaker, "j\n").await;
        let seen = until(client.stdout.as_mut().unwrap(), "got j\n");
        if tokio::time::timeout(Duration::from_millis(300), seen).await.is_ok() {
            return;
        }
    }
    panic!("a client never sees what is written");
}

async fn container(node: &Node, pod: &str, script: &str, change: fn(&mut cri::ContainerConfig)) -> String {
    let made = node.try_container(pod, "c", |config| {
        config.command = shell(script);
        config.stdin = true;
        change(config);
    });
    let id = made.await.unwrap();
    node.start(&id).await.unwrap();
    id
}

async fn runs(node: &Node, id: &str) -> bool {
    node.status(id).await.state == cri::ContainerState::ContainerRunning as i32
}

const ECHO: &str = "while read x; do echo got $x; echo err $x >&2; done; echo end; exit 5";

#[test]
fn attached_clients_see_all_output_share_the_input_and_leave_the_container_running() {
    on_a_node(|node| async {
        let pod = node.pod("attach").await;
        let id = container(&node, &pod, ECHO, |_| {}).await;
        let (mut first, mut second) = (attach(&node, &id, ALL).await, attach(&node, &id, ALL).await);
        let mut reader = attach(&node, &id, OUT).await;
        joins(&mut second, &mut first).await;
        joins(&mut reader, &mut first).await;
        say(&mut first, "a\n").await;
        for client in [&mut first, &mut second, &mut reader] {
            until(client.stdout.as_mut().unwrap(), "got a\n").await;
            until(client.stderr.as_mut().unwrap(), "err a\n").await;
        }
        drop(first);
        say(&mut second, "b\n").await;
        until(second.stdout.as_mut().unwrap(), "got b\n").await;
        // The end of its input ends an attach; not the container's input.
        second.stdin.take().unwrap().finish();
        assert_eq!(second.outcome.wait().await.unwrap(), 0);
        assert!(runs(&node, &id).await);
        // As many come and go as like; those who stay see it all the same.
        for _ in 0..20 {
            drop(attach(&node, &id, OUT).await);
        }
        let mut third = attach(&node, &id, ALL).await;
        say(&mut third, "c\n").await;
        until(third.stdout.as_mut().unwrap(), "got c\n").await;
        until(reader.stdout.as_mut().unwrap(), "got c\n").await;
        let log = node.log("attach", "c");
        let lines: Vec<_> = log.lines().filter(|line| !line.ends_with(" j")).collect();
        assert_eq!(lines.join("\n"), "got a\nerr a\ngot b\nerr b\ngot c\nerr c");
        // Whoever looks on is told of the end.
        node.stop(&id, 0).await.unwrap();
        assert_eq!(reader.outcome.wait().await.unwrap(), 0);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn stdin_once_ends_with_the_first_attach_whether_it_says_so_or_goes() {
    on_a_node(|node| async {
        let pod = node.pod("once").await;
        let id = container(&node, &pod, ECHO, |config| config.stdin_once = true).await;
        let mut client = attach(&node, &id, ALL).await;
        say(&mut client, "a\n").await;
        client.stdin.take().unwrap().finish();
        assert_eq!(all(&mut client.stdout).await, "got a\nend\n");
        assert_eq!(client.outcome.wait().await.unwrap(), 0);
        assert_eq!(node.ended(&id).await.exit_code, 5);
        node.remove(&id).await.unwrap();
        let id = container(&node, &pod, ECHO, |config| config.stdin_once = true).await;
        let mut client = attach(&node, &id, ALL).await;
        say(&mut client, "b\n").await;
        until(client.stdout.as_mut().unwrap(), "got b\n").await;
        drop(client);
        assert_eq!(node.ended(&id).await.exit_code, 5);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_container_without_input_is_attached_to_all_the_same() {
    on_a_node(|node| async {
        let pod = node.pod("deaf").await;
        let script = "read x; while :; do echo tick; sleep 0.1; done";
        let id = container(&node, &pod, script, |config| {
            config.stdin = false;
            config.log_path = String::new();
        })
        .await;
        let mut client = attach(&node, &id, ALL).await;
        // It is read by nobody, and holds up nobody.
        client.stdin.as_mut().unwrap().send(Bytes::from(vec![b'x'; 1_000_000])).await.unwrap();
        client.stdin.take().unwrap().finish();
        for _ in 0..3 {
            until(client.stdout.as_mut().unwrap(), "tick\n").await;
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_container_nor_log_nor_others() {
    on_a_node(|node| async {
        let pod = node.pod("slow").await;
        let script = "read x; seq 1 400000; echo over; read x";
        let id = container(&node, &pod, script, |_| {}).await;
        let asleep = attach(&node, &id, OUT).await;
        let mut client = attach(&node, &id, ALL).await;
        say(&mut client, "go\n").await;
        eventually("the container has written all", || node.log("slow", "c").ends_with("over")).await;
        assert_eq!(node.log("slow", "c").lines().count(), 400_001);
        drop(asleep);
        let mut late = attach(&node, &id, ALL).await;
        say(&mut late, "end\n").await;
        assert_eq!(late.outcome.wait().await.unwrap(), 0);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_container_with_a_terminal_is_logged_attached_to_and_sized() {
    on_a_node(|node| async {
        let pod = node.pod("tty").await;
        let script = "trap 'busybox stty size' WINCH; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; \
            echo $TERM; stat -c %u $(busybox tty); echo mine >/dev/tty; \
            while :; do read x && echo got $x; [ \"$x\" = end ] && exit 6; done";
        let id = container(&node, &pod, script, |config| {
            config.tty = true;
            security(config).run_as_user = Some(cri::Int64Value { value: 1000 });
        })
        .await;
        eventually("the container is up", || node.log("tty", "c").ends_with("mine")).await;
        assert_eq!(node.log("tty", "c"), "all three\nxterm\n1000\nmine");
        let (mut client, mut other) = (attach(&node, &id, TTY).await, attach(&node, &id, TTY).await);
        let size = TerminalSize { width: 99, height: 11 };
        client.terminal.as_mut().unwrap().resize(size).await.unwrap();
        until(client.stdout.as_mut().unwrap(), "11 99\r\n").await;
        say(&mut client, "hello\n").await;
        until(client.stdout.as_mut().unwrap(), "hello\r\ngot hello\r\n").await;
        until(other.stdout.as_mut().unwrap(), "got hello\r\n").await;
        drop(client);
        assert!(runs(&node, &id).await);
        assert_eq!(node.output(&id, "[ -t 0 ] || echo collected").await, "collected");
        say(&mut other, "end\n").await;
        until(other.stdout.as_mut().unwrap(), "got end\r\n").await;
        assert_eq!(other.outcome.wait().await.unwrap(), 0);
        assert_eq!(node.ended(&id).await.exit_code, 6);
        assert!(node.log("tty", "c").ends_with("end\ngot end"), "{}", node.log("tty", "c"));
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_terminal_without_a_log_is_emptied_and_a_new_engine_attaches_to_it() {
    on_a_node(|mut node| async {
        let pod = node.pod("unlogged").await;
        let script = "seq 1 20000; while read x; do echo got $x; done";
        let id = container(&node, &pod, script, |config| {
            config.tty = true;
            config.log_path = String::new();
        })
        .await;
        node.drop_engine().await;
        node.open().await;
        let mut client = attach(&node, &id, TTY).await;
        say(&mut client, "hello\n").await;
        until(client.stdout.as_mut().unwrap(), "got hello\r\n").await;
        drop(client);
        node.remove_pod(&pod).await;
        node
    });
}
