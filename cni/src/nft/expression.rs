//! The expressions of rules that send packets elsewhere, beside the few plain ones in the module above. Pure.
//!
//! In: registers and names. Out: encoded expressions. A value of several parts takes one register after the other, each part
//! rounded up to four bytes.

use super::{expression, value};
use crate::netlink::attributes::Writer;

/// NFT_REG32_00: the first of the registers of four bytes.
const SMALL: u32 = 8;

/// The register in which a part of a value is that begins at this byte; by its larger name where it has one, as `nft` does.
pub(crate) fn register(byte: u32) -> u32 {
    if byte.is_multiple_of(16) { super::REGISTER + byte / 16 } else { SMALL + byte / 4 }
}

/// Facts about a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meta {
    InputInterface,
    Protocol,
}

/// Loads a fact.
pub(crate) fn load_meta(what: Meta, into: u32) -> Writer {
    let key = match what {
        Meta::InputInterface => 6,
        Meta::Protocol => 16,
    };
    expression("meta", &Writer::default().be32(1, into).be32(2, key))
}

/// Where bytes of a packet are counted from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    Network,
    Transport,
}

/// Loads bytes of a packet.
pub(crate) fn load_payload(base: Base, offset: u32, length: u32, into: u32) -> Writer {
    let base = match base {
        Base::Network => 1,
        Base::Transport => 2,
    };
    expression("payload", &Writer::default().be32(1, into).be32(2, base).be32(3, offset).be32(4, length))
}

/// Loads what kind of address the packet goes to; compare with [`LOCAL`].
pub(crate) fn load_destination_kind() -> Writer {
    const ADDRESS_TYPE: u32 = 3;
    const DESTINATION: u32 = 2;
    let list = Writer::default().be32(1, super::REGISTER).be32(2, ADDRESS_TYPE).be32(3, DESTINATION);
    expression("fib", &list)
}

/// RTN_LOCAL: an address of this host.
pub(crate) const LOCAL: [u8; 4] = 2u32.to_ne_bytes();

/// Loads the state bits of the packet's connection; keep [`DESTINATION_CHANGED`].
pub(crate) fn load_connection_status() -> Writer {
    const STATUS: u32 = 2;
    expression("ct", &Writer::default().be32(1, super::REGISTER).be32(2, STATUS))
}

/// IPS_DST_NAT
pub(crate) const DESTINATION_CHANGED: [u8; 4] = (1u32 << 5).to_ne_bytes();

/// Looks a key up, which begins in the first register, and puts what it stands for there. Ends the rule if there is none.
pub(crate) fn look_up(map: &str) -> Writer {
    expression("lookup", &Writer::default().text(1, map).be32(2, super::REGISTER).be32(3, super::REGISTER))
}

/// Sends the packet to the address in the first register and the port in another.
pub(crate) fn change_destination(family: super::Family, port: u32) -> Writer {
    const DESTINATION: u32 = 1;
    let list = Writer::default().be32(1, DESTINATION).be32(2, u32::from(family.number()));
    expression("nat", &list.be32(3, super::REGISTER).be32(5, port))
}

/// Goes on in another chain, and comes back if that one decides nothing.
pub(crate) fn jump(chain: &str) -> Writer {
    /// NFT_JUMP
    const JUMP: i32 = -3;
    verdict(JUMP, Some(chain))
}

/// Drops the packet.
pub(crate) fn drop_packet() -> Writer {
    /// NF_DROP
    const DROP: i32 = 0;
    verdict(DROP, None)
}

fn verdict(code: i32, chain: Option<&str>) -> Writer {
    const VERDICT_REGISTER: u32 = 0;
    const DATA_VERDICT: u16 = 2;
    let verdict = Writer::default().bytes(1, &code.to_be_bytes());
    let verdict = match chain {
        Some(chain) => verdict.text(2, chain),
        None => verdict,
    };
    let data = Writer::default().nest(DATA_VERDICT, &verdict);
    expression("immediate", &Writer::default().be32(1, VERDICT_REGISTER).nest(2, &data))
}

/// A key, or what it stands for, as a part of an element.
pub(crate) fn data(bytes: &[u8]) -> Writer {
    value(bytes)
}
