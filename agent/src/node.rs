//! What this node is: memory, processors, addresses, name servers.
//!
//! In: `/proc`, the routing table by way of an unconnected socket, settings. Out: [`NodeFacts`], [`Capacity`]. Read once at
//! start.

use std::net::{IpAddr, UdpSocket};

use pintle_core::quantity::Quantity;
use pintle_core::resources::{Bytes, MilliCpu};

use crate::admission::Capacity;
use crate::config::Settings;
use crate::dns::{self, NodeDns};
use crate::sandbox_config::NodeFacts;

/// Looks at the node.
pub(crate) fn facts(settings: &Settings) -> NodeFacts {
    NodeFacts {
        name: settings.node_name.clone(),
        pod_logs: settings.pod_logs.clone(),
        cgroup_root: settings.cgroup_root.trim_end_matches('/').to_owned(),
        dns: NodeDns {
            host: dns::read_host(),
            cluster_servers: settings.cluster_dns.clone(),
            cluster_domain: settings.cluster_domain.clone(),
        },
        memory: memory(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        ips: addresses(),
        seccomp_root: settings.root.join("seccomp"),
        seccomp_default: settings.seccomp_default,
    }
}

/// What pods may have of it.
pub(crate) fn capacity(node: &NodeFacts, settings: &Settings) -> Capacity {
    let parsed = |text: &str| Quantity::parse(text).ok();
    let reserved_cpu =
        settings.reserved.cpu.as_ref().and_then(|cpu| parsed(&cpu.0)).map_or(0, Quantity::milli_value);
    let reserved_memory =
        settings.reserved.memory.as_ref().and_then(|m| parsed(&m.0)).map_or(0, Quantity::value);
    Capacity {
        pods: settings.max_pods,
        cpu: MilliCpu((node.cpus * 1000).saturating_sub(u64::try_from(reserved_cpu).unwrap_or(0))),
        memory: Bytes(node.memory.saturating_sub(u64::try_from(reserved_memory).unwrap_or(0))),
    }
}

fn memory() -> u64 {
    use procfs::Current as _;
    procfs::Meminfo::current().map_or(0, |info| info.mem_total)
}

/// The addresses from which this node would speak to the world, IPv4 first. Nothing is sent.
fn addresses() -> Vec<String> {
    let towards = |from: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = [towards("0.0.0.0:0", "192.0.2.1:9"), towards("[::]:0", "[2001:db8::1]:9")];
    let usable = found.into_iter().flatten().filter(|ip| !ip.is_unspecified());
    let found: Vec<String> = usable.map(|ip| ip.to_string()).collect();
    if found.is_empty() { vec!["127.0.0.1".to_owned()] } else { found }
}
