//! The data path: everything between the session netns, the agent and the host's own network.
//!
//! [`Network`] owns the tasks; [`NetworkHandle`] is what the host and the layer link use. Nothing here knows HTTP: a relay shows
//! its bytes to a [`Tap`] that [`NetworkSpec::tap`] makes.
//!
//! ```text
//! session netns: queue -> verdicts -> udp | prepared -> outgoing -> relay <-> agent or host socket
//!                                      └-> resolver <-> agent or host's name servers
//! agents: parked streams -> incoming -> delivery (dial inside from the client's address) -> relay
//!         mirror stream  -> mirror   -> delivery, tap
//! ports/driver: what is subscribed, what listens, publish on the host's loopback
//! ```

mod attempt;
mod connection_log;
mod delivery;
pub mod dns_message;
mod incoming;
mod inside;
mod lookup;
mod mirror;
mod names;
mod nameservers;
mod outgoing;
pub mod outgoing_rules;
mod owners;
mod ports;
mod prepared;
mod publish;
mod relay;
mod resolver;
mod rewrite;
mod session_netns;
mod shared;
mod source;
mod tap;
mod udp;
mod unheld;
mod verdicts;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64},
};

use mirrord_netns::{holder::Holder, sock_diag::DestroyEvents};
use mirrord_protocol::{
    layer::v1::{SocketAnswer, SocketCall},
    session::v1 as wire,
};
use thiserror::Error;
use tokio::{
    io::unix::AsyncFd,
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{interval, timeout},
};

use self::{
    inside::Inside,
    names::Names,
    nameservers::Nameservers,
    ports::{
        Listening,
        driver::{Driver, Inputs, Request, Requests},
    },
    prepared::Prepared,
    publish::Publisher,
    rewrite::{Calls, Rewrite},
    session_netns::{Intake, SessionNetns},
    shared::{Shared, SharedRef, Tasks},
    udp::UdpRelays,
    verdicts::Verdicts,
};
pub use self::{
    owners::{Owner, SocketOwners},
    source::{PodName, SourceId},
    tap::{Tap, TapContext, TapFactory, no_taps},
};
use crate::{
    agent_link::{AgentLink, ip_address},
    config::{self, Mode},
    events::Events,
    limits::{MODE_TIMEOUT, PORT_REQUESTS, SHUTDOWN_GRACE, SWEEP},
};

/// What the data path is made of.
pub struct NetworkSpec {
    /// Incoming traffic.
    pub incoming: config::Incoming,
    /// Outgoing traffic.
    pub outgoing: config::Outgoing,
    /// DNS.
    pub dns: config::Dns,
    /// Link to the agent: connections, datagrams and names go out through it.
    pub agent: AgentLink,
    /// Whose connections are served.
    pub serves: Serves,
    /// Where operations are written down.
    pub events: Events,
    /// Makes the sockets of the session netns; `None`: there is none, and the programs' addresses are rewritten.
    pub holder: Option<Holder>,
    /// First packets are held until the target has answered, where the kernel can; false: never.
    pub hold: bool,
    /// Makes the readers beside the relays.
    pub tap: TapFactory,
}

/// Whose connections a session serves.
#[derive(Clone, Debug)]
pub enum Serves {
    /// Those of [`NetworkSpec::agent`]; in a cluster it sits beside this pod.
    Agent(PodName),
    /// Those of all agents that [`NetworkHandle::join`] names.
    Joined,
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
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[expect(clippy::unused_async, reason = "callers await it like every other step of the bring-up")]
    pub async fn start(spec: NetworkSpec) -> Result<Self, NetworkError> {
        let facts = spec.agent.hello();
        let addresses: Vec<IpAddr> = facts
            .addresses
            .iter()
            .filter_map(|address| ip_address(&address.address))
            // A link-local address needs an interface that the namespace does not have.
            .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .collect();
        let nameservers = Nameservers::new(&facts.nameservers);
        let names = Names::new(&facts.search);
        let own = match spec.serves {
            Serves::Agent(pod) => Some(pod),
            Serves::Joined => None,
        };
        let (netns, intake) = match spec.holder {
            Some(holder) => {
                let (netns, intake) = SessionNetns::set_up(holder, addresses, spec.hold)?;
                (Inside::Netns(Box::new(netns)), Some(intake))
            }
            None => {
                let rewrite = Rewrite::new(addresses).map_err(|error| NetworkError::SetUp {
                    step: "make the diagnosis socket",
                    source: error.into(),
                })?;
                (Inside::Host(Box::new(rewrite)), None)
            }
        };
        let shared = Arc::new(Shared {
            netns,
            agent: spec.agent,
            events: spec.events,
            tap: spec.tap,
            incoming: spec.incoming,
            outgoing: spec.outgoing,
            dns: spec.dns,
            names,
            nameservers,
            owners: SocketOwners::default(),
            tasks: Tasks::default(),
            connections: AtomicU64::new(0),
        });
        Ok(Self { handle: start_tasks(shared, intake, own) })
    }

    /// What others may ask of the data path.
    #[must_use]
    pub fn handle(&self) -> NetworkHandle {
        self.handle.clone()
    }

    /// Ends everything in order: no new connections, open ones may drain for [`SHUTDOWN_GRACE`], then all is dropped.
    pub async fn shutdown(self) {
        self.handle.shared.tasks.shutdown(SHUTDOWN_GRACE).await;
    }
}

fn start_tasks(shared: SharedRef, intake: Option<Intake>, own: Option<PodName>) -> NetworkHandle {
    let (requests_tx, requests_rx) = mpsc::channel(PORT_REQUESTS);
    let (ports_tx, ports) = watch::channel(Vec::new());
    let (listeners_tx, listeners) = watch::channel(Vec::new());
    let requests: Requests = Arc::new(requests_tx);

    let udp = UdpRelays::new(shared.clone());
    let destroyed = intake.map(|intake| take_in(&shared, udp.clone(), intake));
    let tasks = &shared.tasks;

    let publisher = Publisher::new(shared.clone(), listeners_tx);
    let (ending_tx, ending) = watch::channel(None);
    let inputs = Inputs { requests: requests.clone(), requests_rx, destroyed, ports_tx, ending_tx };
    tasks.intake(Driver::new(shared.clone(), publisher, inputs).run(own));
    let calls = Calls::new(shared.clone(), udp, requests.clone());
    NetworkHandle { shared, ports, listeners, ending, requests, calls }
}

/// Starts what decides about the packets of the session netns; the sockets that are gone are for the ports' driver.
fn take_in(
    shared: &SharedRef,
    udp: UdpRelays,
    Intake { relays, questions, destroyed }: Intake,
) -> AsyncFd<DestroyEvents> {
    let prepared = Arc::new(Prepared::default());
    let verdicts = Verdicts::new(shared.clone(), prepared.clone(), udp);
    let tasks = &shared.tasks;
    tasks.intake(verdicts.clone().run());
    if let Some(questions) = questions {
        unheld::explain(shared);
        for socket in questions {
            tasks.intake(unheld::questions(shared.clone(), socket));
        }
    }
    for listener in relays {
        tasks.intake(outgoing::run(shared.clone(), prepared.clone(), listener));
    }
    tasks.intake(async move {
        let mut tick = interval(SWEEP);
        loop {
            tick.tick().await;
            prepared.sweep();
            verdicts.sweep();
        }
    });
    destroyed
}

/// Handle on the data path; clones share it.
#[derive(Clone)]
pub struct NetworkHandle {
    shared: SharedRef,
    ports: watch::Receiver<Vec<wire::Port>>,
    listeners: watch::Receiver<Vec<wire::Listener>>,
    ending: watch::Receiver<Option<AgentEnding>>,
    requests: Requests,
    calls: Calls,
}

/// What the agent says of its own end before it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEnding {
    /// Its target has ended, so no other agent can take its place.
    pub target_ended: bool,
    /// Why, as one sentence.
    pub text: String,
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

    /// Why the agent is about to end (its target has, or it was told to), as soon as it says so.
    #[must_use]
    pub fn agent_ending(&self) -> watch::Receiver<Option<AgentEnding>> {
        self.ending.clone()
    }

    /// Serves the connections of one more agent, beside this pod. Its ports become what those of all others are.
    ///
    /// # Errors
    /// [`NetworkError::Ended`].
    pub async fn join(&self, pod: PodName, agent: AgentLink) -> Result<SourceId, NetworkError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        let request = Request::Join(pod, agent, reply_tx);
        self.requests.send(request).await.map_err(|_| NetworkError::Ended)?;
        reply_rx.await.map_err(|_| NetworkError::Ended)
    }

    /// Nothing new comes from this agent. Its open connections go on as long as its link does.
    pub async fn leave(&self, source: SourceId) {
        // Fails when the session ends: then everything leaves.
        drop(self.requests.send(Request::Leave(source)).await);
    }

    /// Changes the mode of a port; returns after the acknowledgement of all agents. On failure the old mode holds. Stealing a port on
    /// which no local process listens is accepted and takes effect as soon as one does.
    ///
    /// # Errors
    /// [`NetworkError::UnknownPort`], [`NetworkError::Mode`], [`NetworkError::NoAck`], [`NetworkError::Ended`].
    pub async fn set_mode(&self, port: u16, mode: Mode) -> Result<wire::Port, NetworkError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        let asking = async {
            let request = Request::SetMode(port, mode, reply_tx);
            self.requests.send(request).await.map_err(|_| NetworkError::Ended)?;
            reply_rx.await.map_err(|_| NetworkError::Ended)?
        };
        timeout(MODE_TIMEOUT, asking).await.unwrap_or(Err(NetworkError::NoAck(port)))
    }

    /// Where the layer writes down who makes the sockets of the session.
    #[must_use]
    pub fn owners(&self) -> SocketOwners {
        self.shared.owners.clone()
    }

    /// The layer saw a socket of the session begin to listen.
    pub async fn listening(&self, ip: IpAddr, port: u16, cookie: u64, pid: u32) {
        let listening = Listening { address: SocketAddr::new(ip, port), cookie, pid };
        // Fails when the session ends: then nobody needs to know.
        drop(self.requests.send(Request::Listening(listening)).await);
    }

    /// The layer knows that a listening socket is gone.
    pub async fn closed(&self, cookie: u64) {
        drop(self.requests.send(Request::Closed(cookie)).await);
    }

    /// The addresses of a name as the target would find them; `hosts` is its /etc/hosts, `family` as in getaddrinfo(3).
    ///
    /// # Errors
    /// As getaddrinfo(3) returns them.
    pub async fn lookup(&self, hosts: &str, name: &[u8], family: u32) -> Result<Vec<IpAddr>, i32> {
        lookup::lookup(&self.shared, hosts, name, family).await
    }

    /// The name of an address, likewise.
    ///
    /// # Errors
    /// As getnameinfo(3) returns them.
    pub async fn reverse_lookup(&self, hosts: &str, ip: IpAddr) -> Result<String, i32> {
        lookup::reverse_lookup(&self.shared, hosts, ip).await
    }

    /// Does or translates a call on a socket of this machine's network, where there is no session netns.
    pub async fn socket_call(&self, call: SocketCall, socket: Option<OwnedFd>) -> SocketAnswer {
        self.calls.call(call, socket).await
    }

    /// Connects to the local process inside the session netns as if `client` did, for replays.
    ///
    /// # Errors
    /// As connect(2); `ConnectionRefused` when nothing listens on the port.
    pub async fn connect_local(&self, client: SocketAddr, local_port: u16) -> io::Result<TcpStream> {
        let netns = &self.shared.netns;
        let server =
            netns.address_like(client.ip()).unwrap_or_else(|| session_netns::loopback_like(client.ip()));
        delivery::connect(netns, client, server, local_port).await
    }
}

impl fmt::Debug for NetworkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSpec").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl fmt::Debug for NetworkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkHandle").field("ports", &*self.ports.borrow()).finish_non_exhaustive()
    }
}
