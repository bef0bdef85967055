//! Address ranges: parsing, containment, and the choice of a pod range nobody on the host uses. Pure.
//!
//! In: text or addresses. Out: [`Cidr`]s. It does not look at the host; the caller hands in what is taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address range whose host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not an address range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    #[error("{text:?} is not an address range: write ADDRESS/PREFIX, for example 10.88.0.0/24")]
    Form { text: String },
    #[error("prefix /{prefix} is too long for {address}: at most /{most}")]
    Prefix { address: IpAddr, prefix: u8, most: u8 },
    #[error("{address}/{prefix} has host bits set: write {meant}")]
    HostBits { address: IpAddr, prefix: u8, meant: Cidr },
}

impl Cidr {
    /// A range from its first address; host bits must be zero.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        let most = width(address);
        if prefix > most {
            return Err(CidrError::Prefix { address, prefix, most });
        }
        let meant = Self::around(address, prefix);
        if meant.network == address { Ok(meant) } else { Err(CidrError::HostBits { address, prefix, meant }) }
    }

    /// The range of this size that holds `address`. A prefix longer than the address counts as the address alone.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(width(address));
        let network = from_bits(address, to_bits(address) & mask(width(address), prefix));
        Self { network, prefix }
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask as bytes, as many as the address family has.
    pub fn mask_bytes(&self) -> Vec<u8> {
        bytes(from_bits(self.network, mask(width(self.network), self.prefix)))
    }

    /// The first address as bytes.
    pub fn network_bytes(&self) -> Vec<u8> {
        bytes(self.network)
    }

    /// Number of bits that are free for hosts.
    pub fn host_bits(&self) -> u8 {
        width(self.network) - self.prefix
    }

    /// The `n`-th address, if it is inside.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        let host_bits = self.host_bits();
        if host_bits < 128 && n >> host_bits != 0 {
            return None;
        }
        Some(from_bits(self.network, to_bits(self.network) | n))
    }

    /// The offset of an address from the first, if it is inside.
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_bits(address) - to_bits(self.network))
    }

    /// Whether the address is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        width(address) == width(self.network) && Self::around(address, self.prefix) == *self
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form { text: text.chars().take(64).collect() };
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err(form());
        }
        Self::new(address, prefix.parse().map_err(|_| form())?)
    }
}

/// Chooses the pod range of a node that was given none: the first /24 that overlaps nothing in `taken`.
///
/// Default routes must not be among `taken`. `None` when every candidate is in use.
pub fn choose_pod_cidr(taken: &[Cidr]) -> Option<Cidr> {
    candidates().find(|candidate| !taken.iter().any(|t| t.overlaps(candidate)))
}

/// 10.88.0.0/16 first, then ranges that other node software seldom takes.
fn candidates() -> impl Iterator<Item = Cidr> {
    const BLOCKS: [(u8, u8); 12] = [
        (10, 88),
        (10, 89),
        (10, 90),
        (10, 91),
        (10, 152),
        (10, 201),
        (172, 28),
        (172, 29),
        (172, 30),
        (172, 31),
        (192, 168),
        (100, 127),
    ];
    BLOCKS.into_iter().flat_map(|(a, b)| {
        (0..=255).map(move |c| Cidr { network: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix: 24 })
    })
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(width: u8, prefix: u8) -> u128 {
    let all = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
    if prefix == 0 { 0 } else { all & (all << (width - prefix)) }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// `family` says which kind of address to make.
fn from_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => {
            let [.., a, b, c, d] = bits.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_prints_as_it_was_written() {
        for text in ["10.88.0.0/24", "0.0.0.0/0", "10.1.2.3/32", "fd00::/64", "::/0", "fd00::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
    }

    #[test]
    fn host_bits_are_refused_with_what_was_meant() {
        let error = "10.88.0.7/24".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "10.88.0.7/24 has host bits set: write 10.88.0.0/24");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "10.88.0.0", "10.88.0.0/", "10.88.0.0/33", "10.88.0.0/+4", "/24", "a/24", "fd00::/129"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn containment_and_overlap_follow_the_prefix() {
        let range = cidr("10.88.0.0/24");
        assert!(range.contains("10.88.0.255".parse().unwrap()));
        assert!(!range.contains("10.88.1.0".parse().unwrap()));
        assert!(!range.contains("::ffff:10.88.0.1".parse().unwrap()));
        assert!(range.overlaps(&cidr("10.0.0.0/8")) && cidr("10.0.0.0/8").overlaps(&range));
        assert!(!range.overlaps(&cidr("10.88.1.0/24")));
        assert_eq!(range.nth(255), Some("10.88.0.255".parse().unwrap()));
        assert_eq!(range.nth(256), None);
        assert_eq!(range.offset_of("10.88.0.9".parse().unwrap()), Some(9));
    }

    #[test]
    fn the_choice_avoids_everything_that_is_taken() {
        assert_eq!(choose_pod_cidr(&[]), Some(cidr("10.88.0.0/24")));
        assert_eq!(choose_pod_cidr(&[cidr("10.88.0.0/25")]), Some(cidr("10.88.1.0/24")));
        assert_eq!(choose_pod_cidr(&[cidr("10.88.0.0/16")]), Some(cidr("10.89.0.0/24")));
        assert_eq!(choose_pod_cidr(&[cidr("10.0.0.0/8")]), Some(cidr("172.28.0.0/24")));
        let all = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"].map(cidr);
        assert_eq!(choose_pod_cidr(&all), None);
    }
}
