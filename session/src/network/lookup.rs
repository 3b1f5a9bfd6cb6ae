//! Names for programs that cannot ask by themselves: the libc attachment does not see what libc sends inside of getaddrinfo(3), so
//! this looks a name up as libc would in the target: its /etc/hosts, then DNS with its search list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{
    dns_message::{self, Reply},
    resolver,
    shared::Shared,
};
use crate::{agent_link::ip_address, limits::SEARCHED};

/// Dots from which on a name is first tried as it is (`ndots` of resolv.conf(5)). In Kubernetes it is 5, which only changes the order
/// in which names are tried.
const DOTS: usize = 1;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_PTR: u16 = 12;
/// Response code of a name that does not exist.
const NXDOMAIN: u8 = 3;

/// The families of addresses that are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    v4: bool,
    v6: bool,
}

impl Wanted {
    fn takes(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The addresses of a name, or the error of getaddrinfo(3).
pub(super) async fn lookup(
    shared: &Shared,
    hosts: &str,
    name: &[u8],
    family: u32,
) -> Result<Vec<IpAddr>, i32> {
    let name = std::str::from_utf8(name).map_err(|_| libc::EAI_NONAME)?;
    // A target without IPv6 has no use for such addresses (AI_ADDRCONFIG is the default of getaddrinfo(3)).
    let target = &shared.agent.hello().addresses;
    let v6 = target.iter().filter_map(|address| ip_address(&address.address)).any(|ip| match ip {
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    });
    let family = i32::try_from(family).unwrap_or(0);
    let wanted = Wanted {
        v4: family != libc::AF_INET6 || !v6,
        v6: family == libc::AF_INET6 || (family != libc::AF_INET && v6),
    };
    let mut found = in_hosts(hosts, name);
    if found.is_empty() && is_localhost(name) {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found.retain(|ip| wanted.takes(*ip));
    if !found.is_empty() {
        return Ok(found);
    }
    let mut failure = libc::EAI_NONAME;
    for name in candidates(name, &shared.agent.hello().search) {
        match ask_both(shared, &name, wanted).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => return Ok(found),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The name of an address, or the error of getnameinfo(3): EAI_NONAME when it has none.
pub(super) async fn reverse_lookup(shared: &Shared, hosts: &str, ip: IpAddr) -> Result<String, i32> {
    let ip = ip.to_canonical();
    if let Some(name) = name_in_hosts(hosts, ip) {
        return Ok(name);
    }
    if ip.is_loopback() {
        return Ok("localhost".to_owned());
    }
    let reply = ask(shared, &reverse_name(ip), TYPE_PTR).await?;
    reply.pointer.filter(|name| name != ".").ok_or(libc::EAI_NONAME)
}

/// The name that PTR records of an address stand under (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let digits =
                ip.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            digits.collect::<String>() + "ip6.arpa"
        }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// hosts(5): an address, then its names.
fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    let entries = lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    });
    entries.collect()
}

/// The first name of an address.
fn name_in_hosts(hosts: &str, ip: IpAddr) -> Option<String> {
    hosts.lines().filter_map(|line| line.split('#').next()).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let found = words.next()?.parse::<IpAddr>().ok()? == ip;
        found.then(|| words.next().map(str::to_owned)).flatten()
    })
}

/// The full names to ask for, in order.
fn candidates(name: &str, search: &[String]) -> Vec<String> {
    if let Some(full) = name.strip_suffix('.') {
        return vec![full.to_owned()];
    }
    let searched = search.iter().take(SEARCHED).map(|domain| format!("{name}.{}", domain.trim_matches('.')));
    let own = std::iter::once(name.to_owned());
    if name.matches('.').count() >= DOTS {
        own.chain(searched).collect()
    } else {
        searched.chain(own).collect()
    }
}

async fn ask_both(shared: &Shared, name: &str, wanted: Wanted) -> Result<Vec<IpAddr>, i32> {
    let (v6, v4) = tokio::join!(
        async { if wanted.v6 { addresses(shared, name, TYPE_AAAA).await } else { Ok(Vec::new()) } },
        async { if wanted.v4 { addresses(shared, name, TYPE_A).await } else { Ok(Vec::new()) } }
    );
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(v6.into_iter().chain(v4).collect()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

async fn addresses(shared: &Shared, name: &str, kind: u16) -> Result<Vec<IpAddr>, i32> {
    Ok(ask(shared, name, kind).await?.addresses)
}

async fn ask(shared: &Shared, name: &str, kind: u16) -> Result<Reply, i32> {
    // Names that cannot be asked for do not exist.
    let Some(query) = query(name, kind) else { return Ok(Reply::default()) };
    let asked = async |tcp| {
        let message = resolver::ask(shared, &query, tcp).await.ok_or(libc::EAI_AGAIN)?;
        dns_message::reply(&message).map_err(|_| libc::EAI_AGAIN)
    };
    let mut reply = asked(false).await?;
    if reply.truncated {
        reply = asked(true).await?;
    }
    match reply.rcode {
        0 | NXDOMAIN => Ok(reply),
        _ => Err(libc::EAI_AGAIN),
    }
}

/// A question with recursion (RFC 1035 section 4.1); `None` when a label is empty or too long.
fn query(name: &str, kind: u16) -> Option<Bytes> {
    // id, flags (recursion desired), one question and nothing else. The agent matches answers itself.
    let mut message = vec![0x4d, 0x54, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&1_u16.to_be_bytes());
    (name.len() < 254).then(|| message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_come_first() {
        let hosts =
            "127.0.0.1 localhost\n# 10.0.0.9 x\n10.0.0.1\tshop Shop.local # y\nfe80::1 shop\nnonsense shop\n";
        let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(in_hosts(hosts, "SHOP"), ips);
        assert_eq!(in_hosts(hosts, "shop.local"), ips[..1]);
        assert!(in_hosts(hosts, "x").is_empty() && in_hosts(hosts, "y").is_empty());
    }

    #[test]
    fn addresses_have_names() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1\tshop.local shop # y\n10.0.0.2\n";
        assert_eq!(name_in_hosts(hosts, [10, 0, 0, 1].into()).as_deref(), Some("shop.local"));
        assert_eq!(name_in_hosts(hosts, [10, 0, 0, 2].into()), None);
        assert_eq!(reverse_name([10, 0, 2, 1].into()), "1.2.0.10.in-addr.arpa");
        let v6 = reverse_name("2001:db8::1".parse().unwrap());
        assert_eq!(v6, format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23)));
    }

    #[test]
    fn the_search_list_is_tried_as_libc_does() {
        let search = ["a.b".to_owned(), "c.".to_owned()];
        assert_eq!(candidates("x", &search), ["x.a.b", "x.c", "x"]);
        assert_eq!(candidates("x.y", &search), ["x.y", "x.y.a.b", "x.y.c"]);
        assert_eq!(candidates("x.y.", &search), ["x.y"]);
    }

    #[test]
    fn questions_can_be_read_again() {
        let message = query("shop.local", TYPE_AAAA).unwrap();
        let question = dns_message::question(&message).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("shop.local", TYPE_AAAA));
        for name in ["", "a..b", &"x".repeat(64), &"x.".repeat(130)] {
            assert_eq!(query(name, TYPE_A), None, "{name}");
        }
    }
}
