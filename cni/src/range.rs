//! Finds the node's pod range: the one configured, the one chosen at an earlier start, or a new choice.
//!
//! In: configuration, what the host uses. Out: a range that collides with nothing.

use crate::cidr::{Cidr, choose_pod_cidr};
use crate::conf::NetworkConfig;
use crate::error::NetworkError;
use crate::host::{Host, Taken};
use crate::lease;

/// The node's pod range. A configured one that collides is an error; a chosen one is kept for the next start.
pub(crate) fn settle(config: &NetworkConfig, host: &Host) -> Result<Cidr, NetworkError> {
    let like = config.pod_cidr.map_or(std::net::IpAddr::from([0; 4]), |cidr| cidr.network());
    let failed = |source| NetworkError::ReadHost { source };
    let own = host.link(&config.bridge).map_err(failed)?.map(|link| link.index);
    let taken = host.taken(like, own).map_err(failed)?;
    if let Some(cidr) = config.pod_cidr {
        return match collision(cidr, &taken) {
            Some(t) => Err(NetworkError::RangeTaken { cidr, taken: t.cidr, by: t.by.clone() }),
            None => Ok(cidr),
        };
    }
    let kept = lease::read_range(&config.state_dir).map_err(NetworkError::Lease)?;
    if let Some(cidr) = kept {
        match collision(cidr, &taken) {
            None => return Ok(cidr),
            Some(t) => {
                tracing::warn!(%cidr, taken = %t.cidr, by = t.by, "the pod range collides now; choosing another")
            }
        }
    }
    let ranges: Vec<Cidr> = taken.iter().map(|t| t.cidr).collect();
    let cidr = choose_pod_cidr(&ranges).ok_or(NetworkError::NoFreeRange)?;
    lease::write_range(&config.state_dir, cidr).map_err(NetworkError::Lease)?;
    tracing::info!(%cidr, "pod range chosen");
    Ok(cidr)
}

/// A wider route by a gateway is no collision: the bridge's more specific one wins for the pods, and whoever configured
/// a range inside a larger private network meant it.
fn collision(cidr: Cidr, taken: &[Taken]) -> Option<&Taken> {
    taken.iter().find(|t| t.cidr.overlaps(&cidr) && !(t.by_gateway && t.cidr.prefix() < cidr.prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(cidr: &str, by_gateway: bool) -> Taken {
        Taken { cidr: cidr.parse().unwrap(), by: "a test".into(), by_gateway }
    }

    #[test]
    fn only_a_wider_route_by_a_gateway_is_no_collision() {
        let cidr = "10.88.0.0/24".parse().unwrap();
        for (range, by_gateway, collides) in [
            ("10.0.0.0/8", true, false),
            ("10.0.0.0/8", false, true),
            ("10.88.0.0/24", true, true),
            ("10.88.0.128/25", true, true),
            ("10.88.1.0/24", false, false),
        ] {
            assert_eq!(
                collision(cidr, &[taken(range, by_gateway)]).is_some(),
                collides,
                "{range} {by_gateway}"
            );
        }
    }
}
