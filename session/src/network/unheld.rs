//! The fallback on kernels that hold no packets: connections and questions are redirected before anybody was asked.
//!
//! connect(2) succeeds at once, and what cannot be reached is reset then: the program sees ECONNRESET where it should see why. UDP
//! beside DNS is refused by rule. Loopback stays inside. Everything else is as with a queue.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use mirrord_netns::Transport;
use tokio::net::{TcpStream, UdpSocket};

use super::{
    attempt::{self, Attempt},
    connection_log::errno_name,
    delivery,
    nameservers::DNS_PORT,
    outgoing,
    prepared::{FarEnd, Ready},
    relay, resolver,
    shared::SharedRef,
};
use crate::limits::DATAGRAM;

/// Tells the user once what is missing.
pub(super) fn explain(shared: &SharedRef) {
    shared.events.warn(
        "this kernel cannot hold packets: connect(2) succeeds before the target has answered, and UDP is limited to DNS",
        "load nfnetlink_queue and nft_queue (or nft_compat and xt_NFQUEUE) with modprobe; `mirrord-tui doctor` tells more",
    );
}

/// Serves one redirected connection.
pub(super) async fn connection(shared: SharedRef, near: TcpStream, (from, to): (SocketAddr, SocketAddr)) {
    if shared.nameservers.is_resolver(to) {
        return resolver::serve_stream(shared, near, from, to).await;
    }
    let Attempt { connection, mut log, place } = Attempt::begin(&shared, to);
    log.owned_by(shared.owner_of(Transport::Tcp, from, to));
    let own = shared.netns.is_own(to.ip()) && shared.netns.has_listener(Transport::Tcp, to, from);
    let dialled = if own {
        let inside = delivery::connect(&shared.netns, from, to.ip(), to.port()).await;
        inside
            .map(|stream| (FarEnd::Local(stream), Some(from)))
            .map_err(|error| error.raw_os_error().unwrap_or(libc::ECONNREFUSED))
    } else {
        attempt::dial(&shared, place, to).await
    };
    match dialled {
        Ok((far, local)) => {
            log.connected(local);
            outgoing::serve(shared, near, (from, to), Ready { far, log: Some(log), connection }).await;
        }
        Err(errno) => {
            log.failed(&errno_name(errno));
            relay::reset(near);
        }
    }
}

/// Answers redirected questions until the session ends. Which name server was asked the redirection hides: the first one stands for
/// all of them.
pub(super) async fn questions(shared: SharedRef, socket: UdpSocket) {
    let v4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
    let mut servers = shared.nameservers.target.iter().chain(&shared.nameservers.host).copied();
    let server = servers.find(|ip| ip.is_ipv4() == v4);
    let server = server.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (socket, mut buffer) = (Arc::new(socket), BytesMut::new());
    while socket.readable().await.is_ok() {
        buffer.reserve(DATAGRAM);
        let Ok((_, src)) = socket.try_recv_buf_from(&mut buffer) else { continue };
        let query = Bytes::copy_from_slice(&buffer);
        buffer.clear();
        resolver::answer_datagram(&shared, &socket, src, SocketAddr::new(server, DNS_PORT), query);
    }
}
