//! Connections that leave from the target: TCP and unix streams. One Dial call is one connection.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mirrord_protocol::agent::v1 as wire;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketType},
};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    address,
    hand_over::HandOver,
    limits::{DIAL, DIAL_MAX, FIRST_MESSAGE, UNIX_RETRY},
    network::{OwnConnection, TargetNetwork},
    relay::{self, DownSender, Socket},
    target::Target,
};

/// What a dial needs.
pub(crate) struct From {
    pub(crate) target: Arc<Target>,
    pub(crate) network: TargetNetwork,
    pub(crate) hand_over: HandOver,
}

/// Serves one Dial call.
pub(crate) async fn serve(from: From, mut up: Streaming<wire::DialUp>, down_tx: DownSender<wire::DialDown>) {
    let Some(dial) = first_message(&mut up).await else {
        let status = Status::invalid_argument("the first message of a Dial call says where to");
        // The client may be gone; then nobody waits for the status.
        drop(down_tx.send(Err(status)).await);
        return;
    };
    // Dropping the call while connect(2) waits ends the attempt.
    let connected = tokio::select! {
        biased;
        () = down_tx.closed() => return,
        connected = connect(&from.target, &from.network, &dial) => connected,
    };
    let (mut result, connected) = match connected {
        Ok(connected) => (connected.result.clone(), Some(connected)),
        Err(error) => (failed(&error), None),
    };
    if dial.hand_over
        && let Some(Connected { socket: Socket::Tcp(socket), .. }) = &connected
    {
        result.handed_over = from.hand_over.give(socket);
    }
    let handed_over = result.handed_over != 0;
    let message = wire::DialDown { kind: Some(wire::dial_down::Kind::Result(result)) };
    if down_tx.send(Ok(message)).await.is_ok()
        && let Some(Connected { socket, own, .. }) = connected
    {
        if handed_over {
            drop(socket);
            relay::until_ended(up).await;
        } else {
            relay::run(socket, up, down_tx).await;
        }
        drop(own);
    }
}

async fn first_message(up: &mut Streaming<wire::DialUp>) -> Option<wire::Dial> {
    match timeout(FIRST_MESSAGE, up.message()).await.ok()?.ok()??.kind? {
        wire::dial_up::Kind::Dial(dial) => Some(dial),
        _ => None,
    }
}

/// The answer to a connection that did not come about.
pub(crate) fn failed(error: &io::Error) -> wire::DialResult {
    wire::DialResult { errno: address::errno(error), ..wire::DialResult::default() }
}

struct Connected {
    socket: Socket,
    own: Option<OwnConnection>,
    result: wire::DialResult,
}

async fn connect(target: &Target, network: &TargetNetwork, dial: &wire::Dial) -> io::Result<Connected> {
    let deadline = match dial.timeout_ms {
        0 => DIAL,
        given => Duration::from_millis(given.into()).min(DIAL_MAX),
    };
    let attempt = async {
        match &dial.to {
            Some(wire::dial::To::Tcp(peer)) => {
                let peer = address::from_wire(peer).ok_or(Errno::INVAL)?;
                let (socket, own) = connect_tcp(network, peer).await?;
                let result = wire::DialResult {
                    local: Some(address::to_wire(socket.local_addr()?)),
                    peer: Some(address::to_wire(socket.peer_addr()?)),
                    ..wire::DialResult::default()
                };
                Ok(Connected { socket: Socket::Tcp(socket), own: Some(own), result })
            }
            Some(wire::dial::To::Unix(path)) => {
                let socket = connect_unix(target, network, path).await?;
                let result = wire::DialResult::default();
                Ok(Connected { socket: Socket::Unix(socket), own: None, result })
            }
            None => Err(Errno::INVAL.into()),
        }
    };
    timeout(deadline, attempt).await.unwrap_or_else(|_| Err(Errno::TIMEDOUT.into()))
}

/// A TCP connection that leaves from the target; it has no deadline of its own. Keep the second value as long as the connection.
pub(crate) async fn connect_tcp(
    network: &TargetNetwork,
    peer: SocketAddr,
) -> io::Result<(TcpStream, OwnConnection)> {
    let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = network.socket(family, SocketType::STREAM).await?;
    match rustix::net::connect(&socket, &peer) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = TcpStream::from_std(socket.into())?;
    // The local address is chosen by now, and the answer has hardly come: the capture learns in time that this one is ours.
    let own = network.own().add(socket.local_addr()?);
    socket.writable().await?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nodelay(true)?;
    Ok((socket, own))
}

/// A path means a socket file below the target's root; a leading NUL means the abstract names of the target's network.
async fn connect_unix(target: &Target, network: &TargetNetwork, path: &[u8]) -> io::Result<UnixStream> {
    let socket = network.socket(AddressFamily::UNIX, SocketType::STREAM).await?;
    if let Some(name) = path.strip_prefix(b"\0") {
        connect_unix_to(&socket, &SocketAddrUnix::new_abstract_name(name)?).await?;
    } else {
        let root = target.root().map_err(|error| Errno::from_io_error(error).unwrap_or(Errno::IO))?;
        // Held open, so that the link means this file until connect(2) has followed it.
        let file = root.look(path, true)?;
        let link = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        connect_unix_to(&socket, &link).await?;
    }
    UnixStream::from_std(socket.into())
}

/// A unix stream connects at once or not at all; EAGAIN says that the listener's queue is full, and nothing reports its end.
async fn connect_unix_to(socket: &OwnedFd, address: &SocketAddrUnix) -> io::Result<()> {
    loop {
        match rustix::net::connect(socket, address) {
            Err(Errno::AGAIN) => sleep(UNIX_RETRY).await,
            result => return Ok(result?),
        }
    }
}
