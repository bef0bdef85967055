//! The same over WebSocket.

use futures_util::{SinkExt, StreamExt};
use pintle_streaming::client::PortForward;
use pintle_streaming::{Config, Streams};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::engine::*;

async fn dial(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    let socket = TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    client_async(request, socket).await.unwrap().0
}

/// What came on each channel until the server said goodbye.
async fn read_channels(mut socket: WebSocketStream<TcpStream>) -> [Vec<u8>; 5] {
    let mut channels = [const { Vec::new() }; 5];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels
}

#[tokio::test]
async fn a_command_ends_with_its_output_and_its_exit_code() {
    let running = start(Config::default()).await;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let socket = dial(&running.url(OUT, &["exit", "3"]), protocol).await;
        let [_, out, err, error, _] = read_channels(socket).await;
        assert_eq!((out, err), (b"out".to_vec(), b"err".to_vec()), "{protocol}");
        let error = String::from_utf8(error).unwrap();
        assert!(error.contains(r#"{"message":"3","reason":"ExitCode"}"#), "{error}");
    }
    for protocol in ["channel.k8s.io", ""] {
        let [_, out, _, error, _] =
            read_channels(dial(&running.url(OUT, &["exit", "3"]), protocol).await).await;
        assert_eq!((out, error.ends_with(b"exit status 3")), (b"out".to_vec(), true), "{protocol}");
    }
}

#[tokio::test]
async fn base64_clients_get_digits_and_text() {
    let running = start(Config::default()).await;
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let streams = Streams { stderr: false, ..OUT };
        let mut socket = dial(&running.url(streams, &["exit", "0"]), protocol).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("1"));
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("1b3V0"));
    }
}

#[tokio::test]
async fn a_v5_client_ends_its_input_by_a_message() {
    let running = start(Config::default()).await;
    let mut socket = dial(&running.url(ALL, &["cat"]), "v5.channel.k8s.io").await;
    socket.send(Message::Binary(b"\0hello, ".as_slice().into())).await.unwrap();
    socket.send(Message::text("\0world")).await.unwrap();
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, out, _, error, _] = read_channels(socket).await;
    assert_eq!(out, b"hello, world");
    assert_eq!(error, br#"{"metadata":{},"status":"Success"}"#);
}

#[tokio::test]
async fn a_terminal_gets_the_clients_size() {
    let running = start(Config::default()).await;
    let mut socket = dial(&running.url(TTY, &["size"]), "v4.channel.k8s.io").await;
    socket.send(Message::text("\u{4}{\"Width\":132,\"Height\":43}")).await.unwrap();
    assert_eq!(read_channels(socket).await[1], b"132x43");
}

#[tokio::test]
async fn much_goes_both_ways() {
    let running = start(Config::default()).await;
    let socket = dial(&running.url(ALL, &["cat"]), "v5.channel.k8s.io").await;
    let (mut to, mut from) = socket.split();
    let send = async {
        let mut piece = vec![1; 100_001];
        piece[0] = 0;
        for _ in 0..200 {
            to.send(Message::Binary(piece.clone().into())).await.unwrap();
        }
        to.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    };
    let receive = async {
        let mut bytes = 0;
        while let Some(Ok(message)) = from.next().await {
            if let Message::Binary(message) = message
                && message[0] == 1
            {
                bytes += message.len() - 1;
            }
        }
        bytes
    };
    assert_eq!(tokio::join!(send, receive).1, 20_000_000);
}

#[tokio::test]
async fn a_port_of_an_old_client_has_two_channels_that_begin_with_the_port() {
    let (running, port) = (start(Config::default()).await, echo_server().await);
    let mut socket = dial(&running.forward_url(&[port, 1]), "v4.channel.k8s.io").await;
    socket.send(Message::Binary(b"\0ping".as_slice().into())).await.unwrap();
    let mut channels = [const { Vec::new() }; 4];
    while channels[0].len() < 6 || channels[1].len() < 2 || channels[3].len() < 3 {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    assert_eq!(channels[0], [&port.to_le_bytes()[..], b"ping"].concat());
    assert_eq!(channels[1], port.to_le_bytes());
    assert_eq!(channels[2], [1, 0]);
    assert!(channels[3].starts_with(b"\x01\0error forwarding port 1"));
}

#[tokio::test]
async fn spdy_runs_inside_a_websocket() {
    let (running, port) = (start(Config::default()).await, echo_server().await);
    let socket = dial(&running.forward_url(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let mut forward = PortForward::in_websocket(socket).unwrap();
    for _ in 0..3 {
        let (data, error) = forward.open(port).await.unwrap();
        let (from, mut to) = data.split();
        let send = async {
            to.send(vec![5; 3_000_000].into()).await.unwrap();
            to.finish();
        };
        let ((), got) = tokio::join!(send, read_all(from));
        assert_eq!((got.len(), read_all(error).await), (3_000_000, Vec::new()));
    }
}
