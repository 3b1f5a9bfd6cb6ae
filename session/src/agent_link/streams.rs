//! One stream per connection: outgoing dials, stolen connections and UDP associations, all as chunks both ways.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use mirrord_protocol::agent::v1 as wire;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::{Stream, StreamExt, once, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{DialError, HandedSockets, LinkError, connect::Client, socket_address};
use crate::limits::{STREAM_MESSAGES, UDP_QUEUE};

/// A piece of a connection's life, the same in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes, in order.
    Data(Bytes),
    /// No more bytes follow in this direction.
    Shutdown,
    /// The connection is gone: close with RST.
    Reset,
}

/// Where the chunks for the agent go; bounded, so that a slow peer slows its own stream only. relay --chunks--> gRPC stream
pub type AgentSender = mpsc::Sender<Chunk>;

/// Where the agent's chunks come from.
#[derive(Debug)]
pub struct AgentReceiver(Down);

#[derive(Debug)]
enum Down {
    Dial(Streaming<wire::DialDown>),
    Accept(Streaming<wire::AcceptDown>),
}

impl AgentReceiver {
    /// The next chunk; `None` when the agent has ended the stream.
    ///
    /// # Errors
    /// When the link broke.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<Option<Chunk>, LinkError> {
        loop {
            let chunk = match &mut self.0 {
                Down::Dial(stream) => {
                    let Some(message) = stream.message().await.map_err(|status| failed("Dial", status))?
                    else {
                        return Ok(None);
                    };
                    dial_chunk(message)
                }
                Down::Accept(stream) => {
                    let Some(message) = stream.message().await.map_err(|status| failed("Accept", status))?
                    else {
                        return Ok(None);
                    };
                    accept_chunk(message)
                }
            };
            // A kind that this version does not know carries no bytes of the connection.
            if let Some(chunk) = chunk {
                return Ok(Some(chunk));
            }
        }
    }
}

/// How the bytes of a connection travel.
#[derive(Debug)]
pub enum Carrier {
    /// As chunks: towards the far end, and from it.
    Chunks(AgentSender, AgentReceiver),
    /// The agent has handed its connected socket over; it wants to know when the connection ends.
    Socket(TcpStream, OpenCall),
}

impl Carrier {
    fn of_dial(
        tx: AgentSender,
        rx: AgentReceiver,
        handed_over: u64,
        handed: Option<&HandedSockets>,
    ) -> Result<Self, LinkError> {
        if handed_over == 0 {
            return Ok(Self::Chunks(tx, rx));
        }
        let socket = handed
            .and_then(|handed| handed.take(handed_over))
            .ok_or(LinkError::Protocol { call: "Dial", what: "the socket that it announces did not come" })?;
        Ok(Self::Socket(socket, OpenCall { _up: tx, _down: rx }))
    }
}

/// Keeps the call open to which a connection belongs: the agent knows the connection as its own until this is dropped.
#[derive(Debug)]
pub struct OpenCall {
    _up: AgentSender,
    _down: AgentReceiver,
}

/// A connection that the agent has dialled.
#[derive(Debug)]
pub struct Connected {
    /// Its bytes.
    pub carrier: Carrier,
    /// Address of the agent's socket.
    pub local: SocketAddr,
    /// Address of the peer.
    pub peer: SocketAddr,
}

/// A stolen connection.
#[derive(Debug)]
pub struct Stolen {
    /// Towards the client.
    pub tx: AgentSender,
    /// From the client.
    pub rx: AgentReceiver,
    /// The agent's number for it.
    pub id: u64,
    /// Target's port.
    pub port: u16,
    /// Who connected.
    pub client: SocketAddr,
    /// Where the client had connected to.
    pub server: SocketAddr,
}

/// A UDP association with one peer.
#[derive(Debug)]
pub struct UdpAssociation {
    /// Datagrams for the peer. relay --datagrams--> gRPC stream
    pub tx: mpsc::Sender<Bytes>,
    rx: Streaming<wire::UdpDown>,
    /// Address of the agent's socket.
    pub local: SocketAddr,
}

/// What comes back on a UDP association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UdpEvent {
    /// A datagram of the peer.
    Datagram(Bytes),
    /// Pending error of the agent's socket, e.g. `ECONNREFUSED`; the association goes on.
    Errno(i32),
}

impl UdpAssociation {
    /// The next event; `None` when the agent has ended the association.
    ///
    /// # Errors
    /// When the link broke.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<Option<UdpEvent>, LinkError> {
        loop {
            let Some(message) = self.rx.message().await.map_err(|status| failed("Udp", status))? else {
                return Ok(None);
            };
            match message.kind {
                Some(wire::udp_down::Kind::Datagram(datagram)) => {
                    return Ok(Some(UdpEvent::Datagram(datagram)));
                }
                Some(wire::udp_down::Kind::Errno(errno)) => {
                    return Ok(Some(UdpEvent::Errno(known_errno(errno))));
                }
                Some(wire::udp_down::Kind::Opened(_)) | None => {}
            }
        }
    }
}

/// Dials and waits for the result.
pub(super) async fn dial(
    mut client: Client,
    dial: wire::Dial,
    handed: Option<&HandedSockets>,
) -> Result<Connected, DialError> {
    let (tx, rx) = mpsc::channel(STREAM_MESSAGES);
    let dial = wire::Dial { hand_over: handed.is_some(), ..dial };
    let first = wire::DialUp { kind: Some(wire::dial_up::Kind::Dial(dial)) };
    let mut down = client.dial(led(first, rx)).await.map_err(|status| failed("Dial", status))?.into_inner();
    let message = down.message().await.map_err(|status| failed("Dial", status))?;
    let Some(wire::dial_down::Kind::Result(result)) = message.and_then(|message| message.kind) else {
        return Err(LinkError::Protocol { call: "Dial", what: "the first message is no result" }.into());
    };
    check(&result)?;
    Ok(Connected {
        carrier: Carrier::of_dial(tx, AgentReceiver(Down::Dial(down)), result.handed_over, handed)?,
        local: or_unspecified(result.local.as_ref()),
        peer: or_unspecified(result.peer.as_ref()),
    })
}

/// Parks a stream and waits for the connection that takes it.
pub(super) async fn accept(mut client: Client) -> Result<Stolen, LinkError> {
    let (tx, rx) = mpsc::channel(STREAM_MESSAGES);
    let first = wire::AcceptUp { kind: Some(wire::accept_up::Kind::Park(wire::Park {})) };
    let mut down =
        client.accept(led(first, rx)).await.map_err(|status| failed("Accept", status))?.into_inner();
    let message = down.message().await.map_err(|status| failed("Accept", status))?;
    let Some(wire::accept_down::Kind::Connection(connection)) = message.and_then(|message| message.kind)
    else {
        return Err(LinkError::Protocol { call: "Accept", what: "the first message is no connection" });
    };
    let known = |address: Option<&wire::Address>| {
        address
            .and_then(socket_address)
            .ok_or(LinkError::Protocol { call: "Accept", what: "an address of the connection is missing" })
    };
    Ok(Stolen {
        tx,
        rx: AgentReceiver(Down::Accept(down)),
        id: connection.id,
        port: u16::try_from(connection.port)
            .map_err(|_| LinkError::Protocol { call: "Accept", what: "the port is no port" })?,
        client: known(connection.client.as_ref())?,
        server: known(connection.server.as_ref())?,
    })
}

/// Opens a UDP association.
pub(super) async fn udp(mut client: Client, open: wire::UdpOpen) -> Result<UdpAssociation, DialError> {
    let (tx, datagrams_rx) = mpsc::channel(UDP_QUEUE);
    let first = wire::UdpUp { kind: Some(wire::udp_up::Kind::Open(open)) };
    let rest = ReceiverStream::new(datagrams_rx)
        .map(|datagram| wire::UdpUp { kind: Some(wire::udp_up::Kind::Datagram(datagram)) });
    let mut rx =
        client.udp(once(first).chain(rest)).await.map_err(|status| failed("Udp", status))?.into_inner();
    let message = rx.message().await.map_err(|status| failed("Udp", status))?;
    let Some(wire::udp_down::Kind::Opened(result)) = message.and_then(|message| message.kind) else {
        return Err(LinkError::Protocol { call: "Udp", what: "the first message is no result" }.into());
    };
    check(&result)?;
    Ok(UdpAssociation { tx, rx, local: or_unspecified(result.local.as_ref()) })
}

/// The first message and then every chunk of the queue.
fn led<M: From<Chunk> + Send + 'static>(
    first: M,
    chunks_rx: mpsc::Receiver<Chunk>,
) -> impl Stream<Item = M> + Send + 'static {
    once(first).chain(ReceiverStream::new(chunks_rx).map(M::from))
}

impl From<Chunk> for wire::DialUp {
    fn from(chunk: Chunk) -> Self {
        use wire::dial_up::Kind;
        let kind = match chunk {
            Chunk::Data(data) => Kind::Data(data),
            Chunk::Shutdown => Kind::Shutdown(wire::Shutdown {}),
            Chunk::Reset => Kind::Reset(wire::Reset {}),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Chunk> for wire::AcceptUp {
    fn from(chunk: Chunk) -> Self {
        use wire::accept_up::Kind;
        let kind = match chunk {
            Chunk::Data(data) => Kind::Data(data),
            Chunk::Shutdown => Kind::Shutdown(wire::Shutdown {}),
            Chunk::Reset => Kind::Reset(wire::Reset {}),
        };
        Self { kind: Some(kind) }
    }
}

fn dial_chunk(message: wire::DialDown) -> Option<Chunk> {
    use wire::dial_down::Kind;
    match message.kind? {
        Kind::Data(data) => Some(Chunk::Data(data)),
        Kind::Shutdown(_) => Some(Chunk::Shutdown),
        Kind::Reset(_) => Some(Chunk::Reset),
        Kind::Result(_) => None,
    }
}

fn accept_chunk(message: wire::AcceptDown) -> Option<Chunk> {
    use wire::accept_down::Kind;
    match message.kind? {
        Kind::Data(data) => Some(Chunk::Data(data)),
        Kind::Shutdown(_) => Some(Chunk::Shutdown),
        Kind::Reset(_) => Some(Chunk::Reset),
        Kind::Connection(_) => None,
    }
}

fn check(result: &wire::DialResult) -> Result<(), DialError> {
    if result.errno == 0 { Ok(()) } else { Err(DialError::Errno(known_errno(result.errno))) }
}

/// Linux has no errno above 4095 (include/linux/err.h); anything else is the agent's mistake.
fn known_errno(errno: u32) -> i32 {
    i32::try_from(errno).ok().filter(|errno| (1..4096).contains(errno)).unwrap_or(libc::EIO)
}

fn or_unspecified(address: Option<&wire::Address>) -> SocketAddr {
    address.and_then(socket_address).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}

fn failed(call: &'static str, status: Status) -> LinkError {
    LinkError::Call { call, source: Box::new(status) }
}
