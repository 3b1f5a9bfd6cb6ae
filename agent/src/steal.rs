//! Stealing: new connections to some ports of the target are redirected to a listener of ours in the target's network, and each is
//! handed to a parked Accept call of the client.
//!
//! ```text
//! SYN to the port --nft redirect--> listener --accept, original destination--> parked call --relay--> client
//!                                                    '-- none in time, or no client --> the target after all
//! ```
//! The target must never suffer from a client that is slow or gone: what nobody takes is passed on to it. Connections stay where
//! they began; the rules that keep their translation alive stay until the last one has ended.

mod parking;
mod pass;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use mirrord_netns::{
    nft::{NftError, StealTable},
    sockopt,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, netlink, socket_with};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::parking::Stolen;
pub(crate) use self::parking::{Parking, serve};
use crate::{
    address,
    limits::{ACCEPT_RETRY, STEAL_BACKLOG, STEAL_LINGER},
    network::{self, NetworkError, TargetNetwork},
    relay::Socket,
};

/// Why a port is not stolen.
#[derive(Debug, Error)]
pub(crate) enum StealError {
    #[error("the target's network cannot be entered")]
    Network(#[source] NetworkError),
    #[error("the agent cannot listen in the target's network")]
    Listen(#[source] io::Error),
    #[error(
        "the rules in the target's network cannot be changed; that needs CAP_NET_ADMIN and nf_tables with NAT"
    )]
    Rules(#[source] NftError),
    #[error(transparent)]
    Stolen(NftError),
}

/// The stolen ports of the target.
#[derive(Debug)]
pub(crate) struct Steal {
    network: TargetNetwork,
    parking: Parking,
    tasks: TaskTracker,
    /// For whom, as others are told.
    client: String,
    table: Option<Table>,
    /// SYNs redirected by rules that are gone.
    redirected: BTreeMap<u16, u64>,
}

#[derive(Debug)]
struct Table {
    rules: StealTable,
    /// Since when no port has been stolen.
    idle_since: Option<Instant>,
    /// Ends the listener.
    listening: CancellationToken,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.listening.cancel();
    }
}

impl Steal {
    pub(crate) fn new(network: TargetNetwork, parking: Parking, tasks: TaskTracker, client: &str) -> Self {
        Self { network, parking, tasks, client: client.to_owned(), table: None, redirected: BTreeMap::new() }
    }

    /// Connections to `port` that are opened after this returns are stolen.
    pub(crate) async fn add(&mut self, port: u16) -> Result<(), StealError> {
        if self.table.is_none() {
            self.table = Some(self.open_table().await?);
        }
        let Some(table) = &mut self.table else { return Ok(()) };
        match table.rules.add(port) {
            Ok(()) | Err(NftError::Taken(_)) => {
                table.idle_since = None;
                Ok(())
            }
            Err(error) => {
                if table.rules.ports().is_empty() {
                    table.idle_since = Some(Instant::now());
                }
                Err(match error {
                    NftError::Stolen { .. } => StealError::Stolen(error),
                    error => StealError::Rules(error),
                })
            }
        }
    }

    /// Connections to `port` that are opened from now on go to the target.
    pub(crate) fn remove(&mut self, port: u16) -> Result<(), StealError> {
        let Some(table) = &mut self.table else { return Ok(()) };
        let counters = table.rules.counters().unwrap_or_default();
        table.rules.remove(port).map_err(StealError::Rules)?;
        for (_, syns) in counters.iter().filter(|(of, _)| *of == port) {
            *self.redirected.entry(port).or_default() += syns;
        }
        if table.rules.ports().is_empty() {
            table.idle_since = Some(Instant::now());
        }
        Ok(())
    }

    /// No port is stolen any more. Open connections keep what they need.
    pub(crate) fn clear(&mut self) {
        for port in self.ports() {
            if let Err(error) = self.remove(port) {
                // Rules that cannot be removed one by one go as a whole, and stolen connections with them: the target comes first.
                tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "the rules are dropped");
                self.table = None;
            }
        }
        self.redirected.clear();
    }

    /// Removes the last rules and the listener once no connection needs them. Call it now and then.
    pub(crate) fn tidy(&mut self) {
        let Some(Table { rules, idle_since: Some(since), .. }) = &mut self.table else { return };
        // A SYN may have been redirected just before, and its connection not yet be accepted.
        if self.parking.open() == 0 && since.elapsed() >= STEAL_LINGER {
            if let Err(error) = rules.flows_ended() {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "the last rules stay until the end"
                );
            }
            self.table = None;
        }
    }

    /// Whether [`Steal::tidy`] has something to do, now or later.
    pub(crate) fn is_active(&self) -> bool {
        self.table.is_some()
    }

    /// SYNs that were redirected, for each port.
    pub(crate) fn redirected(&self) -> BTreeMap<u16, u64> {
        let mut sums = self.redirected.clone();
        let current = self.table.as_ref().and_then(|table| table.rules.counters().ok()).unwrap_or_default();
        for (port, syns) in current {
            *sums.entry(port).or_default() += syns;
        }
        sums
    }

    fn ports(&self) -> Vec<u16> {
        self.table.as_ref().map(|table| table.rules.ports()).unwrap_or_default()
    }

    async fn open_table(&self) -> Result<Table, StealError> {
        let made =
            self.network.run(|| Ok::<_, io::Error>((listener()?, network::netlink(netlink::NETFILTER)?)));
        let (listener, netlink) = made.await.map_err(StealError::Network)?.map_err(StealError::Listen)?;
        let listener = TcpListener::from_std(listener.into()).map_err(StealError::Listen)?;
        let port = listener.local_addr().map_err(StealError::Listen)?.port();
        let listening = CancellationToken::new();
        let thief = Thief {
            network: self.network.clone(),
            parking: self.parking.clone(),
            tasks: self.tasks.clone(),
            port,
        };
        self.tasks.spawn(thief.accept(listener, listening.clone()));
        let rules = StealTable::new(netlink, port, &self.client);
        Ok(Table { rules, idle_since: Some(Instant::now()), listening })
    }
}

/// A listener on any port of all addresses, IPv4 as well where the namespace knows IPv6.
fn listener() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let v6 = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None).and_then(|socket| {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        bind(&socket, &any_v6)?;
        Ok(socket)
    });
    let socket = match v6 {
        Ok(socket) => socket,
        Err(_) => {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            socket
        }
    };
    listen(&socket, STEAL_BACKLOG)?;
    Ok(socket)
}

/// Takes redirected connections in.
#[derive(Clone)]
struct Thief {
    network: TargetNetwork,
    parking: Parking,
    tasks: TaskTracker,
    /// Our listener's.
    port: u16,
}

impl Thief {
    async fn accept(self, listener: TcpListener, listening: CancellationToken) {
        while let Some(accepted) = listening.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, client)) => {
                    let this = self.clone();
                    self.tasks.spawn(async move { this.hand_over(socket, client).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a stolen connection could not be accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn hand_over(self, socket: TcpStream, client: SocketAddr) {
        let server = sockopt::original_dst(&socket).map(address::canonical);
        let Some(server) = server.ok().filter(|server| server.port() != self.port) else {
            // Somebody has found our port; nothing for them here.
            Socket::Tcp(socket).reset();
            return;
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a stolen connection is gone already");
        }
        let stolen = Stolen::new(&self.parking, socket, address::canonical(client), server);
        let work = async {
            if let Err(stolen) = self.parking.place(stolen).await {
                pass::to_target(&self.network, stolen).await;
            }
        };
        // Cut off at the end, when nobody waits for it any more.
        self.parking.ending().run_until_cancelled(work).await;
    }
}
