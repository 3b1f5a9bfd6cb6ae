//! The kernel's own answer to "does a socket listen there?", and events when TCP sockets are destroyed.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use thiserror::Error;

use crate::{Transport, netlink::NetlinkError};

/// Why a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} sockets")]
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
    socket: OwnedFd,
}

impl SockDiag {
    /// `socket`: AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG, made in the namespace.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
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
        unimplemented!("{:?} {transport:?} {dst} {src}", self.socket)
    }

    /// All listening TCP sockets, v4 and v6.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn listeners(&self) -> Result<Vec<Listener>, SockDiagError> {
        unimplemented!()
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
        unimplemented!("{socket:?}")
    }

    /// Appends what is there without waiting. True: events may have been lost.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn recv(&self, events: &mut Vec<Destroyed>) -> Result<bool, SockDiagError> {
        unimplemented!("{events:?}")
    }
}

impl AsFd for DestroyEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
