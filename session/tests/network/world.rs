//! A session's data path with a fake agent, a holder in a child process, and sockets as the session's programs get them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mirrord_netns::{
    holder::{self, Holder, HolderError},
    seqpacket::SeqPacket,
};
use mirrord_protocol::{
    layer::v1::{Caller, SocketMade},
    session::v1 as wire,
    sockets::{REPLY_BYTES, Reply, Request},
};
use mirrord_session::{
    agent_link::AgentLink,
    config::{Config, Mode, PortSpec},
    events::Events,
    network::{Network, NetworkHandle, NetworkSpec, Serves, SocketOwners, Tap, TapContext},
    testing::fake_agent::{FakeAgent, TOKEN},
};
use rustix::net::{AddressFamily, SocketType};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::runner::{ROLE, skip};

/// Addresses of the target.
pub(crate) const V4: &str = "10.99.0.5";
/// Addresses of the target.
pub(crate) const V6: &str = "fd00:99::5";
/// What a test waits for is there much sooner.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The process that holds the session netns.
pub(crate) fn holder_process() {
    mirrord_netns::ns::die_with_parent(None).unwrap();
    let control = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    // A failure has been told to the other end.
    holder::run(control).ok();
}

/// Whoever plays the target and its agent.
pub(crate) trait Peer {
    /// A link to it.
    async fn link(&self) -> AgentLink;
}

impl Peer for FakeAgent {
    async fn link(&self) -> AgentLink {
        AgentLink::connect(self.endpoint(), TOKEN).await.unwrap()
    }
}

/// Everything of one session but the command.
pub(crate) struct World<A: Peer = FakeAgent> {
    pub(crate) agent: A,
    pub(crate) link: AgentLink,
    pub(crate) events: Events,
    pub(crate) handle: NetworkHandle,
    pub(crate) programs: Programs,
    pub(crate) taps: Taps,
    network: Option<Network>,
    runtime: Runtime,
    _dir: TempDir,
    child: Child,
}

impl World {
    /// The default configuration without publishing, so that tests running at the same time do not meet on the host's ports.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let addresses: [IpAddr; 2] = [V4.parse().unwrap(), V6.parse().unwrap()];
        Self::around(|dir| FakeAgent::start(dir, &addresses).unwrap(), change)
    }

    /// As on a kernel that has no packet queue.
    pub(crate) fn unheld(change: impl FnOnce(&mut Config)) -> Self {
        let addresses: [IpAddr; 2] = [V4.parse().unwrap(), V6.parse().unwrap()];
        Self::made(|dir| FakeAgent::start(dir, &addresses).unwrap(), change, false)
    }

    /// Subscribes one port explicitly.
    pub(crate) fn with_port(remote: u16, local: u16, mode: Mode) -> Self {
        Self::with(|config| config.incoming.ports = vec![PortSpec { remote, local, mode }])
    }
}

impl<A: Peer> World<A> {
    /// With the agent that `agent` starts; it may keep its files in the folder.
    pub(crate) fn around(agent: impl FnOnce(&Path) -> A, change: impl FnOnce(&mut Config)) -> Self {
        Self::made(agent, change, true)
    }

    fn made(agent: impl FnOnce(&Path) -> A, change: impl FnOnce(&mut Config), hold: bool) -> Self {
        let (holder, child) = start_holder();
        let endpoint = Programs::endpoint(&holder);
        let mut config = Config::default();
        config.incoming.publish = false;
        change(&mut config);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = TempDir::new().unwrap();
        let (events, taps) = (Events::new(), Taps::default());
        let (agent, link, network) = runtime.block_on(async {
            let agent = agent(dir.path());
            let link = agent.link().await;
            let spec = NetworkSpec {
                incoming: config.incoming,
                outgoing: config.outgoing,
                dns: config.dns,
                agent: link.clone(),
                serves: Serves::Agent(None),
                events: events.clone(),
                holder: Some(holder),
                hold,
                tap: taps.factory(),
            };
            let network = match Network::start(spec).await {
                Ok(network) => network,
                Err(error) => skip(&format!("{error}: {:?}", std::error::Error::source(&error))),
            };
            (agent, link, network)
        });
        let handle = network.handle();
        let owners = handle.owners();
        Self {
            agent,
            link,
            events,
            handle,
            programs: Programs::new(endpoint, owners),
            taps,
            network: Some(network),
            runtime,
            _dir: dir,
            child,
        }
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(LIMIT * 6, future).await.expect("in time") })
    }

    /// Ends the data path as the host does.
    pub(crate) fn shut_down(&mut self) -> Duration {
        let start = Instant::now();
        if let Some(network) = self.network.take() {
            self.runtime.block_on(network.shutdown());
        }
        self.runtime.block_on(self.link.close());
        start.elapsed()
    }

    /// All events of a kind in their present form.
    pub(crate) fn events(&self, kind: wire::Kind) -> Vec<wire::Event> {
        let last = self.events.totals().last_seq;
        (1..=last)
            .filter_map(|seq| self.events.event(seq))
            .filter(|event| event.kind() == kind)
            .map(|event| (*event).clone())
            .collect()
    }

    /// The connection events in their present form.
    pub(crate) fn connections(&self) -> Vec<(wire::Event, wire::Connection)> {
        let events = self.events(wire::Kind::Connection).into_iter();
        events
            .filter_map(|event| match event.detail.clone() {
                Some(wire::event::Detail::ConnectionDetail(detail)) => Some((event, detail)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.events(wire::Kind::Warning).into_iter().map(|event| event.subject).collect()
    }
}

impl<A: Peer> Drop for World<A> {
    fn drop(&mut self) {
        self.shut_down();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start_holder() -> (Holder, Child) {
    let (control, theirs) = SeqPacket::pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, "holder").stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.spawn().unwrap();
    drop(command);
    match Holder::connect(control) {
        Ok(holder) => (holder, child),
        Err(HolderError::SetUp { source, .. }) => skip(&format!("no session netns: {source}")),
        Err(error) => panic!("{error:?}"),
    }
}

/// Makes sockets as the layer does for the session's programs.
pub(crate) struct Programs {
    endpoint: Mutex<SeqPacket>,
    owners: SocketOwners,
}

impl Programs {
    fn new(endpoint: SeqPacket, owners: SocketOwners) -> Self {
        Self { endpoint: Mutex::new(endpoint), owners }
    }

    fn endpoint(holder: &Holder) -> SeqPacket {
        let (ours, theirs) = SeqPacket::pair().unwrap();
        holder.serve(theirs).unwrap();
        ours
    }

    /// A socket as [`Programs::socket`] makes it, of which the layer has said that this process made it.
    pub(crate) fn socket_of(&self, pid: u32, family: AddressFamily, kind: SocketType) -> OwnedFd {
        let socket = self.socket(family, kind);
        let caller = Caller { pid, tid: pid + 1, comm: format!("program-{pid}").into() };
        let cookie = rustix::net::sockopt::socket_cookie(&socket).unwrap();
        self.owners.made(&SocketMade { caller: Some(caller), cookie });
        socket
    }

    pub(crate) fn socket(&self, family: AddressFamily, kind: SocketType) -> OwnedFd {
        let endpoint = self.endpoint.lock().unwrap();
        let request = Request::Socket { domain: family.as_raw(), kind: kind.as_raw(), protocol: 0 };
        endpoint.send(&request.encode(), &[]).unwrap();
        let mut buffer = [0; REPLY_BYTES];
        let received = endpoint.recv(&mut buffer).unwrap();
        assert_eq!(Reply::decode(&buffer), Some(Reply::Socket));
        received.fds.into_iter().next().unwrap()
    }

    /// A TCP socket for destinations like this one; `mapped`: an IPv6 socket even for IPv4.
    pub(crate) fn tcp(&self, like: SocketAddr) -> OwnedFd {
        self.socket(family(like), SocketType::STREAM)
    }

    /// connect(2), waiting.
    pub(crate) fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = self.tcp(to);
        rustix::net::connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        let socket = self.tcp(at);
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        rustix::net::bind(&socket, &at).unwrap();
        rustix::net::listen(&socket, 128).unwrap();
        TcpListener::from(socket)
    }

    pub(crate) fn udp(&self, like: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::from(self.socket(family(like), SocketType::DGRAM));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }
}

fn family(like: SocketAddr) -> AddressFamily {
    if like.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// What taps have seen, by connection.
#[derive(Clone, Default)]
pub(crate) struct Taps(Arc<Mutex<Vec<Seen>>>);

/// What the tap of one connection has seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) context: TapContext,
    pub(crate) client: Vec<u8>,
    pub(crate) server: Vec<u8>,
    pub(crate) gaps: usize,
    pub(crate) closed: bool,
    pub(crate) last_ns: u64,
}

impl Taps {
    fn factory(&self) -> mirrord_session::network::TapFactory {
        let taps = self.0.clone();
        Arc::new(move |context| {
            let mut all = taps.lock().unwrap();
            let seen =
                Seen { context, client: Vec::new(), server: Vec::new(), gaps: 0, closed: false, last_ns: 0 };
            all.push(seen);
            Some(Box::new(Recorder { taps: taps.clone(), index: all.len() - 1 }) as Box<dyn Tap>)
        })
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }
}

struct Recorder {
    taps: Arc<Mutex<Vec<Seen>>>,
    index: usize,
}

/// What a tap keeps of each direction: enough for tests, little for measurements.
const KEPT: usize = 1 << 16;

impl Recorder {
    fn change(&self, time_ns: u64, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.taps.lock().unwrap().get_mut(self.index) {
            seen.last_ns = time_ns;
            change(seen);
        }
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

impl Tap for Recorder {
    fn client(&mut self, time_ns: u64, bytes: &[u8]) {
        self.change(time_ns, |seen| keep(&mut seen.client, bytes));
    }

    fn server(&mut self, time_ns: u64, bytes: &[u8]) {
        self.change(time_ns, |seen| keep(&mut seen.server, bytes));
    }

    fn gap(&mut self, time_ns: u64, _: bool, _: Option<u64>) {
        self.change(time_ns, |seen| seen.gaps += 1);
    }

    fn closed(&mut self, time_ns: u64, _: bool) {
        self.change(time_ns, |seen| seen.closed = true);
    }
}

/// Waits for a state; the text names it when it does not come.
pub(crate) fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = state() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether reading gets a byte within the time.
pub(crate) fn readable(socket: impl AsFd, within: Duration) -> bool {
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&within.try_into().unwrap())).unwrap() > 0
}

/// The machine's own ports, for what "the host's network" means in a test.
pub(crate) fn host_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
