//! The pod network of a node: leases, bridge, pod links and masquerade put together.
//!
//! In: sandboxes to connect and disconnect. Out: their addresses. The order that makes a crash harmless:
//! lease written, interface made, namespace set up; and back: lease marked, interface gone, lease deleted.
//! Calls for one sandbox wait for each other; those for different ones share the kernel's locks only.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cidr::Cidr;
use crate::conf::{self, NetworkConfig, POD_INTERFACE};
use crate::error::NetworkError as Error;
use crate::host::Host;
use crate::host_port::{self, HostPort, MAX_ALL_HOST_PORTS};
use crate::ipam;
use crate::lease::{self, Lease, LeaseState, LeaseStore};
use crate::netlink::links::VethPair;
use crate::netns::{self, NetnsId};
use crate::nft::masquerade::{Masquerade, Rules};
use crate::pod_link::{self, LinkError, PodAddress};
use crate::pod_network::{Attach, Attachment, Netns, PodNetwork, Status};
use crate::range;
use crate::reaper::{Estate, Listener, Reaper};
use crate::setup::{Ready, Setup, State};

/// How long an attach waits for addresses that are being released.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// The pod network of one node.
#[derive(Debug)]
pub struct Network {
    pub(crate) bridge: String,
    pub(crate) cidr: Cidr,
    pub(crate) estate: Arc<Estate>,
    pub(crate) setup: Setup,
    host_netns: NetnsId,
    busy: Mutex<BTreeSet<String>>,
    idle: Condvar,
    /// Last: it ends when the network does.
    _reaper: Reaper,
}

impl Network {
    /// Opens the network in the calling thread's network namespace, voids the leases of earlier boots and finishes
    /// what an earlier process was releasing. Makes no interface: that is for the first attach.
    pub fn open(config: NetworkConfig) -> Result<Self, Error> {
        config.check().map_err(Error::Config)?;
        let host = Host::open().map_err(|source| Error::ReadHost { source })?;
        let cidr = range::settle(&config, &host)?;
        let boot_id = lease::boot_id().map_err(Error::Lease)?;
        let leases = LeaseStore::open(&config.state_dir, &boot_id).map_err(Error::Lease)?;
        let estate = Arc::new(Estate::new(host, leases, conf::condemned_group(&config.bridge)));
        resume_releases(&estate);
        let rules = Rules { table: config.nft_table, bridge: config.bridge.clone(), cidr };
        let setup = Setup {
            bridge: config.bridge.clone(),
            cidr,
            mtu: config.mtu,
            netns: netns::open_current().map_err(Error::Netns)?,
            masquerade: Masquerade::open(rules),
            state: Mutex::new(State::default()),
        };
        let host_netns = netns::identify(setup.netns.as_fd()).map_err(Error::Netns)?;
        let reaper = Reaper::spawn(Arc::clone(&estate)).map_err(Error::Thread)?;
        let (bridge, busy, idle) = (config.bridge, Mutex::default(), Condvar::new());
        Ok(Self { bridge, cidr, estate, setup, host_netns, busy, idle, _reaper: reaper })
    }

    /// The node's pod range.
    pub fn pod_cidr(&self) -> Cidr {
        self.cidr
    }

    /// Calls `told`, which must not wait, for every address that is free again. Only the first listener counts.
    pub fn on_address_freed(&self, told: impl Fn() + Send + Sync + 'static) {
        self.estate.freed.get_or_init(|| Listener(Box::new(told)));
    }

    /// See [`PodNetwork::attach`]. [`Error::NoAddressLeft`] when the pod range is used up.
    pub fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error> {
        let sandbox = request.sandbox;
        check_sandbox_id(sandbox)?;
        check_pod_uid(request)?;
        let _claim = self.claim(sandbox);
        let opened = open_netns(request)?;
        let netns = match (request.netns, &opened) {
            (Netns::Fd(fd), _) => fd,
            (Netns::Path(_), Some(file)) => file.as_fd(),
            (Netns::Path(_), None) => return Err(Error::HostNetns { sandbox: sandbox.to_owned() }),
        };
        if netns::identify(netns).map_err(Error::Netns)? == self.host_netns {
            return Err(Error::HostNetns { sandbox: sandbox.to_owned() });
        }
        let ports = host_port::checked(sandbox, request.ports, self.cidr)?;
        let ready = self.setup.ensure(&self.estate)?;
        let lease = self.lease_for(request, &ports)?;
        match self.connect(&lease, netns, ready).and_then(|()| self.publish(&lease)) {
            Ok(()) => Ok(self.attachment(&lease)),
            Err(error) => {
                self.abandon(sandbox);
                Err(error)
            }
        }
    }

    /// See [`PodNetwork::detach`]. The interface goes a moment later ([`Self::settle`] waits for it); the address is not
    /// given out before.
    pub fn detach(&self, sandbox: &str) -> Result<(), Error> {
        check_sandbox_id(sandbox)?;
        let _claim = self.claim(sandbox);
        self.withdraw(sandbox)?;
        let released = self.estate.leases().begin_release(sandbox).map_err(Error::Lease)?;
        if let Some(lease) = released {
            self.estate.condemn(&lease.interface, Some(lease.ip));
            return Ok(());
        }
        // No lease, but perhaps an interface: its lease was lost.
        let name = conf::host_interface(&self.bridge, sandbox);
        let link = self.estate.host.link(&name);
        let link = link.map_err(|source| Error::Inspect { sandbox: sandbox.to_owned(), source })?;
        if link.is_some() && self.estate.wait_until_gone(Duration::ZERO, |n| n == name) {
            self.estate.condemn(&name, None);
        }
        Ok(())
    }

    /// See [`PodNetwork::check`].
    pub fn check(&self, sandbox: &str) -> Result<(), Error> {
        let lease = self.estate.leases().held_by(sandbox).cloned();
        let lease = lease.ok_or_else(|| Error::NotAttached { sandbox: sandbox.to_owned() })?;
        let found = self.estate.host.links_named(&[&lease.interface, &self.bridge]);
        let found = found.map_err(|source| Error::Inspect { sandbox: sandbox.to_owned(), source })?;
        let bridge = found.iter().find(|l| l.name == self.bridge).map(|l| l.index);
        let link = found.iter().find(|l| l.name == lease.interface);
        match pod_link::problem(link, bridge) {
            None => Ok(()),
            Some(problem) => Err(Error::Broken {
                sandbox: sandbox.to_owned(),
                ip: lease.ip,
                interface: lease.interface,
                problem: problem.to_owned(),
            }),
        }
    }

    /// See [`PodNetwork::status`].
    pub fn status(&self) -> Status {
        self.setup.status(&self.estate.host)
    }

    /// Waits until the interfaces of all detached pods are gone and their addresses free.
    pub fn settle(&self, most: Duration) -> Result<(), Error> {
        if self.estate.wait_until_gone(most, |_| true) {
            Ok(())
        } else {
            Err(Error::InterfacesStay { waited_ms: most.as_millis() })
        }
    }

    /// The sandboxes that some call is working on.
    pub(crate) fn busy(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps other calls off this sandbox until the claim is dropped.
    fn claim<'a>(&'a self, sandbox: &'a str) -> Claim<'a> {
        let waited = self.idle.wait_while(self.busy(), |busy| busy.contains(sandbox));
        waited.unwrap_or_else(PoisonError::into_inner).insert(sandbox.to_owned());
        Claim { network: self, sandbox }
    }

    /// The sandbox's lease: the one it has, or a new one, on disk already.
    fn lease_for(&self, request: &Attach<'_>, ports: &[HostPort]) -> Result<Lease, Error> {
        let held = self.estate.leases().held_by(request.sandbox).cloned();
        match held {
            Some(lease) if self.cidr.contains(lease.ip) && lease.ports == ports => return Ok(lease),
            // The pod range was changed, or the request: the old address is no use.
            Some(_) => self.abandon(request.sandbox),
            None => {}
        }
        // An earlier interface of the same sandbox has the same name: let it go first.
        let interface = conf::host_interface(&self.bridge, request.sandbox);
        if !self.estate.wait_until_gone(RELEASE_PATIENCE, |name| name == interface) {
            return Err(Error::InterfacesStay { waited_ms: RELEASE_PATIENCE.as_millis() });
        }
        match self.intend(request, &interface, ports) {
            Err(Error::NoAddressLeft { releasing, .. }) if releasing > 0 => {
                // A late one is no harm: the second try tells.
                self.estate.wait_until_gone(RELEASE_PATIENCE, |_| true);
                self.intend(request, &interface, ports)
            }
            other => other,
        }
    }

    fn intend(&self, request: &Attach<'_>, interface: &str, ports: &[HostPort]) -> Result<Lease, Error> {
        let mut leases = self.estate.leases();
        check_free(&leases, request.sandbox, ports)?;
        let ip = ipam::allocate(self.cidr, leases.last(), |ip| leases.is_leased(ip));
        let Some(ip) = ip else {
            let releasing = leases.all().filter(|l| l.state == LeaseState::Releasing).count();
            return Err(Error::NoAddressLeft { cidr: self.cidr, leased: leases.all().count(), releasing });
        };
        let lease = Lease {
            version: lease::VERSION,
            state: LeaseState::Held,
            sandbox: request.sandbox.to_owned(),
            pod_uid: request.pod_uid.to_owned(),
            boot_id: leases.boot_id().to_owned(),
            ip,
            mac: conf::pod_mac(ip),
            interface: interface.to_owned(),
            ports: ports.to_vec(),
        };
        leases.intend(lease.clone()).map_err(Error::Lease)?;
        Ok(lease)
    }

    /// Makes the connection, unless it is there and whole.
    fn connect(&self, lease: &Lease, netns: BorrowedFd<'_>, ready: Ready) -> Result<(), Error> {
        let failed = |source| Error::Connect { sandbox: lease.sandbox.clone(), source: Box::new(source) };
        let pod = PodAddress { ip: lease.ip, prefix: self.cidr.prefix(), gateway: conf::gateway(self.cidr) };
        match self.create_link(lease, netns, ready) {
            Err(LinkError::Host { source, .. }) if source.errno() == Some(libc::EEXIST) => {
                if self.check(&lease.sandbox).is_ok()
                    && pod_link::is_configured_inside(netns, pod).map_err(failed)?
                {
                    return Ok(());
                }
                pod_link::delete(&self.estate.host, &[&lease.interface], self.estate.group)
                    .map_err(failed)?;
                self.create_link(lease, netns, ready).map_err(failed)?;
            }
            Err(LinkError::Host { source, .. })
                if matches!(source.errno(), Some(libc::EINVAL | libc::ENODEV)) =>
            {
                let ready = self.setup.ensure_again(&self.estate, ready)?;
                self.create_link(lease, netns, ready).map_err(failed)?;
            }
            made => made.map_err(failed)?,
        }
        pod_link::configure_inside(netns, pod).map_err(failed)
    }

    fn create_link(&self, lease: &Lease, netns: BorrowedFd<'_>, ready: Ready) -> Result<(), LinkError> {
        let pair = VethPair {
            host: &lease.interface,
            bridge: ready.bridge,
            mtu: ready.mtu,
            pod: POD_INTERFACE,
            pod_mac: lease.mac,
            netns,
        };
        pod_link::create(&self.estate.host, &pair, &conf::alias(&self.bridge, &lease.sandbox), lease.ip)
    }

    /// Takes back what a failed attach made. What cannot be taken back now stays on disk for the next reconcile.
    fn abandon(&self, sandbox: &str) {
        if let Err(error) = self.withdraw(sandbox) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(sandbox, error, "host ports of a failed attach stay until the next one");
        }
        match self.estate.leases().begin_release(sandbox) {
            Ok(Some(lease)) => self.estate.condemn(&lease.interface, Some(lease.ip)),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    sandbox,
                    error = &error as &dyn std::error::Error,
                    "lease of a failed attach stays"
                );
            }
        }
    }

    fn attachment(&self, lease: &Lease) -> Attachment {
        Attachment {
            ip: lease.ip,
            prefix: self.cidr.prefix(),
            gateway: conf::gateway(self.cidr),
            mac: lease.mac,
            interface: POD_INTERFACE.to_owned(),
            host_interface: lease.interface.clone(),
        }
    }
}

impl PodNetwork for Network {
    fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error> {
        self.attach(request)
    }

    fn detach(&self, sandbox: &str) -> Result<(), Error> {
        self.detach(sandbox)
    }

    fn check(&self, sandbox: &str) -> Result<(), Error> {
        self.check(sandbox)
    }

    fn status(&self) -> Status {
        self.status()
    }
}

/// A sandbox that one call works on.
struct Claim<'a> {
    network: &'a Network,
    sandbox: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.network.busy().remove(self.sandbox);
        self.network.idle.notify_all();
    }
}

/// Host ports have one holder at a time.
fn check_free(leases: &LeaseStore, sandbox: &str, ports: &[HostPort]) -> Result<(), Error> {
    let taken = ports.iter().find_map(|port| leases.holder(port).map(|holder| (*port, holder)));
    if let Some((port, lease)) = taken {
        let (holder, holder_ip) = (lease.sandbox.clone(), lease.ip);
        return Err(Error::HostPortTaken { sandbox: sandbox.to_owned(), port, holder, holder_ip });
    }
    let held = if ports.is_empty() { 0 } else { leases.all().map(|lease| lease.ports.len()).sum() };
    match held + ports.len() > MAX_ALL_HOST_PORTS {
        true => Err(Error::HostPortsFull { held, most: MAX_ALL_HOST_PORTS }),
        false => Ok(()),
    }
}

/// Queues what an earlier process did not finish.
fn resume_releases(estate: &Estate) {
    let releasing: Vec<(String, IpAddr)> = {
        let leases = estate.leases();
        let releasing = leases.all().filter(|l| l.state == LeaseState::Releasing);
        releasing.map(|l| (l.interface.clone(), l.ip)).collect()
    };
    for (interface, ip) in releasing {
        estate.condemn(&interface, Some(ip));
    }
}

fn open_netns(request: &Attach<'_>) -> Result<Option<File>, Error> {
    let Netns::Path(path) = request.netns else { return Ok(None) };
    let opened = File::open(path);
    let (sandbox, path) = (request.sandbox.to_owned(), path.to_owned());
    opened.map(Some).map_err(|source| Error::OpenNetns { sandbox, path, source })
}

/// The id becomes part of an alias; it must not be able to look like another one.
fn check_sandbox_id(sandbox: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=128).contains(&sandbox.len()) && sandbox.bytes().all(fine);
    if good { Ok(()) } else { Err(Error::SandboxId { sandbox: sandbox.chars().take(160).collect() }) }
}

/// It is kept in the lease, whose size is bounded.
fn check_pod_uid(request: &Attach<'_>) -> Result<(), Error> {
    match request.pod_uid.len() {
        0..=256 => Ok(()),
        length => Err(Error::PodUid { sandbox: request.sandbox.to_owned(), length }),
    }
}
