//! The one task that owns [`Ports`] and the sources of connections: requests of the host and the layer, what the agents say, closed
//! sockets, the clock.
//!
//! ```text
//! handle --requests--> driver --facts--> watch
//! agents <--subscriptions--> driver --listeners--> publisher
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mirrord_netns::sock_diag::DestroyEvents;
use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{
    io::unix::{AsyncFd, AsyncFdReadyMutGuard},
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Effect, Listening, Ports,
    stream::{Said, What, follow},
};
use crate::{
    agent_link::AgentLink,
    config::Mode,
    events::Events,
    limits::{AGENT_SAYINGS, LISTENER_SCAN, PARKED_ACCEPTS},
    network::{
        AgentEnding, NetworkError,
        incoming::Incoming,
        mirror::Mirror,
        publish::Publisher,
        shared::SharedRef,
        source::{PodName, Source, SourceId},
    },
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
    /// Connections of this pod are wanted as well.
    Join(PodName, AgentLink, oneshot::Sender<SourceId>),
    /// The pod is gone.
    Leave(SourceId),
}

/// Everything that the driver works with.
pub(in crate::network) struct Driver {
    shared: SharedRef,
    ports: Ports,
    publisher: Publisher,
    /// Where those who serve connections send what they count.
    requests: Requests,
    requests_rx: mpsc::Receiver<Request>,
    /// Sockets that are gone; without it the scan finds them.
    destroyed: Option<AsyncFd<DestroyEvents>>,
    ports_tx: watch::Sender<Vec<wire::Port>>,
    /// driver --why the only agent ends--> host
    ending_tx: watch::Sender<Option<AgentEnding>>,
    /// The session's agent is the only source.
    alone: bool,
    sources: HashMap<SourceId, Joined>,
    next_source: u32,
    /// streams of subscriptions --what agents say--> driver; when full, that stream is not read for a moment
    said_tx: mpsc::Sender<Said>,
    said_rx: mpsc::Receiver<Said>,
    wishes: HashMap<u64, Wish>,
    next_wish: u64,
}

/// A source that has joined.
struct Joined {
    source: Source,
    /// `None` while its stream is not open.
    requests_tx: Option<mpsc::Sender<agent::SubscriptionRequest>>,
}

/// What the driver is made with.
pub(in crate::network) struct Inputs {
    pub(in crate::network) requests: Requests,
    pub(in crate::network) requests_rx: mpsc::Receiver<Request>,
    pub(in crate::network) destroyed: Option<AsyncFd<DestroyEvents>>,
    pub(in crate::network) ports_tx: watch::Sender<Vec<wire::Port>>,
    pub(in crate::network) ending_tx: watch::Sender<Option<AgentEnding>>,
}

/// Port, wanted mode, and who waits for it.
type Wish = (u16, Mode, oneshot::Sender<Result<wire::Port, NetworkError>>);

impl Driver {
    pub(in crate::network) fn new(shared: SharedRef, publisher: Publisher, inputs: Inputs) -> Self {
        let Inputs { requests, requests_rx, destroyed, ports_tx, ending_tx } = inputs;
        let (said_tx, said_rx) = mpsc::channel(AGENT_SAYINGS);
        Self {
            ports: Ports::new(shared.incoming.clone()),
            shared,
            publisher,
            requests,
            requests_rx,
            destroyed,
            ports_tx,
            ending_tx,
            alone: false,
            sources: HashMap::new(),
            next_source: 0,
            said_tx,
            said_rx,
            wishes: HashMap::new(),
            next_wish: 1,
        }
    }

    /// Runs until the session ends. `own`: the session's agent is the one source, beside this pod.
    pub(in crate::network) async fn run(mut self, own: Option<PodName>) {
        self.publish_facts();
        self.alone = own.is_some();
        if let Some(pod) = own {
            self.join(pod, self.shared.agent.clone());
        }
        let mut scan = interval(LISTENER_SCAN);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The agents' answers first: they settle what others wait for. Then requests, then what only keeps the picture true.
            let effects = tokio::select! {
                biased;
                Some(said) = self.said_rx.recv() => self.said(said),
                request = self.requests_rx.recv() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
                ready = destroyed(&mut self.destroyed) => read_destroyed(ready, &mut self.ports),
                _ = scan.tick() => self.scan(),
            };
            self.carry_out(effects).await;
        }
    }

    /// Serves connections of one more agent.
    fn join(&mut self, pod: PodName, agent: AgentLink) -> SourceId {
        let id = SourceId(self.next_source);
        self.next_source += 1;
        let source = Source { id, pod, agent, left: CancellationToken::new() };
        let ports_rx = self.ports_tx.subscribe();
        let incoming = Incoming::new(self.shared.clone(), source.clone(), ports_rx, self.requests.clone());
        self.until_it_leaves(&source, follow(source.clone(), self.said_tx.clone()));
        for _ in 0..PARKED_ACCEPTS {
            self.until_it_leaves(&source, incoming.clone().park());
        }
        self.until_it_leaves(&source, Mirror::new(incoming).run());
        self.sources.insert(id, Joined { source, requests_tx: None });
        id
    }

    fn until_it_leaves(&self, source: &Source, task: impl Future<Output = ()> + Send + 'static) {
        let left = source.left.clone();
        self.shared.tasks.intake(async move {
            left.run_until_cancelled_owned(task).await;
        });
    }

    fn leave(&mut self, id: SourceId) -> Vec<Effect> {
        let Some(joined) = self.sources.remove(&id) else { return Vec::new() };
        joined.source.left.cancel();
        self.ports.gone(id)
    }

    fn said(&mut self, Said { source, what }: Said) -> Vec<Effect> {
        // What it said before it left.
        let Some(joined) = self.sources.get_mut(&source) else { return Vec::new() };
        match what {
            What::Linked(requests_tx) => {
                joined.requests_tx = Some(requests_tx);
                self.ports.linked(source)
            }
            What::Reply(reply) => self.reply(source, reply),
            What::Unlinked => {
                joined.requests_tx = None;
                self.ports.unlinked(source)
            }
        }
    }

    fn reply(&mut self, source: SourceId, reply: agent::SubscriptionReply) -> Vec<Effect> {
        use agent::subscription_reply::Kind;
        match reply.kind {
            Some(Kind::Ack(ack)) => self.ports.acknowledged(source, &ack),
            Some(Kind::Status(status)) => {
                self.ports.status(source, &status, now_ms());
                Vec::new()
            }
            Some(Kind::Notice(notice)) => {
                self.notice(source, notice);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn notice(&self, source: SourceId, notice: agent::AgentNotice) {
        use agent::agent_notice::Kind;
        match notice.kind() {
            // Whoever let it join follows it.
            Kind::TargetEnded | Kind::Ending if !self.alone => {
                tracing::info!(text = notice.text, ?source, "an agent is about to end");
            }
            kind @ (Kind::TargetEnded | Kind::Ending) => {
                let target_ended = kind == Kind::TargetEnded;
                self.ending_tx.send_replace(Some(AgentEnding { target_ended, text: notice.text }));
            }
            Kind::Warning | Kind::Unspecified => self.events(source).warn(notice.text, ""),
        }
    }

    /// Events that name the source's pod.
    fn events(&self, source: SourceId) -> Events {
        match self.sources.get(&source) {
            Some(joined) => joined.source.events(&self.shared.events),
            None => self.shared.events.clone(),
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
            Request::Join(pod, agent, reply_tx) => {
                let id = self.join(pod, agent);
                // Whoever asked may have gone away, and the session with it.
                reply_tx.send(id).ok();
                Vec::new()
            }
            Request::Leave(id) => self.leave(id),
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

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ask { source, id, port, mode } => {
                    let request =
                        agent::SubscriptionRequest { id, port: port.into(), mode: agent_mode(mode).into() };
                    let joined = self.sources.get(&source);
                    if let Some(requests_tx) = joined.and_then(|joined| joined.requests_tx.as_ref())
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
                Effect::Refused { source, port, reason } => self.events(source).warn(
                    format!("the agent{} cannot serve port {port}: {reason}", self.beside(source)),
                    "`mirrord-tui doctor -t TARGET` says what is missing",
                ),
            }
        }
        self.publish_facts();
    }

    /// ` of pod NAME`, when there are several.
    fn beside(&self, source: SourceId) -> String {
        let pod = self.sources.get(&source).and_then(|joined| joined.source.pod.as_deref());
        pod.filter(|_| self.sources.len() > 1).map(|pod| format!(" of pod {pod}")).unwrap_or_default()
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
                from: wire::Mode::from(from).into(),
                to: wire::Mode::from(to).into(),
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

/// Waits for sockets that are gone.
async fn destroyed(
    events: &mut Option<AsyncFd<DestroyEvents>>,
) -> std::io::Result<AsyncFdReadyMutGuard<'_, DestroyEvents>> {
    match events {
        Some(events) => events.readable_mut().await,
        None => std::future::pending().await,
    }
}

/// Reads the closed sockets that the kernel reported. Overruns are made good by the next scan.
fn read_destroyed(
    ready: std::io::Result<AsyncFdReadyMutGuard<'_, DestroyEvents>>,
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
