//! What a relay shows to a reader beside it: the bytes of one connection in both directions, as they pass.
//!
//! A tap sees bytes before or while they are forwarded and can change nothing. It must not block; it is called with a lock held
//! that belongs to its connection alone.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mirrord_protocol::session::v1 as wire;

use super::{owners::Owner, source::PodName};

/// Reader of one connection. Times are `CLOCK_REALTIME` in nanoseconds: of the packet when mirrored, else of the system call.
pub trait Tap: Send {
    /// The next bytes that the client sent.
    fn client(&mut self, time_ns: u64, bytes: &[u8]);
    /// The next bytes that the server sent.
    fn server(&mut self, time_ns: u64, bytes: &[u8]);
    /// Bytes of one direction are missing here; `None`: nothing more of this direction follows. Only mirrored connections lose bytes.
    fn gap(&mut self, time_ns: u64, from_server: bool, bytes: Option<u64>);
    /// The connection is over; the last call.
    fn closed(&mut self, time_ns: u64, reset: bool);
}

/// What a tap knows about its connection.
#[derive(Clone, Debug)]
pub struct TapContext {
    /// Incoming, outgoing, or local (from the host to a published listener).
    pub direction: wire::Direction,
    /// Mode of the port for incoming connections.
    pub mode: wire::Mode,
    /// Incoming: the target's port. Outgoing: the peer's.
    pub port: u16,
    /// The other end: the client of an incoming connection, the server of an outgoing one.
    pub peer: SocketAddr,
    /// Connection id of the events.
    pub connection: u64,
    /// Who made the session's socket of the connection.
    pub owner: Owner,
    /// Pod of the target that an incoming connection was made to.
    pub pod: PodName,
    /// The connection was open before the capture began: read from the next request on.
    pub mid_stream: bool,
}

/// Makes the tap of a connection; `None`: nobody reads along.
pub type TapFactory = Arc<dyn Fn(TapContext) -> Option<Box<dyn Tap>> + Send + Sync>;

/// A factory that taps nothing.
#[must_use]
pub fn no_taps() -> TapFactory {
    Arc::new(|_| None)
}

impl fmt::Debug for dyn Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

/// `CLOCK_REALTIME` now, nanoseconds.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|now| u64::try_from(now.as_nanos()).ok())
        .unwrap_or(0)
}
