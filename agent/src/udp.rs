//! UDP associations that leave from the target. One Udp call is one socket that is connected to one peer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{self as wire, udp_down, udp_up};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType},
};
use tokio::{net::UdpSocket, time::timeout};
use tonic::Streaming;

use crate::{
    address,
    limits::{DATAGRAM, FIRST_MESSAGE},
    network::TargetNetwork,
    outgoing,
    relay::DownSender,
};

/// Serves one Udp call: until the client ends its stream or is gone.
pub(crate) async fn serve(
    network: TargetNetwork,
    mut up: Streaming<wire::UdpUp>,
    down_tx: DownSender<wire::UdpDown>,
) {
    let opened = match first_message(&mut up).await {
        Some(open) => open_socket(&network, &open).await,
        None => Err(Errno::INVAL.into()),
    };
    let (result, socket) = match opened {
        Ok((socket, result)) => (result, Some(socket)),
        Err(error) => (outgoing::failed(&error), None),
    };
    let Some(socket) = socket else {
        // A client that is gone does not wait for the answer.
        drop(down_tx.send(message(udp_down::Kind::Opened(result))).await);
        return;
    };
    if down_tx.send(message(udp_down::Kind::Opened(result))).await.is_ok() {
        // Either direction's end is the end: without requests nobody can stop us later, without replies nobody listens.
        tokio::select! {
            biased;
            () = down_tx.closed() => {}
            () = to_peer(&socket, &mut up, &down_tx) => {}
            () = to_client(&socket, &down_tx) => {}
        }
    }
}

type Message = Result<wire::UdpDown, tonic::Status>;

fn message(kind: udp_down::Kind) -> Message {
    Ok(wire::UdpDown { kind: Some(kind) })
}

async fn first_message(up: &mut Streaming<wire::UdpUp>) -> Option<wire::UdpOpen> {
    match timeout(FIRST_MESSAGE, up.message()).await.ok()?.ok()??.kind? {
        udp_up::Kind::Open(open) => Some(open),
        udp_up::Kind::Datagram(_) => None,
    }
}

async fn open_socket(
    network: &TargetNetwork,
    open: &wire::UdpOpen,
) -> io::Result<(UdpSocket, wire::DialResult)> {
    let peer = open.peer.as_ref().and_then(address::from_wire).ok_or(Errno::INVAL)?;
    let socket = connected(network, peer, u16::try_from(open.local_port).unwrap_or(0)).await?;
    let result = wire::DialResult {
        local: Some(address::to_wire(socket.local_addr()?)),
        peer: Some(address::to_wire(peer)),
        ..wire::DialResult::default()
    };
    Ok((socket, result))
}

/// A UDP socket of the target's network that is connected to `peer`. `local_port` is used when it is free; 0 means any.
pub(crate) async fn connected(
    network: &TargetNetwork,
    peer: SocketAddr,
    local_port: u16,
) -> io::Result<UdpSocket> {
    let (family, any) = match peer {
        SocketAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = network.socket(family, SocketType::DGRAM).await?;
    if local_port != 0 && rustix::net::bind(&socket, &SocketAddr::new(any, local_port)).is_err() {
        tracing::debug!(local_port, "the wished port is not free, another one is used");
    }
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(peer).await?;
    Ok(socket)
}

async fn to_peer(socket: &UdpSocket, up: &mut Streaming<wire::UdpUp>, down_tx: &DownSender<wire::UdpDown>) {
    while let Ok(Some(request)) = up.message().await {
        let Some(udp_up::Kind::Datagram(datagram)) = request.kind else { continue };
        if let Err(error) = socket.send(&datagram).await {
            report(&error, down_tx);
        }
    }
}

async fn to_client(socket: &UdpSocket, down_tx: &DownSender<wire::UdpDown>) {
    let mut buffer = vec![0; DATAGRAM];
    while !down_tx.is_closed() {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                // Full: the client is slow, and a datagram that finds no room is dropped as a router would.
                drop(down_tx.try_send(message(udp_down::Kind::Datagram(datagram))));
            }
            Err(error) => report(&error, down_tx),
        }
    }
}

/// A pending error of the socket: told when there is room, the association goes on.
fn report(error: &io::Error, down_tx: &DownSender<wire::UdpDown>) {
    drop(down_tx.try_send(message(udp_down::Kind::Errno(address::errno(error)))));
}
