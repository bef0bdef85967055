//! Fuzzes SPDY/3.1: frames, header blocks, and what a connection makes of them.
//!
//! In: the first byte, how the others are cut; the others as a peer's. Checked: no panic; frames are the same however the bytes
//! are cut, and read back as they were written; header blocks stay within bounds; a connection whose peer says all that and
//! leaves comes to its end, and what it said itself were frames; errors are short.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the modules are those of the streaming crate")]

#[path = "../../../runtime/streaming/src/limits.rs"]
mod limits;
#[path = "../../../runtime/streaming/src/spdy/mod.rs"]
mod spdy;

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use spdy::frame::{Decoder, Frame, FrameError, encode};
use spdy::headers::Decompressor;
use spdy::{Connection, Incoming, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("a runtime"));
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, said)) = data.split_first() else { return };
    let cut = usize::from(*cut).max(1);
    let whole = frames(said, said.len().max(1));
    assert_eq!(whole, frames(said, cut), "frames depend on how they are cut");
    let (frames, error) = whole;
    let mut decompressor = Decompressor::default();
    for frame in &frames {
        check_frame(frame);
        check_block(&mut decompressor, frame);
    }
    assert!(error.is_none_or(|error| error.to_string().len() < 200));
    RUNTIME.with_borrow(|runtime| {
        for role in [Role::Server, Role::Client] {
            runtime.block_on(converse(said, cut, role));
        }
    });
});

/// All frames, with the pieces of data put together, and what ended them.
fn frames(said: &[u8], cut: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in said.chunks(cut) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => join(&mut frames, frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn join(frames: &mut Vec<Frame>, frame: Frame) {
    if let (
        Some(Frame::Data { stream, payload, fin }),
        Frame::Data { stream: same, payload: more, fin: ends },
    ) = (frames.last_mut(), &frame)
        && !*fin
        && stream == same
    {
        *payload = [&payload[..], more].concat().into();
        *fin = *ends;
        return;
    }
    frames.push(frame);
}

fn check_frame(frame: &Frame) {
    if let Frame::Data { payload, .. } = frame {
        assert!(payload.len() <= limits::CONNECTION_BYTES);
    }
    if matches!(frame, Frame::Unknown(_)) {
        return;
    }
    let mut written = BytesMut::new();
    encode(frame, &mut written);
    let (read, error) = frames(&written, written.len());
    assert_eq!((&read[..], &error), (std::slice::from_ref(frame), &None), "it reads back as another");
}

fn check_block(decompressor: &mut Decompressor, frame: &Frame) {
    let (Frame::SynStream { block, .. } | Frame::SynReply { block, .. } | Frame::Headers { block, .. }) =
        frame
    else {
        return;
    };
    match decompressor.headers(block) {
        Ok(headers) => {
            assert!(headers.iter().count() <= limits::HEADERS);
            assert!(
                headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
                    <= limits::HEADER_BYTES
            );
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

/// A peer says all of it and leaves; whoever serves it takes every stream, or refuses each third.
async fn converse(said: &[u8], cut: usize, role: Role) {
    let (peer, io) = tokio::io::duplex(64 * 1024);
    let connection = Connection::start(io, role).expect("a connection");
    let (answered, ()) = tokio::join!(talk(peer, said, cut), serve(&connection, role));
    let (_, error) = frames(&answered, answered.len().max(1));
    assert_eq!(error, None, "our own words are no frames");
}

async fn talk(peer: DuplexStream, said: &[u8], cut: usize) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(peer);
    let mut answered = Vec::new();
    let speak = async {
        for piece in said.chunks(cut) {
            // The other end may have hung up.
            if to.write_all(piece).await.is_err() {
                break;
            }
        }
        to.shutdown().await.unwrap_or_default();
    };
    let listen = async { from.read_to_end(&mut answered).await.map(drop).unwrap_or_default() };
    tokio::join!(speak, listen);
    answered
}

async fn serve(connection: &Connection, role: Role) {
    if role == Role::Client {
        let headers = spdy::Headers::default().with("streamType", "data");
        if let Ok(stream) = connection.open(&headers).await {
            echo(stream).await;
        }
    }
    while let Some(incoming) = connection.accept().await {
        answer(incoming).await;
    }
}

async fn answer(incoming: Incoming) {
    if incoming.id() % 3 != 0
        && let Ok((stream, _)) = incoming.accept()
    {
        echo(stream).await;
    }
}

async fn echo(stream: spdy::Stream) {
    let (mut from, mut to) = stream.split();
    while let Ok(Some(piece)) = from.receive().await {
        assert!(!piece.is_empty(), "an empty piece is none");
        if to.send(Bytes::copy_from_slice(&piece)).await.is_err() {
            return;
        }
    }
    to.finish();
}
