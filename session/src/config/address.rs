//! Reads address rules, mirrord's form: `[tcp://|udp://]HOST[:PORT]`, HOST a name, an address, a subnet, or nothing for any.

use std::net::IpAddr;

use thiserror::Error;

use super::{AddressRule, HostRule, Transport};

/// Why a text is not an address rule.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not an address rule: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl std::str::FromStr for AddressRule {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let (transport, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("tcp", rest)) => (Some(Transport::Tcp), rest),
            Some(("udp", rest)) => (Some(Transport::Udp), rest),
            Some(_) => return Err(error("before :// only tcp or udp may stand")),
        };
        let (host, port) =
            split_port(rest).ok_or_else(|| error("the part after the last : must be a port, 0 to 65535"))?;
        let host = host_rule(host)
            .ok_or_else(|| error("the host must be a name, an address or a subnet such as 10.0.0.0/8"))?;
        Ok(Self { text: text.to_owned(), transport, host, port })
    }
}

/// `HOST`, `HOST:PORT`, `[V6]:PORT`, `[V6/LENGTH]:PORT`, `[V6]/LENGTH:PORT`; port 0 when there is none. `None`: the port is bad.
fn split_port(text: &str) -> Option<(&str, u16)> {
    if text.parse::<IpAddr>().is_ok() || subnet(text).is_some() {
        return Some((text, 0));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some((host, port.parse().ok()?)),
        _ => Some((text, 0)),
    }
}

fn host_rule(text: &str) -> Option<HostRule> {
    let text = text.trim();
    let bare: String = text.chars().filter(|c| !matches!(c, '[' | ']')).collect();
    if bare.is_empty() {
        return Some(HostRule::Any);
    }
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(HostRule::Subnet(address, full_length(address)));
    }
    if let Some((address, length)) = subnet(&bare) {
        return Some(HostRule::Subnet(address, length));
    }
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    (name.chars().all(legal) && !name.is_empty()).then_some(HostRule::Name(name))
}

fn subnet(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= full_length(address)).then_some((address, length))
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> (Option<Transport>, HostRule, u16) {
        let rule: AddressRule = text.parse().unwrap();
        (rule.transport, rule.host, rule.port)
    }

    #[test]
    fn the_forms_of_mirrord() {
        let subnet = |address: &str, length| HostRule::Subnet(address.parse().unwrap(), length);
        assert_eq!(rule("tcp://1.1.1.0/24:1337"), (Some(Transport::Tcp), subnet("1.1.1.0", 24), 1337));
        assert_eq!(rule("1.1.5.0/24"), (None, subnet("1.1.5.0", 24), 0));
        assert_eq!(rule("google.com"), (None, HostRule::Name("google.com".into()), 0));
        assert_eq!(rule(":53"), (None, HostRule::Any, 53));
        assert_eq!(
            rule("udp://Db.Internal.:5432"),
            (Some(Transport::Udp), HostRule::Name("db.internal".into()), 5432)
        );
        assert_eq!(rule("[::1]:80"), (None, subnet("::1", 128), 80));
        assert_eq!(rule("::1"), (None, subnet("::1", 128), 0));
        assert_eq!(rule("[fd00::/8]:80"), (None, subnet("fd00::", 8), 80));
        assert_eq!(rule("fd00::/8"), (None, subnet("fd00::", 8), 0));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["http://a", "a:b", "a:70000", "1.1.1.1/33", "a b"] {
            assert!(text.parse::<AddressRule>().is_err(), "{text}");
        }
    }
}
