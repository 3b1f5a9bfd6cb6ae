//! The wire to the holder of the session netns: who may make sockets there, asked by the session host and by the layer's supervisor.
//!
//! SOCK_SEQPACKET, one request or reply per datagram, fixed sizes, native byte order (both ends are on one machine). On every
//! endpoint the requests are answered in order. A made socket comes beside its reply with SCM_RIGHTS; with `Serve` an endpoint
//! goes the other way. The host's own endpoint gets one [`Reply::Ready`] (or a failure) before anything was asked.
//!
//! ```text
//! request  16 bytes  MAGIC u32 | kind u32 (1 socket, 2 serve) | domain u16 | type u16 | protocol u32
//! reply    12 bytes  MAGIC u32 | kind u32 (1 ready, 2 socket, 3 serving, 4 failed) | errno u32
//! ```

/// First four bytes of every datagram; its last byte is the version of this wire.
pub const MAGIC: u32 = u32::from_be_bytes(*b"mns\x01");
/// Size of a request.
pub const REQUEST_BYTES: usize = 16;
/// Size of a reply.
pub const REPLY_BYTES: usize = 12;

const REQUEST_SOCKET: u32 = 1;
const REQUEST_SERVE: u32 = 2;
const REPLY_READY: u32 = 1;
const REPLY_SOCKET: u32 = 2;
const REPLY_SERVING: u32 = 3;
const REPLY_FAILED: u32 = 4;

/// What the holder is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// socket(2) with these arguments; SOCK_NONBLOCK and SOCK_CLOEXEC may be part of `kind`.
    Socket {
        /// Address family.
        domain: u16,
        /// Socket type with its flags. SOCK_NONBLOCK (0o4000) and SOCK_CLOEXEC (0o2000000) are folded, see [`Request::encode`].
        kind: u32,
        /// Protocol number.
        protocol: u32,
    },
    /// Answer requests on the endpoint that comes with this datagram as well.
    Serve,
}

/// What the holder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The namespace is set up.
    Ready,
    /// The socket comes with this datagram.
    Socket,
    /// The endpoint is served.
    Serving,
    /// The system call said this.
    Failed {
        /// Error number, never 0.
        errno: u32,
    },
}

/// SOCK_NONBLOCK of Linux, all architectures that we build for.
const NONBLOCK: u32 = 0o4000;
/// SOCK_CLOEXEC of Linux.
const CLOEXEC: u32 = 0o2_000_000;
/// Where the two flags travel within the 16 bits of the type.
const WIRE_NONBLOCK: u16 = 0x4000;
const WIRE_CLOEXEC: u16 = 0x8000;

impl Request {
    /// The request as bytes. Only the low 8 bits of `kind` and the two flags travel; there are no others.
    #[must_use]
    pub fn encode(self) -> [u8; REQUEST_BYTES] {
        let (kind, domain, socket_type, protocol) = match self {
            Self::Socket { domain, kind, protocol } => {
                let [low, ..] = kind.to_le_bytes();
                let mut socket_type = u16::from(low);
                if kind & NONBLOCK != 0 {
                    socket_type |= WIRE_NONBLOCK;
                }
                if kind & CLOEXEC != 0 {
                    socket_type |= WIRE_CLOEXEC;
                }
                (REQUEST_SOCKET, domain, socket_type, protocol)
            }
            Self::Serve => (REQUEST_SERVE, 0, 0, 0),
        };
        let mut bytes = [0; REQUEST_BYTES];
        let fields = MAGIC.to_ne_bytes().into_iter().chain(kind.to_ne_bytes());
        let fields =
            fields.chain(domain.to_ne_bytes()).chain(socket_type.to_ne_bytes()).chain(protocol.to_ne_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The request that the bytes hold; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        let [m0, m1, m2, m3, k0, k1, k2, k3, d0, d1, t0, t1, p0, p1, p2, p3] = *bytes;
        if u32::from_ne_bytes([m0, m1, m2, m3]) != MAGIC {
            return None;
        }
        match u32::from_ne_bytes([k0, k1, k2, k3]) {
            REQUEST_SOCKET => {
                let wire = u16::from_ne_bytes([t0, t1]);
                let mut kind = u32::from(wire & 0xff);
                if wire & WIRE_NONBLOCK != 0 {
                    kind |= NONBLOCK;
                }
                if wire & WIRE_CLOEXEC != 0 {
                    kind |= CLOEXEC;
                }
                let domain = u16::from_ne_bytes([d0, d1]);
                Some(Self::Socket { domain, kind, protocol: u32::from_ne_bytes([p0, p1, p2, p3]) })
            }
            REQUEST_SERVE => Some(Self::Serve),
            _ => None,
        }
    }
}

impl Reply {
    /// The reply as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; REPLY_BYTES] {
        let (kind, errno) = match self {
            Self::Ready => (REPLY_READY, 0),
            Self::Socket => (REPLY_SOCKET, 0),
            Self::Serving => (REPLY_SERVING, 0),
            Self::Failed { errno } => (REPLY_FAILED, errno),
        };
        let mut bytes = [0; REPLY_BYTES];
        let fields = MAGIC.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()).chain(errno.to_ne_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The reply that the bytes hold; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPLY_BYTES] = bytes.try_into().ok()?;
        let [m0, m1, m2, m3, k0, k1, k2, k3, e0, e1, e2, e3] = *bytes;
        if u32::from_ne_bytes([m0, m1, m2, m3]) != MAGIC {
            return None;
        }
        let errno = u32::from_ne_bytes([e0, e1, e2, e3]);
        match u32::from_ne_bytes([k0, k1, k2, k3]) {
            REPLY_READY => Some(Self::Ready),
            REPLY_SOCKET => Some(Self::Socket),
            REPLY_SERVING => Some(Self::Serving),
            REPLY_FAILED => Some(Self::Failed { errno }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        for request in [
            Request::Serve,
            Request::Socket { domain: 2, kind: 1, protocol: 0 },
            Request::Socket { domain: 10, kind: 2 | NONBLOCK, protocol: 17 },
            Request::Socket { domain: 16, kind: 3 | CLOEXEC | NONBLOCK, protocol: 262 },
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for reply in [Reply::Ready, Reply::Socket, Reply::Serving, Reply::Failed { errno: 13 }] {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn wrong_sizes_magics_and_kinds_are_refused() {
        assert_eq!(Request::decode(&[]), None);
        assert_eq!(Request::decode(&[0; REQUEST_BYTES]), None);
        assert_eq!(Request::decode(&[0; REQUEST_BYTES + 1]), None);
        assert_eq!(Reply::decode(&[0; REPLY_BYTES]), None);
        let mut bytes = Reply::Ready.encode();
        bytes[4] = 99;
        assert_eq!(Reply::decode(&bytes), None);
    }
}
