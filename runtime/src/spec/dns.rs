//! A pod's `resolv.conf`.
//!
//! In: CRI's DNS configuration, the node's file. Out: the file's text. Without a configuration the pod uses the node's.

use pintle_cri_api::v1::DnsConfig;

use super::Error;

/// The C library reads no more name servers than these.
const MAX_SERVERS: usize = 3;

/// As many search domains, options and characters as Kubernetes takes (the C library has had no limit since 2.26).
const MAX_SEARCHES: usize = 32;
const MAX_OPTIONS: usize = 32;
const MAX_TEXT: usize = 2048;

/// The text of a pod's `resolv.conf`.
///
/// # Errors
/// When an entry could smuggle in another line.
pub fn resolv_conf(wanted: Option<&DnsConfig>, node: &str) -> Result<String, Error> {
    let Some(dns) = wanted.filter(|dns| !is_empty(dns)) else { return Ok(node.to_owned()) };
    for entry in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if entry.is_empty()
            || entry.len() > MAX_TEXT
            || entry.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            let entry: String = entry.chars().take(64).collect();
            return Err(Error::invalid("dns_config", format!("{entry:?} cannot be in a resolv.conf")));
        }
    }
    if dns.servers.len() > MAX_SERVERS {
        return Err(Error::invalid("dns_config.servers", format!("more than {MAX_SERVERS}")));
    }
    let lists = [
        ("dns_config.searches", &dns.searches, MAX_SEARCHES),
        ("dns_config.options", &dns.options, MAX_OPTIONS),
    ];
    for (field, list, most) in lists {
        if list.len() > most || list.iter().map(String::len).sum::<usize>() > MAX_TEXT {
            return Err(Error::invalid(field, format!("more than {most}, or than {MAX_TEXT} bytes")));
        }
    }
    if let Some(server) = dns.servers.iter().find(|server| !is_address(server)) {
        return Err(Error::invalid("dns_config.servers", format!("{server:?} is no address")));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

/// An address, perhaps with the interface it is reached by.
fn is_address(server: &str) -> bool {
    let address = server.split_once('%').map_or(server, |(address, _)| address);
    address.parse::<std::net::IpAddr>().is_ok()
}

fn is_empty(dns: &DnsConfig) -> bool {
    dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_becomes_its_lines() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["a.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let text = resolv_conf(Some(&dns), "").unwrap();
        assert_eq!(text, "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n");
    }

    #[test]
    fn without_one_the_nodes_file_is_used() {
        assert_eq!(resolv_conf(None, "nameserver 1.1.1.1\n").unwrap(), "nameserver 1.1.1.1\n");
        assert_eq!(resolv_conf(Some(&DnsConfig::default()), "x\n").unwrap(), "x\n");
    }

    #[test]
    fn more_than_kubernetes_takes_is_refused() {
        let many = |count: usize| (0..count).map(|i| format!("d{i}")).collect::<Vec<_>>();
        for (searches, options, good) in [(32, 32, true), (33, 0, false), (0, 33, false)] {
            let dns = DnsConfig { searches: many(searches), options: many(options), ..Default::default() };
            assert_eq!(resolv_conf(Some(&dns), "").is_ok(), good);
        }
        let dns = DnsConfig { servers: vec!["ns.example".to_owned()], ..Default::default() };
        assert!(resolv_conf(Some(&dns), "").is_err());
    }

    #[test]
    fn an_entry_with_a_line_break_is_refused() {
        let dns = DnsConfig { searches: vec!["a\nnameserver 6.6.6.6".to_owned()], ..Default::default() };
        assert!(resolv_conf(Some(&dns), "").is_err());
    }
}
