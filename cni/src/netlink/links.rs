//! The interface, address and route requests the pod network needs, and what is read from the kernel's replies.
//!
//! In: names, numbers, addresses. Out: typed requests; [`Link`], [`HostRoute`], [`HostAddress`]. It sends nothing.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Reply;
use super::attributes::{find, text, u32 as number};
use crate::cidr::Cidr;
use crate::pod_network::Mac;

/// Index of the loopback interface in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

/// A pod's interface pair as it shall be made.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    pub(crate) host: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) pod: &'a str,
    pub(crate) pod_mac: Mac,
    pub(crate) netns: BorrowedFd<'a>,
}

/// Makes the pair: host end up and in the bridge, pod end straight in the pod's namespace (down: the kernel refuses
/// a peer that is up before it is whole).
pub(crate) fn new_veth(pair: &VethPair<'_>) -> RouteNetlinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(pair.pod.to_owned()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::Address(pair.pod_mac.0.to_vec()),
        LinkAttribute::NetNsFd(pair.netns.as_raw_fd()),
    ];
    let mut link = up_message();
    link.attributes = vec![
        LinkAttribute::IfName(pair.host.to_owned()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::Controller(pair.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// Gives a port of the bridge its alias and lets frames go back where they came from (a pod that reaches itself
/// through a service).
pub(crate) fn set_port(name: &str, alias: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::IfAlias(alias.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

pub(crate) fn new_bridge(name: &str, mac: Mac) -> RouteNetlinkMessage {
    let mut link = up_message();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

pub(crate) fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut link = up_message();
    link.header.index = index;
    RouteNetlinkMessage::SetLink(link)
}

pub(crate) fn set_group(index: u32, group: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Group(group)];
    RouteNetlinkMessage::SetLink(link)
}

pub(crate) fn get_link(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::GetLink(link)
}

pub(crate) fn get_link_by_index(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    RouteNetlinkMessage::GetLink(link)
}

/// For a dump.
pub(crate) fn get_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

pub(crate) fn delete_link(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    RouteNetlinkMessage::DelLink(link)
}

/// Deletes every interface of the group; the kernel waits for RCU once, not once for each.
pub(crate) fn delete_group(group: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::Group(group)];
    RouteNetlinkMessage::DelLink(link)
}

pub(crate) fn add_address(index: u32, address: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    let mut message = address_message(index, address, prefix);
    message.header.scope = AddressScope::Universe;
    if let IpAddr::V4(v4) = address {
        let host_bits = 32u32.saturating_sub(prefix.into());
        let ones = u32::MAX.checked_shr(prefix.into()).filter(|_| host_bits > 0).unwrap_or(0);
        message.attributes.push(AddressAttribute::Broadcast((v4.to_bits() | ones).into()));
    } else {
        // Nobody else has the address; duplicate detection would cost the pod two seconds.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    RouteNetlinkMessage::NewAddress(message)
}

pub(crate) fn delete_address(index: u32, address: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address_message(index, address, prefix))
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// For a dump of one address family.
pub(crate) fn get_addresses(like: IpAddr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(like);
    RouteNetlinkMessage::GetAddress(message)
}

pub(crate) fn add_default_route(index: u32, gateway: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let gateway = match gateway {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    RouteNetlinkMessage::NewRoute(message)
}

/// For a dump of one address family.
pub(crate) fn get_routes(like: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(like);
    RouteNetlinkMessage::GetRoute(message)
}

fn up_message() -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// What this crate looks at in an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    /// Index of the bridge it is a port of; 0 if none.
    pub(crate) master: u32,
    pub(crate) up: bool,
    /// Up at both ends.
    pub(crate) carrier: bool,
    /// A bridge port that sends frames back where they came from.
    pub(crate) hairpin: bool,
}

/// The interface in a reply; `None` for anything else.
pub(crate) fn read_link(reply: &Reply) -> Option<Link> {
    const IFNAME: u16 = 3;
    const MTU: u16 = 4;
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const IFALIAS: u16 = 20;
    const INFO_KIND: u16 = 1;
    const INFO_PORT_DATA: u16 = 5;
    const BRPORT_MODE: u16 = 4;
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let flags = LinkFlags::from_bits_retain(number(reply.payload.get(8..12)?)?);
    let list = reply.payload.get(16..)?;
    let info = find(list, LINKINFO).unwrap_or_default();
    let port = find(info, INFO_PORT_DATA).unwrap_or_default();
    Some(Link {
        index: number(reply.payload.get(4..8)?)?,
        name: text(find(list, IFNAME)?),
        alias: find(list, IFALIAS).map(text).unwrap_or_default(),
        kind: find(info, INFO_KIND).map(text).unwrap_or_default(),
        mtu: find(list, MTU).and_then(number).unwrap_or(0),
        master: find(list, MASTER).and_then(number).unwrap_or(0),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        hairpin: find(port, BRPORT_MODE).is_some_and(|mode| mode == [1]),
    })
}

/// A route of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostRoute {
    pub(crate) to: Cidr,
    /// Index of the interface it leads to; 0 if none.
    pub(crate) out: u32,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) metric: u32,
}

/// The route in a reply; `None` for anything else. `like` says which address family was asked for.
pub(crate) fn read_route(reply: &Reply, like: IpAddr) -> Option<HostRoute> {
    const DST: u16 = 1;
    const OIF: u16 = 4;
    const GATEWAY: u16 = 5;
    const PRIORITY: u16 = 6;
    if reply.kind != RTM_NEWROUTE {
        return None;
    }
    let prefix = *reply.payload.get(1)?;
    let list = reply.payload.get(12..)?;
    let any = if like.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let to = find(list, DST).map_or(Some(any), read_address)?;
    Some(HostRoute {
        to: Cidr::around(to, prefix),
        out: find(list, OIF).and_then(number).unwrap_or(0),
        gateway: find(list, GATEWAY).and_then(read_address),
        metric: find(list, PRIORITY).and_then(number).unwrap_or(0),
    })
}

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) index: u32,
}

/// The address in a reply; `None` for anything else.
pub(crate) fn read_host_address(reply: &Reply) -> Option<HostAddress> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let list = reply.payload.get(8..)?;
    let address = find(list, LOCAL).or_else(|| find(list, ADDRESS)).and_then(read_address)?;
    Some(HostAddress { address, prefix: *reply.payload.get(1)?, index: number(reply.payload.get(4..8)?)? })
}

fn read_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
