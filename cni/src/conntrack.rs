//! Makes the kernel forget connections that would go on as they did before a host port came or went.
//!
//! UDP knows no end: a client that keeps its port is sent where its first packet went for as long as it keeps sending, whatever
//! the rules say since. In: a filter. Out: the fitting entries of connection tracking, deleted. TCP is left alone: its connections
//! end by themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use crate::host_port::HostPort;
use crate::netlink::attributes::{Writer, find};
use crate::netlink::{BATCH_MOST, Batch, NetlinkError, Socket};
use crate::nft::Family;

/// NFNL_SUBSYS_CTNETLINK
const SUBSYSTEM: u16 = 1;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// Of a tuple.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;

/// Which entries: those of clients of a UDP port.
#[derive(Debug)]
pub(crate) struct Stale<'a> {
    pub(crate) port: HostPort,
    pub(crate) pod: IpAddr,
    /// Whether those that lead to the pod go; else those that lead elsewhere.
    pub(crate) leads_to_pod: bool,
    /// The addresses of the node.
    pub(crate) local: &'a BTreeSet<IpAddr>,
}

impl Stale<'_> {
    fn fits(&self, entry: &Entry) -> bool {
        let at = match self.port.host_ip {
            Some(ip) => entry.destination == ip,
            None => entry.destination.is_loopback() || self.local.contains(&entry.destination),
        };
        let of_port = (entry.protocol, entry.port) == (self.port.protocol.number(), self.port.host_port);
        at && of_port && (entry.answers == self.pod) == self.leads_to_pod
    }
}

/// What matters of an entry.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    protocol: u8,
    /// Where the first packet went before it was sent elsewhere.
    destination: IpAddr,
    port: u16,
    /// Who answers.
    answers: IpAddr,
}

/// Deletes the entries that fit, and says how many they were.
pub(crate) fn forget(socket: &mut Socket, family: Family, stale: &Stale<'_>) -> Result<usize, NetlinkError> {
    let mut dump = Batch::default();
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP;
    dump.push_raw(
        format!("list connections to host port {}", stale.port),
        message(GET, flags, family, filter(stale)),
    );
    let replies = socket.transact(&dump)?.tolerate(&[])?;
    let lists = replies.iter().filter(|reply| reply.kind == SUBSYSTEM << 8 | NEW);
    let doomed: Vec<&[u8]> = lists
        .filter_map(|reply| reply.payload.get(4..))
        .filter(|list| read(list).is_some_and(|entry| stale.fits(&entry)))
        .collect();
    for chunk in doomed.chunks(BATCH_MOST) {
        let mut batch = Batch::default();
        for list in chunk {
            let what = format!("forget a connection to host port {}", stale.port);
            batch.push_raw(what, message(DELETE, NLM_F_REQUEST | NLM_F_ACK, family, exactly(list)));
        }
        // One that is gone already is as good.
        socket.transact(&batch)?.tolerate(&[libc::ENOENT])?;
    }
    Ok(doomed.len())
}

/// Lets the kernel (from 5.8) leave the others out; an older one lists all.
fn filter(stale: &Stale<'_>) -> Writer {
    const ORIGINAL_FLAGS: u16 = 1;
    /// By the protocol's number and the destination port.
    const BY_PORT: u32 = 1 << 3 | 1 << 5;
    let protocol = Writer::default()
        .bytes(1, &[stale.port.protocol.number()])
        .bytes(3, &stale.port.host_port.to_be_bytes());
    let tuple = Writer::default().nest(PROTOCOL, &protocol);
    let flags = Writer::default().bytes(ORIGINAL_FLAGS, &BY_PORT.to_ne_bytes());
    Writer::default().nest(ORIGINAL, &tuple).nest(FILTER, &flags)
}

/// The request to delete this entry and no other.
fn exactly(list: &[u8]) -> Writer {
    let keep = |writer: Writer, kind, nested: bool| match find(list, kind) {
        Some(value) if nested => writer.nested_bytes(kind, value),
        Some(value) => writer.bytes(kind, value),
        None => writer,
    };
    let request = keep(Writer::default(), ORIGINAL, true);
    keep(keep(request, ZONE, false), ID, false)
}

fn read(list: &[u8]) -> Option<Entry> {
    let original = find(list, ORIGINAL)?;
    let protocol = find(original, PROTOCOL)?;
    let (_, destination) = addresses(original)?;
    let (answers, _) = addresses(find(list, REPLY)?)?;
    let port = u16::from_be_bytes(find(protocol, 3)?.try_into().ok()?);
    Some(Entry { protocol: *find(protocol, 1)?.first()?, destination, port, answers })
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let list = find(tuple, ADDRESSES)?;
    let v4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(find(list, kind)?).ok()?));
    let v6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(find(list, kind)?).ok()?));
    Some((v4(1).or_else(|| v6(3))?, v4(2).or_else(|| v6(4))?))
}

fn message(kind: u16, flags: u16, family: Family, list: Writer) -> Vec<u8> {
    crate::nft::encode(SUBSYSTEM << 8 | kind, flags, [family.number(), 0, 0, 0], &list.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn list(destination: [u8; 4], port: u16, answers: [u8; 4]) -> Vec<u8> {
        let ip = |from: [u8; 4], to: [u8; 4]| Writer::default().bytes(1, &from).bytes(2, &to);
        let protocol = Writer::default().bytes(1, &[17]).bytes(2, &[1, 2]).bytes(3, &port.to_be_bytes());
        let tuple = |ip: &Writer| Writer::default().nest(ADDRESSES, ip).nest(PROTOCOL, &protocol);
        let client = [192, 0, 2, 9];
        Writer::default()
            .nest(ORIGINAL, &tuple(&ip(client, destination)))
            .nest(REPLY, &tuple(&ip(answers, client)))
            .finish()
    }

    #[test]
    fn only_connections_to_the_port_at_the_nodes_addresses_are_forgotten() {
        let port = HostPort { protocol: Protocol::Udp, host_ip: None, host_port: 53, pod_port: 5353 };
        let (node, pod, other) = ([192, 0, 2, 1], [10, 88, 0, 2], [8, 8, 8, 8]);
        let local = BTreeSet::from([IpAddr::from(node)]);
        let mut stale = Stale { port, pod: pod.into(), leads_to_pod: false, local: &local };
        let fits = |stale: &Stale<'_>, list: &[u8]| stale.fits(&read(list).unwrap());
        assert!(fits(&stale, &list(node, 53, node)));
        for kept in [list(node, 54, node), list(other, 53, other), list(node, 53, pod)] {
            assert!(!fits(&stale, &kept));
        }
        stale.leads_to_pod = true;
        assert!(fits(&stale, &list(node, 53, pod)) && !fits(&stale, &list(node, 53, node)));
        assert_eq!(read(&[1, 2, 3]), None);
    }
}
