//! Socket options that the data path needs. Each works on a socket of another namespace as well.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::{AddressFamily, bind, sockopt};

use crate::{bytes::ne32, sys};

/// Not in libc: include/uapi/linux/tcp.h. Forces the use of a local address; [`TCP_REPAIR_OFF`] ends it without a window probe.
const TCP_REPAIR: libc::c_int = 19;
const TCP_REPAIR_ON: libc::c_int = 1;
const TCP_REPAIR_OFF: libc::c_int = -1;

/// Where the connection was going before it was redirected (SO_ORIGINAL_DST), v4-mapped addresses as IPv4.
///
/// # Errors
/// `NotFound` (ENOENT) when the connection is not tracked.
pub fn original_dst(socket: impl AsFd) -> io::Result<SocketAddr> {
    let socket = socket.as_fd();
    if is_v6(socket)? {
        // A dual-stack socket with an IPv4 peer is tracked as IPv4 and unknown to the IPv6 lookup.
        if let Ok(destination) = sockopt::ipv6_original_dst(socket) {
            return Ok(destination.into());
        }
    }
    Ok(sockopt::ip_original_dst(socket)?.into())
}

/// Sets the packet mark of a socket (SO_MARK); needs CAP_NET_ADMIN over the socket's namespace.
///
/// # Errors
/// As setsockopt(2).
pub fn set_mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes())
}

/// The kernel's unique number of the socket (SO_COOKIE).
///
/// # Errors
/// As getsockopt(2).
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Binds a TCP socket to a client's address that is no address of ours, even when a listener has its port.
///
/// # Errors
/// As bind(2). That a connection with the same four ends exists is said by connect(2) only.
pub fn bind_from(socket: impl AsFd, client: SocketAddr) -> io::Result<()> {
    let socket = socket.as_fd();
    if is_v6(socket)? {
        sockopt::set_ipv6_freebind(socket, true)?;
    } else {
        sockopt::set_ip_freebind(socket, true)?;
    }
    let client = if is_v6(socket)? { mapped(client) } else { client };
    match bind(socket, &client) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            sys::set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)?;
            let bound = bind(socket, &client);
            sys::set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF)?;
            Ok(bound?)
        }
        result => Ok(result?),
    }
}

/// close(2) will send RST instead of FIN and throw unsent bytes away.
///
/// # Errors
/// As setsockopt(2).
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?)
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
    /// struct tcp_info up to tcpi_total_retrans.
    const LEN: usize = 104;
    const RTT: usize = 68;
    const TOTAL_RETRANS: usize = 100;
    let mut bytes = [0; LEN];
    sys::option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
    let [state, ..] = bytes;
    Ok(TcpInfo {
        state,
        rtt_us: ne32(&bytes, RTT).unwrap_or(0),
        retransmits: ne32(&bytes, TOTAL_RETRANS).unwrap_or(0),
    })
}

fn is_v6(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sockopt::socket_domain(socket)? == AddressFamily::INET6)
}

/// As an address of the IPv6 family.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
