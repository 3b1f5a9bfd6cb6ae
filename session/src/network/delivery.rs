//! Hands a connection to the local process: finds where it listens and dials it inside the session netns from the client's address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use mirrord_netns::Transport;
use tokio::net::TcpStream;

use super::{inside::Inside, session_netns::loopback_like};

/// Connects to the local process on `port` so that accept(2) shows `client` and getsockname(2) shows `server`, the address to
/// which the client had connected; when the process listens on loopback only, there.
///
/// # Errors
/// `ConnectionRefused` when nothing listens on the port; as connect(2).
pub(super) async fn connect(
    netns: &Inside,
    client: SocketAddr,
    server: IpAddr,
    port: u16,
) -> io::Result<TcpStream> {
    let candidates = [server.to_canonical(), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for ip in candidates {
        let to = SocketAddr::new(ip, port);
        let from = source(client, ip);
        // Without a port: an open connection of the same client would be found before the listener.
        if netns.has_listener(Transport::Tcp, to, SocketAddr::new(from.ip(), 0)) {
            return connect_from(netns, from, to).await;
        }
    }
    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

/// Dials from the client's address and port; from another port of it when that one is in use for the same destination.
async fn connect_from(netns: &Inside, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    match netns.dial(from, to).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
            netns.dial(SocketAddr::new(from.ip(), 0), to).await
        }
        result => result,
    }
}

/// The client's address as a peer of `server` can have it: a socket of one family has no peer of the other.
fn source(client: SocketAddr, server: IpAddr) -> SocketAddr {
    let ip = client.ip().to_canonical();
    if ip.is_ipv4() == server.is_ipv4() {
        SocketAddr::new(ip, client.port())
    } else {
        SocketAddr::new(loopback_like(server), client.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_the_other_family_comes_from_loopback() {
        let client: SocketAddr = "[::ffff:203.0.113.7]:4000".parse().unwrap();
        assert_eq!(source(client, [10, 0, 0, 5].into()), "203.0.113.7:4000".parse().unwrap());
        assert_eq!(source(client, Ipv6Addr::LOCALHOST.into()), "[::1]:4000".parse().unwrap());
    }
}
