//! The session without a namespace: its programs' sockets are in this machine's network, and the library in the programs asks about
//! every address. This file knows what is what; `calls` answers the library.
//!
//! ```text
//! bind(0.0.0.0:80)  -> 127.0.0.1:RANDOM, known as 0.0.0.0:80             accept: our end's address -> the true client
//! connect(api:80)   -> dial, then the socket becomes one end of a pair    getpeername: by SO_COOKIE -> api:80
//! sendto(dns:53)    -> the loopback port of the relay for dns:53          recvfrom: relay's port -> dns:53
//! ```
//! All of it is on loopback: nothing of the session can be reached from other machines. Tables are of fixed size, the oldest entry
//! is forgotten first; the kernel's own address is then shown.

mod calls;
mod pair;
mod recent;
mod sockaddr;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mirrord_netns::{
    Transport,
    sock_diag::{Listener, SockDiag, SockDiagError},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

pub(super) use self::calls::Calls;
use self::{pair::Silence, recent::Recent};
use super::session_netns::loopback_like;
use crate::limits::REWRITTEN_SOCKETS;

/// What is known of the session's sockets.
pub(super) struct Rewrite {
    /// Addresses of the target.
    addresses: Vec<IpAddr>,
    diag: Mutex<SockDiag>,
    table: Mutex<Table>,
    /// Whom waiting programs wait for, v4 and v6; made when the first one does.
    silences: [Mutex<Option<Arc<Silence>>>; 2],
}

struct Table {
    /// What getsockname and getpeername show, by cookie.
    names: Recent<u64, Names>,
    /// Cookies by where the program's end really is.
    cookies: Recent<(Transport, SocketAddr), u64>,
    /// Where programs have bound, and where that really is.
    bindings: Recent<Binding, SocketAddr>,
    /// Sockets that listen: where, as the program says.
    listeners: Recent<u64, SocketAddr>,
    /// Connections that we have made to listeners: our end, the client for whom, and where the client had connected to.
    dialled: Recent<SocketAddr, (SocketAddr, SocketAddr)>,
    /// Relays of UDP: where they are, and the destination for which they stand.
    relays: Recent<SocketAddr, SocketAddr>,
    /// How connection attempts ended that the program does not wait for.
    errors: Recent<u64, i32>,
}

/// Addresses as the program shall see them.
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

/// What a program has bound to. Two that want the same get the same place, so that the kernel says whether they may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Binding {
    transport: Transport,
    /// `None`: any address.
    ip: Option<IpAddr>,
    port: u16,
    /// The loopback address that it is on.
    loopback: IpAddr,
}

impl Rewrite {
    pub(super) fn new(addresses: Vec<IpAddr>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self {
            addresses,
            diag: Mutex::new(SockDiag::from_socket(socket)),
            table: Mutex::new(Table {
                names: Recent::new(REWRITTEN_SOCKETS),
                cookies: Recent::new(REWRITTEN_SOCKETS),
                bindings: Recent::new(REWRITTEN_SOCKETS),
                listeners: Recent::new(REWRITTEN_SOCKETS),
                dialled: Recent::new(REWRITTEN_SOCKETS),
                relays: Recent::new(REWRITTEN_SOCKETS),
                errors: Recent::new(REWRITTEN_SOCKETS),
            }),
            silences: Default::default(),
        })
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Where the socket of the session really is that takes what goes to `dst`.
    pub(super) fn listener_for(&self, transport: Transport, dst: SocketAddr) -> Option<SocketAddr> {
        let ip = dst.ip().to_canonical();
        let ip = if ip.is_unspecified() { loopback_like(ip) } else { ip };
        let mut found: Vec<(Binding, SocketAddr)> = {
            let table = self.table();
            let fitting = table.bindings.iter().filter(|(binding, actual)| {
                binding.transport == transport
                    && binding.port == dst.port()
                    && binding.ip.is_none_or(|own| own == ip)
                    && (actual.is_ipv6() || ip.is_ipv4() || binding.loopback.is_ipv6())
            });
            fitting.map(|(binding, actual)| (*binding, *actual)).collect()
        };
        // The exact address outranks any address.
        found.sort_by_key(|(binding, _)| binding.ip.is_none());
        found.into_iter().map(|(_, actual)| actual).find(|actual| self.is_taken(transport, *actual))
    }

    /// Whether a socket listens there. A mapped address is IPv4 to the kernel.
    fn is_taken(&self, transport: Transport, actual: SocketAddr) -> bool {
        let actual = SocketAddr::new(actual.ip().to_canonical(), actual.port());
        let anybody = SocketAddr::new(loopback_like(actual.ip()), 0);
        let diag = self.diag.lock().unwrap_or_else(PoisonError::into_inner);
        diag.listener_for(transport, actual, anybody).unwrap_or_else(|error| {
            tracing::warn!(%error, %actual, "socket diagnosis failed");
            false
        })
    }

    /// SO_COOKIE of the socket whose own end is there.
    pub(super) fn socket_at(&self, transport: Transport, near: SocketAddr) -> Option<u64> {
        let near = SocketAddr::new(near.ip().to_canonical(), near.port());
        self.table().cookies.get(&(transport, near)).copied()
    }

    /// The listening sockets of the session; those that are gone are forgotten.
    pub(super) fn listeners(&self) -> Result<Vec<Listener>, SockDiagError> {
        if self.table().listeners.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.diag.lock().unwrap_or_else(PoisonError::into_inner).listeners()?;
        let mut table = self.table();
        found.retain_mut(|listener| match table.listeners.get(&listener.cookie) {
            Some(wanted) => {
                listener.addr = *wanted;
                true
            }
            None => false,
        });
        table.listeners.retain(|cookie| found.iter().any(|listener| listener.cookie == *cookie));
        Ok(found)
    }

    /// Dials a listener; its accept(2) is told of `from`.
    pub(super) async fn dial(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let actual = self.listener_for(Transport::Tcp, to);
        let actual = actual.ok_or_else(|| io::Error::from_raw_os_error(libc::ECONNREFUSED))?;
        let actual = SocketAddr::new(actual.ip().to_canonical(), actual.port());
        let socket = if actual.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(loopback_like(actual.ip()), 0))?;
        let near = socket.local_addr()?;
        self.table().dialled.insert(near, (from, to));
        let stream = socket.connect(actual).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) fn udp_relay(&self, family_of: IpAddr) -> io::Result<UdpSocket> {
        let bind = |ip: IpAddr| -> io::Result<UdpSocket> {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        match family_of {
            IpAddr::V4(_) => bind(Ipv4Addr::LOCALHOST.into()),
            // A machine without IPv6 has programs that use it all the same.
            IpAddr::V6(_) => bind(Ipv6Addr::LOCALHOST.into()).or_else(|_| bind(Ipv4Addr::LOCALHOST.into())),
        }
    }

    /// Whom a program waits for whose socket uses this loopback address.
    fn silence(&self, loopback: IpAddr) -> io::Result<Arc<Silence>> {
        let [v4, v6] = &self.silences;
        let place = if loopback.is_ipv4() { v4 } else { v6 };
        let mut made = place.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(silence) => Ok(Arc::clone(silence)),
            None => Ok(Arc::clone(made.insert(Arc::new(Silence::begin(loopback)?)))),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
