//! Requests that get no stream.

use pintle_streaming::client::{self, ClientError};
use pintle_streaming::{Config, ExecRequest, PortForwardRequest, RequestError, Streams};

use crate::engine::*;

async fn refused(url: &str, protocol: &str) -> u16 {
    let error = client::dial(url, &[protocol]).await.unwrap_err();
    let ClientError::Refused { status, .. } = error else { panic!("{error}") };
    status.as_u16()
}

#[tokio::test]
async fn a_url_is_good_once_and_only_for_its_kind() {
    let running = start(Config::default()).await;
    let url = running.url(OUT, &["exit", "0"]);
    assert_eq!(refused(&url.replace("/exec/", "/attach/"), "v4.channel.k8s.io").await, 404);
    assert_eq!(refused(&url, "v9.channel.k8s.io").await, 403);
    client::dial(&url, &["v4.channel.k8s.io"]).await.unwrap();
    assert_eq!(refused(&url, "v4.channel.k8s.io").await, 404);
    assert_eq!(refused(&url.replace("/exec/", "/logs/"), "v4.channel.k8s.io").await, 404);
}

#[tokio::test]
async fn a_url_expires() {
    let running = start(Config { token_life: std::time::Duration::ZERO, ..Config::default() }).await;
    assert_eq!(refused(&running.url(OUT, &["exit", "0"]), "v4.channel.k8s.io").await, 404);
}

#[tokio::test]
async fn what_makes_no_sense_gets_no_url() {
    let running = start(Config::default()).await;
    let exec = |streams| {
        running.server.exec(ExecRequest { container: "c".to_owned(), command: Vec::new(), streams })
    };
    assert_eq!(exec(Streams::default()), Err(RequestError::NoStream));
    assert_eq!(exec(Streams { stderr: true, ..TTY }), Err(RequestError::TerminalWithStderr));
    let request = PortForwardRequest { sandbox: "s".to_owned(), ports: vec![1; 128] };
    assert_eq!(running.server.port_forward(request), Err(RequestError::TooManyPorts(128)));
}
