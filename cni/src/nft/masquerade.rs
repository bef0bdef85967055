//! The one nftables table of the pod network: what leaves it gets the host's address.
//!
//! In: pod range, bridge, table name. Out: the table, replaced in one transaction, so that it is never half there and
//! doing it twice changes nothing. As `nft` prints it:
//!
//! ```text
//! table ip pintle {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.88.0.0/24 ip daddr != 10.88.0.0/24 oifname != "pintle0" masquerade
//!     }
//! }
//! ```
//!
//! It touches no other table, and so cannot accept what another table's forward chain drops.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Compare, Family, contents, forward};
use crate::cidr::Cidr;
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

    /// Puts the table there as it should be, whatever was there before.
    pub(crate) fn apply(&self) -> Result<(), NetlinkError> {
        let (family, table) = (self.family(), self.rules.table.as_str());
        let mut batch = Batch::default();
        batch.push_frame("begin an nftables transaction", super::begin());
        // Deleting a table that may not exist: make sure that it does.
        batch.push_raw(format!("add nftables table {table}"), super::new_table(family, table));
        batch.push_raw(format!("empty nftables table {table}"), super::delete_table(family, table));
        batch.push_raw(format!("add nftables table {table}"), super::new_table(family, table));
        let chain = super::new_base_chain(family, table, CHAIN, super::POSTROUTING_SRCNAT);
        batch.push_raw(format!("add nat chain to nftables table {table}"), chain);
        let rule = super::append_rule(family, table, CHAIN, self.rule());
        batch.push_raw(format!("add masquerade rule to nftables table {table}"), rule);
        batch.push_frame("commit an nftables transaction", super::end());
        self.transact(&batch, &[])
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
        // A thread that panicked between two transactions left the socket in order.
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match socket.as_mut() {
            Some(socket) => socket.transact(batch)?.tolerate(tolerated).map(drop),
            None => Err(NetlinkError::Open {
                protocol: "netfilter",
                source: std::io::Error::from_raw_os_error(libc::EPROTONOSUPPORT),
            }),
        }
    }

    fn family(&self) -> Family {
        if self.rules.cidr.network().is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    fn rule(&self) -> Vec<crate::netlink::attributes::Writer> {
        let (source, destination) = match self.family() {
            Family::Ip => (12, 16),
            Family::Ip6 => (8, 24),
        };
        let (mask, network) = (self.rules.cidr.mask_bytes(), self.rules.cidr.network_bytes());
        let length = u32::try_from(network.len()).unwrap_or(0);
        vec![
            super::load_network_header(source, length),
            super::mask(&mask),
            super::compare(Compare::Equal, &network),
            super::load_network_header(destination, length),
            super::mask(&mask),
            super::compare(Compare::Unequal, &network),
            super::load_output_interface(),
            super::compare(Compare::Unequal, &super::interface_name(&self.rules.bridge)),
            super::masquerade(),
        ]
    }
}
