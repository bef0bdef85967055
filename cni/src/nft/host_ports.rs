//! The part of the table that makes ports of the node lead to pods. Pure.
//!
//! In: host ports and the pods' addresses. Out: chains, rules and the elements of two maps. Without host ports the maps are
//! empty; a pod's ports come and go as elements. As `nft` prints it:
//!
//! ```text
//!     map hostports { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { tcp . 80 : 10.88.0.2 . 8080 } }
//!     map hostports_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     chain guard { type filter hook prerouting priority raw; iifname "pintle0" ip daddr 127.0.0.0/8 drop }
//!     chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports }
//!     chain output { type nat hook output priority -100; fib daddr type local jump hostports }
//!     chain hostports {
//!         dnat ip to ip daddr . meta l4proto . th dport map @hostports_at
//!         dnat ip to meta l4proto . th dport map @hostports
//!     }
//! ```
//!
//! The guard is for `route_localnet` of the bridge, without which the node does not reach a pod by 127.0.0.1 and with which pods
//! would reach what listens at the node's loopback address only.

use std::net::IpAddr;

use super::expression::{self as ex, Base, Meta};
use super::map::{self, Element, Type};
use super::{Compare, Family, Hook};
use crate::host_port::{HostPort, Protocol};
use crate::netlink::Batch;
use crate::netlink::attributes::Writer;

const PORTS: &str = "hostports";
const PORTS_AT: &str = "hostports_at";
const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";

const PREROUTING_RAW: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const PREROUTING_DSTNAT: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT_DSTNAT: Hook = Hook { kind: "nat", number: 3, priority: -100 };

/// A host port and the pod it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) port: HostPort,
    pub(crate) pod: IpAddr,
}

/// The chains and how many rules each has.
pub(crate) fn chains(family: Family) -> Vec<(&'static str, usize)> {
    let mut chains = vec![(PREROUTING, 1), (OUTPUT, 1), (PORTS, 2)];
    if family == Family::Ip {
        chains.push((GUARD, 1));
    }
    chains
}

/// Adds the maps, chains and rules to a table that is made in the same transaction, with the elements for these ports.
pub(crate) fn lay_out(batch: &mut Batch, (family, table): (Family, &str), bridge: &str, targets: &[Target]) {
    let destination = [address(family), Type::Port];
    let maps = [
        (PORTS, &[Type::Protocol, Type::Port][..]),
        (PORTS_AT, &[address(family), Type::Protocol, Type::Port][..]),
    ];
    for ((name, key), id) in maps.into_iter().zip(1..) {
        let bytes = map::new_map(family, (table, name), id, [key, &destination]);
        batch.push_raw(format!("add map {name} to nftables table {table}"), bytes);
    }
    let mut chain = |name: &str, bytes: Vec<u8>| {
        batch.push_raw(format!("add chain {name} to nftables table {table}"), bytes);
    };
    chain(PORTS, super::new_chain(family, table, PORTS));
    chain(PREROUTING, super::new_base_chain(family, table, PREROUTING, PREROUTING_DSTNAT));
    chain(OUTPUT, super::new_base_chain(family, table, OUTPUT, OUTPUT_DSTNAT));
    if family == Family::Ip {
        chain(GUARD, super::new_base_chain(family, table, GUARD, PREROUTING_RAW));
    }
    let mut rule = |chain: &str, expressions: Vec<Writer>| {
        let bytes = super::append_rule(family, table, chain, expressions);
        batch.push_raw(format!("add a rule to chain {chain} of nftables table {table}"), bytes);
    };
    rule(PORTS, by_address(family));
    rule(PORTS, by_port(family));
    for name in [PREROUTING, OUTPUT] {
        let local = super::compare(Compare::Equal, &ex::LOCAL);
        rule(name, vec![ex::load_destination_kind(), local, ex::jump(PORTS)]);
    }
    if family == Family::Ip {
        rule(GUARD, guard(bridge));
    }
    add(batch, (family, table), targets);
}

/// Adds the elements for these ports.
pub(crate) fn add(batch: &mut Batch, (family, table): (Family, &str), targets: &[Target]) {
    let (everywhere, at) = elements(targets);
    map::add(batch, family, (table, PORTS), &everywhere);
    map::add(batch, family, (table, PORTS_AT), &at);
}

/// Deletes the elements for these ports.
pub(crate) fn delete(batch: &mut Batch, (family, table): (Family, &str), targets: &[Target]) {
    let (everywhere, at) = elements(targets);
    map::delete(batch, family, (table, PORTS), &everywhere);
    map::delete(batch, family, (table, PORTS_AT), &at);
}

/// The names of the maps.
pub(crate) const MAPS: [&str; 2] = [PORTS, PORTS_AT];

/// The host port that an element stands for.
pub(crate) fn read((key, value): &Element) -> Option<Target> {
    let (host_ip, key) = match key.len() {
        8 => (None, key.as_slice()),
        length => {
            let (ip, rest) = key.split_at_checked(length.checked_sub(8)?)?;
            (Some(read_address(ip)?), rest)
        }
    };
    let (pod, pod_port) = value.split_at_checked(value.len().checked_sub(4)?)?;
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    let protocol = Protocol::of_number(*key.first()?)?;
    let port = HostPort { protocol, host_ip, host_port: port(key.get(4..)?)?, pod_port: port(pod_port)? };
    Some(Target { port, pod: read_address(pod)? })
}

fn elements(targets: &[Target]) -> (Vec<Element>, Vec<Element>) {
    let (at, everywhere): (Vec<&Target>, Vec<&Target>) =
        targets.iter().partition(|target| target.port.host_ip.is_some());
    let encode = |list: Vec<&Target>| list.into_iter().map(element).collect();
    (encode(everywhere), encode(at))
}

fn element(target: &Target) -> Element {
    let HostPort { protocol, host_ip, host_port, pod_port } = target.port;
    let mut key = host_ip.map(octets).unwrap_or_default();
    key.extend([protocol.number(), 0, 0, 0]);
    key.extend(padded(host_port));
    let mut value = octets(target.pod);
    value.extend(padded(pod_port));
    (key, value)
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn address(family: Family) -> Type {
    match family {
        Family::Ip => Type::Ip,
        Family::Ip6 => Type::Ip6,
    }
}

/// `dnat ip to meta l4proto . th dport map @hostports`
fn by_port(family: Family) -> Vec<Writer> {
    let mut rule = protocol_and_port(0);
    rule.extend([ex::look_up(PORTS), ex::change_destination(family, ex::register(address(family).size()))]);
    rule
}

/// `dnat ip to ip daddr . meta l4proto . th dport map @hostports_at`
fn by_address(family: Family) -> Vec<Writer> {
    let (offset, size) = match family {
        Family::Ip => (16, 4),
        Family::Ip6 => (24, 16),
    };
    let mut rule = vec![ex::load_payload(Base::Network, offset, size, super::REGISTER)];
    rule.extend(protocol_and_port(size));
    rule.extend([ex::look_up(PORTS_AT), ex::change_destination(family, ex::register(size))]);
    rule
}

fn protocol_and_port(from_byte: u32) -> Vec<Writer> {
    const DESTINATION_PORT: u32 = 2;
    vec![
        ex::load_meta(Meta::Protocol, ex::register(from_byte)),
        ex::load_payload(Base::Transport, DESTINATION_PORT, 2, ex::register(from_byte + 4)),
    ]
}

/// `iifname "pintle0" ip daddr 127.0.0.0/8 drop`
fn guard(bridge: &str) -> Vec<Writer> {
    vec![
        ex::load_meta(Meta::InputInterface, super::REGISTER),
        super::compare(Compare::Equal, &super::interface_name(bridge)),
        super::load_network_header(16, 4),
        super::mask(&[255, 0, 0, 0]),
        super::compare(Compare::Equal, &[127, 0, 0, 0]),
        ex::drop_packet(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_reads_back_as_the_port_it_was_made_of() {
        for (host_ip, pod) in
            [(None, "10.88.0.2"), (Some("192.0.2.1"), "10.88.0.3"), (Some("fd00::1"), "fd00:1::2")]
        {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let port = HostPort { protocol: Protocol::Sctp, host_ip, host_port: 8080, pod_port: 80 };
            let target = Target { port, pod: pod.parse().unwrap() };
            assert_eq!(read(&element(&target)), Some(target));
        }
        assert_eq!(read(&(vec![1; 3], vec![0; 8])), None);
        assert_eq!(read(&(vec![6; 8], vec![0; 2])), None);
    }
}
