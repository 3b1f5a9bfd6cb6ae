//! Links, addresses and routes (rtnetlink) of the namespace in which the socket was made.

use std::{
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
};

use thiserror::Error;

use crate::netlink::NetlinkError;

/// Why a change or a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} {subject}")]
pub struct RtnlError {
    operation: &'static str,
    subject: String,
    source: NetlinkError,
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
    /// Address of the link only (fe80::/10) or of the host only (127.0.0.1, ::1), not a global one.
    pub global: bool,
}

/// A link to the kernel's tables.
#[derive(Debug)]
pub struct Rtnl {
    socket: OwnedFd,
}

impl Rtnl {
    /// For the current namespace.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn open() -> Result<Self, RtnlError> {
        unimplemented!()
    }

    /// For the namespace in which `socket` (AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) was made.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn links(&self) -> Result<Vec<Link>, RtnlError> {
        unimplemented!("{:?}", self.socket)
    }

    /// Index of the interface with this name.
    ///
    /// # Errors
    /// [`RtnlError`]; ENODEV when there is none.
    pub fn index(&self, name: &str) -> Result<u32, RtnlError> {
        unimplemented!("{name}")
    }

    /// All addresses.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn addresses(&self) -> Result<Vec<Address>, RtnlError> {
        unimplemented!()
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn set_up(&self, index: u32) -> Result<(), RtnlError> {
        unimplemented!("{index}")
    }

    /// Sets the MTU of an interface.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), RtnlError> {
        unimplemented!("{index} {mtu}")
    }

    /// Makes a veth pair: `name` here, `peer_name` in the namespace `peer_netns`.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when a name is taken.
    pub fn add_veth(&self, name: &str, peer_name: &str, peer_netns: BorrowedFd<'_>) -> Result<(), RtnlError> {
        unimplemented!("{name} {peer_name} {peer_netns:?}")
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when the name is taken.
    pub fn add_bridge(&self, name: &str) -> Result<(), RtnlError> {
        unimplemented!("{name}")
    }

    /// Makes `index` a port of `bridge`.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn enslave(&self, index: u32, bridge: u32) -> Result<(), RtnlError> {
        unimplemented!("{index} {bridge}")
    }

    /// Removes an interface (and the peer of a veth).
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn delete_link(&self, index: u32) -> Result<(), RtnlError> {
        unimplemented!("{index}")
    }

    /// Gives an interface an address; IPv6 without duplicate address detection, so that it may be used at once.
    ///
    /// # Errors
    /// [`RtnlError`]; EEXIST when it is there.
    pub fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), RtnlError> {
        unimplemented!("{index} {ip} {prefix}")
    }

    /// Route to `destination`/`prefix` over `gateway`; prefix 0 is the default route.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn add_route(&self, destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), RtnlError> {
        unimplemented!("{destination} {prefix} {gateway}")
    }

    /// AnyIP: every address of the family of `source` is local; connections leave from `source`.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn add_any_ip(&self, source: IpAddr) -> Result<(), RtnlError> {
        unimplemented!("{source}")
    }
}
