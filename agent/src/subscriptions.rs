//! The port subscriptions: one task owns the wanted mode of every port, and alone changes what is mirrored and stolen.
//!
//! A request is answered when the kernel holds what was asked for. Around a switch nothing is lost and nothing is answered twice:
//! the new mode begins before the old one ends, and what both could claim is told apart by connection tracking.
//!
//! ```text
//! off -> mirror: capture first                     mirror -> steal: rule first, then the mirror's last moment
//! off -> steal:  rule                              steal -> mirror: capture first, then the rule goes
//! ```

use std::collections::BTreeMap;

use mirrord_netns::sock_diag::SockDiag;
use mirrord_protocol::agent::v1::{
    self as wire, Mode, PortStatus, SubscriptionAck, SubscriptionReply, SubscriptionRequest, agent_notice,
    subscription_reply::Kind,
};
use rustix::net::netlink;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tonic::Streaming;

use crate::{
    life::{End, Life},
    limits::{PORTS, STATUS},
    mirror::Mirror,
    network::{self, TargetNetwork},
    relay::DownSender,
    steal::{Parking, Steal},
};

/// One Subscriptions call.
pub(crate) struct Client {
    pub(crate) up: Streaming<SubscriptionRequest>,
    pub(crate) down_tx: DownSender<SubscriptionReply>,
}

/// The owner; its task lives as long as the agent.
pub(crate) struct Subscriptions {
    life: Life,
    network: TargetNetwork,
    parking: Parking,
    steal: Steal,
    mirror: Mirror,
    ports: BTreeMap<u16, Port>,
    /// Where the agent itself listens, when that is in the target's network: whoever took it would cut off its own client.
    own: Option<u16>,
}

#[derive(Debug, Default)]
struct Port {
    mode: Mode,
    /// What was last told of it.
    told: Option<PortStatus>,
    /// Connections passed on to the target of which a notice was given.
    passed: u64,
}

impl Subscriptions {
    pub(crate) fn new(
        life: Life,
        network: TargetNetwork,
        parking: Parking,
        steal: Steal,
        mirror: Mirror,
        own: Option<u16>,
    ) -> Self {
        Self { life, network, parking, steal, mirror, ports: BTreeMap::new(), own }
    }

    /// Serves one client after the other until the agent ends; then everything is removed.
    pub(crate) async fn run(mut self, mut clients_rx: mpsc::Receiver<Client>) {
        let ending = self.life.ending().clone();
        let mut client: Option<Client> = None;
        let mut status = interval(STATUS);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The end outranks everything, a new client the old one, and requests the numbers.
            tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(new) = clients_rx.recv() => {
                    self.clear();
                    self.parking.set_client(true);
                    client = Some(new);
                }
                request = next_request(&mut client) => match request {
                    Some(request) => self.request(request, client.as_ref()).await,
                    None => {
                        client = None;
                        self.clear();
                    }
                },
                _ = status.tick(), if self.is_active() => self.tell_status(client.as_ref()).await,
            }
        }
        self.clear();
        if let Some(client) = &client {
            client.say_goodbye(self.life.why());
        }
    }

    fn is_active(&self) -> bool {
        !self.ports.is_empty() || self.steal.is_active()
    }

    /// Removes all subscriptions. Stolen connections go on as long as their calls do.
    fn clear(&mut self) {
        self.parking.set_client(false);
        self.steal.clear();
        self.mirror.clear();
        self.ports.clear();
    }

    async fn request(&mut self, request: SubscriptionRequest, client: Option<&Client>) {
        let old =
            u16::try_from(request.port).ok().and_then(|port| self.ports.get(&port)).map(|port| port.mode);
        let changed = self.change(request.port, request.mode(), old.unwrap_or_default()).await;
        let (mode, error) = match changed {
            Ok(()) => (request.mode(), String::new()),
            Err(error) => {
                tracing::warn!(port = request.port, %error, "a subscription could not be changed");
                (old.unwrap_or_default(), error)
            }
        };
        let ack = SubscriptionAck { id: request.id, port: request.port, mode: mode.into(), error };
        if let Some(client) = client {
            client.tell(Kind::Ack(ack)).await;
        }
    }

    async fn change(&mut self, port: u32, new: Mode, old: Mode) -> Result<(), String> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or("the port must be 1 to 65535")?;
        if self.own == Some(port) {
            return Err(format!("port {port} is the agent's own in the target's pod"));
        }
        if !self.ports.contains_key(&port) && self.ports.len() >= PORTS {
            return Err(format!("one session can subscribe at most {PORTS} ports"));
        }
        match new {
            Mode::Mirror => {
                self.mirror.add(port).await.map_err(in_words)?;
                self.steal.remove(port).map_err(in_words)?;
            }
            Mode::Steal => {
                self.mirror.expect_redirects().await.map_err(in_words)?;
                self.steal.add(port).await.map_err(in_words)?;
                if let Err(error) = self.mirror.end(port).await {
                    self.steal.remove(port).map_err(in_words)?;
                    return Err(in_words(error));
                }
            }
            Mode::Off | Mode::Unspecified => {
                self.steal.remove(port).map_err(in_words)?;
                self.mirror.end(port).await.map_err(in_words)?;
            }
        }
        tracing::info!(port, old = old.as_str_name(), new = new.as_str_name(), "a port has a new mode");
        if new == Mode::Unspecified {
            self.ports.remove(&port);
        } else {
            self.ports.entry(port).or_default().mode = new;
        }
        Ok(())
    }

    async fn tell_status(&mut self, client: Option<&Client>) {
        self.steal.tidy();
        let (mirrored, capturing) = self.mirror.counters().await;
        let Some(client) = client else { return };
        if !capturing {
            self.capture_broke(client);
        }
        let redirected = self.steal.redirected();
        let stolen = self.parking.by_port();
        let listening = self.listening().await;
        for (number, port) in &mut self.ports {
            let mirrored = mirrored.get(number).copied().unwrap_or_default();
            let stolen = stolen.get(number).copied().unwrap_or_default();
            let status = PortStatus {
                port: (*number).into(),
                mode: port.mode.into(),
                packets: mirrored.packets,
                bytes: mirrored.bytes,
                redirected: redirected.get(number).copied().unwrap_or(0),
                mirrored_open: mirrored.open,
                stolen_open: stolen.open,
                target_listens: listening.contains(number),
                gaps: mirrored.gaps,
                gap_bytes: mirrored.gap_bytes,
                syns: mirrored.syns,
            };
            if port.told != Some(status) && client.try_tell(Kind::Status(status)) {
                port.told = Some(status);
            }
            if stolen.passed > port.passed {
                let more = stolen.passed - port.passed;
                port.passed = stolen.passed;
                client.notice(
                    agent_notice::Kind::Warning,
                    format!("{more} connections to port {number} went to the target, because the session took none in time"),
                );
            }
        }
    }

    /// The capture has ended by itself: say so, and do not pretend.
    fn capture_broke(&mut self, client: &Client) {
        for (number, port) in self.ports.iter_mut().filter(|(_, port)| port.mode == Mode::Mirror) {
            port.mode = Mode::Off;
            client.notice(
                agent_notice::Kind::Warning,
                format!("capture in the target's network broke; port {number} is not mirrored any more"),
            );
        }
    }

    /// Ports on which a socket of the target listens.
    async fn listening(&self) -> Vec<u16> {
        let listed = self.network.run(|| {
            let diagnosis = SockDiag::from_socket(network::netlink(netlink::SOCK_DIAG)?);
            diagnosis.listeners().map_err(std::io::Error::other)
        });
        match listed.await {
            Ok(Ok(listeners)) => listeners.iter().map(|listener| listener.addr.port()).collect(),
            _ => Vec::new(),
        }
    }
}

impl Client {
    /// Waits for room: an answer must arrive.
    async fn tell(&self, kind: Kind) {
        // A client that is gone is noticed where its requests are read.
        drop(self.down_tx.send(Ok(SubscriptionReply { kind: Some(kind) })).await);
    }

    /// False: the client is behind, so it does without.
    fn try_tell(&self, kind: Kind) -> bool {
        self.down_tx.try_send(Ok(SubscriptionReply { kind: Some(kind) })).is_ok()
    }

    fn notice(&self, kind: agent_notice::Kind, text: String) {
        self.try_tell(Kind::Notice(wire::AgentNotice { kind: kind.into(), text }));
    }

    fn say_goodbye(&self, why: Option<End>) {
        let kind = match why {
            Some(End::TargetEnded) => agent_notice::Kind::TargetEnded,
            _ => agent_notice::Kind::Ending,
        };
        self.notice(kind, why.map(|why| why.to_string()).unwrap_or_default());
    }
}

/// `None`: the client is gone. Never returns without a client.
async fn next_request(client: &mut Option<Client>) -> Option<SubscriptionRequest> {
    match client {
        Some(Client { up, down_tx }) => {
            // Gone is gone, even with requests under way.
            tokio::select! {
                biased;
                () = down_tx.closed() => None,
                request = up.message() => request.ok().flatten(),
            }
        }
        None => std::future::pending().await,
    }
}

/// One sentence with its causes.
fn in_words(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
