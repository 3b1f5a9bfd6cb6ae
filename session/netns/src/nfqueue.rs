//! The queue that holds the first packet of every flow until a verdict has come.
//!
//! The queue's netlink socket is made in the namespace whose packets it gets, and may be used from outside of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Flow, nft::Verdict};

/// A bound queue. Dropping it unbinds: the kernel then drops the held packets.
#[derive(Debug)]
pub struct Queue {
    socket: OwnedFd,
    number: u16,
}

/// A held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Names the packet in a verdict.
    pub id: u32,
    /// Both ends; the source is the session's socket.
    pub flow: Flow,
    /// Payload bytes that it carries; 0 for a SYN without fast open.
    pub payload_len: usize,
}

/// Why a queue does not work.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses to {operation} packet queue {number}")]
pub struct QueueError {
    operation: &'static str,
    number: u16,
    source: crate::netlink::NetlinkError,
}

impl Queue {
    /// Binds `number` on a netlink socket (AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) of the namespace.
    ///
    /// # Errors
    /// [`QueueError`] when the kernel has no queues, when the number is taken, or without CAP_NET_ADMIN over the namespace.
    pub fn from_socket(socket: OwnedFd, number: u16) -> Result<Self, QueueError> {
        unimplemented!("{socket:?} {number}")
    }

    /// Takes what is there, at most [`crate::limits::QUEUE_BATCH`] packets, appends it, and returns how many; 0 when the queue is
    /// empty. Never waits: poll the descriptor for reading. Packets that cannot be read are dropped in the kernel.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn recv(&self, packets: &mut Vec<Packet>) -> Result<usize, QueueError> {
        unimplemented!("{packets:?}")
    }

    /// Lets a packet go on with the mark that the rules of [`crate::nft::SessionTable`] read.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn verdict(&self, id: u32, verdict: Verdict) -> Result<(), QueueError> {
        unimplemented!("{id} {verdict:?}")
    }

    /// Drops a packet: the sender tries again and times out in the end.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn drop(&self, id: u32) -> Result<(), QueueError> {
        unimplemented!("{id}")
    }

    /// Number of the queue.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
