//! Answers the library about the sockets of its program: binds and connects them, and says which addresses the program shall see.
//!
//! The descriptor of each question is the program's own socket. It is closed with the answer, or when the connection stands: what the
//! program closes must not live on here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use mirrord_netns::{Transport, sockopt};
use mirrord_protocol::layer::v1::{Caller, SocketAnswer, SocketCall, SocketMade, socket_call::Kind as Asked};
use rustix::{
    fs::OFlags,
    io::Errno,
    net::{bind, connect, getpeername, listen, sockopt::socket_error},
};

use super::{
    Binding, Names, Rewrite,
    pair::{Kind, Waiting, connect_pair, own_end},
    sockaddr::{decode, destination, encode},
};
use crate::network::{
    attempt::{self, Attempt},
    connection_log::{ConnectionLog, errno_name},
    inside::Inside,
    outgoing,
    ports::{
        Listening,
        driver::{Request, Requests},
    },
    prepared::{FarEnd, Ready},
    session_netns::loopback_like,
    shared::SharedRef,
    udp::UdpRelays,
};

/// What the answers are made with. Clones share it.
#[derive(Clone)]
pub(in crate::network) struct Calls {
    shared: SharedRef,
    udp: UdpRelays,
    requests: Requests,
}

/// What the library is told; the error is an error number for the program.
type Told = Result<Tell, i32>;

enum Tell {
    /// The kernel's own result is right.
    Nothing,
    Done,
    Address(SocketAddr, bool),
    Error(i32),
}

/// A socket of a program, with what is asked about it.
struct Asking {
    socket: OwnedFd,
    kind: Kind,
    cookie: u64,
    caller: Option<Caller>,
}

impl Calls {
    pub(in crate::network) fn new(shared: SharedRef, udp: UdpRelays, requests: Requests) -> Self {
        Self { shared, udp, requests }
    }

    pub(in crate::network) async fn call(&self, call: SocketCall, socket: Option<OwnedFd>) -> SocketAnswer {
        let answer =
            |value: i32, address: Vec<u8>| SocketAnswer { go_on: false, value, address: address.into() };
        match self.told(call, socket).await {
            Ok(Tell::Nothing) => SocketAnswer { go_on: true, ..SocketAnswer::default() },
            Ok(Tell::Done) => answer(0, Vec::new()),
            Ok(Tell::Address(address, v6)) => answer(0, encode(address, v6)),
            Ok(Tell::Error(errno)) => answer(errno, Vec::new()),
            Err(errno) => answer(-errno, Vec::new()),
        }
    }

    async fn told(&self, call: SocketCall, socket: Option<OwnedFd>) -> Told {
        let Inside::Host(place) = &self.shared.netns else { return Ok(Tell::Nothing) };
        let kind = call.kind();
        let address = decode(&call.address);
        if kind == Asked::Receive {
            return Ok(address.map_or(Tell::Nothing, |address| came_from(place, address)));
        }
        let Some(asking) = socket.and_then(|socket| Asking::new(socket, call.caller)) else {
            return Ok(Tell::Nothing);
        };
        match (kind, address) {
            (Asked::Bind, Some(address)) => self.bind(place, &asking, address),
            (Asked::Listen, _) => self.listen(place, &asking, call.number).await,
            (Asked::Connect, Some(address)) => self.connect(place, asking, address).await,
            (Asked::Local, _) => Ok(local(place, &asking)),
            (Asked::Peer, _) => Ok(peer(place, &asking)),
            (Asked::Send, Some(address)) => self.send(place, &asking, address),
            (Asked::Error, _) => Ok(error(place, &asking, call.number)),
            _ => Ok(Tell::Nothing),
        }
    }

    fn bind(&self, place: &Rewrite, asking: &Asking, address: SocketAddr) -> Told {
        let ip = address.ip().to_canonical();
        let transport = asking.transport();
        // A datagram socket without a port of its own is a client's.
        if ip.is_multicast() || is_broadcast(ip) || (!asking.kind.stream && address.port() == 0) {
            return Ok(Tell::Nothing);
        }
        if !self.shared.netns.is_own(ip) {
            return Err(libc::EADDRNOTAVAIL);
        }
        let loopback = asking.kind.loopback();
        let any = ip.is_unspecified();
        let wanted = Binding {
            transport,
            ip: (!any).then_some(ip),
            port: address.port(),
            loopback: loopback.to_canonical(),
        };
        let known = place.table().bindings.get(&wanted).map_or(0, SocketAddr::port);
        let known = if address.port() == 0 { 0 } else { known };
        bind(&asking.socket, &SocketAddr::new(loopback, known)).map_err(Errno::raw_os_error)?;
        let actual =
            SocketAddr::new(loopback, own_end(&asking.socket).map_err(|error| number(&error))?.port());
        // Port 0: the program gets the port that the kernel has found.
        let port = if address.port() == 0 { actual.port() } else { address.port() };
        let shown = SocketAddr::new(address.ip(), port);
        let mut table = place.table();
        table.bindings.insert(Binding { port, ..wanted }, actual);
        table.names.insert(asking.cookie, Names { local: Some(shown), peer: None });
        table.cookies.insert((transport, canonical(actual)), asking.cookie);
        Ok(Tell::Done)
    }

    async fn listen(&self, place: &Rewrite, asking: &Asking, backlog: i32) -> Told {
        let own = own_end(&asking.socket).map_err(|error| number(&error))?;
        if own.port() == 0 {
            let any = if asking.kind.v6 { [0; 16].into() } else { IpAddr::from([0; 4]) };
            self.bind(place, asking, SocketAddr::new(any, 0))?;
        }
        listen(&asking.socket, backlog).map_err(Errno::raw_os_error)?;
        let address = place.table().names.get(&asking.cookie).and_then(|names| names.local);
        let address = address.unwrap_or(own);
        place.table().listeners.insert(asking.cookie, address);
        self.own(asking);
        let pid = asking.caller.as_ref().map_or(0, |caller| caller.pid);
        let listening = Listening { address, cookie: asking.cookie, pid };
        // Fails when the session ends: then nobody needs to know.
        drop(self.requests.send(Request::Listening(listening)).await);
        Ok(Tell::Done)
    }

    async fn connect(&self, place: &Rewrite, asking: Asking, address: SocketAddr) -> Told {
        let to = destination(address);
        if to.ip().is_multicast() || is_broadcast(to.ip()) {
            return Ok(Tell::Nothing);
        }
        self.own(&asking);
        if !asking.kind.stream {
            return self.connect_datagrams(place, &asking, to);
        }
        // Asked for the result of its last attempt, as some do by connecting again.
        let last = place.table().errors.remove(&asking.cookie);
        if let Some(errno) = last {
            // Reading it takes it away in the kernel, too.
            let seen = socket_error(&asking.socket);
            tracing::trace!(?seen, errno, "an error is told by connect(2)");
            return Err(errno);
        }
        // It is connected, or about to be: the kernel knows what to say.
        if getpeername(&asking.socket).is_ok() || is_connecting(&asking.socket) {
            return Ok(Tell::Nothing);
        }
        if self.shared.netns.is_own(to.ip())
            && let Some(actual) = place.listener_for(Transport::Tcp, to)
        {
            let names = Names { local: place.shown_local(asking.cookie), peer: Some(to) };
            place.table().names.insert(asking.cookie, names);
            return connect_inside(asking, actual).await;
        }
        if self.shared.nameservers.is_resolver(to) {
            let ready = Ready { far: FarEnd::Resolver, log: None, connection: self.shared.connection_id() };
            return self.join(asking, to, ready, None).await;
        }
        let Attempt { connection, mut log, place: from } = Attempt::begin(&self.shared, to);
        log.owned_by(self.shared.owners.of(Some(asking.cookie)));
        let waits =
            !rustix::fs::fcntl_getfl(&asking.socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        if waits {
            return match attempt::dial(&self.shared, from, to).await {
                Ok((far, local)) => {
                    log.connected(local);
                    self.join(asking, to, Ready { far, log: Some(log), connection }, local).await
                }
                Err(errno) => {
                    log.failed(&errno_name(errno));
                    Err(errno)
                }
            };
        }
        let (kind, cookie) = (asking.kind, asking.cookie);
        let silence = place.silence(kind.loopback().to_canonical());
        let waiting = match silence.and_then(|silence| Waiting::begin(asking.socket, kind, silence)) {
            Ok(waiting) => waiting,
            Err(error) => {
                log.failed(&error.to_string());
                return Err(number(&error));
            }
        };
        let this = self.clone();
        self.shared.tasks.open(async move {
            let dialled = attempt::dial(&this.shared, from, to).await;
            this.finish(waiting, (cookie, to), (connection, log), dialled).await;
        });
        Err(libc::EINPROGRESS)
    }

    /// Ends a connection attempt for which the program does not wait.
    async fn finish(
        &self,
        waiting: Waiting,
        (cookie, to): (u64, SocketAddr),
        (connection, log): (u64, ConnectionLog),
        dialled: Result<(FarEnd, Option<SocketAddr>), i32>,
    ) {
        let Inside::Host(place) = &self.shared.netns else { return };
        let near = waiting.near();
        match dialled {
            Ok((far, local)) => {
                // Known before the program wakes up.
                place.connected(cookie, near, Names { local, peer: Some(to) });
                match waiting.connected().await {
                    Ok(socket) => {
                        log.connected(local);
                        let ready = Ready { far, log: Some(log), connection };
                        outgoing::serve(self.shared.clone(), socket, (near, to), ready).await;
                    }
                    // The program has closed it meanwhile.
                    Err(_) => log.failed("the program gave up before the connection stood"),
                }
            }
            Err(errno) => {
                log.failed(&errno_name(errno));
                place.table().errors.insert(cookie, errno);
                if let Err(error) = waiting.failed() {
                    tracing::debug!(%error, %to, "a refused connection could not be told to the program");
                }
            }
        }
    }

    /// Connects the program's socket to the far end that is ready.
    async fn join(&self, asking: Asking, to: SocketAddr, ready: Ready, local: Option<SocketAddr>) -> Told {
        let Inside::Host(place) = &self.shared.netns else { return Ok(Tell::Nothing) };
        match connect_pair(&asking.socket, asking.kind).await {
            Ok((socket, near)) => {
                place.connected(asking.cookie, near, Names { local, peer: Some(to) });
                let serving = outgoing::serve(self.shared.clone(), socket, (near, to), ready);
                self.shared.tasks.open(serving);
                Ok(Tell::Done)
            }
            Err(error) => {
                let errno = number(&error);
                if let Some(log) = ready.log {
                    log.failed(&errno_name(errno));
                }
                Err(errno)
            }
        }
    }

    /// connect(2) of a datagram socket.
    fn connect_datagrams(&self, place: &Rewrite, asking: &Asking, to: SocketAddr) -> Told {
        let Some(relay) = self.place_for(place, to)? else { return Ok(Tell::Nothing) };
        let relay = usable(relay, asking.kind);
        connect(&asking.socket, &relay).map_err(Errno::raw_os_error)?;
        let near = own_end(&asking.socket).map_err(|error| number(&error))?;
        let local = self.shared.netns.address_like(to.ip()).map(|ip| SocketAddr::new(ip, near.port()));
        let mut table = place.table();
        table.names.insert(asking.cookie, Names { local, peer: Some(to) });
        table.cookies.insert((Transport::Udp, near), asking.cookie);
        Ok(Tell::Done)
    }

    /// Where to send a datagram.
    fn send(&self, place: &Rewrite, asking: &Asking, address: SocketAddr) -> Told {
        let to = destination(address);
        if asking.kind.stream || to.ip().is_multicast() || is_broadcast(to.ip()) || to.port() == 0 {
            return Ok(Tell::Nothing);
        }
        let Some(relay) = self.place_for(place, to)? else { return Ok(Tell::Nothing) };
        let relay = usable(relay, asking.kind);
        let mut near = own_end(&asking.socket).map_err(|error| number(&error))?;
        if near.port() == 0 {
            // As sending would: the relay shall know whose the datagram is.
            let any = if asking.kind.v6 { [0; 16].into() } else { IpAddr::from([0; 4]) };
            bind(&asking.socket, &SocketAddr::new(any, 0)).map_err(Errno::raw_os_error)?;
            near = own_end(&asking.socket).map_err(|error| number(&error))?;
        }
        let near = SocketAddr::new(loopback_like(relay.ip().to_canonical()), near.port());
        place.table().cookies.insert((Transport::Udp, near), asking.cookie);
        self.own(asking);
        Ok(Tell::Address(relay, asking.kind.v6))
    }

    /// Where datagrams to this destination have to go; `None`: there, as it stands.
    fn place_for(&self, place: &Rewrite, to: SocketAddr) -> Result<Option<SocketAddr>, i32> {
        if self.shared.netns.is_own(to.ip())
            && let Some(actual) = place.listener_for(Transport::Udp, to)
        {
            return Ok(Some(actual));
        }
        // The reply to somebody in the session whose socket is what it is.
        if place.socket_at(Transport::Udp, to).is_some() {
            return Ok(None);
        }
        let relay = self.udp.place_for(to)?;
        place.table().relays.insert(relay, to);
        Ok(Some(relay))
    }

    /// Events name the process.
    fn own(&self, asking: &Asking) {
        let made = SocketMade { caller: asking.caller.clone(), cookie: asking.cookie };
        self.shared.owners.made(&made);
    }
}

impl Asking {
    fn new(socket: OwnedFd, caller: Option<Caller>) -> Option<Self> {
        let kind = Kind::of(&socket)?;
        let cookie = sockopt::cookie(&socket).ok()?;
        Some(Self { socket, kind, cookie, caller })
    }

    const fn transport(&self) -> Transport {
        if self.kind.stream { Transport::Tcp } else { Transport::Udp }
    }
}

impl Rewrite {
    /// What getsockname(2) shows so far.
    fn shown_local(&self, cookie: u64) -> Option<SocketAddr> {
        self.table().names.get(&cookie).and_then(|names| names.local)
    }

    /// It leaves from the target's own address; a port to which the program has bound stays its port.
    fn connected(&self, cookie: u64, near: SocketAddr, Names { local, peer }: Names) {
        let mut table = self.table();
        let bound = table.names.get(&cookie).and_then(|names| names.local).map(|local| local.port());
        let local = local.map(|local| SocketAddr::new(local.ip(), bound.unwrap_or_else(|| local.port())));
        table.names.insert(cookie, Names { local, peer });
        table.cookies.insert((Transport::Tcp, near), cookie);
    }

    /// The address of the program's that is really there.
    fn shown_at(&self, transport: Transport, actual: SocketAddr) -> Option<SocketAddr> {
        let cookie = self.socket_at(transport, actual)?;
        self.shown_local(cookie)
    }
}

fn local(place: &Rewrite, asking: &Asking) -> Tell {
    let known = place.shown_local(asking.cookie).or_else(|| {
        // One that was accepted: where its client had connected to, else where its listener listens.
        let client = getpeername(&asking.socket).ok()?;
        let client = canonical(SocketAddr::try_from(client?).ok()?);
        let dialled = place.table().dialled.get(&client).map(|(_, server)| *server);
        let own = own_end(&asking.socket).ok()?;
        dialled.or_else(|| {
            let listener = place.shown_at(asking.transport(), own)?;
            let ip = if listener.ip().is_unspecified() { own.ip() } else { listener.ip() };
            Some(SocketAddr::new(ip, listener.port()))
        })
    });
    known.map_or(Tell::Nothing, |address| Tell::Address(address, asking.kind.v6))
}

fn peer(place: &Rewrite, asking: &Asking) -> Tell {
    let named = place.table().names.get(&asking.cookie).and_then(|names| names.peer);
    let known = named.or_else(|| {
        let client = getpeername(&asking.socket).ok()?;
        let client = canonical(SocketAddr::try_from(client?).ok()?);
        place.table().dialled.get(&client).map(|(client, _)| *client)
    });
    known.map_or(Tell::Nothing, |address| Tell::Address(address, asking.kind.v6))
}

/// The source of a datagram.
fn came_from(place: &Rewrite, address: SocketAddr) -> Tell {
    let from = canonical(address);
    let known = place.table().relays.get(&from).copied();
    let known = known.or_else(|| place.shown_at(Transport::Udp, from));
    known.map_or(Tell::Nothing, |known| Tell::Address(known, address.is_ipv6()))
}

/// The error of a connection attempt: the kernel knows only that there was one.
fn error(place: &Rewrite, asking: &Asking, seen: i32) -> Tell {
    if seen != libc::ECONNRESET {
        return Tell::Nothing;
    }
    place.table().errors.remove(&asking.cookie).map_or(Tell::Nothing, Tell::Error)
}

/// Connects to a listener of the session itself. Its backlog may be full, and the program may wait for it.
async fn connect_inside(asking: Asking, actual: SocketAddr) -> Told {
    let actual = usable(actual, asking.kind);
    let connecting = tokio::task::spawn_blocking(move || connect(&asking.socket, &actual));
    match connecting.await {
        Ok(Ok(())) => Ok(Tell::Done),
        Ok(Err(error)) => Err(error.raw_os_error()),
        Err(_) => Err(libc::ENETDOWN),
    }
}

/// Whether the socket has sent a SYN and waits.
fn is_connecting(socket: &OwnedFd) -> bool {
    /// TCP_SYN_SENT of tcp_states.h.
    const SYN_SENT: u8 = 2;
    sockopt::tcp_info(socket).is_ok_and(|info| info.state == SYN_SENT)
}

/// A loopback address in the form that this socket takes.
fn usable(address: SocketAddr, kind: Kind) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) if kind.v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        ip => SocketAddr::new(ip, address.port()),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
