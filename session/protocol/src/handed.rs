//! Connected sockets that an agent on the host's own machine gives away instead of relaying their bytes.
//!
//! They travel over the SOCK_SEQPACKET socket that is the agent's standard input, one with SCM_RIGHTS beside each datagram. The
//! datagram is the number under which the reply of the call (`handed_over` in agent.proto) announces it, native byte order; the
//! descriptor is sent first, so it is there when the reply arrives.

/// Size of a datagram.
pub const HANDED_BYTES: usize = 8;

/// The datagram beside the descriptor with this number.
#[must_use]
pub const fn encode(number: u64) -> [u8; HANDED_BYTES] {
    number.to_ne_bytes()
}

/// The number; `None` for a datagram that this wire does not know.
#[must_use]
pub fn decode(datagram: &[u8]) -> Option<u64> {
    datagram.try_into().ok().map(u64::from_ne_bytes)
}
