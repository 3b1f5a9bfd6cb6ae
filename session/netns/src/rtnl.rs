//! Links, addresses and routes (rtnetlink) of the namespace in which the socket was made.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    bytes::{array, ne32},
    netlink::{CREATE, EXCLUSIVE, Family, Message, Netlink, NetlinkError, Reply},
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// Attributes of links (linux/if_link.h).
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const LINK_INFO_DATA: u16 = 2;
const LINK_NETNS_FD: u16 = 28;
const VETH_PEER: u16 = 1;
/// Attributes of addresses (linux/if_addr.h).
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
/// Usable at once, without duplicate address detection (IFA_F_NODAD).
const NO_DAD: u8 = 2;
/// Attributes of routes (linux/rtnetlink.h).
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_SOURCE: u16 = 7;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_HOST: u8 = 254;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const UP: u32 = 1;
const IS_LOOPBACK: u32 = 8;
const RUNNING: u32 = 0x40;
/// RTNLGRP_LINK.
const GROUP_LINK: i32 = 1;
/// RTNLGRP_IPV6_ROUTE.
const GROUP_IPV6_ROUTE: i32 = 11;
/// `lo` has this index in every namespace (LOOPBACK_IFINDEX).
pub const LOOPBACK: u32 = 1;

/// Why a change or a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} {subject}")]
pub struct RtnlError {
    operation: &'static str,
    subject: String,
    source: NetlinkError,
}

impl RtnlError {
    /// The kernel says that it is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.source.errno() == Some(libc::EEXIST)
    }

    /// What the kernel said, as an I/O error.
    #[must_use]
    pub fn io(&self) -> io::Error {
        self.source
            .errno()
            .map_or_else(|| io::Error::other(self.source.to_string()), io::Error::from_raw_os_error)
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// IFF_UP is set.
    pub up: bool,
    /// IFF_RUNNING is set: it is up and so is its other end.
    pub running: bool,
    /// IFF_LOOPBACK is set.
    pub loopback: bool,
    /// MTU in bytes.
    pub mtu: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Valid beyond its link (not fe80::/10) and its host (not 127.0.0.1, ::1).
    pub global: bool,
}

/// Access to the kernel's tables.
#[derive(Debug)]
pub struct Rtnl {
    netlink: Netlink,
}

impl Rtnl {
    /// For the current namespace.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn open() -> Result<Self, RtnlError> {
        let netlink = Netlink::open(Family::Route).map_err(failed("open", "rtnetlink"))?;
        Ok(Self { netlink })
    }

    /// For the namespace in which `socket` (AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) was made.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { netlink: Netlink::from_socket(socket) }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn links(&self) -> Result<Vec<Link>, RtnlError> {
        let message = Message::new(GET_LINK, 0, &link_header(0, 0));
        let rows = self.netlink.dump(&message).map_err(failed("list", "interfaces"))?;
        Ok(rows.iter().filter_map(read_link).collect())
    }

    /// Index of the interface with this name.
    ///
    /// # Errors
    /// [`RtnlError`]; ENODEV when there is none.
    pub fn index(&self, name: &str) -> Result<u32, RtnlError> {
        let mut message = Message::new(GET_LINK, 0, &link_header(0, 0));
        message.text(LINK_NAME, name);
        let reply = self.netlink.ask(message).map_err(failed("find interface", name))?;
        let link = reply.as_ref().and_then(read_link);
        link.map(|link| link.index).ok_or(NetlinkError::Malformed).map_err(failed("find interface", name))
    }

    /// All addresses.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn addresses(&self) -> Result<Vec<Address>, RtnlError> {
        let message = Message::new(GET_ADDRESS, 0, &[0; ADDRESS_HEADER]);
        let rows = self.netlink.dump(&message).map_err(failed("list", "addresses"))?;
        Ok(rows.iter().filter_map(read_address).collect())
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn set_up(&self, index: u32) -> Result<(), RtnlError> {
        let message = Message::new(NEW_LINK, 0, &link_header(index, UP));
        self.netlink.request(message).map_err(failed("set up interface", index))
    }

    /// Waits until packets get through an interface that is up, and until its IPv6 addresses count. The kernel notices only some
    /// time after both ends of a veth pair are up, and puts addresses into use in the background: what is sent before is lost and
    /// costs the first connection one to three seconds.
    ///
    /// # Errors
    /// [`RtnlError`]; also when the time is over.
    pub fn wait_usable(&self, index: u32, limit: Duration) -> Result<(), RtnlError> {
        const GROUPS: [i32; 2] = [GROUP_LINK, GROUP_IPV6_ROUTE];
        let socket_failed = |source| failed("wait for interface", index)(source);
        let deadline = Instant::now() + limit;
        for group in GROUPS {
            self.netlink.subscribe(group).map_err(socket_failed)?;
        }
        let result = loop {
            match self.is_usable(index) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = self.netlink.wait_for_news(deadline) {
                break Err(socket_failed(error));
            }
        };
        for group in GROUPS {
            self.netlink.unsubscribe(group).map_err(socket_failed)?;
        }
        result
    }

    fn is_usable(&self, index: u32) -> Result<bool, RtnlError> {
        let link = self.links()?.into_iter().find(|link| link.index == index);
        if !link.is_some_and(|link| link.running) {
            return Ok(false);
        }
        for address in self.addresses()? {
            let counts = address.interface == index && address.global && address.ip.is_ipv6();
            if counts && !self.is_local(address.ip)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether packets to this address stay in the namespace.
    fn is_local(&self, ip: IpAddr) -> Result<bool, RtnlError> {
        /// Offset of rtm_type in struct rtmsg.
        const TYPE: usize = 7;
        let (family, bytes) = family_and_bytes(ip);
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        let mut message = Message::new(GET_ROUTE, 0, &[family, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.attribute(ROUTE_DESTINATION, &bytes);
        match self.netlink.ask(message) {
            Ok(reply) => Ok(reply.is_some_and(|reply| reply.payload.get(TYPE) == Some(&TYPE_LOCAL))),
            Err(error) if error.errno() == Some(libc::ENETUNREACH) => Ok(false),
            Err(source) => Err(failed("look a route up to", ip)(source)),
        }
    }

    /// Sets the MTU of an interface.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), RtnlError> {
        let mut message = Message::new(NEW_LINK, 0, &link_header(index, 0));
        message.ne32(LINK_MTU, mtu);
        self.netlink.request(message).map_err(failed("set the MTU of interface", index))
    }

    /// Makes a veth pair: `name` here, `peer_name` in the namespace `peer_netns`.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when a name is taken.
    pub fn add_veth(&self, name: &str, peer_name: &str, peer_netns: BorrowedFd<'_>) -> Result<(), RtnlError> {
        self.add_link(name, "veth", |data| {
            data.nest(VETH_PEER, |peer| {
                peer.raw(&link_header(0, 0)).text(LINK_NAME, peer_name);
                peer.attribute(LINK_NETNS_FD, &peer_netns.as_raw_fd().to_ne_bytes());
            });
        })
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when the name is taken.
    pub fn add_bridge(&self, name: &str) -> Result<(), RtnlError> {
        self.add_link(name, "bridge", |_| {})
    }

    /// Makes `index` a port of `bridge`.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn enslave(&self, index: u32, bridge: u32) -> Result<(), RtnlError> {
        let mut message = Message::new(NEW_LINK, 0, &link_header(index, 0));
        message.ne32(LINK_MASTER, bridge);
        self.netlink.request(message).map_err(failed("bridge interface", index))
    }

    /// Removes an interface (and the peer of a veth).
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn delete_link(&self, index: u32) -> Result<(), RtnlError> {
        let message = Message::new(DELETE_LINK, 0, &link_header(index, 0));
        self.netlink.request(message).map_err(failed("remove interface", index))
    }

    /// Gives an interface an address; IPv6 without duplicate address detection, so that it may be used at once.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when it is there.
    pub fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), RtnlError> {
        let (family, bytes) = family_and_bytes(ip);
        let [a, b, c, d] = index.to_ne_bytes();
        let flags = if ip.is_ipv6() { NO_DAD } else { 0 };
        let mut message =
            Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &[family, prefix, flags, SCOPE_GLOBAL, a, b, c, d]);
        message.attribute(ADDRESS_LOCAL, &bytes).attribute(ADDRESS, &bytes);
        self.netlink.request(message).map_err(failed("add address", ip))
    }

    /// Route to `destination`/`prefix` over `gateway`; prefix 0 is the default route.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn add_route(&self, destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), RtnlError> {
        let (family, bytes) = family_and_bytes(destination);
        let header =
            [family, prefix, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, SCOPE_GLOBAL, TYPE_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &header);
        if prefix > 0 {
            message.attribute(ROUTE_DESTINATION, &bytes);
        }
        message.attribute(ROUTE_GATEWAY, &family_and_bytes(gateway).1);
        self.netlink.request(message).map_err(failed("add a route to", destination))
    }

    /// AnyIP: every address of the family of `source` is local; connections leave from `source`, or when that is the unspecified
    /// address from one that the kernel chooses.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn add_any_ip(&self, source: IpAddr) -> Result<(), RtnlError> {
        let (family, bytes) = family_and_bytes(source);
        let header = [family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
        let mut message = Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &header);
        message.ne32(ROUTE_INTERFACE, LOOPBACK);
        if !source.is_unspecified() {
            message.attribute(ROUTE_SOURCE, &bytes);
        }
        self.netlink.request(message).map_err(failed("make every address local for", source))
    }

    fn add_link(&self, name: &str, kind: &str, data: impl FnOnce(&mut Message)) -> Result<(), RtnlError> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0));
        message.text(LINK_NAME, name).nest(LINK_INFO, |info| {
            info.text(LINK_INFO_KIND, kind).nest(LINK_INFO_DATA, data);
        });
        self.netlink.request(message).map_err(failed("make interface", name))
    }
}

/// struct ifinfomsg; `flags` are those that are set, others stay as they are.
fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let [i0, i1, i2, i3] = index.to_ne_bytes();
    let [f0, f1, f2, f3] = flags.to_ne_bytes();
    [0, 0, 0, 0, i0, i1, i2, i3, f0, f1, f2, f3, f0, f1, f2, f3]
}

fn read_link(reply: &Reply) -> Option<Link> {
    if reply.kind != NEW_LINK {
        return None;
    }
    let flags = ne32(&reply.payload, 8)?;
    let attributes = reply.attributes(LINK_HEADER);
    let name = attributes.value(LINK_NAME)?;
    Some(Link {
        index: ne32(&reply.payload, 4)?,
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        up: flags & UP != 0,
        running: flags & RUNNING != 0,
        loopback: flags & IS_LOOPBACK != 0,
        mtu: attributes.value(LINK_MTU).and_then(|bytes| ne32(bytes, 0))?,
    })
}

fn read_address(reply: &Reply) -> Option<Address> {
    if reply.kind != NEW_ADDRESS {
        return None;
    }
    let attributes = reply.attributes(ADDRESS_HEADER);
    // On a point-to-point link ADDRESS is the other end.
    let bytes = attributes.value(ADDRESS_LOCAL).or_else(|| attributes.value(ADDRESS))?;
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(array::<4>(bytes, 0)?)),
        16 => IpAddr::V6(Ipv6Addr::from(array::<16>(bytes, 0)?)),
        _ => return None,
    };
    Some(Address {
        interface: ne32(&reply.payload, 4)?,
        ip,
        prefix: *reply.payload.get(1)?,
        global: *reply.payload.get(3)? == SCOPE_GLOBAL,
    })
}

fn family_and_bytes(ip: IpAddr) -> (u8, Vec<u8>) {
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    (u8::try_from(family).unwrap_or(0), bytes)
}

fn failed(operation: &'static str, subject: impl ToString) -> impl FnOnce(NetlinkError) -> RtnlError {
    move |source| RtnlError { operation, subject: subject.to_string(), source }
}
