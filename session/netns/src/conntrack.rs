//! Questions to the connection tracking of a namespace: is this flow redirected, and where to?

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use thiserror::Error;

use crate::{
    Flow, Transport,
    bytes::{array, be16},
    netlink::{Attributes, Message, Netlink, NetlinkError},
};

/// NFNL_SUBSYS_CTNETLINK.
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const HEADER: usize = 4;
/// Attributes of an entry, of a tuple, and of its two halves (linux/netfilter/nfnetlink_conntrack.h).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PORTS: u16 = 2;
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
const PROTOCOL: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;

/// Why a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} the tracked connection {flow}")]
pub struct ConntrackError {
    operation: &'static str,
    flow: Flow,
    source: NetlinkError,
}

/// Access to the table of one namespace.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
}

impl Conntrack {
    /// `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, made in the namespace.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { netlink: Netlink::from_socket(socket) }
    }

    /// Looks a flow up by its original direction and returns the reply's: for a redirected flow its source is not the original's
    /// destination. `None`: not tracked.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn lookup(&self, original: &Flow) -> Result<Option<Flow>, ConntrackError> {
        let failed = |source| ConntrackError { operation: "look up", flow: *original, source };
        let reply = match self.netlink.ask(message(GET, original)) {
            Ok(reply) => reply,
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let tuple = reply.as_ref().and_then(|reply| reply.attributes(HEADER).inside(TUPLE_REPLY));
        let flow = tuple.and_then(|tuple| read(tuple, original.transport));
        flow.map(Some).ok_or_else(|| failed(NetlinkError::Malformed))
    }

    /// Forgets a flow, so that its next packet counts as new. False: there was none.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn delete(&self, original: &Flow) -> Result<bool, ConntrackError> {
        match self.netlink.request(message(DELETE, original)) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(ConntrackError { operation: "delete", flow: *original, source }),
        }
    }
}

fn message(kind: u16, flow: &Flow) -> Message {
    let family = if flow.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = Message::new(kind, 0, &[u8::try_from(family).unwrap_or(0), 0, 0, 0]);
    message.nest(TUPLE_ORIGINAL, |tuple| {
        tuple.nest(TUPLE_ADDRESSES, |addresses| {
            address(addresses, flow.src.ip(), V4_SRC, V6_SRC);
            address(addresses, flow.dst.ip(), V4_DST, V6_DST);
        });
        tuple.nest(TUPLE_PORTS, |ports| {
            ports.attribute(PROTOCOL, &[flow.transport.number()]);
            ports.attribute(SRC_PORT, &flow.src.port().to_be_bytes());
            ports.attribute(DST_PORT, &flow.dst.port().to_be_bytes());
        });
    });
    message
}

fn address(message: &mut Message, ip: IpAddr, v4: u16, v6: u16) {
    match ip {
        IpAddr::V4(ip) => message.attribute(v4, &ip.octets()),
        IpAddr::V6(ip) => message.attribute(v6, &ip.octets()),
    };
}

fn read(tuple: Attributes<'_>, transport: Transport) -> Option<Flow> {
    let addresses = tuple.inside(TUPLE_ADDRESSES)?;
    let ports = tuple.inside(TUPLE_PORTS)?;
    let ip = |v4, v6| {
        let v4 = addresses.value(v4).and_then(|bytes| array::<4>(bytes, 0)).map(IpAddr::from);
        v4.or_else(|| addresses.value(v6).and_then(|bytes| array::<16>(bytes, 0)).map(IpAddr::from))
    };
    let port = |kind| be16(ports.value(kind)?, 0);
    Some(Flow {
        transport,
        src: SocketAddr::new(ip(V4_SRC, V6_SRC)?, port(SRC_PORT)?),
        dst: SocketAddr::new(ip(V4_DST, V6_DST)?, port(DST_PORT)?),
    })
}
