//! The queue that holds the first packet of every flow until a verdict has come.
//!
//! The queue's netlink socket is made in the namespace whose packets it gets, and may be used from outside of it.
//! An immediate "unreachable" verdict for IPv4 races with the caller: connect(2) still owns its socket, takes the error for a soft
//! one and comes back after a second (1 of 200 connects). Give those verdicts a millisecond after the packet came, or later.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use thiserror::Error;

use crate::{
    Flow,
    bytes::be32,
    limits::{EVENT_BUFFER, QUEUE_BATCH, QUEUE_COPY, QUEUE_PACKETS},
    netlink::{self, Message, Messages, Netlink, NetlinkError, Reply},
    nft::Verdict,
    packet, sys,
};

/// NFNL_SUBSYS_QUEUE.
const SUBSYSTEM: u16 = 3;
const PACKET: u16 = SUBSYSTEM << 8;
const VERDICT: u16 = SUBSYSTEM << 8 | 1;
const CONFIG: u16 = SUBSYSTEM << 8 | 2;
const HEADER: usize = 4;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// Packets larger than the MTU come as they are (NFQA_CFG_F_GSO); only their head is copied anyway.
const GSO: u32 = 4;
/// Packet and its attributes: [`QUEUE_COPY`] bytes and what the kernel says about the packet.
const DATAGRAM: usize = 4096;

/// A bound queue. Dropping it unbinds: the kernel then drops the held packets.
#[derive(Debug)]
pub struct Queue {
    netlink: Netlink,
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
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} packet queue {number}")]
pub struct QueueError {
    operation: &'static str,
    number: u16,
    source: NetlinkError,
}

impl Queue {
    /// Binds `number` on a netlink socket (AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) of the namespace.
    ///
    /// # Errors
    /// [`QueueError`] when the kernel has no queues, when the number is taken, or without CAP_NET_ADMIN over the namespace.
    pub fn from_socket(socket: OwnedFd, number: u16) -> Result<Self, QueueError> {
        let failed = |operation| move |source| QueueError { operation, number, source };
        let option = |source| failed("tune")(NetlinkError::Socket { operation: "set an option", source });
        // A full receive buffer drops the packet and its sender tries again; an error would tell us nothing more.
        sys::set_int(&socket, libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1).map_err(option)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, EVENT_BUFFER)
            .map_err(|error| option(error.into()))?;
        let queue = Self { netlink: Netlink::from_socket(socket), number };
        const BIND: [u8; 4] = [1, 0, 0, 0];
        const COPY_PACKET: u8 = 2;
        let mut bind = queue.message(CONFIG);
        bind.attribute(1, &BIND);
        queue.netlink.request(bind).map_err(failed("bind"))?;
        let [a, b, c, d] = QUEUE_COPY.to_be_bytes();
        let mut parameters = queue.message(CONFIG);
        parameters.attribute(2, &[a, b, c, d, COPY_PACKET]).be32(3, QUEUE_PACKETS).be32(4, GSO).be32(5, GSO);
        queue.netlink.request(parameters).map_err(failed("configure"))?;
        Ok(queue)
    }

    /// Takes what is there, at most [`QUEUE_BATCH`] packets, appends it, and returns how many; 0 when the queue is empty. Never
    /// waits: poll the descriptor for reading. Packets that cannot be read are dropped in the kernel.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn recv(&self, packets: &mut Vec<Packet>) -> Result<usize, QueueError> {
        let mut buffer = [0; DATAGRAM];
        let before = packets.len();
        while packets.len() - before < QUEUE_BATCH {
            let len = match netlink::receive(self.as_fd(), &mut buffer) {
                Ok(len) => len,
                Err(NetlinkError::Socket { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    break;
                }
                Err(source) => return Err(self.failed("read", source)),
            };
            // Other kinds are errors about verdicts of packets that are gone by now.
            for reply in Messages::new(buffer.get(..len).unwrap_or_default()) {
                if reply.kind == PACKET
                    && let Some(id) = id_of(&reply)
                {
                    match read(&reply, id) {
                        Some(packet) => packets.push(packet),
                        None => self.drop(id)?,
                    }
                }
            }
        }
        Ok(packets.len() - before)
    }

    /// Lets a packet go on with the mark that the rules of [`crate::nft::SessionTable`] read.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn verdict(&self, id: u32, verdict: Verdict) -> Result<(), QueueError> {
        self.answer(id, NF_ACCEPT, Some(verdict.mark()))
    }

    /// Drops a packet: the sender tries again and times out in the end.
    ///
    /// # Errors
    /// [`QueueError`] when the socket fails.
    pub fn drop(&self, id: u32) -> Result<(), QueueError> {
        self.answer(id, NF_DROP, None)
    }

    /// Number of the queue.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    fn answer(&self, id: u32, code: u32, mark: Option<u32>) -> Result<(), QueueError> {
        let mut message = self.message(VERDICT);
        let [a, b, c, d] = code.to_be_bytes();
        let [e, f, g, h] = id.to_be_bytes();
        message.attribute(2, &[a, b, c, d, e, f, g, h]);
        if let Some(mark) = mark {
            message.be32(3, mark);
        }
        let bytes = message.finish_unanswered();
        self.netlink.send(&bytes).map_err(|source| self.failed("answer", source))
    }

    /// A message with nfgenmsg: the queue's number is its resource id.
    fn message(&self, kind: u16) -> Message {
        let [high, low] = self.number.to_be_bytes();
        Message::new(kind, 0, &[0, 0, high, low])
    }

    fn failed(&self, operation: &'static str, source: NetlinkError) -> QueueError {
        QueueError { operation, number: self.number, source }
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// The packet's number: the first field of NFQA_PACKET_HDR.
fn id_of(reply: &Reply<&[u8]>) -> Option<u32> {
    be32(reply.attributes(HEADER).value(1)?, 0)
}

/// The packet as the headers in NFQA_PAYLOAD describe it.
fn read(reply: &Reply<&[u8]>, id: u32) -> Option<Packet> {
    let parsed = packet::parse(reply.attributes(HEADER).value(10)?).ok()?;
    Some(Packet { id, flow: parsed.flow, payload_len: parsed.payload_len })
}
