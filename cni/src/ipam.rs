//! Which address a pod gets. Pure.
//!
//! In: the pod range, the address given out last, and what is in use. Out: an address, or none.
//! The search goes round the range from the last address given out, so that an address rests as long as possible
//! before somebody else gets it: peers, caches and connection tracking forget it meanwhile.

use std::net::IpAddr;

use crate::cidr::Cidr;

/// The next free address after `last`, wrapping round once; `None` when all are in use.
pub(crate) fn allocate(cidr: Cidr, last: Option<IpAddr>, in_use: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let (first, final_offset) = usable(cidr)?;
    let start = match last.and_then(|address| cidr.offset_of(address)) {
        Some(offset) if (first..final_offset).contains(&offset) => offset + 1,
        Some(_) | None => first,
    };
    (start..=final_offset).chain(first..start).filter_map(|n| cidr.nth(n)).find(|address| !in_use(*address))
}

/// The offsets pods may get: not the network, not the gateway (.1), not the broadcast address of IPv4.
fn usable(cidr: Cidr) -> Option<(u128, u128)> {
    let size = 1u128.checked_shl(cidr.host_bits().into())?;
    let final_offset = if cidr.network().is_ipv4() { size.checked_sub(2)? } else { size - 1 };
    (final_offset >= 2).then_some((2, final_offset))
}

/// How many pods fit.
#[cfg(test)]
pub(crate) fn capacity(cidr: Cidr) -> u128 {
    usable(cidr).map_or(0, |(first, last)| last - first + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_pod_gets_the_address_after_the_gateway() {
        assert_eq!(allocate(cidr("10.88.0.0/24"), None, |_| false), Some("10.88.0.2".parse().unwrap()));
        assert_eq!(allocate(cidr("fd00::/64"), None, |_| false), Some("fd00::2".parse().unwrap()));
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_out() {
        let range = cidr("10.88.0.0/29");
        let mut used = BTreeSet::new();
        while let Some(address) = allocate(range, None, |a| used.contains(&a)) {
            used.insert(address);
        }
        let texts: Vec<String> = used.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.88.0.2", "10.88.0.3", "10.88.0.4", "10.88.0.5", "10.88.0.6"]);
        assert_eq!(capacity(range), 5);
    }

    #[test]
    fn a_last_address_outside_the_range_is_ignored() {
        let last = Some("192.168.0.9".parse().unwrap());
        assert_eq!(allocate(cidr("10.88.0.0/24"), last, |_| false), Some("10.88.0.2".parse().unwrap()));
    }

    #[test]
    fn ranges_too_small_for_a_pod_have_no_address() {
        for text in ["10.88.0.0/31", "10.88.0.0/32", "10.88.0.0/30"] {
            let found = allocate(cidr(text), None, |_| false);
            assert_eq!(found.is_some(), text == "10.88.0.0/30", "{text}");
        }
    }

    /// A small generator, so that every run tries the same sequences.
    fn step(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn in_any_interleaving_addresses_are_unique_inside_and_rest_before_reuse() {
        for seed in 0..200u64 {
            let range =
                cidr(["10.88.0.0/29", "10.88.0.0/28", "10.88.0.0/26"][usize::try_from(seed % 3).unwrap()]);
            let (mut state, mut last) = (seed, None);
            let mut used: Vec<IpAddr> = Vec::new();
            let mut freed: VecDeque<IpAddr> = VecDeque::new();
            for _ in 0..300 {
                if step(&mut state) % 5 < 3 {
                    let Some(address) = allocate(range, last, |a| used.contains(&a)) else {
                        assert_eq!(u128::try_from(used.len()).unwrap(), capacity(range), "seed {seed}");
                        continue;
                    };
                    assert!(range.contains(address) && !used.contains(&address), "seed {seed}");
                    let free = capacity(range) - u128::try_from(used.len()).unwrap();
                    assert!(
                        free == 1 || freed.back() != Some(&address) || last != Some(address),
                        "seed {seed}"
                    );
                    freed.retain(|a| *a != address);
                    used.push(address);
                    last = Some(address);
                } else if !used.is_empty() {
                    let index = usize::try_from(step(&mut state)).unwrap() % used.len();
                    freed.push_back(used.swap_remove(index));
                }
            }
        }
    }
}
