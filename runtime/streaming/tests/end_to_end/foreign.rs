//! Clients that were not written with this server.

use std::process::Stdio;

use pintle_streaming::{Config, Streams};
use serde_json::{Value, json};

use crate::engine::*;

async fn python(script: &str, arguments: &[&str]) -> Value {
    let path = format!("{}/tests/foreign/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = tokio::process::Command::new("python3")
        .arg(path)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

const BYTES: &str = "20000000";

#[tokio::test]
async fn a_client_that_knows_no_windows_is_served_whole() {
    let running = start(Config::default()).await;
    let told = python("spdy_client.py", &["exec", &running.url(ALL, &["cat"]), BYTES]).await;
    assert_eq!(told["stdout"]["length"], 20_000_000);
    assert_eq!(told["stderr"], "");
    assert_eq!(told["error"], r#"{"metadata":{},"status":"Success"}"#);
}

#[tokio::test]
async fn a_client_that_knows_no_windows_forwards_many_connections() {
    let (running, port) = (start(Config::default()).await, echo_server().await);
    let (url, port) = (running.forward_url(&[]), port.to_string());
    let told = python("spdy_client.py", &["forward", &url, &port, "2000000", "10"]).await;
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), 10);
    let mut sums: Vec<_> =
        told.iter().map(|connection| connection["data"]["sha256"].as_str().unwrap()).collect();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), 10, "each connection has bytes of its own");
    assert!(
        told.iter().all(|connection| connection["data"]["length"] == 2_000_000 && connection["error"] == "")
    );
}

#[tokio::test]
#[ignore = "needs Python's kubernetes package (pip install kubernetes)"]
async fn pythons_kubernetes_package_is_served() {
    let (running, port) = (start(Config::default()).await, echo_server().await);
    let script = "kubernetes_client.py";
    assert_eq!(python(script, &["exec", &running.url(ALL, &["cat"])]).await, "done");
    let no_input = Streams { stdin: false, ..ALL };
    let told = python(script, &["exit", &running.url(no_input, &["exit", "3"])]).await;
    assert_eq!(told, json!(["out", "err", 3]));
    let told = python(script, &["forward", &running.forward_url(&[port]), &port.to_string()]).await;
    assert_eq!(told, json!(["hello, pod", null]));
}
