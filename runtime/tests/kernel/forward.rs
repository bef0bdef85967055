//! Connections into pods: `PortForward`.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener},
    os::fd::AsFd as _,
};

use bytes::Bytes;
use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use pintle_streaming::{
    client::PortForward,
    spdy::{Receiver, Stream},
};
use tonic::Request;

use crate::support::{Node, limit, on_a_node};

async fn forward(node: &Node, pod: &str) -> PortForward {
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![] };
    let url = node.engine().as_ref().port_forward(Request::new(request)).await.unwrap().into_inner().url;
    PortForward::connect(&url).await.unwrap()
}

/// Sends back what it is sent, and the count of it at the end; inside the pod's network namespace.
async fn serve(node: &Node, pod: &str, address: &str) -> u16 {
    let pid = node.pod_status(pod).await.1["pid"].as_i64().unwrap();
    let netns = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let listener = pintle_cni::run_in(netns.as_fd(), || TcpListener::bind(address).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let (mut count, mut buffer) = (0, [0; 65536]);
                loop {
                    match socket.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(length) => {
                            count += length;
                            drop(socket.write_all(&buffer[..length]));
                        }
                    }
                }
                drop(write!(socket, "{count}"));
                drop(socket.shutdown(Shutdown::Both));
            });
        }
    });
    port
}

async fn all(mut from: Receiver) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = tokio::time::timeout(limit(), from.receive()).await.unwrap().unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// Sends, ends its direction, and takes what comes after that.
async fn talk((data, errors): (Stream, Receiver), text: String) {
    let (receiver, mut sender) = data.split();
    let length = text.len();
    let sent = text.clone();
    tokio::spawn(async move {
        for piece in sent.as_bytes().chunks(50_000) {
            sender.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        sender.finish();
    });
    assert_eq!(String::from_utf8(all(receiver).await).unwrap(), format!("{text}{length}"));
    assert_eq!(all(errors).await, b"");
}

#[test]
fn ports_in_a_pod_are_reached_over_ipv4_and_ipv6_by_many_at_once_with_each_end_closed_by_itself() {
    on_a_node(|node| async {
        let (pod, other) = (node.pod("ports").await, node.pod("other").await);
        let v4 = serve(&node, &pod, "127.0.0.1:0").await;
        let v6 = serve(&node, &pod, "[::1]:0").await;
        let mut client = forward(&node, &pod).await;
        let mut talks = Vec::new();
        for number in 0..40 {
            let port = if number % 2 == 0 { v4 } else { v6 };
            let connection = client.open(port).await.unwrap();
            talks.push(tokio::spawn(talk(connection, format!("hello {number} ").repeat(10_000))));
        }
        for talk in talks {
            talk.await.unwrap();
        }
        // Nobody listens there in another pod, and not on the node.
        let mut elsewhere = forward(&node, &other).await;
        let (_data, errors) = elsewhere.open(v4).await.unwrap();
        let text = String::from_utf8(all(errors).await).unwrap();
        assert!(text.contains(&format!("port {v4}")) && text.contains("refused"), "{text}");
        assert!(text.contains("127.0.0.1") && text.contains("[::1]"), "{text}");
        // The connection is good for more after one has failed.
        talk(client.open(v4).await.unwrap(), "again".to_owned()).await;
        for pod in [pod, other] {
            node.remove_pod(&pod).await;
        }
        node
    });
}

#[test]
fn a_pod_on_the_nodes_network_is_forwarded_to_as_well() {
    on_a_node(|node| async {
        let pod = node
            .try_pod("host", |config| {
                let linux = config.linux.get_or_insert_default();
                let options =
                    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
                options.network = cri::NamespaceMode::Node.into();
            })
            .await
            .unwrap();
        let port = serve(&node, &pod, "127.0.0.1:0").await;
        talk(forward(&node, &pod).await.open(port).await.unwrap(), "hello".to_owned()).await;
        node.remove_pod(&pod).await;
        node
    });
}
