//! An attempt to reach the far end of an outgoing TCP connection: what the rules say, its event, and the dial.

use std::{io, net::SocketAddr};

use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{net::TcpStream, time::timeout};

use super::{
    connection_log::{ConnectionLog, address, decision},
    outgoing_rules::{Place, route_flow},
    prepared::FarEnd,
    shared::Shared,
};
use crate::{
    agent_link::{millis, wire_address},
    config,
    limits::DIAL_TIMEOUT,
};

/// A connection that the program wants.
pub(super) struct Attempt {
    pub(super) connection: u64,
    pub(super) log: ConnectionLog,
    pub(super) place: Place,
}

impl Attempt {
    /// Asks the rules and writes the event.
    pub(super) fn begin(shared: &Shared, to: SocketAddr) -> Self {
        let names = shared.names.forms_of(to.ip());
        let route = route_flow(&shared.outgoing, config::Transport::Tcp, to, &names);
        let connection = shared.connection_id();
        let (subject, name) = shared.subject(to);
        let detail = wire::Connection {
            direction: wire::Direction::Outgoing.into(),
            port: to.port().into(),
            peer: Some(address(to)),
            transport: "tcp".to_owned(),
            name,
            ..wire::Connection::default()
        };
        let log = ConnectionLog::open(&shared.events, connection, subject, decision(&route), detail);
        Self { connection, log, place: route.place }
    }
}

/// Connects from there; the far end and its address, or the errno for the program.
pub(super) async fn dial(
    shared: &Shared,
    from: Place,
    to: SocketAddr,
) -> Result<(FarEnd, Option<SocketAddr>), i32> {
    match from {
        Place::Remote => dial_remote(shared, to).await,
        Place::Local => dial_local(to).await,
    }
}

async fn dial_remote(shared: &Shared, to: SocketAddr) -> Result<(FarEnd, Option<SocketAddr>), i32> {
    let dial = agent::Dial {
        timeout_ms: millis(DIAL_TIMEOUT),
        to: Some(agent::dial::To::Tcp(wire_address(to))),
        ..agent::Dial::default()
    };
    match shared.agent.dial(dial).await {
        Ok(connected) => {
            let local = connected.local;
            Ok((FarEnd::Remote(Box::new(connected)), Some(local)))
        }
        Err(error) => {
            tracing::debug!(%error, %to, "the agent could not connect");
            Err(error.errno())
        }
    }
}

async fn dial_local(to: SocketAddr) -> Result<(FarEnd, Option<SocketAddr>), i32> {
    let connect = async {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok::<_, io::Error>((FarEnd::Local(stream), Some(local)))
    };
    match timeout(DIAL_TIMEOUT, connect).await {
        Ok(result) => result.map_err(|error| error.raw_os_error().unwrap_or(libc::EHOSTUNREACH)),
        Err(_) => Err(libc::ETIMEDOUT),
    }
}
