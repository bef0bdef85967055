//! Fuzzes both ends of a supervisor's socket, and what its helpers report.
//!
//! In: a packet, sent over real sockets with up to three descriptors. Checked: no panic; the packet is a request, or is
//! answered with the number it had, or the connection ends; what was understood reads back as it was written; no
//! descriptor stays open. What a request does to processes and cgroups is not tried here: that needs a supervisor, and
//! `runtime/shim/tests` has one.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the supervisor")]

#[path = "../../../runtime/shim/src/connection.rs"]
mod connection;
#[path = "../../../runtime/shim/src/passing.rs"]
mod passing;
#[path = "../../../runtime/shim/src/report.rs"]
mod report;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use connection::{Connection, Incoming};
use libfuzzer_sys::fuzz_target;
use pintle_shim_protocol::{Envelope, ErrorCode, Failure, MAX_MESSAGE, Message, Outcome};
use report::Received;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

const OUR_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

static LISTENER: LazyLock<(tempfile::TempDir, OwnedFd, SocketAddrUnix)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let address = SocketAddrUnix::new(dir.path().join("shim.sock")).expect("an address");
    let socket = seqpacket();
    rustix::net::bind(&socket, &address).expect("bound");
    rustix::net::listen(&socket, 8).expect("listens");
    (dir, socket, address)
});

fuzz_target!(|data: &[u8]| {
    let (count, packet) = data.split_first().map_or((0, data), |(count, packet)| (count % 4, packet));
    let before = open_descriptors();
    request(packet, usize::from(count));
    message(packet);
    helper(packet);
    assert_eq!(open_descriptors(), before.max(open_descriptors_at_start()), "descriptors stay open");
});

/// The supervisor's end.
fn request(packet: &[u8], descriptors: usize) {
    let (_, listener, address) = &*LISTENER;
    let engine = seqpacket();
    rustix::net::connect(&engine, address).expect("connected");
    let Some(connection) = Connection::accept(listener, 1) else { return };
    send(&engine, packet, descriptors);
    let mut buffer = vec![0; MAX_MESSAGE];
    match connection.receive(&mut buffer) {
        Incoming::Request(envelope, taken) => {
            assert_eq!(taken.len(), descriptors);
            let written = serde_json::to_vec(&envelope).expect("a request is JSON");
            assert_eq!(serde_json::from_slice::<Envelope>(&written).expect("it reads back"), *envelope);
        }
        Incoming::Malformed(seq, reason) => refuse(&connection, &engine, (seq, reason)),
        Incoming::Closed => assert!(packet.is_empty()),
        Incoming::Nothing => panic!("the packet is lost"),
    }
}

/// The answer to a packet that is no request reaches the engine and is understood there.
fn refuse(connection: &Connection, engine: &OwnedFd, (seq, message): (u64, String)) {
    let failure = Failure { code: ErrorCode::BadRequest, message };
    let reply = Message::Reply { seq, outcome: Outcome::Error(failure) };
    connection.send(&reply, None, &mut Vec::new()).expect("sent");
    let mut buffer = vec![0; MAX_MESSAGE];
    let (_, length) = rustix::net::recv(engine, &mut buffer[..], RecvFlags::empty()).expect("received");
    assert_eq!(serde_json::from_slice::<Message>(&buffer[..length]).expect("a message"), reply);
}

/// The engine's end.
fn message(packet: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<Message>(packet) {
        let written = serde_json::to_vec(&message).expect("a message is JSON");
        assert_eq!(serde_json::from_slice::<Message>(&written).expect("it reads back"), message);
    }
}

/// What comes from a forked helper.
fn helper(packet: &[u8]) {
    let (receiver, sender) = report::channel().expect("a channel");
    rustix::net::send(&sender, packet, SendFlags::NOSIGNAL).expect("sent");
    let got = report::receive(&receiver);
    if let Received::Report(report) = got
        && packet.len() < report::MAX_REPORT / 4
    {
        report.send(&sender);
        let Received::Report(again) = report::receive(&receiver) else { panic!("{report:?} is lost") };
        assert_eq!(again, report);
    }
}

fn seqpacket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, OUR_FLAGS, None).expect("a socket")
}

fn send(to: &OwnedFd, packet: &[u8], descriptors: usize) {
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let rights = vec![null.as_fd(); descriptors];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)), "there is room");
    }
    let bytes = [std::io::IoSlice::new(packet)];
    rustix::net::sendmsg(to, &bytes, &mut control, SendFlags::NOSIGNAL).expect("sent");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// The listener is opened at the first use.
fn open_descriptors_at_start() -> usize {
    static COUNT: LazyLock<usize> = LazyLock::new(open_descriptors);
    *COUNT
}
