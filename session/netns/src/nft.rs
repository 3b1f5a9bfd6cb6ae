//! The two rule sets of the program, in nf_tables tables that the kernel removes when their owner is gone.
//!
//! [`SessionTable`] holds the first packet of every flow that leaves the session netns; [`StealTable`] takes ports of the target
//! over. Both live as long as the netlink socket that made them (NFT_TABLE_F_OWNER).

use std::os::fd::OwnedFd;

use thiserror::Error;

use crate::netlink::NetlinkError;

/// Name of the tables.
pub const TABLE: &str = "mirrord";
/// Bits of a packet mark that say "set by us"; a program's own SO_MARK does not have [`MARK_OURS`] there.
pub const MARK_MASK: u32 = 0xfff0_0000;
/// Value of those bits.
pub const MARK_OURS: u32 = 0x4d30_0000;
/// SO_MARK of every relay and dialler socket inside the session netns, so that its packets are not held.
pub const LOCAL_MARK: u32 = Verdict::Local.mark();
/// SO_MARK of the agent's own sockets in the target's netns, so that they are never stolen.
pub const AGENT_MARK: u32 = MARK_OURS | 0x8_0000;

/// What happens with a held first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Goes on to a listener inside the session netns.
    Local,
    /// connect(2) fails with ECONNREFUSED.
    Refused,
    /// connect(2) fails with EHOSTUNREACH.
    HostUnreachable,
    /// connect(2) fails with ENETUNREACH.
    NetUnreachable,
    /// Goes to this port of the session netns' loopback.
    Redirect(u16),
}

impl Verdict {
    /// The packet mark that the rules read.
    #[must_use]
    pub const fn mark(self) -> u32 {
        match self {
            // The rule takes the port from the low half as it lies in memory: network byte order.
            Self::Redirect(port) => MARK_OURS | port.to_be() as u32,
            Self::Local => MARK_OURS | 0x1_0000,
            Self::Refused => MARK_OURS | 0x2_0000,
            Self::HostUnreachable => MARK_OURS | 0x3_0000,
            Self::NetUnreachable => MARK_OURS | 0x4_0000,
        }
    }
}

/// How the kernel's rules name a packet queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueForm {
    /// nf_tables' own `queue` expression.
    Native,
    /// xtables' NFQUEUE target through nft_compat.
    Compat,
    /// No queue: first packets are redirected without being held.
    None,
}

/// Why a table could not be made or changed.
#[derive(Debug, Error)]
pub enum NftError {
    /// Neither form of the queue expression is there; [`SessionTable::install_redirect_only`] may still work.
    #[error(
        "this kernel has no packet queue for nf_tables, neither nft_queue nor nft_compat with xt_NFQUEUE"
    )]
    NoQueue,
    /// The kernel refused a table.
    #[error("the kernel refuses to {operation} the nf_tables rules")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: NetlinkError,
    },
    /// More ports than the table is made for.
    #[error("port {0} is already stolen")]
    Taken(u16),
}

/// The rules of the session netns.
#[derive(Debug)]
pub struct SessionTable {
    socket: OwnedFd,
    form: QueueForm,
}

impl SessionTable {
    /// Installs the rules that hold TCP SYNs and new UDP flows in queue `queue`. `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER,
    /// made in the namespace. Bind the queue first: packets of a queue without a reader are dropped.
    ///
    /// # Errors
    /// [`NftError::NoQueue`] when the kernel cannot hold packets, [`NftError::Kernel`] for all else.
    pub fn install(socket: OwnedFd, queue: u16) -> Result<Self, NftError> {
        unimplemented!("{socket:?} {queue}")
    }

    /// The fallback without a queue: TCP to any but loopback addresses goes to `tcp_relay`, UDP port 53 to `dns_relay`; other UDP
    /// is refused. connect(2) then succeeds before the target has answered.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn install_redirect_only(socket: OwnedFd, tcp_relay: u16, dns_relay: u16) -> Result<Self, NftError> {
        unimplemented!("{socket:?} {tcp_relay} {dns_relay}")
    }

    /// Which form of the queue the kernel has.
    #[must_use]
    pub fn form(&self) -> QueueForm {
        self.form
    }
}

/// The rules in the target's netns that take ports over. Dropping it removes all of them, which resets stolen connections.
#[derive(Debug)]
pub struct StealTable {
    socket: OwnedFd,
    listener: u16,
}

impl StealTable {
    /// Nothing is installed before the first [`StealTable::add`]. `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, made in the
    /// target's netns. `listener`: port of the agent's listener there, on [::]. The agent's own sockets carry [`AGENT_MARK`].
    #[must_use]
    pub fn new(socket: OwnedFd, listener: u16) -> Self {
        Self { socket, listener }
    }

    /// New connections to `port` go to the listener from now on; open ones stay where they are.
    ///
    /// # Errors
    /// [`NftError::Taken`] when it is there already, [`NftError::Kernel`].
    pub fn add(&mut self, port: u16) -> Result<(), NftError> {
        unimplemented!("{port}")
    }

    /// New connections to `port` go to the target again; stolen ones stay stolen. Does nothing for a port that is not there.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn remove(&mut self, port: u16) -> Result<(), NftError> {
        unimplemented!("{port}")
    }

    /// The last stolen flow has ended: when no port is left, the rules that keep connection tracking alive go, too.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn flows_ended(&mut self) -> Result<(), NftError> {
        unimplemented!("{:?} {}", self.socket, self.listener)
    }

    /// Stolen ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        Vec::new()
    }

    /// SYNs that were redirected, for each port.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn counters(&self) -> Result<Vec<(u16, u64)>, NftError> {
        unimplemented!()
    }
}
