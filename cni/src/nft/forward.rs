//! Finds the host's chains that drop forwarded traffic by default, so that the log can say why pods have no way out.
//!
//! In: the kernel's answers to a request for all chains. Out: names. It changes no chain: they are somebody else's, and
//! such a chain may well accept the pods by a rule.

use netlink_packet_core::NLM_F_DUMP;

use super::{F_ACK, F_REQUEST, Family, SUBSYSTEM, encode};
use crate::netlink::attributes::{find, text};
use crate::netlink::{Batch, NetlinkError, Reply, Socket};

const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
/// NF_INET_FORWARD
const FORWARD: [u8; 4] = [0, 0, 0, 2];
/// NF_DROP
const DROP: [u8; 4] = [0, 0, 0, 0];

/// NFPROTO_INET: chains for both IP families
const INET: u8 = 1;

/// The base chains that drop what is forwarded in this family and matches no rule, as `table chain`.
pub(crate) fn dropping_chains(socket: &mut Socket, family: Family) -> Result<Vec<String>, NetlinkError> {
    let mut batch = Batch::default();
    // A request that names no family lists all of them.
    let request = encode(SUBSYSTEM << 8 | GETCHAIN, F_REQUEST | F_ACK | NLM_F_DUMP, [0; 4], &[]);
    batch.push_raw("list nftables chains", request);
    let replies = socket.transact(&batch)?.tolerate(&[])?;
    Ok(replies.iter().filter_map(|reply| dropping_chain(reply, family)).collect())
}

fn dropping_chain(reply: &Reply, family: Family) -> Option<String> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const HOOK_NUMBER: u16 = 1;
    const POLICY: u16 = 5;
    if reply.kind != SUBSYSTEM << 8 | NEWCHAIN {
        return None;
    }
    let of = *reply.payload.first()?;
    (of == family.number() || of == INET).then_some(())?;
    let list = reply.payload.get(4..)?;
    let forwards = find(find(list, HOOK)?, HOOK_NUMBER)? == FORWARD;
    let drops = find(list, POLICY)? == DROP;
    (forwards && drops).then_some(())?;
    Some(format!("{} {}", text(find(list, TABLE)?), text(find(list, NAME)?)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn chains_that_drop_forwarded_traffic_by_default_are_named_and_no_others() {
        let host = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for (table, chain, hook) in [
                ("ip filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }"),
                ("inet fw", "f", "{ type filter hook forward priority 1; policy drop; }"),
                ("inet fw", "i", "{ type filter hook input priority 0; policy drop; }"),
                ("inet fw", "plain", "{ }"),
                ("ip ok", "f", "{ type filter hook forward priority 2; policy accept; }"),
                ("ip6 six", "f", "{ type filter hook forward priority 0; policy drop; }"),
            ] {
                let rules = format!("add table {table}; add chain {table} {chain} {hook}");
                assert!(Command::new("nft").arg(&rules).status().unwrap().success(), "{rules}");
            }
            let mut socket = Socket::netfilter().unwrap();
            let mut dropping = |family| {
                let mut names = dropping_chains(&mut socket, family).unwrap();
                names.sort();
                names
            };
            assert_eq!(dropping(Family::Ip), ["filter FORWARD", "fw f"]);
            assert_eq!(dropping(Family::Ip6), ["fw f", "six f"]);
        });
        host.join().unwrap();
    }
}
