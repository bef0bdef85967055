//! The one nftables table of the pod network: what leaves it gets the host's address, and host ports lead into it.
//!
//! In: pod range, bridge, table name, host ports. Out: the table, replaced in one transaction, so that it is never half there and
//! doing it twice changes nothing. As `nft` prints it, without what [`host_ports`] shows:
//!
//! ```text
//! table ip pintle {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.88.0.0/24 ip daddr != 10.88.0.0/24 oifname != "pintle0" masquerade
//!         ip saddr 10.88.0.0/24 oifname "pintle0" ct status dnat masquerade
//!         ip saddr 127.0.0.0/8 oifname "pintle0" masquerade
//!     }
//! }
//! ```
//!
//! The second rule is for a pod that reaches another, or itself, by a host port: the answer has to come back by the node. The third
//! is for the node itself. It touches no other table, and so cannot accept what another table's forward chain drops.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::expression as ex;
use super::host_ports::{self, Target};
use super::{Compare, Family, contents, forward, map};
use crate::cidr::Cidr;
use crate::netlink::attributes::Writer;
use crate::netlink::{Batch, NetlinkError, Socket};

pub(crate) const CHAIN: &str = "postrouting";

/// What the table is about.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) cidr: Cidr,
}

/// The kernel's nftables of one network namespace.
#[derive(Debug)]
pub(crate) struct Masquerade {
    rules: Rules,
    socket: Mutex<Option<Socket>>,
}

impl Masquerade {
    /// Opens the socket in the calling thread's network namespace. A kernel without netfilter is told at first use.
    pub(crate) fn open(rules: Rules) -> Self {
        let socket = Socket::netfilter();
        if let Err(error) = &socket {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "no netfilter: pods will not be masqueraded"
            );
        }
        Self { rules, socket: Mutex::new(socket.ok()) }
    }

    /// Keeps others off the table. Who changes which host ports there are holds it from the change of the lease to that of
    /// the table, or the other way round.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // A thread that panicked between two transactions left the socket in order.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { masquerade: self, socket }
    }

    /// Deletes the table; fine if there is none, and if there is no netfilter at all.
    pub(crate) fn remove(&self) -> Result<(), NetlinkError> {
        let (family, table) = (self.family(), self.rules.table.as_str());
        if !matches!(self.is_present(), Ok(true)) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.push_frame("begin an nftables transaction", super::begin());
        batch.push_raw(format!("delete nftables table {table}"), super::delete_table(family, table));
        batch.push_frame("commit an nftables transaction", super::end());
        self.transact(&batch, &[libc::ENOENT])
    }

    /// Whether the table exists; somebody may have flushed the whole ruleset.
    pub(crate) fn is_present(&self) -> Result<bool, NetlinkError> {
        let table = self.rules.table.as_str();
        let mut batch = Batch::default();
        batch.push_raw(format!("look up nftables table {table}"), super::get_table(self.family(), table));
        match self.transact(&batch, &[]) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Foreign chains that drop by default what pods send to the outside, unless a rule of theirs accepts it.
    pub(crate) fn obstacles(&self) -> Result<Vec<String>, NetlinkError> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.as_mut().map_or(Ok(Vec::new()), |socket| forward::dropping_chains(socket, self.family()))
    }

    /// The table's chains with their numbers of rules.
    pub(crate) fn chains(&self) -> Result<BTreeMap<String, usize>, NetlinkError> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = socket.as_mut();
        socket.map_or(Ok(BTreeMap::new()), |s| contents::chains(s, self.family(), &self.rules.table))
    }

    fn transact(&self, batch: &Batch, tolerated: &[i32]) -> Result<(), NetlinkError> {
        self.lock().transact(batch, tolerated)
    }

    pub(crate) fn family(&self) -> Family {
        if self.rules.cidr.network().is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    /// What is sent out of the pod network.
    fn leaves(&self) -> Vec<Writer> {
        let (_, destination) = self.offsets();
        let (mask, network) = (self.rules.cidr.mask_bytes(), self.rules.cidr.network_bytes());
        let length = u32::try_from(network.len()).unwrap_or(0);
        let mut rule = self.is_from_a_pod();
        rule.extend([
            super::load_network_header(destination, length),
            super::mask(&mask),
            super::compare(Compare::Unequal, &network),
            super::load_output_interface(),
            super::compare(Compare::Unequal, &super::interface_name(&self.rules.bridge)),
            super::masquerade(),
        ]);
        rule
    }

    /// What a host port sends back to the pods it comes from.
    fn comes_back(&self) -> Vec<Writer> {
        let mut rule = self.is_from_a_pod();
        rule.extend(self.goes_to_a_pod());
        rule.extend([
            ex::load_connection_status(),
            super::mask(&ex::DESTINATION_CHANGED),
            super::compare(Compare::Unequal, &[0; 4]),
            super::masquerade(),
        ]);
        rule
    }

    /// What the node sends from its loopback address by a host port.
    fn comes_from_loopback(&self) -> Vec<Writer> {
        let (source, _) = self.offsets();
        let mut rule = vec![
            super::load_network_header(source, 4),
            super::mask(&[255, 0, 0, 0]),
            super::compare(Compare::Equal, &[127, 0, 0, 0]),
        ];
        rule.extend(self.goes_to_a_pod());
        rule.push(super::masquerade());
        rule
    }

    fn is_from_a_pod(&self) -> Vec<Writer> {
        let (source, _) = self.offsets();
        let (mask, network) = (self.rules.cidr.mask_bytes(), self.rules.cidr.network_bytes());
        let length = u32::try_from(network.len()).unwrap_or(0);
        vec![
            super::load_network_header(source, length),
            super::mask(&mask),
            super::compare(Compare::Equal, &network),
        ]
    }

    fn goes_to_a_pod(&self) -> [Writer; 2] {
        let bridge = super::interface_name(&self.rules.bridge);
        [super::load_output_interface(), super::compare(Compare::Equal, &bridge)]
    }

    /// Where source and destination are in the header.
    fn offsets(&self) -> (u32, u32) {
        match self.family() {
            Family::Ip => (12, 16),
            Family::Ip6 => (8, 24),
        }
    }

    fn rules_of_chain(&self) -> Vec<Vec<Writer>> {
        let mut rules = vec![self.leaves(), self.comes_back()];
        if self.family() == Family::Ip {
            rules.push(self.comes_from_loopback());
        }
        rules
    }

    /// The chains there ought to be, with their numbers of rules.
    pub(crate) fn expected_chains(&self) -> BTreeMap<String, usize> {
        let mut chains = host_ports::chains(self.family());
        chains.push((CHAIN, self.rules_of_chain().len()));
        chains.into_iter().map(|(name, rules)| (name.to_owned(), rules)).collect()
    }

    /// The host ports in the table.
    pub(crate) fn host_ports(&self) -> Result<Vec<Target>, NetlinkError> {
        let mut locked = self.lock();
        let Some(socket) = locked.socket.as_mut() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in host_ports::MAPS {
            let elements = map::elements(socket, self.family(), (&self.rules.table, name))?;
            found.extend(elements.iter().filter_map(host_ports::read));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// The table, with nobody else at it.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    masquerade: &'a Masquerade,
    socket: MutexGuard<'a, Option<Socket>>,
}

impl Locked<'_> {
    /// Puts the table there as it should be with these host ports, whatever was there before.
    pub(crate) fn apply(&mut self, targets: &[Target]) -> Result<(), NetlinkError> {
        let (family, rules) = (self.masquerade.family(), &self.masquerade.rules);
        let table = rules.table.as_str();
        let mut batch = Batch::default();
        batch.push_frame("begin an nftables transaction", super::begin());
        // Deleting a table that may not exist: make sure that it does.
        batch.push_raw(format!("add nftables table {table}"), super::new_table(family, table));
        batch.push_raw(format!("empty nftables table {table}"), super::delete_table(family, table));
        batch.push_raw(format!("add nftables table {table}"), super::new_table(family, table));
        let chain = super::new_base_chain(family, table, CHAIN, super::POSTROUTING_SRCNAT);
        batch.push_raw(format!("add nat chain to nftables table {table}"), chain);
        for rule in self.masquerade.rules_of_chain() {
            let rule = super::append_rule(family, table, CHAIN, rule);
            batch.push_raw(format!("add masquerade rule to nftables table {table}"), rule);
        }
        host_ports::lay_out(&mut batch, (family, table), &rules.bridge, targets);
        batch.push_frame("commit an nftables transaction", super::end());
        self.transact(&batch, &[])
    }

    /// Adds these host ports.
    pub(crate) fn add(&mut self, targets: &[Target]) -> Result<(), NetlinkError> {
        self.change(targets, host_ports::add)
    }

    /// Deletes these host ports, which have to be there.
    pub(crate) fn delete(&mut self, targets: &[Target]) -> Result<(), NetlinkError> {
        self.change(targets, host_ports::delete)
    }

    fn change(
        &mut self,
        targets: &[Target],
        change: fn(&mut Batch, (Family, &str), &[Target]),
    ) -> Result<(), NetlinkError> {
        let table = self.masquerade.rules.table.as_str();
        let mut batch = Batch::default();
        batch.push_frame("begin an nftables transaction", super::begin());
        change(&mut batch, (self.masquerade.family(), table), targets);
        batch.push_frame("commit an nftables transaction", super::end());
        self.transact(&batch, &[])
    }

    /// The socket, for questions about other things of netfilter.
    pub(crate) fn socket(&mut self) -> Option<&mut Socket> {
        self.socket.as_mut()
    }

    fn transact(&mut self, batch: &Batch, tolerated: &[i32]) -> Result<(), NetlinkError> {
        match self.socket.as_mut() {
            Some(socket) => socket.transact(batch)?.tolerate(tolerated).map(drop),
            None => Err(NetlinkError::Open {
                protocol: "netfilter",
                source: std::io::Error::from_raw_os_error(libc::EPROTONOSUPPORT),
            }),
        }
    }
}
