//! Fuzzes what is made of a WebSocket client's bytes: channels, and the stream inside a tunnel.
//!
//! In: the first byte chooses how they are cut and coded, the others are a client's after its upgrade. Checked: no panic; each
//! comes to its end when the client leaves; no channel gets an empty piece or more than was sent; a tunnel's bytes are at
//! most those that were sent; a message that is no channel's is passed over.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the modules are those of the streaming crate")]

#[path = "../../../runtime/streaming/src/channel.rs"]
mod channel;
#[path = "../../../runtime/streaming/src/limits.rs"]
mod limits;
#[path = "../../../runtime/streaming/src/spdy/mod.rs"]
mod spdy;
#[path = "../../../runtime/streaming/src/websocket.rs"]
mod websocket;

use std::cell::RefCell;

use bytes::Bytes;
use channel::{Coding, parse_message};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;
use websocket::{Channels, Tunnel};

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("a runtime"));
}

fuzz_target!(|data: &[u8]| {
    let Some((how, said)) = data.split_first() else { return };
    let coding = if how % 2 == 0 { Coding::Binary } else { Coding::Base64 };
    if let Some((channel, payload)) = parse_message(coding, Bytes::copy_from_slice(said)) {
        assert!(payload.len() < said.len());
        assert!(coding == Coding::Binary || channel < 10);
    }
    let cut = usize::from(how / 4).max(1);
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(channels(said, cut, coding, how % 4 < 2));
        runtime.block_on(tunnel(said, cut));
    });
});

async fn channels(said: &[u8], cut: usize, coding: Coding, can_close: bool) {
    let (client, io) = tokio::io::duplex(64 * 1024);
    let (messages, outgoing) = mpsc::channel(2);
    let mut channels = Channels::new(coding, outgoing, can_close);
    let (stdin, sizes) = (channels.route(0), channels.route(4));
    let socket = websocket::start(io, Role::Server).await;
    let drive = async {
        let text: &[u8] = if coding == Coding::Binary { b"\x01hello" } else { b"1aGVsbG8=" };
        messages.send(Bytes::from_static(b"")).await.unwrap_or_default();
        messages.send(Bytes::copy_from_slice(text)).await.unwrap_or_default();
        // An error is the client's.
        channels.drive(socket).await.unwrap_or_default();
    };
    let ((), (), stdin, sizes) = tokio::join!(talk(client, said, cut), drive, count(stdin), count(sizes));
    assert!(stdin + sizes <= said.len(), "more came than was sent");
}

async fn count(mut from: mpsc::Receiver<Bytes>) -> usize {
    let mut bytes = 0;
    while let Some(piece) = from.recv().await {
        assert!(!piece.is_empty(), "an empty piece is none");
        bytes += piece.len();
    }
    bytes
}

async fn tunnel(said: &[u8], cut: usize) {
    let (client, io) = tokio::io::duplex(64 * 1024);
    let read = async {
        let mut tunnel = Tunnel::new(websocket::start(io, Role::Server).await);
        let (mut all, mut piece) = (0, [0; 100]);
        while let Ok(length @ 1..) = tunnel.read(&mut piece).await {
            all += length;
            if tunnel.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
        all
    };
    let ((), all) = tokio::join!(talk(client, said, cut), read);
    assert!(all <= said.len(), "more came than was sent");
}

/// Says all of it, hears all that is said, and leaves.
async fn talk(client: DuplexStream, said: &[u8], cut: usize) {
    let (mut from, mut to) = tokio::io::split(client);
    let speak = async {
        for piece in said.chunks(cut) {
            // The other end may have hung up.
            if to.write_all(piece).await.is_err() {
                break;
            }
        }
        to.shutdown().await.unwrap_or_default();
    };
    let listen =
        async { tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop).unwrap_or_default() };
    tokio::join!(speak, listen);
}
