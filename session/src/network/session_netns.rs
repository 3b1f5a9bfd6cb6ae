//! The session netns from the host's side: addresses, rules, queue, diagnosis and every socket that the data path uses inside.
//!
//! All of it works through sockets that the holder made inside and passed out; this process never enters the namespace.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use mirrord_netns::{
    Flow, Transport,
    conntrack::Conntrack,
    holder::Holder,
    nfqueue::Queue,
    nft::{LOCAL_MARK, NftError, SessionTable},
    sock_diag::{DestroyEvents, Listener, SockDiag},
    sockopt,
};
use rustix::net::sockopt as options;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

use super::NetworkError;
use crate::limits::{LISTEN_BACKLOG, RELAY_PORTS};

/// Number of the packet queue; the namespace is ours alone.
const QUEUE: u16 = 7;

/// The session netns.
pub(super) struct SessionNetns {
    sockets: Sockets,
    /// Held first packets; `None`: this kernel holds none.
    pub(super) queue: Option<AsyncFd<Queue>>,
    diag: Mutex<SockDiag>,
    conntrack: Mutex<Conntrack>,
    /// The rules live as long as this.
    _table: SessionTable,
    /// Addresses of the target, which are the namespace's own.
    addresses: Vec<IpAddr>,
    /// Port of the relay listeners, v4 and v6.
    pub(super) relay_port: u16,
    /// Cookies of our own listeners, which are none of the session's.
    own: Vec<u64>,
}

/// Makes sockets inside, marked as ours.
struct Sockets {
    holder: Holder,
    next_port: Mutex<u16>,
}

/// What [`SessionNetns::set_up`] makes beside the namespace itself: each has one reader.
pub(super) struct Intake {
    /// Redirected connections, v4 and v6.
    pub(super) relays: [TcpListener; 2],
    /// Redirected questions to name servers, v4 and v6: only where the kernel holds no packets.
    pub(super) questions: Option<[UdpSocket; 2]>,
    /// TCP sockets that are gone.
    pub(super) destroyed: AsyncFd<DestroyEvents>,
}

impl SessionNetns {
    /// Brings the namespace into the shape of the target. `hold` false: as on a kernel without a packet queue.
    pub(super) fn set_up(
        holder: Holder,
        addresses: Vec<IpAddr>,
        hold: bool,
    ) -> Result<(Self, Intake), NetworkError> {
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        holder.configure(&addresses, ipv6).map_err(set_up("give it the target's addresses"))?;
        let sockets = Sockets { holder, next_port: Mutex::new(*RELAY_PORTS.start()) };
        let inside = |protocol: i32, step: &'static str| {
            netlink(&sockets.holder, protocol).map_err(|source| NetworkError::SetUp { step, source })
        };
        let diag = SockDiag::from_socket(inside(libc::NETLINK_SOCK_DIAG, "make the diagnosis socket")?);
        let destroyed = DestroyEvents::from_socket(inside(libc::NETLINK_SOCK_DIAG, "make the event socket")?)
            .map_err(set_up("listen for closed sockets"))?;
        let conntrack = Conntrack::from_socket(inside(libc::NETLINK_NETFILTER, "make the conntrack socket")?);
        let (relays, relay_port) =
            sockets.relay_listeners().map_err(set_up("listen for redirected connections"))?;
        let own = relays.iter().map(sockopt::cookie);
        let own = own.collect::<Result<_, _>>().map_err(set_up("name the relay's socket"))?;
        // Rules come last: from here on packets are held, and the queue is there to take them.
        let (table, queue, questions) = match if hold { held(inside)? } else { None } {
            Some((table, queue)) => (table, Some(queue), None),
            None => {
                let (questions, port) =
                    sockets.question_sockets().map_err(set_up("take questions to name servers"))?;
                let socket = inside(libc::NETLINK_NETFILTER, "make the rules' socket")?;
                let table = SessionTable::install_redirect_only(socket, relay_port, port);
                (table.map_err(set_up("install the rules"))?, None, Some(questions))
            }
        };
        table.answer_pings(&addresses).map_err(set_up("let its own addresses answer pings"))?;
        let netns = Self {
            queue: queue.map(readable).transpose().map_err(set_up("poll the packet queue"))?,
            diag: Mutex::new(diag),
            conntrack: Mutex::new(conntrack),
            _table: table,
            addresses,
            relay_port,
            own,
            sockets,
        };
        let destroyed = readable(destroyed).map_err(set_up("poll the event socket"))?;
        Ok((netns, Intake { relays, questions, destroyed }))
    }

    /// Addresses of the target, which are the namespace's own.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether a socket of the session would get a packet from `src` to `dst`. When the kernel cannot say: no.
    pub(super) fn has_listener(&self, transport: Transport, dst: SocketAddr, src: SocketAddr) -> bool {
        lock(&self.diag).listener_for(transport, dst, src).unwrap_or_else(|error| {
            tracing::warn!(%error, %dst, "socket diagnosis failed");
            false
        })
    }

    /// Whether the socket that sent the first packet of a TCP flow is still there. When the kernel cannot say: yes.
    pub(super) fn still_connecting(&self, flow: &Flow) -> bool {
        lock(&self.diag).listener_for(Transport::Tcp, flow.src, flow.dst).unwrap_or(true)
    }

    /// SO_COOKIE of the session's socket at the near end of a flow: the one that sent its first packet, or that listens where the
    /// flow arrives. `None`: it is gone already.
    pub(super) fn socket_of(&self, transport: Transport, near: SocketAddr, far: SocketAddr) -> Option<u64> {
        lock(&self.diag).cookie(transport, near, far).unwrap_or_else(|error| {
            tracing::debug!(%error, %near, %far, "socket diagnosis failed");
            None
        })
    }

    /// The listening sockets of the session, our own left out.
    pub(super) fn listeners(&self) -> Result<Vec<Listener>, mirrord_netns::sock_diag::SockDiagError> {
        let mut listeners = lock(&self.diag).listeners()?;
        listeners.retain(|listener| !self.own.contains(&listener.cookie));
        Ok(listeners)
    }

    /// Forgets a flow, so that its next packet is held again.
    pub(super) fn forget(&self, flow: &Flow) {
        if let Err(error) = lock(&self.conntrack).delete(flow) {
            tracing::debug!(%error, ?flow, "a flow could not be forgotten");
        }
    }

    /// Dials inside the namespace from any address, e.g. that of a client far away.
    pub(super) async fn dial(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.sockets.make(to.ip(), libc::SOCK_STREAM, 0)?;
        sockopt::bind_from(&socket, from)?;
        let stream = TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A UDP socket on loopback, on a port outside the range from which programs get theirs.
    pub(super) fn udp_relay(&self, family_of: IpAddr) -> io::Result<UdpSocket> {
        let loopback = loopback_like(family_of);
        let socket = self.sockets.make(loopback, libc::SOCK_DGRAM, 0)?;
        self.sockets.bind(&socket, loopback)?;
        UdpSocket::from_std(std::net::UdpSocket::from(socket))
    }

    /// A raw socket for ICMP, bound to `source`, an address of nobody.
    pub(super) fn icmp(&self, source: IpAddr) -> io::Result<OwnedFd> {
        let protocol = if source.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let socket = self.sockets.make(source, libc::SOCK_RAW, protocol)?;
        if source.is_ipv6() {
            options::set_ipv6_freebind(&socket, true)?;
        }
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
        Ok(socket)
    }
}

impl Sockets {
    /// Where redirected connections arrive, v4 and v6, and their port.
    fn relay_listeners(&self) -> io::Result<([TcpListener; 2], u16)> {
        let ([v4, v6], port) = self.pair(libc::SOCK_STREAM)?;
        let listener = |socket: OwnedFd| {
            rustix::net::listen(&socket, LISTEN_BACKLOG)?;
            TcpListener::from_std(std::net::TcpListener::from(socket))
        };
        Ok(([listener(v4)?, listener(v6)?], port))
    }

    /// Where redirected questions arrive, v4 and v6, and their port.
    fn question_sockets(&self) -> io::Result<([UdpSocket; 2], u16)> {
        let ([v4, v6], port) = self.pair(libc::SOCK_DGRAM)?;
        let socket = |socket: OwnedFd| UdpSocket::from_std(std::net::UdpSocket::from(socket));
        Ok(([socket(v4)?, socket(v6)?], port))
    }

    /// Sockets on both loopback addresses with one port, as a rule that redirects names one port for both families.
    fn pair(&self, kind: i32) -> io::Result<([OwnedFd; 2], u16)> {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        for _ in RELAY_PORTS {
            let (first, second) = (self.make(v4, kind, 0)?, self.make(v6, kind, 0)?);
            let port = self.bind(&first, v4)?;
            match rustix::net::bind(&second, &SocketAddr::new(v6, port)) {
                Err(rustix::io::Errno::ADDRINUSE) => {}
                result => return Ok(result.map(|()| ([first, second], port))?),
            }
        }
        Err(io::Error::from(io::ErrorKind::AddrInUse))
    }

    /// Binds to the next free port of [`RELAY_PORTS`].
    fn bind(&self, socket: &OwnedFd, loopback: IpAddr) -> io::Result<u16> {
        let mut next = lock(&self.next_port);
        for _ in RELAY_PORTS {
            let port = *next;
            *next = if port >= *RELAY_PORTS.end() { *RELAY_PORTS.start() } else { port + 1 };
            match rustix::net::bind(socket, &SocketAddr::new(loopback, port)) {
                Err(rustix::io::Errno::ADDRINUSE) => {}
                result => return Ok(result.map(|()| port)?),
            }
        }
        Err(io::Error::from(io::ErrorKind::AddrInUse))
    }

    /// A socket inside, non-blocking and marked as ours.
    fn make(&self, family_of: IpAddr, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        let domain = if family_of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = make(&self.holder, domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol)?;
        sockopt::set_mark(&socket, LOCAL_MARK)?;
        Ok(socket)
    }
}

/// The rules that hold first packets, and the queue that they are held in; `None`: this kernel cannot.
fn held(
    inside: impl Fn(i32, &'static str) -> Result<OwnedFd, NetworkError>,
) -> Result<Option<(SessionTable, Queue)>, NetworkError> {
    let queue = match Queue::from_socket(inside(libc::NETLINK_NETFILTER, "make the queue's socket")?, QUEUE) {
        Ok(queue) => queue,
        Err(error) => {
            tracing::warn!(error = &error as &dyn Error, "no packet queue");
            return Ok(None);
        }
    };
    match SessionTable::install(inside(libc::NETLINK_NETFILTER, "make the rules' socket")?, QUEUE) {
        Ok(table) => Ok(Some((table, queue))),
        Err(NftError::NoQueue) => Ok(None),
        Err(error) => Err(set_up("install the rules")(error)),
    }
}

/// 127.0.0.1 or ::1, in the family of `ip`.
pub(super) const fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

fn netlink(holder: &Holder, protocol: i32) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    Ok(make(holder, libc::AF_NETLINK, kind, protocol)?)
}

fn make(holder: &Holder, domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let number = |value: i32| u32::try_from(value).map_err(io::Error::other);
    let domain = u16::try_from(domain).map_err(io::Error::other)?;
    holder.socket(domain, number(kind)?, number(protocol)?).map_err(io::Error::other)
}

/// Registers a socket for reading.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may close or change its descriptor; ours own theirs until they are dropped"
)]
fn readable<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn set_up<E: Into<Box<dyn Error + Send + Sync>>>(step: &'static str) -> impl FnOnce(E) -> NetworkError {
    move |source| NetworkError::SetUp { step, source: source.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
