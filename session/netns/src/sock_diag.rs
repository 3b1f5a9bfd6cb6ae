//! The kernel's own answer to "does a socket listen there?", and events when TCP sockets are destroyed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::net::netlink::SocketAddrNetlink;
use thiserror::Error;

use crate::{
    Transport,
    bytes::{array, be16, ne32},
    limits::{EVENT_BUFFER, NETLINK_BUFFER},
    netlink::{self, Message, Messages, Netlink, NetlinkError},
};

/// SOCK_DIAG_BY_FAMILY, also the kind of its answers and of destroy events.
const BY_FAMILY: u16 = 20;
const V4: u8 = 2;
const V6: u8 = 10;
/// TCP_LISTEN (net/tcp_states.h), and as a bit of the wanted states.
const STATE_LISTEN: u8 = 10;
const LISTENING: u32 = 1 << STATE_LISTEN;
/// No cookie given (INET_DIAG_NOCOOKIE).
const NO_COOKIE: u64 = u64::MAX;
/// SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3) as bits.
const TCP_DESTROY_GROUPS: u32 = 1 | 1 << 2;

/// Why a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation}")]
pub struct SockDiagError {
    operation: &'static str,
    source: NetlinkError,
}

/// A listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub addr: SocketAddr,
    /// SO_COOKIE of the socket.
    pub cookie: u64,
    /// Inode, as in /proc/PID/fd.
    pub inode: u32,
    /// Owner.
    pub uid: u32,
}

/// Socket diagnosis of one namespace.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Netlink,
}

impl SockDiag {
    /// `socket`: AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG, made in the namespace.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { netlink: Netlink::from_socket(socket) }
    }

    /// Whether a packet from `src` to `dst` would find a socket: a TCP listener, or a bound UDP socket.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn listener_for(
        &self,
        transport: Transport,
        dst: SocketAddr,
        src: SocketAddr,
    ) -> Result<bool, SockDiagError> {
        // "For historical reasons" the kernel wants the two ends of UDP the other way round.
        let (local, remote) = match transport {
            Transport::Tcp => (dst, src),
            Transport::Udp => (src, dst),
        };
        let message = request(if dst.is_ipv4() { V4 } else { V6 }, transport, u32::MAX, local, remote);
        match self.netlink.ask(message) {
            Ok(answer) => Ok(answer.is_some_and(|answer| answer.kind == BY_FAMILY)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(SockDiagError { operation: "look a socket up", source }),
        }
    }

    /// SO_COOKIE of the socket that a packet from `remote` to `local` would find: the connection with these ends, else the TCP
    /// listener or UDP socket that takes it.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn cookie(
        &self,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<u64>, SockDiagError> {
        let (first, second) = match transport {
            Transport::Tcp => (local, remote),
            Transport::Udp => (remote, local),
        };
        let family = if local.is_ipv4() { V4 } else { V6 };
        match self.netlink.ask(request(family, transport, u32::MAX, first, second)) {
            Ok(answer) => {
                let entry = answer.filter(|answer| answer.kind == BY_FAMILY);
                Ok(entry.and_then(|answer| Entry::read(&answer.payload)).map(|entry| entry.cookie))
            }
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(SockDiagError { operation: "look a socket up", source }),
        }
    }

    /// State (as in tcp_states.h) of the TCP socket with exactly these two ends; `None`: there is none.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn tcp_state(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<u8>, SockDiagError> {
        let family = if local.is_ipv4() { V4 } else { V6 };
        match self.netlink.ask(request(family, Transport::Tcp, u32::MAX, local, remote)) {
            Ok(answer) => {
                let entry = answer.filter(|answer| answer.kind == BY_FAMILY);
                let entry = entry.and_then(|answer| Entry::read(&answer.payload));
                // Without such a connection the kernel answers with the listener that would take it.
                Ok(entry.map(|entry| entry.state).filter(|state| *state != STATE_LISTEN))
            }
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(SockDiagError { operation: "look a connection up", source }),
        }
    }

    /// All listening TCP sockets, v4 and v6.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn listeners(&self) -> Result<Vec<Listener>, SockDiagError> {
        let nothing = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut listeners = Vec::new();
        for family in [V4, V6] {
            let message = request(family, Transport::Tcp, LISTENING, nothing, nothing);
            let rows = self.netlink.dump(&message);
            let rows =
                rows.map_err(|source| SockDiagError { operation: "list listening sockets", source })?;
            listeners.extend(rows.iter().filter_map(|row| Entry::read(&row.payload)).map(|entry| Listener {
                addr: entry.local,
                cookie: entry.cookie,
                inode: entry.inode,
                uid: entry.uid,
            }));
        }
        Ok(listeners)
    }
}

/// A TCP socket that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Its local address.
    pub local: SocketAddr,
    /// Last state as in tcp_states.h; 7 (CLOSE) for a listener.
    pub state: u8,
}

/// Events of destroyed TCP sockets. When the buffer overruns events are lost, so ask [`SockDiag::listeners`] now and then.
#[derive(Debug)]
pub struct DestroyEvents {
    socket: OwnedFd,
}

impl DestroyEvents {
    /// `socket`: AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG, made in the namespace and not used for anything else.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn from_socket(socket: OwnedFd) -> Result<Self, SockDiagError> {
        let failed = |error: rustix::io::Errno| SockDiagError {
            operation: "report destroyed sockets",
            source: NetlinkError::Socket { operation: "join a group", source: error.into() },
        };
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, EVENT_BUFFER).map_err(failed)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, TCP_DESTROY_GROUPS)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Appends what is there without waiting. True: events have been lost.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn recv(&self, events: &mut Vec<Destroyed>) -> Result<bool, SockDiagError> {
        let mut buffer = [0; NETLINK_BUFFER];
        let mut lost = false;
        loop {
            let len = match netlink::receive(self.as_fd(), &mut buffer) {
                Ok(len) => len,
                Err(NetlinkError::Socket { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(lost);
                }
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(source) => return Err(SockDiagError { operation: "report destroyed sockets", source }),
            };
            let messages = Messages::new(buffer.get(..len).unwrap_or_default());
            events.extend(messages.filter(|message| message.kind == BY_FAMILY).filter_map(|message| {
                let entry = Entry::read(message.payload)?;
                Some(Destroyed { cookie: entry.cookie, local: entry.local, state: entry.state })
            }));
        }
    }
}

impl AsRawFd for DestroyEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for DestroyEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// struct inet_diag_req_v2 (linux/inet_diag.h).
fn request(family: u8, transport: Transport, states: u32, local: SocketAddr, remote: SocketAddr) -> Message {
    let mut bytes = vec![family, transport.number(), 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(address(local.ip()));
    bytes.extend(address(remote.ip()));
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(NO_COOKIE.to_ne_bytes());
    Message::new(BY_FAMILY, 0, &bytes)
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// struct inet_diag_msg, as far as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    state: u8,
    local: SocketAddr,
    cookie: u64,
    uid: u32,
    inode: u32,
}

impl Entry {
    fn read(bytes: &[u8]) -> Option<Self> {
        let family = *bytes.first()?;
        let ip = if family == V4 {
            IpAddr::from(Ipv4Addr::from(array::<4>(bytes, 8)?))
        } else {
            IpAddr::from(Ipv6Addr::from(array::<16>(bytes, 8)?))
        };
        let (low, high) = (ne32(bytes, 44)?, ne32(bytes, 48)?);
        Some(Self {
            state: *bytes.get(1)?,
            local: SocketAddr::new(ip, be16(bytes, 4)?),
            cookie: u64::from(high) << 32 | u64::from(low),
            uid: ne32(bytes, 64)?,
            inode: ne32(bytes, 68)?,
        })
    }
}
