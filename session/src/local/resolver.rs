//! The name server of the local pods: UDP and TCP on the node's address, reachable from its pods only.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    RESOLVER,
    dns::{Transport, answer},
    registry::Registry,
};
use crate::limits::{RESOLVER_CONNECTIONS, RESOLVER_IDLE};

/// The resolver's sockets, made in the network namespace of the caller.
#[derive(Debug)]
pub(super) struct Resolver {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Resolver {
    pub(super) async fn bind() -> io::Result<Self> {
        Ok(Self { udp: UdpSocket::bind(RESOLVER).await?, tcp: TcpListener::bind(RESOLVER).await? })
    }

    /// Answers until it is dropped.
    pub(super) async fn serve(self, registry: Registry) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                received = self.udp.recv_from(&mut buffer) => {
                    if let Ok((length, client)) = received {
                        self.answer(buffer.get(..length).unwrap_or_default(), client, &registry).await;
                    }
                }
                accepted = self.tcp.accept(), if connections.len() < RESOLVER_CONNECTIONS => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve_connection(stream, registry.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn answer(&self, query: &[u8], client: SocketAddr, registry: &Registry) {
        if let Some(answer) = answer(query, registry, Transport::Udp) {
            // An answer that is lost is asked for again.
            self.udp.send_to(&answer, client).await.ok();
        }
    }
}

/// Queries with their length in front (RFC 1035, 4.2.2), until the client closes or is silent for too long.
async fn serve_connection(mut stream: TcpStream, registry: Registry) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        let length = within(RESOLVER_IDLE, stream.read_u16()).await?;
        query.resize(usize::from(length), 0);
        within(RESOLVER_IDLE, stream.read_exact(&mut query)).await?;
        let Some(mut answer) = answer(&query, &registry, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        answer.splice(..0, length.to_be_bytes());
        within(RESOLVER_IDLE, stream.write_all(&answer)).await?;
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
