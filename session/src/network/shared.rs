//! What every part of the data path works with, and the owner of its tasks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mirrord_netns::Transport;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    inside::Inside,
    names::Names,
    nameservers::Nameservers,
    owners::{Owner, SocketOwners},
    tap::TapFactory,
};
use crate::{agent_link::AgentLink, config, events::Events};

/// One per session; every task holds it.
pub(super) struct Shared {
    pub(super) netns: Inside,
    pub(super) agent: AgentLink,
    pub(super) events: Events,
    pub(super) tap: TapFactory,
    pub(super) incoming: config::Incoming,
    pub(super) outgoing: config::Outgoing,
    pub(super) dns: config::Dns,
    pub(super) names: Names,
    pub(super) nameservers: Nameservers,
    pub(super) owners: SocketOwners,
    pub(super) tasks: Tasks,
    pub(super) connections: AtomicU64,
}

impl Shared {
    /// Number of the next connection, the first being 1.
    pub(super) fn connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Who made the session's socket at the near end of a flow. Ask while the flow lives.
    pub(super) fn owner_of(&self, transport: Transport, near: SocketAddr, far: SocketAddr) -> Owner {
        self.owners.of(self.netns.socket_of(transport, near, far))
    }

    /// Who made the listener that has taken this connection of ours.
    pub(super) fn owner_of_listener(&self, dialled: &TcpStream) -> Owner {
        // A peer has no port 0, so what is found is the listener and not the socket that it has accepted.
        let listener = dialled.peer_addr().ok();
        let owner = listener.map(|at| self.owner_of(Transport::Tcp, at, SocketAddr::new(at.ip(), 0)));
        owner.unwrap_or_default()
    }

    /// `NAME:PORT` when DNS gave a name for the address, else the address.
    pub(super) fn subject(&self, address: SocketAddr) -> (String, String) {
        match self.names.of(address.ip()).into_iter().next() {
            Some(name) => (format!("{name}:{}", address.port()), name),
            None => (address.to_string(), String::new()),
        }
    }
}

/// The tasks of the data path, in two groups: those that take new work, and the open connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    /// No new work is taken.
    stop: CancellationToken,
    /// Everything ends.
    end: CancellationToken,
}

impl Tasks {
    /// A task that takes new work: dropped when the shutdown begins.
    pub(super) fn intake(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            // The shutdown outranks new work.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// A task that serves something open: it may drain, and is dropped at the end.
    pub(super) fn open(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Stops the intake, lets open work drain for `grace`, then drops it.
    pub(super) async fn shutdown(&self, grace: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            self.end.cancel();
            self.tracker.wait().await;
        }
    }
}

/// A value that all tasks share.
pub(super) type SharedRef = Arc<Shared>;
