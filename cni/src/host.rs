//! Reads the host's interfaces, addresses and routes through one shared socket.
//!
//! In: names. Out: [`Link`]s, and what ranges the host uses. It changes nothing.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::NLM_F_DUMP;

use crate::cidr::Cidr;
use crate::netlink::links::{self, HostAddress, Link};
use crate::netlink::{Batch, LOOKUPS_MOST, NetlinkError, Outcome, Reply, Socket};

/// How often a dump is read again because it changed meanwhile; the last one counts as it is.
const DUMP_TRIES: u32 = 5;
/// No machine with a path MTU below it forwards Ethernet; no default route means a lone machine.
const DEFAULT_MTU: u32 = 1500;

/// The host's side of the network.
#[derive(Debug)]
pub(crate) struct Host {
    socket: Mutex<Socket>,
}

/// A range in use on the host, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) cidr: Cidr,
    pub(crate) by: String,
    /// It leads to a gateway, not to a network this host is part of.
    pub(crate) by_gateway: bool,
}

impl Host {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Mutex::new(Socket::route()?) })
    }

    pub(crate) fn transact(&self, batch: &Batch) -> Result<Outcome, NetlinkError> {
        self.socket().transact(batch)
    }

    /// The interface of this name, if there is one.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self.links_named(&[name])?.pop())
    }

    /// Those of the named interfaces that exist.
    pub(crate) fn links_named(&self, names: &[&str]) -> Result<Vec<Link>, NetlinkError> {
        let mut found = Vec::new();
        for chunk in names.chunks(LOOKUPS_MOST) {
            let mut batch = Batch::default();
            for name in chunk {
                batch.push(format!("look up interface {name}"), links::get_link(name), 0);
            }
            let replies = self.transact(&batch)?.tolerate(&[libc::ENODEV])?;
            found.extend(replies.iter().filter_map(links::read_link));
        }
        Ok(found)
    }

    /// All interfaces.
    pub(crate) fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let replies = self.dump("list interfaces", &links::get_links)?;
        Ok(replies.iter().filter_map(links::read_link).collect())
    }

    /// All addresses of this one's family.
    pub(crate) fn addresses(&self, like: IpAddr) -> Result<Vec<HostAddress>, NetlinkError> {
        let replies = self.dump("list addresses", &|| links::get_addresses(like))?;
        Ok(replies.iter().filter_map(links::read_host_address).collect())
    }

    /// The ranges that routes and addresses use, but for those of the interface `except`. Default routes, and the two
    /// halves of everything with which VPNs replace one, are not a use of a range.
    pub(crate) fn taken(&self, like: IpAddr, except: Option<u32>) -> Result<Vec<Taken>, NetlinkError> {
        let routes = self.dump("list routes", &|| links::get_routes(like))?;
        let routes = routes.iter().filter_map(|reply| links::read_route(reply, like));
        let mut taken: Vec<Taken> = routes
            .filter(|route| route.to.prefix() > 1 && (route.out == 0 || Some(route.out) != except))
            .map(|route| Taken {
                cidr: route.to,
                by: format!("a route by interface {}", route.out),
                by_gateway: route.gateway.is_some(),
            })
            .collect();
        let addresses = self.addresses(like)?.into_iter().filter(|a| Some(a.index) != except);
        taken.extend(addresses.map(|a| Taken {
            cidr: Cidr::around(a.address, a.prefix),
            by: format!("address {} of interface {}", a.address, a.index),
            by_gateway: false,
        }));
        Ok(taken)
    }

    /// The largest packet of the interface with the default route.
    pub(crate) fn uplink_mtu(&self, like: IpAddr) -> Result<u32, NetlinkError> {
        let routes = self.dump("list routes", &|| links::get_routes(like))?;
        let routes = routes.iter().filter_map(|reply| links::read_route(reply, like));
        let best = routes.filter(|r| r.to.prefix() == 0 && r.out > 1).min_by_key(|r| r.metric);
        let Some(best) = best else { return Ok(DEFAULT_MTU) };
        let mut batch = Batch::default();
        batch.push("look up the uplink", links::get_link_by_index(best.out), 0);
        let replies = self.transact(&batch)?.tolerate(&[libc::ENODEV])?;
        let link = replies.iter().find_map(links::read_link);
        Ok(link.map_or(DEFAULT_MTU, |link| link.mtu.clamp(1280, 65535)))
    }

    /// Whether the default route leads to this gateway by this interface.
    pub(crate) fn default_route_by(&self, gateway: IpAddr, interface: u32) -> Result<bool, NetlinkError> {
        let routes = self.dump("list routes", &|| links::get_routes(gateway))?;
        let mut routes = routes.iter().filter_map(|reply| links::read_route(reply, gateway));
        Ok(routes.any(|r| r.to.prefix() == 0 && r.out == interface && r.gateway == Some(gateway)))
    }

    fn dump(
        &self,
        what: &str,
        request: &dyn Fn() -> netlink_packet_route::RouteNetlinkMessage,
    ) -> Result<Vec<Reply>, NetlinkError> {
        let mut batch = Batch::default();
        batch.push(what, request(), NLM_F_DUMP);
        let mut outcome = self.transact(&batch)?;
        for _ in 1..DUMP_TRIES {
            if !outcome.interrupted {
                break;
            }
            outcome = self.transact(&batch)?;
        }
        outcome.tolerate(&[])
    }

    /// A thread that panicked between two batches left the socket in order.
    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
