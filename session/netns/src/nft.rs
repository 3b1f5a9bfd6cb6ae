//! The two rule sets of the program, in nf_tables tables that the kernel removes when their owner is gone.
//!
//! [`SessionTable`] holds the first packet of every flow that leaves the session netns; [`StealTable`] takes ports of the target
//! over. Both live as long as the netlink socket that made them (NFT_TABLE_F_OWNER).

use thiserror::Error;

pub use self::{session::SessionTable, steal::StealTable};
use crate::netlink::NetlinkError;

mod batch;
mod matches;
mod session;
mod steal;

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
    #[error("the kernel refuses to {operation} nf_tables rules")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: NetlinkError,
    },
    /// The port is stolen by this table.
    #[error("port {0} is already stolen")]
    Taken(u16),
    /// Another agent in the same namespace has the port.
    #[error("port {port} is already stolen by {client}")]
    Stolen {
        /// The port.
        port: u16,
        /// Whom that agent serves.
        client: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_differ_and_say_that_they_are_ours() {
        let verdicts = [
            Verdict::Local,
            Verdict::Refused,
            Verdict::HostUnreachable,
            Verdict::NetUnreachable,
            Verdict::Redirect(0),
            Verdict::Redirect(80),
            Verdict::Redirect(u16::MAX),
        ];
        let marks: std::collections::BTreeSet<u32> = verdicts.iter().map(|verdict| verdict.mark()).collect();
        assert_eq!(marks.len(), verdicts.len());
        assert!(marks.iter().chain([&AGENT_MARK]).all(|mark| mark & MARK_MASK == MARK_OURS));
        assert!(!marks.contains(&AGENT_MARK));
    }

    #[test]
    fn the_port_of_a_redirect_lies_in_network_byte_order() {
        assert_eq!(Verdict::Redirect(0x1234).mark().to_ne_bytes()[..2], [0x12, 0x34]);
    }
}
