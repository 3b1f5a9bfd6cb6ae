//! The one task that owns [`Ports`]: requests of the host and the layer, the agent's subscription stream, closed sockets, the clock.
//!
//! ```text
//! handle --requests--> driver --facts--> watch
//! agent <--subscriptions--> driver --listeners--> publisher
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mirrord_netns::sock_diag::DestroyEvents;
use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::Streaming;

use super::{Effect, Listening, Ports, facts::wire_mode};
use crate::{
    agent_link::{LinkError, LinkState},
    config::Mode,
    limits::{AGENT_RETRY_MIN, LISTENER_SCAN},
    network::{AgentEnding, NetworkError, publish::Publisher, shared::SharedRef},
};

/// What the driver is asked.
#[derive(Debug)]
pub(in crate::network) enum Request {
    /// The layer saw a socket listen.
    Listening(Listening),
    /// A listening socket is gone.
    Closed(u64),
    /// The user wants a mode.
    SetMode(u16, Mode, oneshot::Sender<Result<wire::Port, NetworkError>>),
    /// A connection was handed to the local process (true) or refused by it.
    Handed(u16, bool),
}

/// Everything that the driver works with.
pub(in crate::network) struct Driver {
    pub(in crate::network) shared: SharedRef,
    pub(in crate::network) ports: Ports,
    pub(in crate::network) publisher: Publisher,
    pub(in crate::network) requests_rx: mpsc::Receiver<Request>,
    pub(in crate::network) destroyed: AsyncFd<DestroyEvents>,
    pub(in crate::network) ports_tx: watch::Sender<Vec<wire::Port>>,
    /// driver --why the agent ends--> host
    pub(in crate::network) ending_tx: watch::Sender<Option<AgentEnding>>,
    wishes: HashMap<u64, Wish>,
    next_wish: u64,
}

/// Port, wanted mode, and who waits for it.
type Wish = (u16, Mode, oneshot::Sender<Result<wire::Port, NetworkError>>);
type Subscriptions = (mpsc::Sender<agent::SubscriptionRequest>, Streaming<agent::SubscriptionReply>);

impl Driver {
    pub(in crate::network) fn new(
        shared: SharedRef,
        publisher: Publisher,
        requests_rx: mpsc::Receiver<Request>,
        destroyed: AsyncFd<DestroyEvents>,
        ports_tx: watch::Sender<Vec<wire::Port>>,
        ending_tx: watch::Sender<Option<AgentEnding>>,
    ) -> Self {
        let ports = Ports::new(shared.incoming.clone());
        Self {
            shared,
            ports,
            publisher,
            requests_rx,
            destroyed,
            ports_tx,
            ending_tx,
            wishes: HashMap::new(),
            next_wish: 1,
        }
    }

    /// Runs until the session ends; opens the subscription stream anew when it breaks.
    pub(in crate::network) async fn run(mut self) {
        self.publish_facts();
        loop {
            let agent = self.shared.agent.clone();
            let subscriptions = agent.subscriptions();
            tokio::pin!(subscriptions);
            let opened = loop {
                tokio::select! {
                    biased;
                    opened = &mut subscriptions => break opened,
                    going = self.without_agent() => if !going { return },
                }
            };
            match opened {
                Ok(subscriptions) => {
                    if !self.with_agent(subscriptions).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "subscriptions cannot be opened");
                    if !self.wait_for_link(&error).await {
                        return;
                    }
                }
            }
        }
    }

    /// Serves everything with the agent's stream open. False: the session ends.
    async fn with_agent(&mut self, (requests_tx, mut replies): Subscriptions) -> bool {
        let effects = self.ports.linked();
        self.carry_out(effects, Some(&requests_tx)).await;
        let mut scan = interval(LISTENER_SCAN);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The agent's answers first: they settle what others wait for. Then requests, then what only keeps the picture true.
            let effects = tokio::select! {
                biased;
                reply = replies.message() => match reply {
                    Ok(Some(reply)) => self.reply(reply),
                    Ok(None) | Err(_) => {
                        let effects = self.ports.unlinked();
                        self.carry_out(effects, None).await;
                        return true;
                    }
                },
                request = self.requests_rx.recv() => match request {
                    Some(request) => self.request(request),
                    None => return false,
                },
                ready = self.destroyed.readable_mut() => read_destroyed(ready, &mut self.ports),
                _ = scan.tick() => self.scan(),
            };
            self.carry_out(effects, Some(&requests_tx)).await;
        }
    }

    /// Serves one thing while there is no agent. False: the session ends.
    ///
    /// # Cancel safety
    /// What has been taken is served before the next await.
    async fn without_agent(&mut self) -> bool {
        let effects = tokio::select! {
            biased;
            request = self.requests_rx.recv() => match request {
                Some(request) => self.request(request),
                None => return false,
            },
            ready = self.destroyed.readable_mut() => read_destroyed(ready, &mut self.ports),
            () = sleep(LISTENER_SCAN) => self.scan(),
        };
        self.carry_out(effects, None).await;
        true
    }

    /// Waits until the link is up again. False: the session ends.
    async fn wait_for_link(&mut self, error: &LinkError) -> bool {
        if matches!(error, LinkError::Closed) {
            return false;
        }
        let mut status = self.shared.agent.status();
        let retry = sleep(AGENT_RETRY_MIN);
        tokio::pin!(retry);
        let mut waited = false;
        loop {
            let up = status.borrow_and_update().state == LinkState::Up;
            if up && waited {
                return true;
            }
            tokio::select! {
                biased;
                () = &mut retry, if !waited => waited = true,
                changed = status.changed() => if changed.is_err() { return false },
                going = self.without_agent() => if !going { return false },
            }
        }
    }

    fn reply(&mut self, reply: agent::SubscriptionReply) -> Vec<Effect> {
        use agent::subscription_reply::Kind;
        match reply.kind {
            Some(Kind::Ack(ack)) => self.ports.acknowledged(&ack),
            Some(Kind::Status(status)) => {
                self.ports.status(&status, now_ms());
                Vec::new()
            }
            Some(Kind::Notice(notice)) => {
                self.notice(notice);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn notice(&self, notice: agent::AgentNotice) {
        use agent::agent_notice::Kind;
        match notice.kind() {
            kind @ (Kind::TargetEnded | Kind::Ending) => {
                let target_ended = kind == Kind::TargetEnded;
                self.ending_tx.send_replace(Some(AgentEnding { target_ended, text: notice.text }));
            }
            Kind::Warning | Kind::Unspecified => self.shared.events.warn(notice.text, ""),
        }
    }

    fn request(&mut self, request: Request) -> Vec<Effect> {
        match request {
            Request::Listening(listening) => self.ports.listening(listening),
            Request::Closed(cookie) => self.ports.closed(cookie),
            Request::Handed(port, delivered) => {
                self.ports.handed(port, delivered);
                Vec::new()
            }
            Request::SetMode(port, mode, reply_tx) => {
                let wish = self.next_wish;
                self.next_wish += 1;
                match self.ports.set_mode(wish, port, mode) {
                    Some(effects) => {
                        self.wishes.insert(wish, (port, mode, reply_tx));
                        effects
                    }
                    None => {
                        drop(reply_tx.send(Err(NetworkError::UnknownPort(port))));
                        Vec::new()
                    }
                }
            }
        }
    }

    /// Compares with the kernel's own list: finds what listens without the layer's knowledge and what is gone.
    fn scan(&mut self) -> Vec<Effect> {
        let found = match self.shared.netns.listeners() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the session's listeners cannot be listed");
                return Vec::new();
            }
        };
        let alive: HashSet<u64> = found.iter().map(|listener| listener.cookie).collect();
        let gone: Vec<u64> = self
            .ports
            .listeners()
            .map(|known| known.cookie)
            .filter(|cookie| !alive.contains(cookie))
            .collect();
        let mut effects: Vec<Effect> =
            gone.into_iter().flat_map(|cookie| self.ports.closed(cookie)).collect();
        for listener in found {
            let listening = Listening { address: listener.addr, cookie: listener.cookie, pid: 0 };
            effects.extend(self.ports.listening(listening));
        }
        effects
    }

    async fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        requests_tx: Option<&mpsc::Sender<agent::SubscriptionRequest>>,
    ) {
        for effect in effects {
            match effect {
                Effect::Ask { id, port, mode } => {
                    let request =
                        agent::SubscriptionRequest { id, port: port.into(), mode: agent_mode(mode).into() };
                    if let Some(requests_tx) = requests_tx
                        && requests_tx.send(request).await.is_err()
                    {
                        // The reading side of the broken stream says so, too, and everything is asked anew.
                        tracing::debug!(port, "the agent does not take subscriptions any more");
                    }
                }
                Effect::Settled { wish, result } => self.settle(wish, result),
                Effect::Changed { port, local, from, to, text } => self.record(port, local, from, to, text),
                Effect::Listens(listening) => self.publisher.publish(listening),
                Effect::Gone { cookie } => self.publisher.unpublish(cookie),
                Effect::Refused { port, reason } => self.shared.events.warn(
                    format!("the agent cannot serve port {port}: {reason}"),
                    "`mirrord-tui doctor -t TARGET` says what is missing",
                ),
            }
        }
        self.publish_facts();
    }

    fn settle(&mut self, wish: u64, result: Result<(), String>) {
        let Some((port, mode, reply_tx)) = self.wishes.remove(&wish) else { return };
        let mut facts = || {
            let mut ports = self.ports.facts(now_ms()).into_iter();
            ports.find(|facts| facts.remote == u32::from(port)).ok_or(NetworkError::UnknownPort(port))
        };
        let reply = match result {
            Ok(()) => facts(),
            Err(reason) => Err(NetworkError::Mode { port, verb: verb(mode), reason }),
        };
        // Whoever asked may have gone away; the mode is set nevertheless.
        drop(reply_tx.send(reply));
    }

    fn record(&self, port: u16, local: u16, from: Mode, to: Mode, text: String) {
        self.shared.events.emit(wire::Event {
            kind: wire::Kind::Port.into(),
            subject: format!("port {port}"),
            detail: Some(wire::event::Detail::Port(wire::PortEvent {
                remote: port.into(),
                local: local.into(),
                from: wire_mode(from).into(),
                to: wire_mode(to).into(),
                text,
            })),
            ..wire::Event::default()
        });
    }

    fn publish_facts(&mut self) {
        let facts = self.ports.facts(now_ms());
        self.ports_tx.send_if_modified(|known| {
            let changed = *known != facts;
            if changed {
                *known = facts;
            }
            changed
        });
    }
}

/// Reads the closed sockets that the kernel reported. Overruns are made good by the next scan.
fn read_destroyed(
    ready: std::io::Result<tokio::io::unix::AsyncFdReadyMutGuard<'_, DestroyEvents>>,
    ports: &mut Ports,
) -> Vec<Effect> {
    let Ok(mut ready) = ready else { return Vec::new() };
    let mut destroyed = Vec::new();
    if let Err(error) = ready.get_inner().recv(&mut destroyed) {
        tracing::warn!(%error, "events of closed sockets are lost");
    }
    if destroyed.is_empty() {
        ready.clear_ready();
    }
    destroyed.into_iter().flat_map(|socket| ports.closed(socket.cookie)).collect()
}

fn agent_mode(mode: Option<Mode>) -> agent::Mode {
    match mode {
        Some(Mode::Mirror) => agent::Mode::Mirror,
        Some(Mode::Steal) => agent::Mode::Steal,
        Some(Mode::Off) => agent::Mode::Off,
        None => agent::Mode::Unspecified,
    }
}

const fn verb(mode: Mode) -> &'static str {
    match mode {
        Mode::Mirror => "mirror",
        Mode::Steal => "steal",
        Mode::Off => "release",
    }
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|now| i64::try_from(now.as_millis()).ok())
        .unwrap_or(0)
}

/// Where others send their requests. incoming, handle --requests--> driver
pub(in crate::network) type Requests = Arc<mpsc::Sender<Request>>;
