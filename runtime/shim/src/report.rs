//! What a forked process tells the supervisor before it becomes a container's program or ends.
//!
//! In: [`Report`]s from the libcontainer helper, the waiting first process of a container and the stages of an exec. Out:
//! the same, one packet each, over a close-on-exec socket pair: the end of the stream after the last packet therefore
//! says that the program runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::passing;

/// The most bytes of a report; longer text is cut.
pub(crate) const MAX_REPORT: usize = 4096;

/// One thing told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The cgroup that is about to be made.
    Cgroup(String),
    /// A line of the library's log.
    Detail(String),
    /// The process that is or will become the program.
    Process(i32),
    /// It failed, before the program was to be executed.
    Failed(String),
    /// The program could not be executed.
    NotExecuted(String),
    /// A terminal was made for it; its master comes along.
    Terminal,
}

impl Report {
    fn parts(&self) -> (u8, String) {
        match self {
            Self::Cgroup(text) => (b'C', text.clone()),
            Self::Detail(text) => (b'D', text.clone()),
            Self::Process(pid) => (b'P', pid.to_string()),
            Self::Failed(text) => (b'F', text.clone()),
            Self::NotExecuted(text) => (b'N', text.clone()),
            Self::Terminal => (b'T', String::new()),
        }
    }

    /// Sends the report; the receiver may be gone, and then nobody wants to know.
    pub(crate) fn send(&self, to: impl AsFd) {
        let (kind, text) = self.parts();
        let mut packet = Vec::with_capacity(text.len() + 1);
        packet.push(kind);
        packet.extend(text.bytes().take(MAX_REPORT - 1));
        send(to, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop).unwrap_or_default();
    }

    /// Sends the report with a descriptor.
    pub(crate) fn send_with(&self, to: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let (kind, text) = self.parts();
        Ok(passing::send(to, &[&[kind], text.as_bytes()].concat(), Some(descriptor))?)
    }

    fn parse(packet: &[u8]) -> Option<Self> {
        let (kind, text) = packet.split_first()?;
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => Some(Self::Cgroup(text)),
            b'D' => Some(Self::Detail(text)),
            b'P' => text.parse().ok().map(Self::Process),
            b'F' => Some(Self::Failed(text)),
            b'N' => Some(Self::NotExecuted(text)),
            b'T' => Some(Self::Terminal),
            _ => None,
        }
    }
}

/// What a look at the receiving end found.
#[derive(Debug)]
pub(crate) enum Received {
    /// A report.
    Report(Report),
    /// A report and the descriptor that came with it.
    WithDescriptor(Report, OwnedFd),
    /// Nothing now.
    Nothing,
    /// Every sender is gone.
    End,
}

/// The receiving and the sending end.
pub(crate) fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Takes one report, without waiting.
pub(crate) fn receive(from: impl AsFd) -> Received {
    let mut packet = [0; MAX_REPORT];
    let (length, descriptors) = match passing::receive(from, &mut packet) {
        Ok(received) => (received.bytes, received.descriptors),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Received::Nothing,
        Err(_) => return Received::End,
    };
    match (Report::parse(packet.get(..length).unwrap_or_default()), descriptors.into_iter().next()) {
        _ if length == 0 => Received::End,
        (Some(report), None) => Received::Report(report),
        (Some(report), Some(descriptor)) => Received::WithDescriptor(report, descriptor),
        (None, _) => Received::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_in_order_and_long_ones_are_cut() {
        let (receiver, sender) = channel().unwrap();
        Report::Process(7).send(&sender);
        Report::Failed("x".repeat(10_000)).send(&sender);
        drop(sender);
        assert!(matches!(receive(&receiver), Received::Report(Report::Process(7))));
        let Received::Report(Report::Failed(text)) = receive(&receiver) else { panic!() };
        assert_eq!(text, "x".repeat(MAX_REPORT - 1));
        assert!(matches!(receive(&receiver), Received::End));
    }

    #[test]
    fn a_descriptor_travels_with_its_report() {
        let (receiver, sender) = channel().unwrap();
        Report::Terminal.send_with(&sender, sender.as_fd()).unwrap();
        assert!(matches!(receive(&receiver), Received::WithDescriptor(Report::Terminal, _)));
    }
}
