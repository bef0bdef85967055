//! What is in the pod network's own nftables table, so that what does not belong there can be found.
//!
//! In: the table's name. Out: its chains, each with the number of its rules. It changes nothing and reads no other table.

use std::collections::BTreeMap;

use netlink_packet_core::NLM_F_DUMP;

use super::{F_ACK, F_REQUEST, Family, SUBSYSTEM, encode};
use crate::netlink::attributes::{Writer, find, text};
use crate::netlink::{Batch, NetlinkError, Socket};

const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
/// Of a chain and of a rule alike.
const TABLE: u16 = 1;

/// The chains of a table, each with the number of its rules.
pub(crate) fn chains(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> Result<BTreeMap<String, usize>, NetlinkError> {
    const CHAIN_NAME: u16 = 3;
    const RULE_CHAIN: u16 = 2;
    let mut found = BTreeMap::new();
    for name in dump(socket, (family, table), (GETCHAIN, NEWCHAIN, CHAIN_NAME))? {
        found.entry(name).or_insert(0);
    }
    for chain in dump(socket, (family, table), (GETRULE, NEWRULE, RULE_CHAIN))? {
        *found.entry(chain).or_insert(0) += 1;
    }
    Ok(found)
}

/// The value of one attribute of every object of a kind in the table.
fn dump(
    socket: &mut Socket,
    (family, table): (Family, &str),
    (ask, answer, attribute): (u16, u16, u16),
) -> Result<Vec<String>, NetlinkError> {
    // Only the kernel's list of rules takes heed of the table; the others are told apart below.
    let wanted = Writer::default().text(TABLE, table).finish();
    let kind = SUBSYSTEM << 8 | ask;
    let request = encode(kind, F_REQUEST | F_ACK | NLM_F_DUMP, [family.number(), 0, 0, 0], &wanted);
    let mut batch = Batch::default();
    batch.push_raw(format!("list what is in nftables table {table}"), request);
    let replies = match socket.transact(&batch)?.tolerate(&[]) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let of_table = |list: &&[u8]| find(list, TABLE).is_some_and(|name| text(name) == table);
    let lists = replies.iter().filter(|reply| reply.kind == SUBSYSTEM << 8 | answer);
    let lists = lists.filter_map(|reply| reply.payload.get(4..)).filter(of_table);
    Ok(lists.filter_map(|list| find(list, attribute)).map(text).collect())
}
