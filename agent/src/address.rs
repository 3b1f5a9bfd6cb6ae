//! Addresses and errnos between the wire and the kernel. Pure.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::Address;
use rustix::io::Errno;

/// 4 or 16 bytes; v4-mapped addresses go as IPv4.
pub(crate) fn ip_to_wire(ip: IpAddr) -> Bytes {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// An address for the wire.
pub(crate) fn to_wire(address: SocketAddr) -> Address {
    Address { ip: ip_to_wire(address.ip()), port: address.port().into() }
}

/// `None` when it has neither 4 nor 16 bytes, or the port is none.
pub(crate) fn from_wire(address: &Address) -> Option<SocketAddr> {
    let port = u16::try_from(address.port).ok()?;
    let ip = <[u8; 4]>::try_from(&*address.ip)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(&*address.ip).map(IpAddr::from))
        .ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// The address with v4-mapped IPv6 written as IPv4: how a dual-stack socket's IPv4 peers look elsewhere.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The errno for the wire; EIO for errors that do not come from the kernel.
pub(crate) fn errno(error: &io::Error) -> u32 {
    Errno::from_io_error(error).unwrap_or(Errno::IO).raw_os_error().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_wire() {
        for text in ["10.1.2.3:80", "[fd00::1]:65535", "[::]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_wire(&to_wire(address)), Some(address));
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:9".parse().unwrap();
        assert_eq!(from_wire(&to_wire(mapped)), Some("10.0.0.1:9".parse().unwrap()));
        assert_eq!(from_wire(&Address { ip: Bytes::from_static(b"abc"), port: 1 }), None);
        assert_eq!(from_wire(&Address { ip: Bytes::from_static(b"abcd"), port: 65_536 }), None);
    }
}
