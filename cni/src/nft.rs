//! Encodes the few nftables messages the pod network needs, in the words that the `nft` program can print and load.
//!
//! In: names and expressions. Out: netlink messages for one atomic transaction. Pure; it sends nothing and knows no
//! pod network: that is [`masquerade`].

pub(crate) mod contents;
pub(crate) mod expression;
pub(crate) mod forward;
pub(crate) mod host_ports;
pub(crate) mod map;
pub(crate) mod masquerade;

use crate::netlink::attributes::Writer;

/// NFNL_SUBSYS_NFTABLES
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;

const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_CREATE: u16 = 0x400;
const F_APPEND: u16 = 0x800;

/// NFT_REG_1, the register every expression here uses.
const REGISTER: u32 = 1;

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ip,
    Ip6,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Unequal,
}

impl Compare {
    fn number(self) -> u32 {
        match self {
            Self::Equal => 0,
            Self::Unequal => 1,
        }
    }
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// nat postrouting, at the priority `nft` calls srcnat.
pub(crate) const POSTROUTING_SRCNAT: Hook = Hook { kind: "nat", number: 4, priority: 100 };

pub(crate) fn begin() -> Vec<u8> {
    frame(BATCH_BEGIN)
}

pub(crate) fn end() -> Vec<u8> {
    frame(BATCH_END)
}

/// Adds a table; fine if it exists.
pub(crate) fn new_table(family: Family, name: &str) -> Vec<u8> {
    message(NEWTABLE, F_ACK | F_CREATE, family, Writer::default().text(1, name).be32(2, 0))
}

/// Deletes a table with everything in it.
pub(crate) fn delete_table(family: Family, name: &str) -> Vec<u8> {
    message(DELTABLE, F_ACK, family, Writer::default().text(1, name))
}

/// Asks whether a table exists; needs no transaction.
pub(crate) fn get_table(family: Family, name: &str) -> Vec<u8> {
    message(GETTABLE, F_ACK, family, Writer::default().text(1, name))
}

pub(crate) fn new_base_chain(family: Family, table: &str, chain: &str, hook: Hook) -> Vec<u8> {
    const ACCEPT: u32 = 1;
    let place = Writer::default().be32(1, hook.number).bytes(2, &hook.priority.to_be_bytes());
    let list =
        Writer::default().text(1, table).text(3, chain).nest(4, &place).be32(5, ACCEPT).text(7, hook.kind);
    message(NEWCHAIN, F_ACK | F_CREATE, family, list)
}

/// Adds a chain that only other chains lead to.
pub(crate) fn new_chain(family: Family, table: &str, chain: &str) -> Vec<u8> {
    message(NEWCHAIN, F_ACK | F_CREATE, family, Writer::default().text(1, table).text(3, chain))
}

pub(crate) fn append_rule(family: Family, table: &str, chain: &str, expressions: Vec<Writer>) -> Vec<u8> {
    const LIST_ELEMENT: u16 = 1;
    let list = expressions.into_iter().fold(Writer::default(), |list, e| list.nest(LIST_ELEMENT, &e));
    let list = Writer::default().text(1, table).text(2, chain).nest(4, &list);
    message(NEWRULE, F_ACK | F_CREATE | F_APPEND, family, list)
}

/// Loads bytes of the network header.
pub(crate) fn load_network_header(offset: u32, length: u32) -> Writer {
    const NETWORK: u32 = 1;
    expression(
        "payload",
        &Writer::default().be32(1, REGISTER).be32(2, NETWORK).be32(3, offset).be32(4, length),
    )
}

/// Loads the name of the interface the packet leaves by.
pub(crate) fn load_output_interface() -> Writer {
    const OIFNAME: u32 = 7;
    expression("meta", &Writer::default().be32(1, REGISTER).be32(2, OIFNAME))
}

/// Keeps the bits of the mask.
pub(crate) fn mask(mask: &[u8]) -> Writer {
    let length = u32::try_from(mask.len()).unwrap_or(0);
    let zero = vec![0; mask.len()];
    let list = Writer::default().be32(1, REGISTER).be32(2, REGISTER).be32(3, length);
    expression("bitwise", &list.nest(4, &value(mask)).nest(5, &value(&zero)))
}

/// Ends the rule unless the comparison holds.
pub(crate) fn compare(how: Compare, with: &[u8]) -> Writer {
    expression("cmp", &Writer::default().be32(1, REGISTER).be32(2, how.number()).nest(3, &value(with)))
}

/// An interface name as the kernel compares it: padded to its full size.
pub(crate) fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// Gives the packet the address of the interface it leaves by.
pub(crate) fn masquerade() -> Writer {
    expression("masq", &Writer::default())
}

fn expression(name: &str, data: &Writer) -> Writer {
    Writer::default().text(1, name).nest(2, data)
}

fn value(bytes: &[u8]) -> Writer {
    Writer::default().bytes(1, bytes)
}

fn frame(kind: u16) -> Vec<u8> {
    encode(kind, F_REQUEST, [0, 0, 0, 10], &[])
}

fn message(kind: u16, flags: u16, family: Family, list: Writer) -> Vec<u8> {
    encode(SUBSYSTEM << 8 | kind, F_REQUEST | flags, [family.number(), 0, 0, 0], &list.finish())
}

/// Netlink header (its number is filled in when the batch is sent), nfgenmsg, attributes.
pub(crate) fn encode(kind: u16, flags: u16, nfgen: [u8; 4], list: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + nfgen.len() + list.len()).unwrap_or(0);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(nfgen);
    bytes.extend(list);
    bytes
}
