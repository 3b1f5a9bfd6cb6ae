//! The name servers of the target and of this host: which destinations count as DNS, and where questions are sent.

use std::net::{IpAddr, SocketAddr};

use crate::limits::NAMESERVERS;

/// Port of DNS.
pub(super) const DNS_PORT: u16 = 53;
/// Name servers of this host.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Name servers of both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Nameservers {
    /// The target's, as its resolv.conf has them.
    pub(super) target: Vec<IpAddr>,
    /// This host's.
    pub(super) host: Vec<IpAddr>,
}

impl Nameservers {
    /// The target's as the agent gave them, this host's from its resolv.conf; without one resolv.conf(5) means 127.0.0.1.
    pub(super) fn new(target: &[String]) -> Self {
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let mut host = parse(&text);
        if host.is_empty() {
            host.push(IpAddr::from([127, 0, 0, 1]));
        }
        Self { target: target.iter().filter_map(|text| text.parse().ok()).take(NAMESERVERS).collect(), host }
    }

    /// Whether packets to this address are DNS questions for the resolver.
    pub(super) fn is_resolver(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        to.port() == DNS_PORT && (self.target.contains(&ip) || self.host.contains(&ip))
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        // A scope (`%eth0`) has no meaning for comparing; such an address is asked without it.
        .filter_map(|rest| rest.trim().split(['%', ' ', '\t', '#', ';']).next()?.parse().ok())
        .take(NAMESERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_resolver_does() {
        let text = "# nameserver 9.9.9.9\nsearch a.b\nnameserver 10.0.0.10\nnameserver\tfe80::1%eth0 # x\nnameservers 1.1.1.1\nnameserver x\n";
        assert_eq!(parse(text), [IpAddr::from([10, 0, 0, 10]), "fe80::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn only_port_53_of_a_name_server_is_dns() {
        let servers = Nameservers {
            target: vec![IpAddr::from([10, 0, 0, 10])],
            host: vec![IpAddr::from([127, 0, 0, 53])],
        };
        assert!(servers.is_resolver("10.0.0.10:53".parse().unwrap()));
        assert!(servers.is_resolver("[::ffff:127.0.0.53]:53".parse().unwrap()));
        assert!(!servers.is_resolver("10.0.0.10:80".parse().unwrap()));
        assert!(!servers.is_resolver("8.8.8.8:53".parse().unwrap()));
    }
}
