//! Makes a pod's host ports lead to it, and takes them back.
//!
//! In: a lease with its host ports, or a sandbox. Out: elements of the table's maps, one transaction a pod. They come after the
//! lease is on disk and go before they are taken off it, so that a crash in between leaves what the lease says, or less than
//! that; and who holds the lease of a port is asked before, so that no port ever leads to two.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::conntrack::{self, Stale};
use crate::error::{NetworkError as Error, chain};
use crate::host_port::Protocol;
use crate::lease::Lease;
use crate::netlink::NetlinkError;
use crate::netns;
use crate::network::Network;
use crate::nft::host_ports::Target;

impl Network {
    /// Makes the host ports of a lease lead to its pod.
    pub(crate) fn publish(&self, lease: &Lease) -> Result<(), Error> {
        if lease.ports.is_empty() {
            return Ok(());
        }
        if lease.ip.is_ipv4() {
            self.allow_loopback(&lease.sandbox)?;
        }
        let targets: Vec<Target> = lease.targets().collect();
        let published = {
            let mut table = self.setup.masquerade.lock();
            // Somebody flushed the table, or a crash left other elements: replacing it mends both.
            table.add(&targets).or_else(|_| table.apply(&self.estate.leases().targets()))
        };
        published.map_err(|source| Error::Publish { sandbox: lease.sandbox.clone(), source })?;
        self.forget_connections(&targets, false);
        Ok(())
    }

    /// Takes back the host ports of a sandbox, if it has any.
    pub(crate) fn withdraw(&self, sandbox: &str) -> Result<(), Error> {
        let targets: Vec<Target> =
            self.estate.leases().held_by(sandbox).map(|lease| lease.targets().collect()).unwrap_or_default();
        if targets.is_empty() {
            return Ok(());
        }
        {
            let mut table = self.setup.masquerade.lock();
            let others = || {
                let mut others = self.estate.leases().targets();
                others.retain(|target| !targets.contains(target));
                others
            };
            let deleted = table.delete(&targets).or_else(|error| match error.errno() {
                // Part of it is gone, or all of the table.
                Some(libc::ENOENT) => table.apply(&others()),
                _ => Err(error),
            });
            deleted.map_err(|source| Error::Publish { sandbox: sandbox.to_owned(), source })?;
            self.estate.leases().clear_ports(sandbox).map_err(Error::Lease)?;
        }
        self.forget_connections(&targets, true);
        Ok(())
    }

    /// UDP clients that have sent something before go on as before: their entries are deleted. That this fails keeps no pod
    /// from starting or ending.
    fn forget_connections(&self, targets: &[Target], lead_to_pod: bool) {
        let udp: Vec<&Target> = targets.iter().filter(|t| t.port.protocol == Protocol::Udp).collect();
        if udp.is_empty() {
            return;
        }
        let forgotten = self.local_addresses().and_then(|local| {
            let family = self.setup.masquerade.family();
            let mut table = self.setup.masquerade.lock();
            let Some(socket) = table.socket() else { return Ok(0) };
            let mut count = 0;
            for Target { port, pod } in udp {
                let stale = Stale { port: *port, pod: *pod, leads_to_pod: lead_to_pod, local: &local };
                count += conntrack::forget(socket, family, &stale)?;
            }
            Ok(count)
        });
        match forgotten {
            Ok(count) => tracing::debug!(count, "connections to host ports forgotten"),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "old UDP connections to host ports cannot be forgotten: their clients are served when they pause"
            ),
        }
    }

    fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let addresses = self.estate.host.addresses(self.cidr.network())?;
        Ok(addresses.into_iter().map(|found| found.address).collect())
    }

    /// Lets what the node sends from 127.0.0.1 leave by the bridge. The table's guard keeps pods from making use of it.
    fn allow_loopback(&self, sandbox: &str) -> Result<(), Error> {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.bridge);
        let set = || match fs::read_to_string(&path) {
            Ok(present) if present.trim() == "1" => Ok(()),
            Ok(_) => fs::write(&path, "1\n"),
            Err(error) => Err(error),
        };
        let done = netns::run_in(self.setup.netns.as_fd(), set).map_err(Error::Netns)?;
        done.map_err(|source| Error::RouteLocalnet {
            sandbox: sandbox.to_owned(),
            path: path.clone(),
            source,
        })
    }
}
