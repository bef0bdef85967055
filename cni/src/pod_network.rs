//! What a pod network is to the engine: the trait, and the values that go in and come out.
//!
//! [`crate::Network`] is the built-in implementation; CNI plug-ins will be another. Nothing here acts.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError as Error;
use crate::host_port::HostPort;

/// Gives sandboxes an address and takes it back.
pub trait PodNetwork: Send + Sync {
    /// Connects a sandbox. Doing it twice gives the same answer; a failure leaves nothing behind.
    fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error>;
    /// Disconnects a sandbox and frees its address. Needs no namespace; doing it twice is fine.
    fn detach(&self, sandbox: &str) -> Result<(), Error>;
    /// Whether an attached sandbox is still connected; the error says what is missing.
    fn check(&self, sandbox: &str) -> Result<(), Error>;
    /// Whether pods can be connected, and why not.
    fn status(&self) -> Status;
}

/// A network namespace.
#[derive(Clone, Copy, Debug)]
pub enum Netns<'a> {
    /// An open file of it.
    Fd(BorrowedFd<'a>),
    /// Its path, `/proc/<pid>/ns/net`; opened once, at the start of the call.
    Path(&'a Path),
}

/// A sandbox that wants to be connected.
#[derive(Clone, Copy, Debug)]
pub struct Attach<'a> {
    /// Id of the sandbox, which names its lease and its interface.
    pub sandbox: &'a str,
    /// UID of its pod, kept in the lease for people who look.
    pub pod_uid: &'a str,
    /// Its network namespace; must not be the host's.
    pub netns: Netns<'a>,
    /// The ports of the node that lead to it.
    pub ports: &'a [HostPort],
}

/// How a sandbox is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's address.
    pub ip: IpAddr,
    /// Length in bits of the pod network's prefix.
    pub prefix: u8,
    /// The pod's default gateway: the bridge's address.
    pub gateway: IpAddr,
    /// MAC address of the pod's interface.
    pub mac: Mac,
    /// Name of the pod's interface inside its namespace.
    pub interface: String,
    /// Name of the other end, on the host.
    pub host_interface: String,
}

/// What [`crate::Network::reconcile`] did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Leases freed because their sandbox does not live.
    pub released: Vec<Released>,
    /// Interfaces of this network deleted because no live sandbox owns them.
    pub deleted_interfaces: Vec<String>,
    /// Live sandboxes that have a lease but no working interface: rebuild them.
    pub broken: Vec<String>,
    /// Whether the masquerade table was missing and was put back.
    pub masquerade_restored: bool,
}

/// A lease that was freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub sandbox: String,
    pub ip: IpAddr,
}

/// Whether pods can be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// All parts work, or nothing was tried yet.
    Ready,
    /// Pods are connected to each other and the node, but something is missing (masquerade: no way out).
    Degraded { reason: String },
    /// Pods cannot be connected.
    NotReady { reason: String },
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|p| p.len() == 2)
                .ok_or_else(|| format!("{text:?} is not a MAC address"))?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| format!("{text:?} is not a MAC address"))?;
        }
        if parts.next().is_some() { Err(format!("{text:?} is not a MAC address")) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_survives_text() {
        let mac = Mac([0x0a, 0, 0xff, 3, 4, 5]);
        assert_eq!(Mac::try_from(mac.to_string()), Ok(mac));
        for text in ["", "0a:00:ff:03:04", "0a:00:ff:03:04:05:06", "zz:00:ff:03:04:05"] {
            assert!(Mac::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
