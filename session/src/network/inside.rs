//! Where the sockets of the session's programs are: in a network namespace of their own, or, where none can be made, in this machine's
//! network with rewritten addresses. The rest of the data path asks here and need not know which it is.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use mirrord_netns::{
    Flow, Transport,
    nfqueue::Queue,
    sock_diag::{Listener, SockDiagError},
};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpStream, UdpSocket},
};

use super::{rewrite::Rewrite, session_netns::SessionNetns};

/// One of the two.
pub(super) enum Inside {
    Netns(Box<SessionNetns>),
    Host(Box<Rewrite>),
}

impl Inside {
    /// The place without a namespace.
    pub(super) const fn rewrite(&self) -> Option<&Rewrite> {
        match self {
            Self::Netns(_) => None,
            Self::Host(host) => Some(host),
        }
    }

    const fn netns(&self) -> Option<&SessionNetns> {
        match self {
            Self::Netns(netns) => Some(netns),
            Self::Host(_) => None,
        }
    }

    /// Held first packets; `None`: nothing is held here.
    pub(super) fn queue(&self) -> Option<&AsyncFd<Queue>> {
        self.netns()?.queue.as_ref()
    }

    /// Port of the relay listeners; 0: there are none.
    pub(super) fn relay_port(&self) -> u16 {
        self.netns().map_or(0, |netns| netns.relay_port)
    }

    /// Whether the address belongs to the session itself: loopback, or one of the target's.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || self.addresses().contains(&ip)
    }

    /// An address of the target in the family of `ip`.
    pub(super) fn address_like(&self, ip: IpAddr) -> Option<IpAddr> {
        self.addresses().iter().copied().find(|own| own.is_ipv4() == ip.is_ipv4())
    }

    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Netns(netns) => netns.addresses(),
            Self::Host(host) => host.addresses(),
        }
    }

    /// Whether a socket of the session would get a packet from `src` to `dst`. When the kernel cannot say: no.
    pub(super) fn has_listener(&self, transport: Transport, dst: SocketAddr, src: SocketAddr) -> bool {
        match self {
            Self::Netns(netns) => netns.has_listener(transport, dst, src),
            Self::Host(host) => host.listener_for(transport, dst).is_some(),
        }
    }

    /// Whether the socket that sent the first packet of a TCP flow is still there. When the kernel cannot say: yes.
    pub(super) fn still_connecting(&self, flow: &Flow) -> bool {
        self.netns().is_none_or(|netns| netns.still_connecting(flow))
    }

    /// SO_COOKIE of the session's socket at the near end of a flow. `None`: it is gone already.
    pub(super) fn socket_of(&self, transport: Transport, near: SocketAddr, far: SocketAddr) -> Option<u64> {
        match self {
            Self::Netns(netns) => netns.socket_of(transport, near, far),
            Self::Host(host) => host.socket_at(transport, near),
        }
    }

    /// The listening sockets of the session.
    pub(super) fn listeners(&self) -> Result<Vec<Listener>, SockDiagError> {
        match self {
            Self::Netns(netns) => netns.listeners(),
            Self::Host(host) => host.listeners(),
        }
    }

    /// Forgets a flow, so that its next packet is held again.
    pub(super) fn forget(&self, flow: &Flow) {
        if let Some(netns) = self.netns() {
            netns.forget(flow);
        }
    }

    /// Dials a listener of the session so that it sees `from` as its client.
    pub(super) async fn dial(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        match self {
            Self::Netns(netns) => netns.dial(from, to).await,
            Self::Host(host) => host.dial(from, to).await,
        }
    }

    /// A UDP socket on loopback that stands for a destination in the family of `family_of`.
    pub(super) fn udp_relay(&self, family_of: IpAddr) -> io::Result<UdpSocket> {
        match self {
            Self::Netns(netns) => netns.udp_relay(family_of),
            Self::Host(host) => host.udp_relay(family_of),
        }
    }

    /// A raw socket for ICMP, bound to `source`, an address of nobody.
    pub(super) fn icmp(&self, source: IpAddr) -> io::Result<OwnedFd> {
        self.netns().ok_or(io::ErrorKind::Unsupported)?.icmp(source)
    }
}
