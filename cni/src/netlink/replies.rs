//! Takes a datagram from the kernel apart. Pure; never panics, whatever the bytes are.
//!
//! In: bytes. Out: [`Answer`]s. Attributes stay encoded: a reader picks the few it knows, so that an interface or a
//! route of a kind this program has never heard of does no harm.

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
};

use super::attributes;

const HEADER: usize = 16;
/// NLMSGERR_ATTR_MSG: the kernel's words on a refusal.
const ATTR_MSG: u16 = 1;

/// A message the kernel sent in reply to a request, without its netlink header.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// One message of a datagram.
#[derive(Debug)]
pub(super) enum Answer {
    Reply { sequence: u32, reply: Reply, interrupted: bool },
    Done { sequence: u32, interrupted: bool },
    Refused { sequence: u32, errno: i32, kernel: Option<String> },
}

impl Answer {
    pub(super) fn sequence(&self) -> u32 {
        match self {
            Self::Reply { sequence, .. } | Self::Done { sequence, .. } | Self::Refused { sequence, .. } => {
                *sequence
            }
        }
    }
}

/// The messages of a datagram; `None` for one that is cut off or malformed, after which nothing follows.
pub(super) fn answers(datagram: &[u8]) -> Vec<Option<Answer>> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let Some((message, after)) = split(rest) else {
            found.push(None);
            break;
        };
        if read_u16(message, 4) != Some(NLMSG_NOOP) {
            found.push(answer(message));
        }
        rest = after;
    }
    found
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(read_u32(bytes, 0)?).ok()?;
    if length < HEADER {
        return None;
    }
    let message = bytes.get(..length)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn answer(message: &[u8]) -> Option<Answer> {
    let kind = read_u16(message, 4)?;
    let flags = read_u16(message, 6)?;
    let sequence = read_u32(message, 8)?;
    let payload = message.get(HEADER..)?;
    let interrupted = flags & NLM_F_DUMP_INTR != 0;
    if kind != NLMSG_ERROR && kind != NLMSG_DONE {
        let reply = Reply { kind, payload: payload.to_vec() };
        return Some(Answer::Reply { sequence, reply, interrupted });
    }
    // A dump ends with DONE, whose payload is an error code too (and may be missing).
    let code = match read_u32(payload, 0) {
        Some(code) => code.cast_signed(),
        None if kind == NLMSG_DONE => 0,
        None => return None,
    };
    if code == 0 {
        return Some(Answer::Done { sequence, interrupted });
    }
    let kernel = (flags & NLM_F_ACK_TLVS != 0).then(|| words(payload, flags)).flatten();
    Some(Answer::Refused { sequence, errno: code.checked_neg()?, kernel })
}

/// The kernel's own words, behind the copy of the refused request.
fn words(payload: &[u8], flags: u16) -> Option<String> {
    let request =
        if flags & NLM_F_CAPPED != 0 { HEADER } else { usize::try_from(read_u32(payload, 4)?).ok()? };
    let tlvs = payload.get(4 + request.next_multiple_of(4)..)?;
    let text = attributes::find(tlvs, ATTR_MSG)?;
    Some(attributes::text(text))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn replies_acknowledgements_and_refusals_are_told_apart() {
        let mut datagram = message(16, 7, b"abc");
        datagram.extend(message(2, 8, &0i32.to_ne_bytes()));
        datagram.extend(message(2, 9, &(-17i32).to_ne_bytes()));
        let found = answers(&datagram);
        assert!(
            matches!(&found[0], Some(Answer::Reply { sequence: 7, reply, .. }) if reply.payload == b"abc")
        );
        assert!(matches!(found[1], Some(Answer::Done { sequence: 8, .. })));
        assert!(matches!(found[2], Some(Answer::Refused { sequence: 9, errno: 17, .. })));
    }

    #[test]
    fn cut_off_messages_are_told_and_never_panic() {
        let whole = message(2, 9, &(-17i32).to_ne_bytes());
        for length in 1..whole.len() {
            assert!(answers(&whole[..length])[0].is_none(), "{length}");
        }
        let mut lying = whole;
        lying[0] = 3;
        assert!(answers(&lying)[0].is_none());
    }
}
