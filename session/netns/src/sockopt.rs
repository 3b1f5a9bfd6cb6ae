//! Socket options that the data path needs. Each works on a socket of another namespace as well.

use std::{io, net::SocketAddr, os::fd::AsFd};

/// Where the connection was going before it was redirected (SO_ORIGINAL_DST), v4-mapped addresses as IPv4.
///
/// # Errors
/// `NotFound` (ENOENT) when the connection is not tracked.
pub fn original_dst(socket: impl AsFd) -> io::Result<SocketAddr> {
    let _ = socket;
    unimplemented!()
}

/// Sets the packet mark of a socket (SO_MARK); needs CAP_NET_ADMIN over the socket's namespace.
///
/// # Errors
/// As setsockopt(2).
pub fn set_mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    let _ = (socket, mark);
    unimplemented!()
}

/// The kernel's unique number of the socket (SO_COOKIE).
///
/// # Errors
/// As getsockopt(2).
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(socket)?)
}

/// Binds a TCP socket to a client's address that is no address of ours, even when a listener has its port.
///
/// # Errors
/// As bind(2); EADDRINUSE when a connection with the same four ends exists is reported by connect(2) only.
pub fn bind_from(socket: impl AsFd, client: SocketAddr) -> io::Result<()> {
    let _ = (socket, client);
    unimplemented!()
}

/// close(2) will send RST instead of FIN and throw unsent bytes away.
///
/// # Errors
/// As setsockopt(2).
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO))?)
}

/// What TCP_INFO says, as far as we show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// As in tcp_states.h; 1: established.
    pub state: u8,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: u32,
    /// Segments sent again, in all.
    pub retransmits: u32,
}

/// State and round trip time of a TCP socket.
///
/// # Errors
/// As getsockopt(2).
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let _ = socket;
    unimplemented!()
}
