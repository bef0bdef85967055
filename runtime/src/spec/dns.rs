//! A pod's `resolv.conf`.
//!
//! In: CRI's DNS configuration, the node's file. Out: the file's text. Without a configuration the pod uses the node's.

use pintle_cri_api::v1::DnsConfig;

use super::Error;

/// The C library reads no more name servers than these.
const MAX_SERVERS: usize = 3;

/// The text of a pod's `resolv.conf`.
///
/// # Errors
/// When an entry could smuggle in another line.
pub fn resolv_conf(wanted: Option<&DnsConfig>, node: &str) -> Result<String, Error> {
    let Some(dns) = wanted.filter(|dns| !is_empty(dns)) else { return Ok(node.to_owned()) };
    for entry in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if entry.is_empty() || entry.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid("dns_config", format!("{entry:?} cannot be in a resolv.conf")));
        }
    }
    if dns.servers.len() > MAX_SERVERS {
        return Err(Error::invalid("dns_config.servers", format!("more than {MAX_SERVERS}")));
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
    fn an_entry_with_a_line_break_is_refused() {
        let dns = DnsConfig { searches: vec!["a\nnameserver 6.6.6.6".to_owned()], ..Default::default() };
        assert!(resolv_conf(Some(&dns), "").is_err());
    }
}
