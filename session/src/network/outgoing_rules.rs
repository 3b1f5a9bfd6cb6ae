//! Where an outgoing flow or a DNS question goes, and the rule that says so. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::config::{AddressRule, HostRule, Outgoing, OutgoingFilter, Transport};

/// Where a flow leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The host's own network.
    Local,
    /// The target's network.
    Remote,
}

/// A decision and the rule that made it, as events show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub place: Place,
    /// For example `feature.network.outgoing.filter.local[1] 10.0.0.0/8`.
    pub rule: String,
}

impl Route {
    fn new(place: Place, rule: impl Into<String>) -> Self {
        Self { place, rule: rule.into() }
    }
}

/// Decides for a flow; `names` are those that DNS gave for the address, in all their forms.
#[must_use]
pub fn route_flow(config: &Outgoing, transport: Transport, to: SocketAddr, names: &[String]) -> Route {
    let enabled = match transport {
        Transport::Tcp => config.tcp,
        Transport::Udp => config.udp,
    };
    if !enabled {
        let name = if transport == Transport::Tcp { "tcp" } else { "udp" };
        return Route::new(Place::Local, format!("feature.network.outgoing.{name} is off"));
    }
    if config.ignore_localhost && to.ip().to_canonical().is_loopback() {
        return Route::new(Place::Local, "feature.network.outgoing.ignore_localhost");
    }
    let matches = |rule: &AddressRule| matches_flow(rule, transport, to, names);
    filtered(&config.filter, "feature.network.outgoing.filter", matches)
}

/// Decides for a DNS question: the forms of a name (lower case, no trailing dot) that is asked on `port`.
#[must_use]
pub fn route_question(config: &crate::config::Dns, names: &[String], port: u16) -> Route {
    if !config.remote {
        return Route::new(Place::Local, "feature.network.dns is off");
    }
    filtered(&config.filter, "feature.network.dns.filter", |rule| {
        (rule.port == 0 || rule.port == port) && names.iter().any(|name| matches_name(&rule.host, name))
    })
}

fn filtered(filter: &OutgoingFilter, key: &str, matches: impl Fn(&AddressRule) -> bool) -> Route {
    let (rules, kind, hit, miss) = match filter {
        OutgoingFilter::All => return Route::new(Place::Remote, "default remote"),
        OutgoingFilter::Remote(rules) => (rules, "remote", Place::Remote, Place::Local),
        OutgoingFilter::Local(rules) => (rules, "local", Place::Local, Place::Remote),
    };
    match rules.iter().enumerate().find(|(_, rule)| matches(rule)) {
        Some((index, rule)) => Route::new(hit, format!("{key}.{kind}[{index}] {}", rule.text)),
        None => Route::new(miss, format!("no rule of {key}.{kind} matches")),
    }
}

fn matches_flow(rule: &AddressRule, transport: Transport, to: SocketAddr, names: &[String]) -> bool {
    rule.transport.is_none_or(|wanted| wanted == transport)
        && (rule.port == 0 || rule.port == to.port())
        && match &rule.host {
            HostRule::Any => true,
            HostRule::Subnet(network, prefix) => in_subnet(to.ip(), *network, *prefix),
            HostRule::Name(_) => names.iter().any(|name| matches_name(&rule.host, name)),
        }
}

fn matches_name(host: &HostRule, name: &str) -> bool {
    match host {
        HostRule::Any => true,
        HostRule::Subnet(..) => false,
        HostRule::Name(pattern) => match pattern.strip_prefix("*.") {
            Some(parent) => name.len().checked_sub(parent.len() + 1).is_some_and(|dot| {
                dot > 0 && name.as_bytes().get(dot) == Some(&b'.') && name.ends_with(parent)
            }),
            None => name == pattern,
        },
    }
}

/// Whether the address lies in the subnet; v4-mapped addresses count as v4, as they do on the wire.
fn in_subnet(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (ip.to_canonical(), network.to_canonical()) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Dns;

    fn rule(host: HostRule, transport: Option<Transport>, port: u16) -> AddressRule {
        AddressRule { text: "rule".to_owned(), transport, host, port }
    }

    fn outgoing(filter: OutgoingFilter) -> Outgoing {
        Outgoing { tcp: true, udp: true, ignore_localhost: false, filter, unix_streams: Vec::new() }
    }

    fn place(config: &Outgoing, to: &str, names: &[&str]) -> Place {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        route_flow(config, Transport::Tcp, to.parse().unwrap(), &names).place
    }

    #[test]
    fn the_default_is_remote_also_for_loopback() {
        let config = outgoing(OutgoingFilter::All);
        assert_eq!(place(&config, "1.2.3.4:80", &[]), Place::Remote);
        assert_eq!(place(&config, "127.0.0.1:80", &[]), Place::Remote);
        let config = Outgoing { ignore_localhost: true, ..config };
        assert_eq!(place(&config, "127.0.0.1:80", &[]), Place::Local);
        assert_eq!(place(&config, "[::1]:80", &[]), Place::Local);
        assert_eq!(place(&config, "[::ffff:127.0.0.1]:80", &[]), Place::Local);
        let config = Outgoing { tcp: false, ..config };
        assert_eq!(place(&config, "1.2.3.4:80", &[]), Place::Local);
    }

    #[test]
    fn names_ports_and_transports_are_told_apart() {
        let config = outgoing(OutgoingFilter::Local(vec![
            rule(HostRule::Name("db.local".to_owned()), Some(Transport::Tcp), 5432),
            rule(HostRule::Name("*.example.com".to_owned()), None, 0),
            rule(HostRule::Any, Some(Transport::Udp), 0),
        ]));
        assert_eq!(place(&config, "10.0.0.1:5432", &["db.local"]), Place::Local);
        assert_eq!(place(&config, "10.0.0.1:5433", &["db.local"]), Place::Remote);
        assert_eq!(place(&config, "10.0.0.1:1", &["a.example.com"]), Place::Local);
        assert_eq!(
            place(&config, "10.0.0.1:1", &["example.com", "xexample.com", ".example.com"]),
            Place::Remote
        );
        let route = route_flow(&config, Transport::Udp, "9.9.9.9:53".parse().unwrap(), &[]);
        assert_eq!(route, Route::new(Place::Local, "feature.network.outgoing.filter.local[2] rule"));
    }

    #[test]
    fn questions_go_by_name_and_port() {
        let config = Dns {
            remote: true,
            filter: OutgoingFilter::Remote(vec![rule(HostRule::Name("a.b".to_owned()), None, 53)]),
        };
        assert_eq!(route_question(&config, &["a.b".to_owned()], 53).place, Place::Remote);
        assert_eq!(route_question(&config, &["a.b".to_owned()], 54).place, Place::Local);
        assert_eq!(route_question(&config, &["c.b".to_owned()], 53).place, Place::Local);
        assert_eq!(
            route_question(&Dns { remote: false, ..config }, &["a.b".to_owned()], 53).place,
            Place::Local
        );
    }

    fn any_rule() -> impl Strategy<Value = AddressRule> {
        let host = prop_oneof![
            Just(HostRule::Any),
            "[a-c]{1,2}(\\.[a-c]{1,2})?".prop_map(HostRule::Name),
            (any::<u32>(), 0_u8..=40)
                .prop_map(|(ip, prefix)| HostRule::Subnet(IpAddr::V4(ip.into()), prefix)),
            (any::<u128>(), any::<u8>())
                .prop_map(|(ip, prefix)| HostRule::Subnet(IpAddr::V6(ip.into()), prefix)),
        ];
        let transport = prop_oneof![Just(None), Just(Some(Transport::Tcp)), Just(Some(Transport::Udp))];
        (host, transport, prop_oneof![Just(0), any::<u16>()])
            .prop_map(|(host, transport, port)| rule(host, transport, port))
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<u32>().prop_map(|ip| IpAddr::V4(ip.into())),
            any::<u128>().prop_map(|ip| IpAddr::V6(ip.into())),
        ];
        (ip, any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn remote_and_local_filters_with_the_same_rules_are_opposites(
            rules in prop::collection::vec(any_rule(), 0..5), to in any_address(), names in prop::collection::vec("[a-c]{1,2}(\\.[a-c]{1,2})?", 0..3)
        ) {
            for transport in [Transport::Tcp, Transport::Udp] {
                let one = route_flow(&outgoing(OutgoingFilter::Remote(rules.clone())), transport, to, &names);
                let other = route_flow(&outgoing(OutgoingFilter::Local(rules.clone())), transport, to, &names);
                prop_assert_ne!(one.place, other.place);
            }
        }

        #[test]
        fn a_rule_that_is_added_never_takes_a_match_away(
            rules in prop::collection::vec(any_rule(), 0..4), extra in any_rule(), to in any_address()
        ) {
            let few = route_flow(&outgoing(OutgoingFilter::Remote(rules.clone())), Transport::Tcp, to, &[]);
            let more: Vec<_> = rules.into_iter().chain([extra]).collect();
            let many = route_flow(&outgoing(OutgoingFilter::Remote(more)), Transport::Tcp, to, &[]);
            prop_assert!(few.place == Place::Local || many.place == Place::Remote);
        }

        #[test]
        fn an_address_is_in_its_own_subnets(ip in any::<u128>(), prefix in 0_u8..=128, v4 in any::<u32>()) {
            prop_assert!(in_subnet(IpAddr::V6(ip.into()), IpAddr::V6(ip.into()), prefix));
            prop_assert!(in_subnet(IpAddr::V4(v4.into()), IpAddr::V4(v4.into()), prefix));
            prop_assert!(in_subnet(IpAddr::V4(v4.into()), IpAddr::V4((!v4).into()), 0));
            prop_assert!(!in_subnet(IpAddr::V4(v4.into()), IpAddr::V4((!v4).into()), 1));
        }
    }
}
