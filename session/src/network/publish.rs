//! Listeners of the session on the host's loopback: a browser or a debugger reaches the local process on the same port.
//!
//! Each accepted connection is dialled inside from the host client's own address. One publication per port, however many sockets
//! of the session share it; it ends with the last of them.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection_log::{ConnectionLog, address},
    delivery,
    incoming::close,
    ports::Listening,
    relay::{self, Observer, Side},
    shared::SharedRef,
    tap::TapContext,
};
use crate::limits::{LISTEN_BACKLOG, PUBLISH_RETRY};

/// Publishes the session's listeners.
pub(super) struct Publisher {
    shared: SharedRef,
    ports: BTreeMap<u16, Published>,
    listeners: BTreeMap<u64, Listening>,
    /// publisher --listeners--> handle
    listeners_tx: watch::Sender<Vec<wire::Listener>>,
}

struct Published {
    cookies: HashSet<u64>,
    /// Why it is not reachable on the host; empty when it is.
    reason: String,
    end: CancellationToken,
}

impl Publisher {
    pub(super) fn new(shared: SharedRef, listeners_tx: watch::Sender<Vec<wire::Listener>>) -> Self {
        Self { shared, ports: BTreeMap::new(), listeners: BTreeMap::new(), listeners_tx }
    }

    /// A socket listens (or its pid has become known).
    pub(super) fn publish(&mut self, listening: Listening) {
        let port = listening.address.port();
        if self.listeners.insert(listening.cookie, listening).is_none() {
            let shared = &self.shared;
            let published = self.ports.entry(port).or_insert_with(|| start(shared, port));
            published.cookies.insert(listening.cookie);
        }
        self.tell();
    }

    /// A socket is gone.
    pub(super) fn unpublish(&mut self, cookie: u64) {
        let Some(listening) = self.listeners.remove(&cookie) else { return };
        let port = listening.address.port();
        if let Some(published) = self.ports.get_mut(&port) {
            published.cookies.remove(&cookie);
            if published.cookies.is_empty() {
                published.end.cancel();
                self.ports.remove(&port);
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let listeners = self.listeners.values().map(|listening| {
            let port = listening.address.port();
            let reason = self.ports.get(&port).map(|published| published.reason.clone()).unwrap_or_default();
            wire::Listener {
                address: Some(address(listening.address)),
                pid: listening.pid,
                published_port: if reason.is_empty() { port.into() } else { 0 },
                unpublished_reason: reason,
            }
        });
        self.listeners_tx.send_replace(listeners.collect());
    }
}

/// Binds the port on the host's loopback and serves it until cancelled.
fn start(shared: &SharedRef, port: u16) -> Published {
    let end = CancellationToken::new();
    let mut published = Published { cookies: HashSet::new(), reason: String::new(), end: end.clone() };
    if !shared.incoming.publish {
        "publishing is off".clone_into(&mut published.reason);
        return published;
    }
    match bind(Ipv4Addr::LOCALHOST.into(), port) {
        Ok(listener) => serve(shared, listener, port, end.clone()),
        Err(error) => {
            published.reason = reason(port, &error);
            return published;
        }
    }
    // A host without IPv6, or with something else there, is reached over IPv4 all the same.
    match bind(Ipv6Addr::LOCALHOST.into(), port) {
        Ok(listener) => serve(shared, listener, port, end),
        Err(error) => tracing::debug!(%error, port, "not published on ::1"),
    }
    published
}

fn bind(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose last connections linger in TIME_WAIT is free.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(ip, port))?;
    socket.listen(LISTEN_BACKLOG.unsigned_abs())
}

fn reason(port: u16, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} of this machine is in use"),
        io::ErrorKind::PermissionDenied => format!("port {port} of this machine needs root"),
        _ => format!("port {port} of this machine cannot be bound: {error}"),
    }
}

fn serve(shared: &SharedRef, listener: TcpListener, port: u16, end: CancellationToken) {
    let shared_task = shared.clone();
    shared.tasks.intake(async move {
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((outside, client)) => {
                        let shared = shared_task.clone();
                        shared_task
                            .tasks
                            .open(async move { connection(shared, outside, client, port).await });
                    }
                    Err(error) => {
                        tracing::debug!(%error, port, "accepting on the host's loopback failed");
                        sleep(PUBLISH_RETRY).await;
                    }
                }
            }
        };
        // The end of the publication outranks one more connection.
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = accepting => {}
        }
    });
}

async fn connection(shared: SharedRef, outside: TcpStream, client: SocketAddr, port: u16) {
    let connection = shared.connection_id();
    let decision =
        wire::Decision { r#where: wire::Where::Local.into(), rule: format!("published port {port}") };
    let detail = wire::Connection {
        direction: wire::Direction::Local.into(),
        port: port.into(),
        peer: Some(address(client)),
        transport: "tcp".to_owned(),
        ..wire::Connection::default()
    };
    let mut log = ConnectionLog::open(&shared.events, connection, client.to_string(), decision, detail);
    let server = super::session_netns::loopback_like(client.ip());
    // A server that listens on the target's address only is reached there.
    let connected = async {
        outside.set_nodelay(true)?;
        match delivery::connect(&shared.netns, client, server, port).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let own = shared.netns.address_like(server);
                delivery::connect(&shared.netns, client, own.unwrap_or(server), port).await
            }
            result => result,
        }
    };
    match connected.await {
        Ok(inside) => {
            log.owned_by(shared.owner_of_listener(&inside));
            log.connected(inside.peer_addr().ok());
            let context = TapContext {
                direction: wire::Direction::Local,
                mode: wire::Mode::Unspecified,
                port,
                peer: client,
                connection,
                owner: log.owner(),
                pod: None,
                mid_stream: false,
            };
            let observer = Observer::new((shared.tap)(context));
            let end = relay::with_socket(outside, inside, Side::Client, &observer).await;
            let (bytes_in, bytes_out) = observer.bytes();
            close(log, bytes_in, bytes_out, end);
        }
        Err(error) => {
            relay::reset(outside);
            log.failed(&error.to_string());
        }
    }
}

/// Publications end with their owner.
impl Drop for Publisher {
    fn drop(&mut self) {
        for published in self.ports.values() {
            published.end.cancel();
        }
    }
}
