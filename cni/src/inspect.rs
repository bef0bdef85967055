//! What the kernel and the disk have of a pod network, for whoever compares that with what ought to be there.
//!
//! In: the network's configuration. Out: an [`Inspection`]: leases, interfaces, bridge, table. [`inspect`] reads and changes
//! nothing, makes no directory and starts no thread; it may run beside an open [`Network`](crate::Network). The other three
//! functions take one thing away and look first whether it is this network's. What belongs to a sandbox that lives is the caller's
//! to know.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::cidr::Cidr;
use crate::conf::{self, NetworkConfig};
use crate::error::NetworkError as Error;
use crate::host::Host;
use crate::lease::{self, Lease, LeaseError, LeaseState};
use crate::netlink::NetlinkError;
use crate::netlink::links::Link;
use crate::nft::host_ports::Target;
use crate::nft::masquerade::{Masquerade, Rules};
use crate::pod_link;

/// An address on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLease {
    pub sandbox: String,
    pub ip: IpAddr,
    /// Name of the host end.
    pub interface: String,
    /// The sandbox gave it back; it goes once its interface is gone.
    pub releasing: bool,
    /// When the file was written last.
    pub written: Option<SystemTime>,
}

/// An interface of this network, or one that hangs on its bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLink {
    pub name: String,
    /// The sandbox that its alias names.
    pub sandbox: Option<String>,
    /// Named and made like a pod's host end of this network: it may be deleted.
    pub ours: bool,
    /// Whether it is a port of the bridge.
    pub port: bool,
}

/// The network's nftables table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// There is no such table.
    Absent,
    /// The kernel has no nftables.
    Unsupported,
    /// It has exactly what it should have.
    Sound,
    /// What is in it and does not belong there, or is not there and should be.
    Wrong(Vec<String>),
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub leases: Vec<FoundLease>,
    /// Files among the leases that are none, each with the reason.
    pub void_leases: Vec<(PathBuf, String)>,
    pub links: Vec<FoundLink>,
    /// Whether the bridge exists.
    pub bridge: bool,
    pub table: Table,
    /// Whether the network was opened and not taken down since, so that bridge and table may be there without pods.
    pub opened: bool,
}

/// Looks at the network of the calling thread's network namespace.
pub fn inspect(config: &NetworkConfig) -> Result<Inspection, Error> {
    config.check().map_err(Error::Config)?;
    let boot_id = lease::boot_id().map_err(Error::Lease)?;
    let (leases, void) = lease::read_all(&config.state_dir, &boot_id).map_err(Error::Lease)?;
    let host = Host::open().map_err(|source| Error::ReadHost { source })?;
    let links = host.links().map_err(|source| Error::ReadHost { source })?;
    let bridge = links.iter().find(|link| link.name == config.bridge && link.kind == "bridge");
    let index = bridge.map(|link| link.index);
    let table = look_at_table(config, &leases)?;
    let leases = leases.into_iter().map(|(lease, path)| FoundLease {
        sandbox: lease.sandbox,
        ip: lease.ip,
        interface: lease.interface,
        releasing: lease.state == LeaseState::Releasing,
        written: fs::symlink_metadata(path).and_then(|file| file.modified()).ok(),
    });
    Ok(Inspection {
        leases: leases.collect(),
        void_leases: void.into_iter().map(|(path, reason)| (path, reason.to_owned())).collect(),
        links: links.iter().filter_map(|link| found_link(config, link, index)).collect(),
        bridge: bridge.is_some(),
        table,
        opened: config.state_dir.join("leases").is_dir(),
    })
}

/// Deletes a pod's host end that is this network's; false if there is none, or it is somebody else's.
pub fn delete_link(config: &NetworkConfig, name: &str) -> Result<bool, Error> {
    let host = Host::open().map_err(|source| Error::ReadHost { source })?;
    let found = host.links_named(&[name, &config.bridge]).map_err(|source| Error::ReadHost { source })?;
    let index = found.iter().find(|link| link.name == config.bridge).map(|link| link.index);
    let link = found.iter().find(|link| link.name == name);
    if !link.is_some_and(|link| is_host_end(config, link, index)) {
        return Ok(false);
    }
    let deleted = pod_link::delete(&host, &[name], conf::condemned_group(&config.bridge));
    let reap = |error| Error::Reap(crate::reaper::ReapError::Delete(Box::new(error)));
    deleted.map(|left| left.is_empty()).map_err(reap)
}

/// Deletes a lease's file if it still is the sandbox's. Only while no [`Network`](crate::Network) of this state is open: an
/// open one has the leases in memory.
pub fn drop_lease(config: &NetworkConfig, sandbox: &str, ip: IpAddr) -> Result<bool, Error> {
    let boot_id = lease::boot_id().map_err(Error::Lease)?;
    let (leases, _) = lease::read_all(&config.state_dir, &boot_id).map_err(Error::Lease)?;
    let of_sandbox = leases.into_iter().find(|(lease, _)| lease.sandbox == sandbox && lease.ip == ip);
    let Some((_, path)) = of_sandbox else { return Ok(false) };
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::Lease(LeaseError::Delete { path, source: e }))
        }
        Ok(()) | Err(_) => Ok(true),
    }
}

/// Replaces the table by what belongs there while the bridge exists, and removes it if the bridge does not. False: the pod
/// range is not known here, so nothing was done.
pub fn replace_table(config: &NetworkConfig) -> Result<bool, Error> {
    let host = Host::open().map_err(|source| Error::ReadHost { source })?;
    let bridge = host.link(&config.bridge).map_err(|source| Error::ReadHost { source })?;
    let (table, range_known) = masquerade(config)?;
    let boot_id = lease::boot_id().map_err(Error::Lease)?;
    let (leases, _) = lease::read_all(&config.state_dir, &boot_id).map_err(Error::Lease)?;
    let targets: Vec<Target> = leases.iter().flat_map(|(lease, _)| lease.targets()).collect();
    let done = match (bridge.is_some(), range_known) {
        (true, true) => table.lock().apply(&targets),
        (true, false) => return Ok(false),
        (false, _) => table.remove(),
    };
    done.map(|()| true).map_err(|source| Error::Masquerade { source })
}

fn found_link(config: &NetworkConfig, link: &Link, bridge: Option<u32>) -> Option<FoundLink> {
    let sandbox = conf::sandbox_of_alias(&config.bridge, &link.alias).map(str::to_owned);
    let port = bridge.is_some_and(|index| link.master == index);
    (sandbox.is_some() || port).then(|| FoundLink {
        name: link.name.clone(),
        ours: is_host_end(config, link, bridge),
        sandbox,
        port,
    })
}

/// By its alias; one that a crash left without is a port of our bridge with a name of ours.
fn is_host_end(config: &NetworkConfig, link: &Link, bridge: Option<u32>) -> bool {
    let unmarked_port = link.alias.is_empty() && bridge.is_some_and(|index| link.master == index);
    conf::is_host_interface(&link.name)
        && link.kind == "veth"
        && (conf::sandbox_of_alias(&config.bridge, &link.alias).is_some() || unmarked_port)
}

fn look_at_table(config: &NetworkConfig, leases: &[(Lease, PathBuf)]) -> Result<Table, Error> {
    let (masquerade, _) = masquerade(config)?;
    match masquerade.is_present() {
        Ok(false) => return Ok(Table::Absent),
        Err(error) if is_unsupported(&error) => return Ok(Table::Unsupported),
        present => present.map_err(|source| Error::Masquerade { source })?,
    };
    let failed = |source| Error::Masquerade { source };
    let mut wrong = judge(&masquerade.chains().map_err(failed)?, &masquerade.expected_chains());
    wrong.extend(judge_ports(&masquerade.host_ports().map_err(failed)?, leases));
    Ok(if wrong.is_empty() { Table::Sound } else { Table::Wrong(wrong) })
}

/// A kernel without nftables knows no such message, or not even the socket.
fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::Open { .. })
        || matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

/// What is there and does not belong there, or is not there and should be.
fn judge(chains: &BTreeMap<String, usize>, expected: &BTreeMap<String, usize>) -> Vec<String> {
    let surplus = chains.keys().filter(|name| !expected.contains_key(*name));
    let mut wrong: Vec<String> = surplus.map(|name| format!("chain {name}")).collect();
    for (name, wanted) in expected {
        match chains.get(name) {
            Some(rules) if rules == wanted => {}
            Some(rules) => wrong.push(format!("{rules} rules instead of {wanted} in chain {name}")),
            None => wrong.push(format!("no chain {name}")),
        }
    }
    wrong
}

/// Host ports that lead to nobody who has them, and such that lead nowhere; not those that are just being made.
fn judge_ports(found: &[Target], leases: &[(Lease, PathBuf)]) -> Vec<String> {
    let due: Vec<(Target, &PathBuf)> =
        leases.iter().flat_map(|(lease, path)| lease.targets().map(move |target| (target, path))).collect();
    let surplus = found.iter().filter(|target| due.iter().all(|(other, _)| other != *target));
    let mut wrong: Vec<String> = surplus
        .map(|Target { port, pod }| format!("host port {port} to {pod}, which has no such port"))
        .collect();
    let is_old = |path: &PathBuf| {
        let written = fs::symlink_metadata(path).and_then(|file| file.modified()).ok();
        written.and_then(|at| at.elapsed().ok()).is_none_or(|age| age > BEING_MADE)
    };
    let missing = due.iter().filter(|(target, path)| !found.contains(target) && is_old(path));
    wrong.extend(missing.map(|(Target { port, pod }, _)| format!("no host port {port} to {pod}")));
    wrong
}

/// How long after its lease a pod's host ports may be missing.
const BEING_MADE: Duration = Duration::from_secs(30);

/// The table's keeper, and whether it knows the pod range. Without one it can only be asked for and removed; the leases
/// tell its family then.
fn masquerade(config: &NetworkConfig) -> Result<(Masquerade, bool), Error> {
    let kept = lease::read_range(&config.state_dir).map_err(Error::Lease)?;
    let known = config.pod_cidr.or(kept);
    let boot_id = lease::boot_id().map_err(Error::Lease)?;
    let like = match known {
        Some(_) => None,
        None => lease::read_all(&config.state_dir, &boot_id).map_err(Error::Lease)?.0.pop(),
    };
    let like = like.map_or(IpAddr::from([0; 4]), |(lease, _)| lease.ip);
    let cidr = known.unwrap_or_else(|| Cidr::around(like, 0));
    let rules = Rules { table: config.nft_table.clone(), bridge: config.bridge.clone(), cidr };
    Ok((Masquerade::open(rules), known.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_chains_and_rules_it_was_made_with_and_nothing_else() {
        let chains = |list: &[(&str, usize)]| -> BTreeMap<String, usize> {
            list.iter().map(|(name, rules)| ((*name).to_owned(), *rules)).collect()
        };
        let of = |list: &[(&str, usize)]| judge(&chains(list), &chains(&[("postrouting", 3)]));
        assert!(of(&[("postrouting", 3)]).is_empty());
        assert_eq!(of(&[("postrouting", 3), ("x", 0)]), ["chain x"]);
        assert_eq!(of(&[("postrouting", 2)]), ["2 rules instead of 3 in chain postrouting"]);
        assert_eq!(of(&[]), ["no chain postrouting"]);
    }
}
