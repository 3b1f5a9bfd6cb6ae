//! Headers of IPv4 and IPv6 with TCP and UDP, read from bytes. Pure: no allocation, no panic on any input.
//!
//! Called with captured frames ([`crate::capture`]) and with the cut-off packets of a queue ([`crate::nfqueue`]).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use thiserror::Error;

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
    unimplemented!("{ip:?} {:?} {:?} {:?}", IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST, fmt::Error)
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
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
