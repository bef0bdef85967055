//! The configuration of the pod network, checked, and every name derived from it. Pure.
//!
//! In: what the node's operator chose. Out: checked values, interface names, alias, MAC addresses.
//! It reads nothing from the host.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::cidr::Cidr;
use crate::pod_network::Mac;

/// Name of a pod's interface inside its namespace.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// Host ends of pods begin with this.
pub(crate) const HOST_INTERFACE_PREFIX: &str = "pv";

/// What the pod network of one node is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Directory of the leases, normally `<state>/network`; made if it is missing.
    pub state_dir: PathBuf,
    /// Name of the bridge: `pintle0`, or `ptl-<tag>` for a second instance. At most 15 bytes.
    pub bridge: String,
    /// Name of the nftables table: `pintle`, or `pintle-<tag>`.
    pub nft_table: String,
    /// The node's pod range. `None`: choose a /24 that no route or address of the host overlaps, and keep it.
    pub pod_cidr: Option<Cidr>,
    /// Largest packet of the pods' interfaces in bytes. `None`: that of the interface with the default route.
    pub mtu: Option<u32>,
}

/// What is wrong with a [`NetworkConfig`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("bridge name {name:?} is not an interface name: 1 to 15 letters, digits, '-', '_' or '.'")]
    Bridge { name: String },
    #[error("nftables table name {name:?}: 1 to 64 letters, digits, '-' or '_', a letter first")]
    Table { name: String },
    #[error("pod range {cidr} has the wrong size: between /{shortest} and /{longest}")]
    Size { cidr: Cidr, shortest: u8, longest: u8 },
    #[error("pod range {cidr} is not made of unicast addresses")]
    NotUnicast { cidr: Cidr },
    #[error("MTU {mtu} is out of range: between 1280 and 65535")]
    Mtu { mtu: u32 },
}

impl NetworkConfig {
    /// Checks names, range and MTU.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_bridge(&self.bridge)?;
        check_table(&self.nft_table)?;
        if let Some(cidr) = self.pod_cidr {
            check_cidr(cidr)?;
        }
        match self.mtu {
            Some(mtu) if !(1280..=65535).contains(&mtu) => Err(ConfigError::Mtu { mtu }),
            Some(_) | None => Ok(()),
        }
    }
}

fn check_bridge(name: &str) -> Result<(), ConfigError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=15).contains(&name.len()) && name.bytes().all(fine) && name != "." && name != "..";
    if good { Ok(()) } else { Err(ConfigError::Bridge { name: name.to_owned() }) }
}

fn check_table(name: &str) -> Result<(), ConfigError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let good = (1..=64).contains(&name.len())
        && name.bytes().all(fine)
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if good { Ok(()) } else { Err(ConfigError::Table { name: name.to_owned() }) }
}

/// A range must hold the gateway and a pod, and be small enough to be one bridge.
fn check_cidr(cidr: Cidr) -> Result<(), ConfigError> {
    let first = cidr.network();
    let (shortest, longest) = if first.is_ipv4() { (12, 29) } else { (64, 124) };
    if !(shortest..=longest).contains(&cidr.prefix()) {
        return Err(ConfigError::Size { cidr, shortest, longest });
    }
    let loopback_or_broadcast = match first {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.octets()[0] == 0 || v4.octets()[0] >= 224 || v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local() || v6.is_unspecified()
        }
    };
    if loopback_or_broadcast { Err(ConfigError::NotUnicast { cidr }) } else { Ok(()) }
}

/// The gateway of the pods: the first host address.
pub(crate) fn gateway(cidr: Cidr) -> IpAddr {
    cidr.nth(1).unwrap_or(cidr.network())
}

/// The name of a sandbox's host end; the same for the same bridge and sandbox, whoever computes it.
pub(crate) fn host_interface(bridge: &str, sandbox: &str) -> String {
    let hash = fnv1a(&[bridge.as_bytes(), b"/", sandbox.as_bytes()]);
    format!("{HOST_INTERFACE_PREFIX}{:012x}", hash >> 16)
}

/// Whether an interface name has the form of [`host_interface`].
pub(crate) fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_INTERFACE_PREFIX)
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// The alias that marks a host end as ours and says whose it is.
pub(crate) fn alias(bridge: &str, sandbox: &str) -> String {
    format!("pintle:{bridge}:{sandbox}")
}

/// The sandbox named by an alias of this bridge.
pub(crate) fn sandbox_of_alias<'a>(bridge: &str, alias: &'a str) -> Option<&'a str> {
    alias.strip_prefix("pintle:")?.strip_prefix(bridge)?.strip_prefix(':')
}

/// The bridge's MAC address, fixed from its name so that ports that come and go never change it.
pub(crate) fn bridge_mac(bridge: &str) -> Mac {
    let [_, _, _, a, b, c, d, e] = fnv1a(&[bridge.as_bytes()]).to_be_bytes();
    Mac([0x0a, a, b, c, d, e])
}

/// A pod's MAC address, fixed from its address so that a neighbour's ARP entry stays right when the address is reused.
pub(crate) fn pod_mac(address: IpAddr) -> Mac {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Mac([0x0e, 0x50, octets[0], octets[1], octets[2], octets[3]])
}

/// The interface group that marks host ends for deletion: a number nobody sets by hand.
pub(crate) fn condemned_group(bridge: &str) -> u32 {
    let [a, b, c, d, ..] = fnv1a(&[bridge.as_bytes(), b"/condemned"]).to_be_bytes();
    u32::from_be_bytes([a & 0x3f | 0x40, b, c, d])
}

/// FNV-1a, 64 bits: stable over releases and machines, which the standard library's hasher does not promise.
fn fnv1a(parts: &[&[u8]]) -> u64 {
    parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig {
            state_dir: PathBuf::from("/nowhere"),
            bridge: "pintle0".into(),
            nft_table: "pintle".into(),
            pod_cidr: Some("10.88.0.0/24".parse().unwrap()),
            mtu: None,
        }
    }

    #[test]
    fn a_sound_configuration_is_accepted() {
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn names_the_kernel_or_nft_would_refuse_are_refused_first() {
        for bridge in ["", "a bridge", "0123456789abcdef", "a/b", "..", "."] {
            assert!(NetworkConfig { bridge: bridge.into(), ..config() }.check().is_err(), "{bridge}");
        }
        for table in ["", "a b", "0x", "a;flush ruleset", "a{"] {
            assert!(NetworkConfig { nft_table: table.into(), ..config() }.check().is_err(), "{table}");
        }
    }

    #[test]
    fn ranges_of_a_wrong_size_or_kind_are_refused() {
        for range in
            ["10.0.0.0/8", "10.88.0.0/30", "127.0.0.0/24", "224.0.0.0/24", "169.254.0.0/24", "fe80::/64"]
        {
            let pod_cidr = Some(range.parse().unwrap());
            assert!(NetworkConfig { pod_cidr, ..config() }.check().is_err(), "{range}");
        }
    }

    #[test]
    fn host_interface_names_are_stable_recognised_and_differ_by_bridge() {
        let name = host_interface("pintle0", "abc");
        assert_eq!(name, host_interface("pintle0", "abc"));
        assert_ne!(name, host_interface("ptl-1", "abc"));
        assert!(name.len() <= 15 && is_host_interface(&name));
        assert!(
            !is_host_interface("pv")
                && !is_host_interface("veth0123456789")
                && !is_host_interface("pv0123456789aZ")
        );
    }

    #[test]
    fn an_alias_names_its_sandbox_only_for_its_own_bridge() {
        let alias = alias("pintle0", "abc");
        assert_eq!(sandbox_of_alias("pintle0", &alias), Some("abc"));
        assert_eq!(sandbox_of_alias("pintle", &alias), None);
        assert_eq!(sandbox_of_alias("ptl-1", &alias), None);
    }

    #[test]
    fn macs_are_unicast_and_locally_administered() {
        for mac in [
            bridge_mac("pintle0"),
            pod_mac("10.88.0.2".parse().unwrap()),
            pod_mac("fd00::2".parse().unwrap()),
        ] {
            assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
        }
    }
}
