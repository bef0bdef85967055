//! What can go wrong with the pod network, named by operation, interface and address.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::bridge::BridgeError;
use crate::cidr::Cidr;
use crate::conf::ConfigError;
use crate::host_port::HostPort;
use crate::lease::LeaseError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::pod_link::LinkError;
use crate::reaper::ReapError;

/// An operation on the pod network that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    #[error("pod network configuration")]
    Config(#[source] ConfigError),
    #[error("pod range {cidr} overlaps {taken}, which the host already uses ({by})")]
    RangeTaken { cidr: Cidr, taken: Cidr, by: String },
    #[error(
        "no free pod range: every candidate overlaps a route or address of the host; set the pod range explicitly"
    )]
    NoFreeRange,
    #[error("no address left in {cidr}: {leased} are leased, {releasing} of them being released")]
    NoAddressLeft { cidr: Cidr, leased: usize, releasing: usize },
    #[error("sandbox {sandbox}: host port {port}: {problem}")]
    HostPort { sandbox: String, port: HostPort, problem: &'static str },
    #[error("sandbox {sandbox}: host port {port} is taken by sandbox {holder} at {holder_ip}")]
    HostPortTaken { sandbox: String, port: HostPort, holder: String, holder_ip: IpAddr },
    #[error("all pods together have {held} host ports, and there may not be more than {most}")]
    HostPortsFull { held: usize, most: usize },
    #[error("host ports of sandbox {sandbox}")]
    Publish {
        sandbox: String,
        #[source]
        source: NetlinkError,
    },
    #[error("host ports of sandbox {sandbox}: let the node reach pods from its loopback address by {path}")]
    RouteLocalnet {
        sandbox: String,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("sandbox {sandbox} has no lease")]
    NotAttached { sandbox: String },
    #[error("sandbox {sandbox} at {ip}: interface {interface} {problem}")]
    Broken { sandbox: String, ip: IpAddr, interface: String, problem: String },
    #[error("sandbox id {sandbox:?} is not usable: 1 to 128 letters, digits, '-', '_' or '.'")]
    SandboxId { sandbox: String },
    #[error("sandbox {sandbox}: pod uid of {length} bytes; at most 256")]
    PodUid { sandbox: String, length: usize },
    #[error("sandbox {sandbox}: open network namespace {path}")]
    OpenNetns {
        sandbox: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("sandbox {sandbox}: its network namespace is the host's")]
    HostNetns { sandbox: String },
    #[error("interfaces of detached pods still exist after {waited_ms} ms")]
    InterfacesStay { waited_ms: u128 },
    #[error("connect sandbox {sandbox}")]
    Connect {
        sandbox: String,
        #[source]
        source: Box<LinkError>,
    },
    #[error("inspect sandbox {sandbox}")]
    Inspect {
        sandbox: String,
        #[source]
        source: NetlinkError,
    },
    #[error("read the host's interfaces and routes")]
    ReadHost {
        #[source]
        source: NetlinkError,
    },
    #[error("masquerade for the pod network")]
    Masquerade {
        #[source]
        source: NetlinkError,
    },
    #[error("pod network bridge")]
    Bridge(#[source] BridgeError),
    #[error("pod network leases")]
    Lease(#[source] LeaseError),
    #[error("network namespace")]
    Netns(#[source] NetnsError),
    #[error("take down pod interfaces")]
    Reap(#[source] ReapError),
    #[error("start the thread that deletes interfaces")]
    Thread(#[source] io::Error),
    #[error("remove the pod network: {}", list(.failures))]
    RemoveAll { failures: Vec<NetworkError> },
}

impl NetworkError {
    /// Whether the same call may succeed later without anybody changing the configuration.
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::Config(_)
                | Self::RangeTaken { .. }
                | Self::NoFreeRange
                | Self::SandboxId { .. }
                | Self::PodUid { .. }
                | Self::HostNetns { .. }
                | Self::HostPort { .. }
        )
    }
}

/// An error with everything below it, on one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text = format!("{text}: {error}");
        below = error.source();
    }
    text
}

fn list(failures: &[NetworkError]) -> String {
    failures.iter().map(|e| chain(e)).collect::<Vec<_>>().join("; ")
}
