//! Connections from the node to the target, and the parked calls that take stolen ones.

use std::net::{IpAddr, SocketAddr, TcpStream};

use mirrord_protocol::agent::v1::{
    self as wire, AcceptDown, AcceptUp, StolenConnection, accept_down, accept_up,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    agent::{Client, LIMIT},
    app::ECHO,
};

/// A connection of the node to the target's echo.
pub(crate) fn connect(ip: &str) -> TcpStream {
    let address = SocketAddr::new(ip.parse().unwrap(), ECHO);
    let socket = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The address without its port.
pub(crate) fn ip(address: Option<&wire::Address>) -> IpAddr {
    let address = address.unwrap();
    <[u8; 4]>::try_from(&*address.ip)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(&*address.ip).map(IpAddr::from))
        .unwrap()
}

/// A parked Accept call, later a stolen connection.
pub(crate) struct Parked {
    pub(crate) up_tx: mpsc::Sender<AcceptUp>,
    pub(crate) down: Streaming<AcceptDown>,
}

impl Parked {
    pub(crate) async fn new(client: &mut Client) -> Self {
        let (up_tx, up_rx) = mpsc::channel(4);
        up_tx.send(AcceptUp { kind: Some(accept_up::Kind::Park(wire::Park {})) }).await.unwrap();
        let down = client.accept(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
        Self { up_tx, down }
    }

    pub(crate) async fn connection(&mut self) -> StolenConnection {
        match self.next().await {
            Some(accept_down::Kind::Connection(connection)) => connection,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&self, kind: accept_up::Kind) {
        self.up_tx.send(AcceptUp { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn say(&self, text: &'static str) {
        self.send(accept_up::Kind::Data(text.into())).await;
    }

    pub(crate) async fn next(&mut self) -> Option<accept_down::Kind> {
        timeout(LIMIT, self.down.message()).await.unwrap().unwrap().map(|message| message.kind.unwrap())
    }

    pub(crate) async fn hear(&mut self, text: &str) {
        let mut heard = Vec::new();
        while heard.len() < text.len() {
            match self.next().await {
                Some(accept_down::Kind::Data(data)) => heard.extend_from_slice(&data),
                other => panic!("{other:?} after {heard:?}"),
            }
        }
        assert_eq!(String::from_utf8_lossy(&heard), text);
    }
}
