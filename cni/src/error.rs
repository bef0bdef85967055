//! What can go wrong with the pod network, named by operation, interface and address.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::cidr::Cidr;
use crate::conf::ConfigError;

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
    #[error("no address left in {cidr}: {leased} leased, {releasing} of them being released")]
    NoAddressLeft { cidr: Cidr, leased: usize, releasing: usize },
    #[error("sandbox {sandbox} has no lease")]
    NotAttached { sandbox: String },
    #[error("sandbox {sandbox} at {ip}: interface {interface}: {problem}")]
    Broken { sandbox: String, ip: IpAddr, interface: String, problem: String },
    #[error("sandbox id {sandbox:?} is not usable: 1 to 128 letters, digits, '-', '_' or '.'")]
    SandboxId { sandbox: String },
    #[error("sandbox {sandbox}: open network namespace {path}")]
    OpenNetns {
        sandbox: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interface {interface} still exists after {waited_ms} ms")]
    InterfaceStays { interface: String, waited_ms: u128 },
}

impl NetworkError {
    /// Whether the same call may succeed later without anybody changing the configuration.
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::Config(_) | Self::RangeTaken { .. } | Self::NoFreeRange | Self::SandboxId { .. }
        )
    }
}
