//! Makes leases, interfaces and live sandboxes agree again, and takes the whole network down.
//!
//! In: the sandboxes that live. Out: what was freed, deleted and found broken. It never touches an interface that does
//! not carry this bridge's mark.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::bridge;
use crate::conf;
use crate::error::NetworkError as Error;
use crate::lease::Lease;
use crate::netlink::links::Link;
use crate::network::Network;
use crate::pod_link;
use crate::pod_network::{Reconciled, Released};

impl Network {
    /// Frees the leases and deletes the interfaces of every sandbox that is not in `live`, finds live sandboxes whose
    /// connection is broken, and puts the masquerade back if it is missing.
    ///
    /// `live` must name the sandboxes that are being made, too; those that a call is working on right now are left
    /// alone in any case. The interfaces are gone when this returns.
    pub fn reconcile(&self, live: &[String]) -> Result<Reconciled, Error> {
        let live: BTreeSet<&str> = live.iter().map(String::as_str).collect();
        let busy = self.busy().clone();
        let links = self.estate.host.links().map_err(|source| Error::ReadHost { source })?;
        let bridge = links.iter().find(|l| l.name == self.bridge && l.kind == "bridge").map(|l| l.index);
        let mut report = Reconciled::default();
        let mut doomed = self.release_dead(&live, &busy, &mut report)?;
        for link in self.strays(&links, bridge, &busy) {
            if let Some(sandbox) = conf::sandbox_of_alias(&self.bridge, &link.alias)
                && live.contains(sandbox)
            {
                report.broken.push(sandbox.to_owned());
            }
            doomed.entry(link.name.clone()).or_insert(None);
        }
        report.deleted_interfaces =
            links.iter().map(|l| l.name.clone()).filter(|name| doomed.contains_key(name)).collect();
        report
            .broken
            .extend(self.broken(&links, bridge).into_iter().filter(|sandbox| !busy.contains(sandbox)));
        for (interface, ip) in &doomed {
            // What cannot be deleted now is not forgotten: the reaper goes on trying.
            self.estate.condemn(interface, *ip);
        }
        self.estate.execute(&doomed).map_err(Error::Reap)?;
        if bridge.is_some() {
            self.setup.ensure(&self.estate)?;
            report.masquerade_restored =
                self.setup.restore_masquerade(&self.estate).unwrap_or_else(|error| {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the masquerade cannot be put back"
                    );
                    false
                });
        }
        Ok(report)
    }

    /// Takes everything off the host: interfaces, bridge, nftables table, lease files. Forwarding stays on, since
    /// others may have come to rely on it. Goes on after a failure and tells them all.
    pub fn remove_all(&self) -> Result<(), Error> {
        let mut failures = Vec::new();
        failures.extend(self.delete_all_interfaces().err());
        failures.extend(bridge::remove(&self.estate.host, &self.bridge).map_err(Error::Bridge).err());
        let removed = self.setup.masquerade.remove();
        failures.extend(removed.map_err(|source| Error::Masquerade { source }).err());
        if failures.is_empty() {
            failures.extend(self.estate.leases().remove_all().map_err(Error::Lease).err());
            self.estate.clear();
        }
        self.setup.forget();
        if failures.is_empty() { Ok(()) } else { Err(Error::RemoveAll { failures }) }
    }

    fn delete_all_interfaces(&self) -> Result<(), Error> {
        let links = self.estate.host.links().map_err(|source| Error::ReadHost { source })?;
        let bridge = links.iter().find(|l| l.name == self.bridge).map(|l| l.index);
        let ours =
            links.iter().filter(|link| self.is_ours(link, bridge)).map(|link| (link.name.clone(), None));
        self.estate.execute(&ours.collect()).map(drop).map_err(Error::Reap)
    }

    /// Takes the addresses from dead sandboxes; their interfaces, and the addresses that wait for them.
    fn release_dead(
        &self,
        live: &BTreeSet<&str>,
        busy: &BTreeSet<String>,
        report: &mut Reconciled,
    ) -> Result<BTreeMap<String, Option<IpAddr>>, Error> {
        let mut doomed = BTreeMap::new();
        let mut leases = self.estate.leases();
        let sandboxes: BTreeSet<String> = leases.all().map(|l| l.sandbox.clone()).collect();
        let mut ports_were_held = false;
        for sandbox in sandboxes.iter().filter(|s| !live.contains(s.as_str()) && !busy.contains(*s)) {
            ports_were_held |= leases.held_by(sandbox).is_some_and(|lease| !lease.ports.is_empty());
            let Some(lease) = leases.begin_release(sandbox).map_err(Error::Lease)? else { continue };
            doomed.insert(lease.interface, Some(lease.ip));
            report.released.push(Released { sandbox: lease.sandbox, ip: lease.ip });
        }
        drop(leases);
        if ports_were_held {
            // With the host ports of the others only.
            self.setup.rebuild(&self.estate).map_err(|source| Error::Masquerade { source })?;
        }
        Ok(doomed)
    }

    /// Our interfaces that no lease knows.
    fn strays<'a>(&self, links: &'a [Link], bridge: Option<u32>, busy: &BTreeSet<String>) -> Vec<&'a Link> {
        let known: BTreeSet<String> = self.estate.leases().all().map(|l| l.interface.clone()).collect();
        let in_work: BTreeSet<String> = busy.iter().map(|s| conf::host_interface(&self.bridge, s)).collect();
        let unknown = |name: &String| !known.contains(name) && !in_work.contains(name);
        links.iter().filter(|link| self.is_ours(link, bridge) && unknown(&link.name)).collect()
    }

    /// An interface of this network says so in its alias; one that a crash left without alias is a port of our bridge
    /// with a name of ours.
    fn is_ours(&self, link: &Link, bridge: Option<u32>) -> bool {
        let unmarked_port = link.alias.is_empty() && bridge.is_some_and(|index| link.master == index);
        conf::is_host_interface(&link.name)
            && link.kind == "veth"
            && (conf::sandbox_of_alias(&self.bridge, &link.alias).is_some() || unmarked_port)
    }

    /// Sandboxes that hold an address but have no working interface for it.
    fn broken(&self, links: &[Link], bridge: Option<u32>) -> Vec<String> {
        let works = |lease: &Lease| {
            let link = links.iter().find(|l| l.name == lease.interface);
            self.cidr.contains(lease.ip) && pod_link::problem(link, bridge).is_none()
        };
        let leases = self.estate.leases();
        let held = leases.all().filter(|l| leases.held_by(&l.sandbox).is_some_and(|held| held.ip == l.ip));
        held.filter(|lease| !works(lease)).map(|lease| lease.sandbox.clone()).collect()
    }
}
