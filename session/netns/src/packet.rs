//! Headers of IPv4 and IPv6 with TCP and UDP, read from bytes. Pure: no allocation, no panic on any input.
//!
//! Called with captured frames ([`crate::capture`]) and with the cut-off packets of a queue ([`crate::nfqueue`]).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

use crate::{
    bytes::{array, be16, be32, index},
    limits::IPV6_EXTENSIONS,
};

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Both ends of a flow as one direction of it sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// TCP or UDP.
    pub transport: Transport,
    /// Who sends.
    pub src: SocketAddr,
    /// Who receives.
    pub dst: SocketAddr,
}

/// The flag byte of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

/// The part of a TCP header that reassembly needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// Sequence number of the first payload byte (of the SYN, when that flag is set).
    pub seq: u32,
    /// Acknowledged up to here; meaningful with [`TcpFlags::ACK`].
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Advertised window, not scaled.
    pub window: u16,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// Both ends.
    pub flow: Flow,
    /// `None` for UDP.
    pub tcp: Option<TcpHeader>,
    /// Payload of the transport, as far as it was captured.
    pub payload: &'a [u8],
    /// Length of the payload on the wire as the headers say; more than `payload.len()` when the packet was cut off.
    pub payload_len: usize,
}

/// Why bytes are no packet that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Fewer bytes than the headers need.
    #[error("the packet ends within its headers")]
    Short,
    /// Neither version 4 nor 6.
    #[error("the IP version is neither 4 nor 6")]
    Version,
    /// Header fields contradict each other.
    #[error("the headers contradict each other")]
    Lengths,
    /// Not TCP or UDP, or an extension header that hides them.
    #[error("neither TCP nor UDP follows the IP header")]
    Transport,
    /// A fragment other than the first has no transport header.
    #[error("the packet is a later fragment")]
    Fragment,
}

/// Reads one packet that begins with its IP header.
///
/// # Errors
/// [`Malformed`] says what is wrong; nothing else can happen.
pub fn parse(ip: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let network = match ip.first().ok_or(Malformed::Short)? >> 4 {
        4 => v4(ip)?,
        6 => v6(ip)?,
        _ => return Err(Malformed::Version),
    };
    match network.protocol {
        PROTOCOL_TCP => tcp(&network),
        PROTOCOL_UDP => udp(&network),
        _ => Err(Malformed::Transport),
    }
}

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Option of the hop-by-hop header that carries the length of a jumbogram (RFC 2675), used by BIG TCP.
const OPTION_JUMBO: u8 = 0xc2;

/// What the IP header says.
struct Network<'a> {
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    /// Captured bytes from the transport header on, without padding behind the packet.
    transport: &'a [u8],
    /// The same on the wire.
    len: usize,
}

fn v4(ip: &[u8]) -> Result<Network<'_>, Malformed> {
    let header = usize::from(ip.first().ok_or(Malformed::Short)? & 15) * 4;
    if header < 20 {
        return Err(Malformed::Lengths);
    }
    let total = match usize::from(be16(ip, 2).ok_or(Malformed::Short)?) {
        // BIG TCP: the length does not fit into 16 bits, and what was captured is all that is known.
        0 => ip.len(),
        total => total,
    };
    if be16(ip, 6).ok_or(Malformed::Short)? & 0x1fff != 0 {
        return Err(Malformed::Fragment);
    }
    let address = |offset| array(ip, offset).map(|bytes: [u8; 4]| IpAddr::V4(bytes.into()));
    Ok(Network {
        protocol: *ip.get(9).ok_or(Malformed::Short)?,
        src: address(12).ok_or(Malformed::Short)?,
        dst: address(16).ok_or(Malformed::Short)?,
        transport: ip.get(header..total.min(ip.len())).ok_or(Malformed::Short)?,
        len: total.checked_sub(header).ok_or(Malformed::Lengths)?,
    })
}

fn v6(ip: &[u8]) -> Result<Network<'_>, Malformed> {
    const HEADER: usize = 40;
    let mut total = match usize::from(be16(ip, 4).ok_or(Malformed::Short)?) {
        0 => ip.len(),
        payload => HEADER + payload,
    };
    let mut protocol = *ip.get(6).ok_or(Malformed::Short)?;
    let address = |offset| array(ip, offset).map(|bytes: [u8; 16]| IpAddr::V6(bytes.into()));
    let (src, dst) = address(8).zip(address(24)).ok_or(Malformed::Short)?;
    let mut offset = HEADER;
    for _ in 0..IPV6_EXTENSIONS {
        let next = ip.get(offset).copied();
        let len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let units = *ip.get(offset + 1).ok_or(Malformed::Short)?;
                if protocol == HOP_BY_HOP && ip.get(offset + 2) == Some(&OPTION_JUMBO) {
                    total = HEADER + index(be32(ip, offset + 4).ok_or(Malformed::Short)?);
                }
                (usize::from(units) + 1) * 8
            }
            FRAGMENT => {
                if be16(ip, offset + 2).ok_or(Malformed::Short)? & 0xfff8 != 0 {
                    return Err(Malformed::Fragment);
                }
                8
            }
            _ => break,
        };
        protocol = next.ok_or(Malformed::Short)?;
        offset += len;
    }
    let transport = ip.get(offset..total.min(ip.len())).ok_or(Malformed::Short)?;
    let len = total.checked_sub(offset).ok_or(Malformed::Lengths)?;
    Ok(Network { protocol, src, dst, transport, len })
}

fn tcp<'a>(network: &Network<'a>) -> Result<Parsed<'a>, Malformed> {
    let bytes = network.transport;
    let fields = (be32(bytes, 4), be32(bytes, 8), be16(bytes, 12), be16(bytes, 14));
    let (Some(seq), Some(ack), Some(offset_and_flags), Some(window)) = fields else {
        return Err(Malformed::Short);
    };
    let header = usize::from(offset_and_flags >> 12) * 4;
    if header < 20 || header > network.len {
        return Err(Malformed::Lengths);
    }
    let [_, flags] = offset_and_flags.to_be_bytes();
    Ok(Parsed {
        flow: flow(Transport::Tcp, network)?,
        tcp: Some(TcpHeader { seq, ack, flags: TcpFlags(flags), window }),
        // The options may be cut off: then there is no payload either.
        payload: bytes.get(header..).unwrap_or_default(),
        payload_len: network.len - header,
    })
}

fn udp<'a>(network: &Network<'a>) -> Result<Parsed<'a>, Malformed> {
    const HEADER: usize = 8;
    let flow = flow(Transport::Udp, network)?;
    let len = match usize::from(be16(network.transport, 4).ok_or(Malformed::Short)?) {
        // As for IP: too long for the field, as a GSO packet may be.
        0 => network.len,
        len if len < HEADER || len > network.len => return Err(Malformed::Lengths),
        len => len,
    };
    let captured = len.min(network.transport.len());
    let payload = network.transport.get(HEADER..captured).ok_or(Malformed::Short)?;
    let payload_len = len.checked_sub(HEADER).ok_or(Malformed::Lengths)?;
    Ok(Parsed { flow, tcp: None, payload, payload_len })
}

fn flow(transport: Transport, network: &Network<'_>) -> Result<Flow, Malformed> {
    let ports = be16(network.transport, 0).zip(be16(network.transport, 2));
    let (src, dst) = ports.ok_or(Malformed::Short)?;
    Ok(Flow { transport, src: SocketAddr::new(network.src, src), dst: SocketAddr::new(network.dst, dst) })
}

impl Flow {
    /// The same flow as the other end sends it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { transport: self.transport, src: self.dst, dst: self.src }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.transport, self.src, self.dst)
    }
}

impl Transport {
    /// Its number in IP headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(TcpFlags, &str); 5] = [
            (TcpFlags::FIN, "F"),
            (TcpFlags::SYN, "S"),
            (TcpFlags::RST, "R"),
            (TcpFlags::PSH, "P"),
            (TcpFlags::ACK, "."),
        ];
        NAMES.iter().filter(|(flag, _)| self.contains(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}
impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// First segment.
    pub const SYN: Self = Self(0x02);
    /// The connection is reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// All flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests;
