//! Connections that the agent has taken over: each is dialled to the local process from the client's address and relayed.
//!
//! Some streams are always parked at the agent; each that is taken is replaced at once.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mirrord_protocol::session::v1 as wire;
use tokio::{sync::watch, time::sleep};

use super::{
    connection_log::{ConnectionLog, Totals, address, errno_name},
    delivery,
    ports::driver::{Request, Requests},
    relay::{self, End, Observer, Side},
    shared::SharedRef,
    source::Source,
    tap::TapContext,
};
use crate::{
    agent_link::{Chunk, LinkError, Stolen},
    events::Events,
    limits::{AGENT_RETRY_MAX, AGENT_RETRY_MIN, RELAY_END},
};

/// Takes stolen connections of one source.
#[derive(Clone)]
pub(super) struct Incoming {
    pub(super) shared: SharedRef,
    pub(super) source: Source,
    pub(super) ports_rx: watch::Receiver<Vec<wire::Port>>,
    pub(super) requests: Requests,
    /// Ports whose refusal has been said; said again after the next success.
    complained: Arc<Mutex<HashSet<u16>>>,
}

impl Incoming {
    pub(super) fn new(
        shared: SharedRef,
        source: Source,
        ports_rx: watch::Receiver<Vec<wire::Port>>,
        requests: Requests,
    ) -> Self {
        Self { shared, source, ports_rx, requests, complained: Arc::default() }
    }

    /// Keeps one stream parked until the session ends.
    pub(super) async fn park(self) {
        let mut pause = AGENT_RETRY_MIN;
        loop {
            match self.source.agent.accept().await {
                Ok(stolen) => {
                    pause = AGENT_RETRY_MIN;
                    let this = self.clone();
                    self.shared.tasks.open(async move { this.serve(stolen).await });
                }
                Err(LinkError::Closed) => return,
                Err(error) => {
                    tracing::debug!(%error, "no stream is parked for stolen connections");
                    sleep(pause).await;
                    pause = next_pause(pause);
                }
            }
        }
    }

    /// Local port of a port of the target.
    pub(super) fn local_port(&self, remote: u16) -> u16 {
        let ports = self.ports_rx.borrow();
        let known = ports.iter().find(|port| port.remote == u32::from(remote));
        known.and_then(|port| u16::try_from(port.local).ok()).unwrap_or(remote)
    }

    /// Counts a connection for its port.
    pub(super) async fn count(&self, port: u16, delivered: bool) {
        // Fails when the session ends; nobody looks at the counter then.
        drop(self.requests.send(Request::Handed(port, delivered)).await);
    }

    async fn serve(self, stolen: Stolen) {
        let Stolen { tx, rx, port, client, server, .. } = stolen;
        let connection = self.shared.connection_id();
        let mut log = self.log(connection, wire::Mode::Steal, port, client, server);
        let local = self.local_port(port);
        match delivery::connect(&self.shared.netns, client, server.ip(), local).await {
            Ok(socket) => {
                log.owned_by(self.shared.owner_of_listener(&socket));
                log.connected(Some(server));
                self.lock().remove(&port);
                self.count(port, true).await;
                let context = TapContext {
                    direction: wire::Direction::Incoming,
                    mode: wire::Mode::Steal,
                    port,
                    peer: client,
                    connection,
                    owner: log.owner(),
                    pod: self.source.pod.clone(),
                    mid_stream: false,
                };
                let observer = Observer::new((self.shared.tap)(context));
                let end = relay::with_agent(socket, tx, rx, Side::Server, &observer).await;
                let (bytes_in, bytes_out) = observer.bytes();
                close(log, bytes_in, bytes_out, end);
            }
            Err(error) => {
                // The client sees what it would see of a process that does not listen.
                drop(tokio::time::timeout(RELAY_END, tx.send(Chunk::Reset)).await);
                self.count(port, false).await;
                // A process that takes the connection and resets it at once is its own master.
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.complain(port, local);
                }
                log.failed(&error.raw_os_error().map_or_else(|| error.to_string(), errno_name));
                let mut rx = rx;
                drop(
                    tokio::time::timeout(RELAY_END, async { while let Ok(Some(_)) = rx.recv().await {} })
                        .await,
                );
            }
        }
    }

    /// The event of an incoming connection.
    pub(super) fn log(
        &self,
        connection: u64,
        mode: wire::Mode,
        port: u16,
        client: std::net::SocketAddr,
        server: std::net::SocketAddr,
    ) -> ConnectionLog {
        let (place, name) = match mode {
            wire::Mode::Steal => (wire::Where::Local, "steal"),
            _ => (wire::Where::Remote, "mirror"),
        };
        let decision = wire::Decision { r#where: place.into(), rule: format!("{name} port {port}") };
        let detail = wire::Connection {
            direction: wire::Direction::Incoming.into(),
            mode: mode.into(),
            port: port.into(),
            peer: Some(address(client)),
            local: Some(address(server)),
            transport: "tcp".to_owned(),
            ..wire::Connection::default()
        };
        ConnectionLog::open(&self.events(), connection, client.to_string(), decision, detail)
    }

    /// Events that name the pod.
    pub(super) fn events(&self) -> Events {
        self.source.events(&self.shared.events)
    }

    fn complain(&self, port: u16, local: u16) {
        if self.lock().insert(port) {
            self.events().warn(
                format!("a stolen connection of port {port} was reset: nothing listens on {local} here"),
                format!("let it listen on {local}, or map the port with `-p {port}:LOCAL`"),
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.complained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down how a relayed connection ended.
pub(super) fn close(log: ConnectionLog, bytes_in: u64, bytes_out: u64, end: End) {
    let (reset, error) = match end {
        End::Closed => (false, None),
        End::Reset(why) => (true, why),
    };
    log.closed(Totals { bytes_in, bytes_out, reset, ..Totals::default() }, error);
}

pub(super) fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(AGENT_RETRY_MAX)
}
