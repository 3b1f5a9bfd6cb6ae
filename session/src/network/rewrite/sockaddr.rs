//! `struct sockaddr` of the internet families, as programs pass it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::super::session_netns::loopback_like;

/// Sizes of sockaddr_in and sockaddr_in6 (netinet/in.h).
const V4_BYTES: usize = 16;
const V6_BYTES: usize = 28;

/// The address in it, as it stands there; `None` when it is none.
pub(super) fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let field = |at: usize| -> Option<[u8; 2]> { bytes.get(at..at + 2)?.try_into().ok() };
    let family = i32::from(u16::from_ne_bytes(field(0)?));
    let port = u16::from_be_bytes(field(2)?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope: [u8; 4] = bytes.get(24..V6_BYTES)?.try_into().ok()?;
            Some(SocketAddrV6::new(ip.into(), port, 0, u32::from_ne_bytes(scope)).into())
        }
        _ => None,
    }
}

/// The address for a socket of one family: IPv4 is mapped into IPv6, and IPv6 has no form in IPv4 but loopback.
pub(super) fn encode(address: SocketAddr, v6: bool) -> Vec<u8> {
    let number = |family: i32| u16::try_from(family).unwrap_or(0).to_ne_bytes();
    let port = address.port().to_be_bytes();
    if v6 {
        let (ip, scope) = match address {
            SocketAddr::V4(address) => (address.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(address) => (*address.ip(), address.scope_id()),
        };
        let mut bytes = [&number(libc::AF_INET6)[..], &port, &[0; 4], &ip.octets()].concat();
        bytes.extend_from_slice(&scope.to_ne_bytes());
        return bytes;
    }
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
    };
    let mut bytes = [&number(libc::AF_INET)[..], &port, &ip.octets()].concat();
    bytes.resize(V4_BYTES, 0);
    bytes
}

/// IPv4 as it stands, mapped addresses as IPv4, the unspecified address as the loopback that it means to connect(2).
pub(super) fn destination(address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    let ip = if ip.is_unspecified() { loopback_like(ip) } else { ip };
    match address {
        // The scope of a link-local address stays.
        SocketAddr::V6(v6) if ip == IpAddr::V6(*v6.ip()) => address,
        _ => SocketAddr::new(ip, address.port()),
    }
}

/// A loopback address as a socket of this kind can use it.
pub(super) const fn mapped_loopback(v6: bool, only: bool) -> IpAddr {
    match (v6, only) {
        (false, _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, false) => IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
        (true, true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_read_again() {
        for text in ["10.0.0.1:80", "[fd00::1]:443", "[::]:0", "0.0.0.0:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let bytes = encode(address, address.is_ipv6());
            assert_eq!(bytes.len(), if address.is_ipv6() { V6_BYTES } else { V4_BYTES });
            assert_eq!(decode(&bytes), Some(address));
        }
        assert_eq!(decode(&[1, 0, 0]), None);
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn each_family_has_its_form_of_the_other() {
        let v4: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert_eq!(decode(&encode(v4, true)), Some("[::ffff:10.0.0.1]:80".parse().unwrap()));
        let v6: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(decode(&encode(v6, false)), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(destination("[::ffff:10.0.0.1]:80".parse().unwrap()), v4);
        assert_eq!(destination("0.0.0.0:80".parse().unwrap()), "127.0.0.1:80".parse().unwrap());
        assert_eq!(destination(v6), v6);
    }
}
