//! Maps: names for many values at once, which change without a rule being touched. Pure but for [`elements`], which asks.
//!
//! In: types, keys and what they stand for. Out: encoded messages, or the elements that the kernel has.

use netlink_packet_core::NLM_F_DUMP;

use super::expression::data;
use super::{F_ACK, F_CREATE, F_REQUEST, Family, SUBSYSTEM, encode, message};
use crate::netlink::attributes::{Writer, all, find, text};
use crate::netlink::{Batch, NetlinkError, Socket};

const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
/// Of a map and of a list of elements alike.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const LIST_ELEMENT: u16 = 1;
/// Elements in one message: the list's attribute has to stay below 64 KiB.
const MESSAGE_MOST: usize = 400;

/// A type of values, with the number by which the `nft` program knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Ip,
    Ip6,
    Protocol,
    Port,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ip => 7,
            Self::Ip6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    /// Its size in a value of several parts.
    pub(crate) fn size(self) -> u32 {
        match self {
            Self::Ip | Self::Protocol | Self::Port => 4,
            Self::Ip6 => 16,
        }
    }
}

/// A key and what it stands for.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

/// Adds a map to a table that is made in the same transaction; `id` names it there.
pub(crate) fn new_map(
    family: Family,
    (table, name): (&str, &str),
    id: u32,
    [key, value]: [&[Type]; 2],
) -> Vec<u8> {
    const IS_MAP: u32 = 8;
    let list = Writer::default().text(TABLE, table).text(NAME, name).be32(3, IS_MAP);
    let list = list.be32(4, number(key)).be32(5, size(key)).be32(6, number(value)).be32(7, size(value));
    message(NEWSET, F_ACK | F_CREATE, family, list.be32(10, id))
}

/// Adds elements; fine if they are there with the same value.
pub(crate) fn add(batch: &mut Batch, family: Family, (table, map): (&str, &str), elements: &[Element]) {
    for chunk in elements.chunks(MESSAGE_MOST) {
        let bytes = change(NEWSETELEM, F_ACK | F_CREATE, family, (table, map), chunk);
        batch.push_raw(format!("add {} elements to map {map} of nftables table {table}", chunk.len()), bytes);
    }
}

/// Deletes elements, which have to be there.
pub(crate) fn delete(batch: &mut Batch, family: Family, (table, map): (&str, &str), elements: &[Element]) {
    for chunk in elements.chunks(MESSAGE_MOST) {
        let bytes = change(DELSETELEM, F_ACK, family, (table, map), chunk);
        let count = chunk.len();
        batch.push_raw(format!("delete {count} elements of map {map} of nftables table {table}"), bytes);
    }
}

/// The elements of a map; none if there is no such map.
pub(crate) fn elements(
    socket: &mut Socket,
    family: Family,
    (table, map): (&str, &str),
) -> Result<Vec<Element>, NetlinkError> {
    let wanted = Writer::default().text(TABLE, table).text(NAME, map).finish();
    let flags = F_REQUEST | F_ACK | NLM_F_DUMP;
    let request = encode(SUBSYSTEM << 8 | GETSETELEM, flags, [family.number(), 0, 0, 0], &wanted);
    let mut batch = Batch::default();
    batch.push_raw(format!("list map {map} of nftables table {table}"), request);
    let replies = match socket.transact(&batch)?.tolerate(&[]) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let mut found = Vec::new();
    for reply in replies.iter().filter(|reply| reply.kind == SUBSYSTEM << 8 | NEWSETELEM) {
        let Some(list) = reply.payload.get(4..) else { continue };
        if find(list, NAME).is_none_or(|name| text(name) != map) {
            continue;
        }
        let part = |element: &[u8], kind| Some(find(find(element, kind)?, VALUE)?.to_vec());
        let elements = find(list, ELEMENTS).into_iter().flat_map(|list| all(list, LIST_ELEMENT));
        found.extend(elements.filter_map(|element| Some((part(element, KEY)?, part(element, DATA)?))));
    }
    Ok(found)
}

fn change(
    kind: u16,
    flags: u16,
    family: Family,
    (table, map): (&str, &str),
    elements: &[Element],
) -> Vec<u8> {
    let list = elements.iter().fold(Writer::default(), |list, (key, value)| {
        let element = Writer::default().nest(KEY, &data(key)).nest(DATA, &data(value));
        list.nest(LIST_ELEMENT, &element)
    });
    message(kind, flags, family, Writer::default().text(TABLE, table).text(NAME, map).nest(ELEMENTS, &list))
}

/// The type of a value of several parts: six bits a part.
fn number(parts: &[Type]) -> u32 {
    parts.iter().fold(0, |number, part| number << 6 | part.number())
}

fn size(parts: &[Type]) -> u32 {
    parts.iter().map(|part| part.size()).sum()
}
