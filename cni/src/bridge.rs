//! The bridge all pods of the node hang on, and forwarding between it and the host's other interfaces.
//!
//! In: name, gateway address. Out: a bridge that is up, has a fixed MAC and exactly that gateway. A bridge that already
//! is as it should be is left alone; an interface of that name which is no bridge is never touched.

use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::cidr::Cidr;
use crate::conf;
use crate::host::Host;
use crate::netlink::links::{self, Link};
use crate::netlink::{Batch, NetlinkError};

/// What can go wrong with the bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("bridge {bridge}")]
    Netlink {
        bridge: String,
        #[source]
        source: NetlinkError,
    },
    #[error("interface {bridge} exists and is a {kind:?}, not a bridge: choose another name or delete it")]
    NotABridge { bridge: String, kind: String },
    #[error("bridge {bridge} vanished while it was being set up")]
    Vanished { bridge: String },
    #[error("switch on forwarding: write {path}")]
    Forwarding {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Makes sure the bridge exists, is up and has the gateway's address, and nothing else of that family.
pub(crate) fn ensure(host: &Host, bridge: &str, cidr: Cidr) -> Result<Link, BridgeError> {
    let failed = |source| BridgeError::Netlink { bridge: bridge.to_owned(), source };
    let link = match host.link(bridge).map_err(failed)? {
        Some(link) => link,
        None => create(host, bridge)?,
    };
    if link.kind != "bridge" {
        return Err(BridgeError::NotABridge { bridge: bridge.to_owned(), kind: link.kind });
    }
    ensure_address(host, &link, cidr).map_err(failed)?;
    Ok(link)
}

/// Deletes the bridge; fine if there is none.
pub(crate) fn remove(host: &Host, bridge: &str) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Netlink { bridge: bridge.to_owned(), source };
    let Some(link) = host.link(bridge).map_err(failed)? else { return Ok(()) };
    if link.kind != "bridge" {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.push(format!("delete bridge {bridge}"), links::delete_link(link.index), 0);
    let deleted = host.transact(&batch).and_then(|outcome| outcome.tolerate(&[libc::ENODEV]));
    deleted.map(drop).map_err(failed)
}

fn create(host: &Host, bridge: &str) -> Result<Link, BridgeError> {
    let failed = |source| BridgeError::Netlink { bridge: bridge.to_owned(), source };
    let mut batch = Batch::default();
    let message = links::new_bridge(bridge, conf::bridge_mac(bridge));
    batch.push(format!("create bridge {bridge}"), message, NLM_F_CREATE | NLM_F_EXCL);
    batch.push(format!("look up bridge {bridge}"), links::get_link(bridge), 0);
    let replies =
        host.transact(&batch).and_then(|outcome| outcome.tolerate(&[libc::EEXIST])).map_err(failed)?;
    tracing::info!(bridge, "bridge created");
    let link = replies.iter().find_map(links::read_link);
    link.ok_or_else(|| BridgeError::Vanished { bridge: bridge.to_owned() })
}

fn ensure_address(host: &Host, link: &Link, cidr: Cidr) -> Result<(), NetlinkError> {
    let gateway = conf::gateway(cidr);
    let present =
        host.addresses(gateway)?.into_iter().filter(|a| a.index == link.index && !link_local(a.address));
    let (right, wrong): (Vec<_>, Vec<_>) =
        present.partition(|a| a.address == gateway && a.prefix == cidr.prefix());
    let mut batch = Batch::default();
    for stale in wrong {
        let what = format!("remove address {} from bridge {}", stale.address, link.name);
        batch.push(what, links::delete_address(link.index, stale.address, stale.prefix), 0);
    }
    if right.is_empty() {
        let what = format!("add address {gateway} to bridge {}", link.name);
        batch.push(what, links::add_address(link.index, gateway, cidr.prefix()), NLM_F_CREATE | NLM_F_EXCL);
    }
    if !link.up {
        batch.push(format!("set bridge {} up", link.name), links::set_up(link.index), 0);
    }
    host.transact(&batch)?.tolerate(&[libc::EEXIST, libc::EADDRNOTAVAIL]).map(drop)
}

fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Switches on forwarding in the calling thread's network namespace, if it is off, and says so. With IPv6 this makes
/// the host ignore router advertisements unless its uplink has `accept_ra=2`; that is the operator's to decide.
pub(crate) fn ensure_forwarding(like: IpAddr) -> Result<(), BridgeError> {
    let path = if like.is_ipv4() {
        "/proc/sys/net/ipv4/ip_forward"
    } else {
        "/proc/sys/net/ipv6/conf/all/forwarding"
    };
    let failed = |source| BridgeError::Forwarding { path, source };
    if fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    fs::write(path, "1\n").map_err(failed)?;
    tracing::info!(path, "forwarding switched on: pods could not leave the node without it");
    Ok(())
}
