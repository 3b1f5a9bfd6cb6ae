//! An agent inside the test process: serves agent.proto on a unix socket and does what the test told it.
//!
//! Destinations answer as scripted (an echo unless told otherwise), names resolve from a table, stolen and mirrored connections
//! are made by the test. Nothing leaves the process but to addresses that the script forwards to.

mod service;
mod stolen;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mirrord_protocol::{
    TOKEN_METADATA,
    agent::v1::{self as wire, agent_server::AgentServer},
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Status,
    body::Body,
    codegen::{Service as _, http},
};

use self::service::FakeService;
pub use self::stolen::StolenClient;
use crate::agent_link::{Endpoint, wire_address};

/// Token that the fake asks for.
pub const TOKEN: &str = "fake-token";
/// Parked streams and mirror batches that wait; more than any test uses.
const QUEUE: usize = 1024;

/// What a dialled destination does.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Connects and sends back what it gets; after the half-close it closes its half.
    Echo,
    /// Fails with this errno.
    Errno(i32),
    /// Never answers.
    Silent,
    /// Does the other thing after a while.
    After(Duration, Box<Self>),
    /// Connects to this address of the machine.
    Forward(SocketAddr),
    /// Connects, sends this and closes.
    Say(Vec<u8>),
    /// Connects and resets on the first bytes.
    Reset,
    /// Connects and never reads.
    Deaf,
}

/// The agent's script and what it has seen. Clones share it.
#[derive(Clone, Debug)]
pub struct Script {
    state: Arc<Mutex<State>>,
    modes_tx: Arc<watch::Sender<BTreeMap<u16, wire::Mode>>>,
}

#[derive(Debug, Default)]
struct State {
    hello: wire::HelloReply,
    env: Vec<wire::EnvEntry>,
    files: HashMap<Vec<u8>, Vec<u8>>,
    destinations: HashMap<SocketAddr, Destination>,
    udp: HashMap<SocketAddr, Destination>,
    names: HashMap<String, Vec<IpAddr>>,
    dns_errno: Option<i32>,
    refused_modes: HashMap<i32, String>,
    dialled: Vec<SocketAddr>,
    cancelled: usize,
    questions: Vec<String>,
    /// Streams parked by the host, oldest first.
    parked: Vec<service::Parked>,
    mirror_tx: Option<mpsc::Sender<Result<wire::MirrorBatch, Status>>>,
    statuses_tx: Option<mpsc::Sender<Result<wire::SubscriptionReply, Status>>>,
    next_connection: u64,
}

/// A running fake. Dropping it ends it.
#[derive(Debug)]
pub struct FakeAgent {
    /// What it does and has seen.
    pub script: Script,
    socket: PathBuf,
    cancel: CancellationToken,
}

impl Script {
    fn new(addresses: &[IpAddr]) -> Self {
        let addresses = addresses.iter().map(|ip| wire::InterfaceAddress {
            interface: "eth0".to_owned(),
            address: wire_address(SocketAddr::new(*ip, 0)).ip,
            prefix_length: 24,
        });
        let hello = wire::HelloReply {
            protocol_version: mirrord_protocol::AGENT_PROTOCOL,
            agent_version: "fake".to_owned(),
            addresses: addresses.collect(),
            hostname: "fake-pod".into(),
            nameservers: vec!["10.96.0.10".to_owned()],
            pid: 1,
            command: "fake".into(),
            ..wire::HelloReply::default()
        };
        let state = State { hello, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), modes_tx: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// What a TCP destination does from now on; others echo.
    pub fn tcp(&self, to: SocketAddr, destination: Destination) {
        self.lock().destinations.insert(to, destination);
    }

    /// What a UDP destination does from now on; others echo. `Errno` is reported after the first datagram, as the network would.
    pub fn udp(&self, to: SocketAddr, destination: Destination) {
        self.lock().udp.insert(to, destination);
    }

    /// Adds a name to the target's DNS. Unknown names get NXDOMAIN.
    pub fn name(&self, name: &str, addresses: &[IpAddr]) {
        self.lock().names.insert(name.to_owned(), addresses.to_vec());
    }

    /// The target's name servers fail with this errno.
    pub fn dns_fails(&self, errno: Option<i32>) {
        self.lock().dns_errno = errno;
    }

    /// Adds a file to the target.
    pub fn file(&self, path: &str, content: &[u8]) {
        self.lock().files.insert(path.as_bytes().to_vec(), content.to_vec());
    }

    /// Adds a variable to the target's environment.
    pub fn env(&self, name: &str, value: &str) {
        let entry = wire::EnvEntry { name: name.to_owned().into(), value: value.to_owned().into() };
        self.lock().env.push(entry);
    }

    /// Subscriptions with this mode are refused with this sentence.
    pub fn refuse_mode(&self, mode: wire::Mode, reason: &str) {
        self.lock().refused_modes.insert(mode.into(), reason.to_owned());
    }

    /// The modes that were asked for and acknowledged.
    #[must_use]
    pub fn modes(&self) -> watch::Receiver<BTreeMap<u16, wire::Mode>> {
        self.modes_tx.subscribe()
    }

    /// Every TCP destination that was dialled, in order.
    #[must_use]
    pub fn dialled(&self) -> Vec<SocketAddr> {
        self.lock().dialled.clone()
    }

    /// How many dials were cancelled before their result.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.lock().cancelled
    }

    /// Every question that reached the target's name servers.
    #[must_use]
    pub fn questions(&self) -> Vec<String> {
        self.lock().questions.clone()
    }

    /// Sends the counters of a port. False: nobody is subscribed.
    pub async fn status(&self, status: wire::PortStatus) -> bool {
        let statuses_tx = self.lock().statuses_tx.clone();
        let kind = Some(wire::subscription_reply::Kind::Status(status));
        match statuses_tx {
            Some(statuses_tx) => statuses_tx.send(Ok(wire::SubscriptionReply { kind })).await.is_ok(),
            None => false,
        }
    }

    /// Sends a notice about the agent itself. False: nobody is subscribed.
    pub async fn notice(&self, kind: wire::agent_notice::Kind, text: &str) -> bool {
        let statuses_tx = self.lock().statuses_tx.clone();
        let notice = wire::AgentNotice { kind: kind.into(), text: text.to_owned() };
        let kind = Some(wire::subscription_reply::Kind::Notice(notice));
        match statuses_tx {
            Some(statuses_tx) => statuses_tx.send(Ok(wire::SubscriptionReply { kind })).await.is_ok(),
            None => false,
        }
    }

    /// Sends items on the mirror stream. False: the host has none open.
    pub async fn mirror(&self, items: Vec<wire::MirrorItem>) -> bool {
        let mirror_tx = self.lock().mirror_tx.clone();
        match mirror_tx {
            Some(mirror_tx) => mirror_tx.send(Ok(wire::MirrorBatch { items })).await.is_ok(),
            None => false,
        }
    }

    /// Whether the host has the mirror stream open.
    #[must_use]
    pub fn mirrors(&self) -> bool {
        self.lock().mirror_tx.as_ref().is_some_and(|mirror_tx| !mirror_tx.is_closed())
    }

    /// Streams that the host keeps parked.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Makes a stolen connection from `client` to `server`. `None`: no stream is parked.
    pub async fn steal(&self, client: SocketAddr, server: SocketAddr) -> Option<StolenClient> {
        let (parked, id) = {
            let mut state = self.lock();
            state.next_connection += 1;
            let parked = (!state.parked.is_empty()).then(|| state.parked.remove(0))?;
            (parked, state.next_connection)
        };
        let connection = wire::StolenConnection {
            id,
            port: server.port().into(),
            client: Some(wire_address(client)),
            server: Some(wire_address(server)),
        };
        stolen::begin(parked, connection).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeAgent {
    /// Starts one that has these addresses, listening on `DIR/agent.sock`.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(dir: &Path, addresses: &[IpAddr]) -> io::Result<Self> {
        let script = Script::new(addresses);
        let socket = dir.join("agent.sock");
        let cancel = CancellationToken::new();
        let this = Self { script, socket, cancel };
        this.listen()?;
        Ok(this)
    }

    /// Where a host connects to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }

    /// Cuts all connections and stops listening.
    pub fn cut(&mut self) {
        self.cancel.cancel();
        // A socket that is not there is what was wanted.
        drop(std::fs::remove_file(&self.socket));
        self.cancel = CancellationToken::new();
    }

    /// Listens again after [`FakeAgent::cut`].
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn listen(&self) -> io::Result<()> {
        let listener = UnixListener::bind(&self.socket)?;
        let (script, cancel, tasks) = (self.script.clone(), self.cancel.clone(), TaskTracker::new());
        let connections = tasks.clone();
        tasks.spawn(async move {
            let accepting = async {
                while let Ok((stream, _)) = listener.accept().await {
                    let (script, cancel) = (script.clone(), cancel.clone());
                    connections.spawn(async move { serve(script, cancel, TokioIo::new(stream)).await });
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = accepting => {}
            }
        });
        Ok(())
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Serves one HTTP/2 connection.
async fn serve(script: Script, cancel: CancellationToken, io: TokioIo<tokio::net::UnixStream>) {
    let service = AgentServer::new(FakeService::new(script, cancel.clone()));
    let handler = service_fn(move |request: http::Request<Incoming>| {
        let mut service = service.clone();
        async move {
            let token = request.headers().get(TOKEN_METADATA).map(|token| token.as_bytes().to_vec());
            if token.as_deref() == Some(TOKEN.as_bytes()) {
                service.call(request.map(Body::new)).await
            } else {
                Ok(Status::unauthenticated("wrong token").into_http())
            }
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(crate::limits::AGENT_STREAM_WINDOW)
        .initial_connection_window_size(crate::limits::AGENT_CONNECTION_WINDOW)
        .max_frame_size(crate::limits::AGENT_FRAME)
        .serve_connection(io, handler);
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        end = connection => if let Err(error) = end {
            tracing::debug!(%error, "a connection to the fake agent broke");
        },
    }
}
