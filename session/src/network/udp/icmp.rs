//! The ICMP message that says "port unreachable" about a datagram (RFC 792, RFC 4443). Pure.

use std::net::{IpAddr, SocketAddr};

const UDP: u8 = 17;
const UDP_HEADER: u16 = 8;

/// The message about a datagram that went from `src` to `dst`. The kernel puts the IP header in front, and for ICMPv6 the checksum in.
pub(super) fn port_unreachable(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut message = match (src.ip(), dst.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
            // Version and length of the header, 28 bytes in all, no fragment, TTL 64; nobody checks the inner checksum.
            message.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0]);
            message.extend_from_slice(&from.octets());
            message.extend_from_slice(&to.octets());
            message
        }
        (from, to) => {
            let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, UDP, 64]);
            message.extend_from_slice(&v6(from));
            message.extend_from_slice(&v6(to));
            message
        }
    };
    for word in [src.port(), dst.port(), UDP_HEADER, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    if src.is_ipv4() && dst.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
    }
    message
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))
        })
        .sum();
    let [_, _, high, low] = (!fold(fold(sum))).to_be_bytes();
    u16::from_be_bytes([high, low])
}

const fn fold(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_adds_up_to_nothing() {
        let message = port_unreachable("10.0.0.5:4000".parse().unwrap(), "1.2.3.4:99".parse().unwrap());
        assert_eq!(message.len(), 8 + 20 + 8);
        assert_eq!(checksum(&message), 0);
        assert_eq!(message[28..32], [0x0f, 0xa0, 0, 99]);
        let message = port_unreachable("[::5]:4000".parse().unwrap(), "[2001:db8::1]:99".parse().unwrap());
        assert_eq!((message.len(), message[0], message[1]), (8 + 40 + 8, 1, 4));
    }
}
