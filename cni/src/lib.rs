//! Pod networking in process: every pod gets an address of its own on a bridge of the node.
//!
//! In: a [`NetworkConfig`] and, per sandbox, its network namespace. Out: addresses, a bridge, one veth pair a pod, one
//! nftables table that masquerades what leaves the pod network and leads host ports into it, and a lease file per address.
//!
//! Everything is synchronous and is called from blocking threads. The crate starts one thread that lives as long as
//! the [`Network`]: the reaper (in: interfaces of detached pods; out: those interfaces deleted in batches, their
//! leases freed). Threads that enter a pod's namespace live for one call.
//!
//! **The host's namespace is the one of the thread that calls [`Network::open`]**; a thread inherits it from its
//! creator. The sockets are opened there and stay there, so later calls may come from any thread.
//!
//! It does not do: services, DNS, CNI plug-ins (the trait [`PodNetwork`] is their seam), anti-spoofing.
//!
//! Decisions a caller should know:
//!
//! - Without nftables or its NAT in the kernel, or when somebody else owns the table, pods are attached all the same and
//!   the status is [`Status::Degraded`]: they reach each other and the node, but nothing outside. The next reconcile
//!   tries again.
//! - A detach returns at once; the interface goes within some 50 ms, in a batch with others, and the address is free
//!   only then. Deleting an interface in the call would cost each caller about 20 ms.
//! - A host port is a translation, not a listener: it goes before what listens on the node at that port. The node reaches it by
//!   any of its addresses, 127.0.0.1 with it but not ::1, for which the kernel has no such route.
//! - Forwarding is switched on for the host when the first pod comes, and is left on.
//!
//! It cannot overrule a foreign table: where the host's own forward chain drops by default (Docker's does), pods reach
//! each other and the node, but the outside only once that chain accepts the bridge; the log names such chains when the first pod comes.

mod bridge;
mod cidr;
mod conf;
mod conntrack;
mod error;
mod host;
mod host_port;
mod inspect;
mod ipam;
mod lease;
mod netlink;
mod netns;
mod network;
mod nft;
mod pod_link;
mod pod_network;
mod publish;
mod range;
mod reaper;
mod reconcile;
mod setup;

pub use bridge::BridgeError;
pub use cidr::{Cidr, CidrError, choose_pod_cidr};
pub use conf::{ConfigError, NetworkConfig};
pub use error::NetworkError as Error;
pub use host_port::{HostPort, MAX_HOST_PORTS, Protocol};
pub use inspect::{
    FoundLease, FoundLink, Inspection, Table, delete_link, drop_lease, inspect, replace_table,
};
pub use lease::LeaseError;
pub use netlink::NetlinkError;
pub use netns::{NetnsError, run_in};
pub use network::Network;
pub use pod_link::LinkError;
pub use pod_network::{Attach, Attachment, Mac, Netns, PodNetwork, Reconciled, Released, Status};
pub use reaper::ReapError;
