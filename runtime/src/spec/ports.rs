//! The ports of the node that lead to a pod.
//!
//! In: CRI's port mappings. Out: what the pod network is asked for. A mapping without a host port says only what the pod listens
//! on, and a pod on the node's network has the node's ports anyway: neither is a wish.

use pintle_cni::{HostPort, MAX_HOST_PORTS, Protocol};
use pintle_cri_api::v1::{self as cri, NamespaceMode, PodSandboxConfig, PortMapping};

use super::Error;

/// The host ports that a pod asks for.
///
/// # Errors
/// When one can never be.
pub fn host_ports(config: &PodSandboxConfig) -> Result<Vec<HostPort>, Error> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    if options.is_some_and(|options| options.network == NamespaceMode::Node as i32) {
        return Ok(Vec::new());
    }
    let wanted = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    let ports = wanted.map(host_port).collect::<Result<Vec<_>, _>>()?;
    match ports.len() > MAX_HOST_PORTS {
        true => Err(Error::invalid("port_mappings", format!("more than {MAX_HOST_PORTS} host ports"))),
        false => Ok(ports),
    }
}

fn host_port(mapping: &PortMapping) -> Result<HostPort, Error> {
    let number = |field, port: i32| match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::invalid(field, format!("{port} is no port"))),
    };
    let protocol = match cri::Protocol::try_from(mapping.protocol) {
        Ok(cri::Protocol::Tcp) => Protocol::Tcp,
        Ok(cri::Protocol::Udp) => Protocol::Udp,
        Ok(cri::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => {
            let reason = format!("there is no protocol {}", mapping.protocol);
            return Err(Error::invalid("port_mappings.protocol", reason));
        }
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid("port_mappings.host_ip", format!("{shown:?} is no address"))
        })?),
    };
    Ok(HostPort {
        protocol,
        host_ip,
        host_port: number("port_mappings.host_port", mapping.host_port)?,
        pod_port: number("port_mappings.container_port", mapping.container_port)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(mappings: &[PortMapping]) -> PodSandboxConfig {
        PodSandboxConfig { port_mappings: mappings.to_vec(), ..Default::default() }
    }

    fn mapping(host_port: i32, container_port: i32) -> PortMapping {
        PortMapping { host_port, container_port, ..Default::default() }
    }

    #[test]
    fn mappings_with_a_host_port_are_wishes_and_others_are_not() {
        let udp = PortMapping { protocol: 1, host_ip: "192.0.2.1".to_owned(), ..mapping(53, 5353) };
        let ports = host_ports(&pod(&[mapping(0, 80), mapping(8080, 80), udp])).unwrap();
        let plain = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, pod_port: 80 };
        assert_eq!(ports[0], plain);
        assert_eq!(ports[1].to_string(), "192.0.2.1:53/UDP");
        assert_eq!(ports.len(), 2);
    }

    #[test]
    fn a_pod_on_the_nodes_network_needs_none() {
        let options = cri::NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let security_context =
            Some(cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
        let linux = Some(cri::LinuxPodSandboxConfig { security_context, ..Default::default() });
        let config = PodSandboxConfig { linux, ..pod(&[mapping(80, 80)]) };
        assert!(host_ports(&config).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_port_protocol_or_address_is_refused_with_its_field() {
        for (mapping, field) in [
            (mapping(70_000, 80), "host_port"),
            (mapping(80, 0), "container_port"),
            (PortMapping { protocol: 7, ..mapping(80, 80) }, "protocol"),
            (PortMapping { host_ip: "here".to_owned(), ..mapping(80, 80) }, "host_ip"),
        ] {
            let error = host_ports(&pod(&[mapping])).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let many: Vec<PortMapping> = (1..=257).map(|port| mapping(port, 80)).collect();
        assert!(host_ports(&pod(&many)).is_err());
    }
}
