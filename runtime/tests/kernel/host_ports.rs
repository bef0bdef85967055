//! Host ports, from the request to a client: pods that are reached by a port of the node, and who has it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use pintle_cri_api::v1 as cri;
use tonic::{Code, Status};

use crate::support::{Node, eventually, on_a_node};

const PORT: u16 = 18_080;

async fn published(node: &Node, name: &str, mapping: cri::PortMapping) -> Result<String, Status> {
    node.try_pod(name, |config| config.port_mappings = vec![mapping]).await
}

fn mapping(host_port: u16) -> cri::PortMapping {
    cri::PortMapping { host_port: host_port.into(), container_port: 8080, ..Default::default() }
}

/// What a server at the node's port says; nothing when there is none.
fn fetch(port: u16) -> Option<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.rsplit("\r\n\r\n").next().map(|body| body.trim_end().to_owned())
}

async fn served(node: &Node, pod: &str, word: &str) {
    node.script(pod, "server", &format!("echo {word} > /tmp/x; httpd -f -p 8080 -h /tmp")).await;
    eventually("the pod answers at the node's port", || fetch(PORT).as_deref() == Some(word)).await;
}

#[test]
fn r08_a_port_of_the_node_leads_to_the_pod_also_after_a_restart_and_is_free_when_the_pod_is_gone() {
    on_a_node(|mut node| async {
        let pod = published(&node, "web", mapping(PORT)).await.unwrap();
        served(&node, &pod, "first").await;
        node.drop_engine().await;
        node.open().await;
        assert_eq!(fetch(PORT).as_deref(), Some("first"));
        assert_eq!(node.findings().await, []);
        let refused = published(&node, "other", mapping(PORT)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let named = refused.message();
        assert!(named.contains(&format!("{PORT}/TCP is taken by sandbox {pod}")), "{refused}");
        // The pod that was made while the first ran: it got nothing of it, and the first still answers.
        assert_eq!(fetch(PORT).as_deref(), Some("first"));
        node.remove_pod(&pod).await;
        assert_eq!(fetch(PORT), None);
        let next = published(&node, "other", mapping(PORT)).await.unwrap();
        served(&node, &next, "second").await;
        node.remove_pod(&next).await;
        let wrong = cri::PortMapping { host_ip: "fd00::1".to_owned(), ..mapping(PORT) };
        let refused = published(&node, "wrong", wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        node
    });
}
