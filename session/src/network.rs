//! The data path: everything between the session netns, the agent and the host's own network.
//!
//! [`Network`] owns the tasks; [`NetworkHandle`] is what the host and the layer link use. Nothing here knows HTTP: a relay shows
//! its bytes to a [`Tap`] that [`NetworkSpec::tap`] makes.

pub mod outgoing_rules;
mod tap;

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use mirrord_netns::holder::Holder;
use mirrord_protocol::session::v1 as wire;
use thiserror::Error;
use tokio::{net::TcpStream, sync::watch};

pub use self::tap::{Tap, TapContext, TapFactory, no_taps};
use crate::{
    agent_link::AgentLink,
    config::{self, Mode},
    events::Events,
};

/// What the data path is made of.
pub struct NetworkSpec {
    /// Incoming traffic.
    pub incoming: config::Incoming,
    /// Outgoing traffic.
    pub outgoing: config::Outgoing,
    /// DNS.
    pub dns: config::Dns,
    /// Link to the agent.
    pub agent: AgentLink,
    /// Where operations are written down.
    pub events: Events,
    /// Makes the sockets of the session netns.
    pub holder: Holder,
    /// Makes the readers beside the relays.
    pub tap: TapFactory,
}

/// Why the data path could not be set up or a request to it failed.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A step of the set-up failed.
    #[error("the session's network could not be set up: {step}")]
    SetUp {
        /// Which step.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The port is not subscribed.
    #[error("port {0} is not subscribed")]
    UnknownPort(u16),
    /// The agent refused the mode; the old one still holds.
    #[error("the agent cannot {verb} port {port}: {reason}")]
    Mode {
        /// Target's port.
        port: u16,
        /// mirror, steal or release.
        verb: &'static str,
        /// What the agent said.
        reason: String,
    },
    /// No acknowledgement came; the old mode still holds as far as is known.
    #[error("the agent did not acknowledge the mode of port {0} in time")]
    NoAck(u16),
    /// The data path has ended.
    #[error("the session's network has ended")]
    Ended,
}

/// The data path of one session: owner of its tasks.
#[derive(Debug)]
pub struct Network {
    handle: NetworkHandle,
}

impl Network {
    /// Sets up the session netns and starts relays, resolver, subscriptions and publishing.
    ///
    /// # Errors
    /// [`NetworkError::SetUp`] with the step that failed.
    #[expect(clippy::unused_async, reason = "the set-up waits")]
    pub async fn start(spec: NetworkSpec) -> Result<Self, NetworkError> {
        drop(spec);
        Err(NetworkError::Ended)
    }

    /// What others may ask of the data path.
    #[must_use]
    pub fn handle(&self) -> NetworkHandle {
        self.handle.clone()
    }

    /// Ends everything in order: no new connections, open ones may drain for [`crate::limits::SHUTDOWN_GRACE`], then all is dropped.
    #[expect(clippy::unused_async, reason = "the end waits")]
    pub async fn shutdown(self) {}
}

/// Handle on the data path; clones share it.
#[derive(Clone, Debug)]
pub struct NetworkHandle {
    ports: watch::Receiver<Vec<wire::Port>>,
    listeners: watch::Receiver<Vec<wire::Listener>>,
}

impl NetworkHandle {
    /// Facts about every subscribed port, ordered by number; `requests` and `responses` are left at 0.
    #[must_use]
    pub fn ports(&self) -> watch::Receiver<Vec<wire::Port>> {
        self.ports.clone()
    }

    /// The sockets of the session that listen, and where they are published.
    #[must_use]
    pub fn listeners(&self) -> watch::Receiver<Vec<wire::Listener>> {
        self.listeners.clone()
    }

    /// Changes the mode of a port; returns after the agent's acknowledgement. On failure the old mode holds. Stealing a port on
    /// which no local process listens is accepted and takes effect as soon as one does.
    ///
    /// # Errors
    /// [`NetworkError::UnknownPort`], [`NetworkError::Mode`], [`NetworkError::NoAck`], [`NetworkError::Ended`].
    #[expect(clippy::unused_async, reason = "waits for the agent")]
    pub async fn set_mode(&self, port: u16, mode: Mode) -> Result<wire::Port, NetworkError> {
        let _ = mode;
        Err(NetworkError::UnknownPort(port))
    }

    /// The layer saw a socket of the session begin to listen.
    #[expect(clippy::unused_async, reason = "the queue is bounded")]
    pub async fn listening(&self, ip: IpAddr, port: u16, cookie: u64, pid: u32) {
        let _ = (ip, port, cookie, pid);
    }

    /// The layer knows that a listening socket is gone.
    #[expect(clippy::unused_async, reason = "the queue is bounded")]
    pub async fn closed(&self, cookie: u64) {
        let _ = cookie;
    }

    /// Connects to the local process inside the session netns as if `client` did, for replays.
    ///
    /// # Errors
    /// As connect(2); `ConnectionRefused` when nothing listens on the port.
    #[expect(clippy::unused_async, reason = "connects")]
    pub async fn connect_local(&self, client: SocketAddr, local_port: u16) -> io::Result<TcpStream> {
        let _ = (client, local_port);
        Err(io::Error::from(io::ErrorKind::ConnectionRefused))
    }
}
