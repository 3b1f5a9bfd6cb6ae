//! The far end of one UDP flow: a socket in the target, or one in this host's own network.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{net::UdpSocket, sync::mpsc, time::sleep_until};

use super::{LastUse, refuse};
use crate::{
    agent_link::{UdpAssociation, UdpEvent, wire_address},
    config::Transport,
    limits::{DATAGRAM, UDP_IDLE},
    network::{
        connection_log::{ConnectionLog, Totals, address, decision, errno_name},
        outgoing_rules::{Place, route_flow},
        shared::{Shared, SharedRef},
    },
};

/// Where the relay puts the program's datagrams. What does not fit is dropped, as on a wire.
pub(super) struct Peer {
    to: To,
    traffic: Arc<Traffic>,
}

enum To {
    /// relay --datagrams--> gRPC stream
    Remote(mpsc::Sender<Bytes>),
    Local(Arc<UdpSocket>),
}

struct Traffic {
    last_use: LastUse,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// The reading side and the event of a flow.
pub(super) struct Association {
    from: From,
    traffic: Arc<Traffic>,
    log: ConnectionLog,
}

enum From {
    Remote(Box<UdpAssociation>),
    Local(Arc<UdpSocket>),
}

/// Opens the far end for datagrams to `dst` as the rules say.
pub(super) async fn open(
    shared: &Shared,
    src: SocketAddr,
    dst: SocketAddr,
) -> Result<(Peer, Association), i32> {
    let route = route_flow(&shared.outgoing, Transport::Udp, dst, &shared.names.forms_of(dst.ip()));
    let (subject, name) = shared.subject(dst);
    let detail = wire::Connection {
        direction: wire::Direction::Outgoing.into(),
        port: dst.port().into(),
        peer: Some(address(dst)),
        transport: "udp".to_owned(),
        name,
        ..wire::Connection::default()
    };
    let mut log =
        ConnectionLog::open(&shared.events, shared.connection_id(), subject, decision(&route), detail);
    let opening = async {
        match route.place {
            Place::Remote => open_remote(shared, dst).await,
            Place::Local => {
                open_local(dst).await.map_err(|error| error.raw_os_error().unwrap_or(libc::EHOSTUNREACH))
            }
        }
    };
    let (far, socket) =
        tokio::join!(opening, async { shared.netns.socket_of(mirrord_netns::Transport::Udp, src, dst) });
    log.owned_by(shared.owners.of(socket));
    match far {
        Ok((to, from, local)) => {
            log.connected(Some(local));
            let traffic = Arc::new(Traffic {
                last_use: LastUse::now(),
                bytes_in: AtomicU64::new(0),
                bytes_out: AtomicU64::new(0),
            });
            Ok((Peer { to, traffic: traffic.clone() }, Association { from, traffic, log }))
        }
        Err(errno) => {
            log.failed(&errno_name(errno));
            Err(errno)
        }
    }
}

impl Peer {
    pub(super) fn send(&self, datagram: Bytes) {
        self.traffic.last_use.touch();
        let bytes = datagram.len() as u64;
        let sent = match &self.to {
            To::Remote(datagrams_tx) => datagrams_tx.try_send(datagram).is_ok(),
            To::Local(socket) => socket.try_send(&datagram).is_ok(),
        };
        if sent {
            self.traffic.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Association {
    /// Brings what the peer sends back to the program until the flow has been idle for [`UDP_IDLE`].
    pub(super) async fn run(
        mut self,
        shared: &SharedRef,
        src: SocketAddr,
        dst: SocketAddr,
        relay: &UdpSocket,
    ) {
        let error = loop {
            let idle_at = tokio::time::Instant::from_std(self.traffic.last_use.since()) + UDP_IDLE;
            // Datagrams outrank the idle timer, which is looked at again after each.
            let event = tokio::select! {
                biased;
                event = self.from.recv() => event,
                () = sleep_until(idle_at) => {
                    if self.traffic.last_use.since().elapsed() >= UDP_IDLE {
                        break None;
                    }
                    continue;
                }
            };
            match event {
                Ok(Some(UdpEvent::Datagram(datagram))) => {
                    self.traffic.last_use.touch();
                    self.traffic.bytes_in.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    // A full or closed program socket loses datagrams, as everywhere.
                    drop(relay.send_to(&datagram, src).await);
                }
                Ok(Some(UdpEvent::Errno(libc::ECONNREFUSED))) => refuse(shared, src, dst),
                Ok(Some(UdpEvent::Errno(errno))) => {
                    tracing::debug!(errno, %dst, "the far UDP socket has an error")
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let totals = Totals {
            bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
            ..Totals::default()
        };
        self.log.closed(totals, error);
    }
}

impl From {
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn recv(&mut self) -> Result<Option<UdpEvent>, String> {
        match self {
            Self::Remote(association) => association.recv().await.map_err(|error| error.to_string()),
            Self::Local(socket) => {
                let mut buffer = BytesMut::with_capacity(DATAGRAM);
                match socket.recv_buf(&mut buffer).await {
                    Ok(_) => Ok(Some(UdpEvent::Datagram(Bytes::copy_from_slice(&buffer)))),
                    Err(error) => match error.raw_os_error() {
                        Some(errno) => Ok(Some(UdpEvent::Errno(errno))),
                        None => Err(error.to_string()),
                    },
                }
            }
        }
    }
}

async fn open_remote(shared: &Shared, dst: SocketAddr) -> Result<(To, From, SocketAddr), i32> {
    let open = agent::UdpOpen { peer: Some(wire_address(dst)), local_port: 0 };
    let association = shared.agent.udp(open).await.map_err(|error| error.errno())?;
    let local = association.local;
    Ok((To::Remote(association.tx.clone()), From::Remote(Box::new(association)), local))
}

async fn open_local(dst: SocketAddr) -> std::io::Result<(To, From, SocketAddr)> {
    let any: SocketAddr =
        if dst.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Arc::new(UdpSocket::bind(any).await?);
    socket.connect(dst).await?;
    let local = socket.local_addr()?;
    Ok((To::Local(socket.clone()), From::Local(socket), local))
}
