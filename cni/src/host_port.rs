//! Ports of the node that lead to a pod: what they are and when two of them cannot be had together. Pure.
//!
//! In: what a pod asks for. Out: the same, checked. The rules that make it so are `nft::host_ports`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::error::NetworkError as Error;

/// Host ports of one pod at most: they are in its lease, whose size is bounded.
pub const MAX_HOST_PORTS: usize = 256;
/// Host ports of all pods at most: they have to fit one transaction.
pub(crate) const MAX_ALL_HOST_PORTS: usize = 16_384;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Its number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of such a number.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port of the node that leads to a port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    pub protocol: Protocol,
    /// The address of the node at which it is; `None` (and the unspecified address): at every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub pod_port: u16,
}

impl HostPort {
    /// Whether some packet could mean either of two.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let same_place = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => one == two,
            (None, _) | (_, None) => true,
        };
        same_place && (self.protocol, self.host_port) == (other.protocol, other.host_port)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, host_ip, host_port, .. } = self;
        match host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{host_port}/{protocol}"),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{host_port}/{protocol}"),
            None => write!(f, "{host_port}/{protocol}"),
        }
    }
}

/// The ports a pod of this range may have, sorted, each once.
pub(crate) fn checked(sandbox: &str, wanted: &[HostPort], cidr: Cidr) -> Result<Vec<HostPort>, Error> {
    let refused = |port: HostPort, problem: &'static str| {
        Err(Error::HostPort { sandbox: sandbox.to_owned(), port, problem })
    };
    let mut ports: Vec<HostPort> = Vec::with_capacity(wanted.len());
    for port in wanted {
        let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
        let port = HostPort { host_ip, ..*port };
        if port.host_port == 0 || port.pod_port == 0 {
            return refused(port, "a port is a number from 1 to 65535");
        }
        if host_ip.is_some_and(|ip| ip.is_ipv4() != cidr.network().is_ipv4()) {
            return refused(port, "its address is not of the pod network's family");
        }
        match ports.iter().find(|other| other.collides(&port)) {
            None => ports.push(port),
            Some(same) if *same == port => {}
            Some(_) => return refused(port, "the pod asks for it twice"),
        }
        if ports.len() > MAX_HOST_PORTS {
            return refused(port, "a pod may have 256 host ports");
        }
    }
    ports.sort_unstable();
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16) -> HostPort {
        let host_ip = (!host_ip.is_empty()).then(|| host_ip.parse().unwrap());
        HostPort { protocol: Protocol::Tcp, host_ip, host_port, pod_port: 80 }
    }

    #[test]
    fn a_port_at_every_address_collides_with_one_at_any_and_others_do_not() {
        assert!(port("", 1).collides(&port("192.0.2.1", 1)));
        assert!(port("192.0.2.1", 1).collides(&port("192.0.2.1", 1)));
        assert!(!port("192.0.2.1", 1).collides(&port("192.0.2.2", 1)));
        assert!(!port("", 1).collides(&port("", 2)));
        assert!(!port("", 1).collides(&HostPort { protocol: Protocol::Udp, ..port("", 1) }));
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_is_said_twice_counts_once() {
        let cidr = "10.88.0.0/24".parse().unwrap();
        let check = |ports: &[HostPort]| checked("s", ports, cidr);
        assert_eq!(check(&[port("0.0.0.0", 8), port("", 8)]).unwrap(), [port("", 8)]);
        assert_eq!(check(&[port("", 9), port("", 8)]).unwrap(), [port("", 8), port("", 9)]);
        let other = HostPort { pod_port: 81, ..port("", 8) };
        for wrong in [vec![port("", 0)], vec![port("fd00::1", 8)], vec![port("", 8), other]] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        let many: Vec<HostPort> = (1..=257).map(|n| port("", n)).collect();
        assert!(check(&many).is_err());
        assert_eq!(port("192.0.2.1", 8).to_string(), "192.0.2.1:8/TCP");
        assert_eq!(port("", 8).to_string(), "8/TCP");
    }
}
