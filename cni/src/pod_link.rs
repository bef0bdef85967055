//! A pod's connection: a veth pair from the bridge into the pod's namespace, and what is set inside.
//!
//! In: the pair's description, address, gateway. Out: a pod that has lo and eth0 up with an address and a default route.
//! Two batches on the host's and the pod's socket each. A failure may leave the pair behind; the caller deletes it.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::conf::POD_INTERFACE;
use crate::host::Host;
use crate::netlink::links::{self, Link, VethPair};
use crate::netlink::{BATCH_MOST, Batch, NetlinkError, Socket};
use crate::netns::{self, NetnsError};

/// What can go wrong with a pod's connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("interface {interface} of pod address {ip}")]
    Host {
        interface: String,
        ip: IpAddr,
        #[source]
        source: NetlinkError,
    },
    #[error("network namespace of pod address {ip}")]
    Inside {
        ip: IpAddr,
        #[source]
        source: NetlinkError,
    },
    #[error("network namespace of pod address {ip}")]
    Enter {
        ip: IpAddr,
        #[source]
        source: NetnsError,
    },
    #[error("no {POD_INTERFACE} in the network namespace of pod address {ip}")]
    NoPodInterface { ip: IpAddr },
    #[error("delete {count} interfaces, {first} first")]
    Delete {
        count: usize,
        first: String,
        #[source]
        source: NetlinkError,
    },
}

/// The address a pod's interface gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodAddress {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) gateway: IpAddr,
}

/// Makes the pair and puts the host end into the bridge.
pub(crate) fn create(host: &Host, pair: &VethPair<'_>, alias: &str, ip: IpAddr) -> Result<(), LinkError> {
    let mut batch = Batch::default();
    let what = format!("create interface {} into the pod", pair.host);
    batch.push(what, links::new_veth(pair), NLM_F_CREATE | NLM_F_EXCL);
    batch.push(format!("set up bridge port {}", pair.host), links::set_port(pair.host, alias), 0);
    let made = host.transact(&batch).and_then(|outcome| outcome.tolerate(&[]));
    made.map(drop).map_err(|source| LinkError::Host { interface: pair.host.to_owned(), ip, source })
}

/// Sets up loopback, address and default route inside the pod's namespace.
pub(crate) fn configure_inside(netns: BorrowedFd<'_>, pod: PodAddress) -> Result<(), LinkError> {
    let ip = pod.ip;
    let inside = netns::run_in(netns, move || inside(pod));
    inside.map_err(|source| LinkError::Enter { ip, source })?
}

fn inside(pod: PodAddress) -> Result<(), LinkError> {
    let ip = pod.ip;
    let failed = |source| LinkError::Inside { ip, source };
    let mut socket = Socket::route().map_err(failed)?;
    let mut first = Batch::default();
    first.push("set lo up", links::set_up(links::LOOPBACK), 0);
    first.push(format!("look up {POD_INTERFACE}"), links::get_link(POD_INTERFACE), 0);
    let replies = socket.transact(&first).and_then(|o| o.tolerate(&[])).map_err(failed)?;
    let link = replies.iter().find_map(links::read_link).ok_or(LinkError::NoPodInterface { ip })?;
    let mut second = Batch::default();
    let what = format!("add address {ip} to {POD_INTERFACE}");
    second.push(what, links::add_address(link.index, ip, pod.prefix), NLM_F_CREATE | NLM_F_EXCL);
    second.push(format!("set {POD_INTERFACE} up"), links::set_up(link.index), 0);
    let what = format!("add default route by {}", pod.gateway);
    second.push(what, links::add_default_route(link.index, pod.gateway), NLM_F_CREATE | NLM_F_EXCL);
    socket.transact(&second).and_then(|o| o.tolerate(&[])).map(drop).map_err(failed)
}

/// Whether the namespace already has everything [`configure_inside`] makes.
pub(crate) fn is_configured_inside(netns: BorrowedFd<'_>, pod: PodAddress) -> Result<bool, LinkError> {
    let ip = pod.ip;
    let looked = netns::run_in(netns, move || looks_configured(pod));
    looked
        .map_err(|source| LinkError::Enter { ip, source })?
        .map_err(|source| LinkError::Inside { ip, source })
}

fn looks_configured(pod: PodAddress) -> Result<bool, NetlinkError> {
    let namespace = Host::open()?;
    let Some(link) = namespace.link(POD_INTERFACE)? else { return Ok(false) };
    let has_address =
        namespace.addresses(pod.ip)?.iter().any(|a| a.index == link.index && a.address == pod.ip);
    Ok(link.up && has_address && namespace.default_route_by(pod.gateway, link.index)?)
}

/// What is wrong with a host end, if anything.
pub(crate) fn problem(link: Option<&Link>, bridge: Option<u32>) -> Option<&'static str> {
    match link {
        None => Some("does not exist"),
        Some(link) if bridge.is_none_or(|index| link.master != index) => Some("is not a port of the bridge"),
        Some(link) if !link.up => Some("is down"),
        Some(link) if !link.carrier => Some("has no carrier: the pod's end is down or gone"),
        Some(_) => None,
    }
}

/// Deletes the interfaces and returns those that still exist. The kernel waits for RCU once for all of them.
pub(crate) fn delete<'a>(host: &Host, names: &[&'a str], group: u32) -> Result<Vec<&'a str>, LinkError> {
    let first = names.first().copied().unwrap_or_default();
    let failed = |source| LinkError::Delete { count: names.len(), first: first.to_owned(), source };
    let present = host.links_named(names).map_err(failed)?;
    match present.as_slice() {
        [] => return Ok(Vec::new()),
        [link] => delete_one(host, link),
        many => delete_many(host, many, group),
    }
    .map_err(failed)?;
    let left = host.links_named(names).map_err(failed)?;
    Ok(names.iter().copied().filter(|name| left.iter().any(|l| l.name == *name)).collect())
}

fn delete_one(host: &Host, link: &Link) -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    batch.push(format!("delete interface {}", link.name), links::delete_link(link.index), 0);
    host.transact(&batch)?.tolerate(&[libc::ENODEV]).map(drop)
}

fn delete_many(host: &Host, present: &[Link], group: u32) -> Result<(), NetlinkError> {
    for chunk in present.chunks(BATCH_MOST) {
        let mut batch = Batch::default();
        for link in chunk {
            batch.push(
                format!("mark interface {} for deletion", link.name),
                links::set_group(link.index, group),
                0,
            );
        }
        // One that vanished meanwhile went with its namespace.
        host.transact(&batch)?.tolerate(&[libc::ENODEV])?;
    }
    let mut batch = Batch::default();
    batch.push(format!("delete {} interfaces", present.len()), links::delete_group(group), 0);
    host.transact(&batch)?.tolerate(&[libc::ENODEV]).map(drop)
}
