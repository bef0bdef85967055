//! Packets with descriptors over a unix socket.
//!
//! In: bytes and at most one descriptor to send. Out: bytes and all descriptors that came. Never waits, never raises SIGPIPE;
//! received descriptors are close-on-exec.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that are taken from a packet; the kernel closes the rest.
const MAX_DESCRIPTORS: usize = 8;

/// A packet that came in.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: usize,
    /// The buffer was too small for it.
    pub(crate) is_cut: bool,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Sends one packet.
pub(crate) fn send(to: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor
        && !control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)))
    {
        return Err(Errno::NOBUFS);
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
}

/// Takes one packet.
pub(crate) fn receive(from: impl AsFd, buffer: &mut [u8]) -> Result<Packet, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(Packet { bytes: received.bytes, is_cut: received.flags.contains(ReturnFlags::TRUNC), descriptors })
}
