//! Netlink without a library: messages with nested attributes, a request with its acknowledgement, a dump, an nf_tables batch.
//!
//! The kernel works a request off within sendmsg(2), so replies are there at once; the deadline is for module loading.

use std::{
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType},
};
use thiserror::Error;

pub use self::message::{Attributes, Message, Messages, Reply};
use crate::{
    limits::{DUMP_ATTEMPTS, NETLINK_BUFFER, NETLINK_REPLY},
    sys,
};

mod message;

/// The message ends a dump (NLMSG_DONE).
pub const DONE: u16 = 3;
/// The message is an error or, with number 0, an acknowledgement (NLMSG_ERROR).
pub const ERROR: u16 = 2;
/// Flag: fail when the object exists.
pub const EXCLUSIVE: u16 = 0x200;
/// Flag: create the object.
pub const CREATE: u16 = 0x400;
/// Flag: add at the end.
pub const APPEND: u16 = 0x800;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// NETLINK_ROUTE: links, addresses, routes.
    Route = 0,
    /// NETLINK_SOCK_DIAG: sockets.
    SockDiag = 4,
    /// NETLINK_NETFILTER: nf_tables, packet queues, connection tracking.
    Netfilter = 12,
}

impl Family {
    /// As socket(2)'s third argument.
    #[must_use]
    pub const fn protocol(self) -> u32 {
        self as u32
    }

    /// Makes a socket (AF_NETLINK, SOCK_RAW, close-on-exec) in the current network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn socket(self) -> Result<OwnedFd, NetlinkError> {
        let protocol = NonZeroU32::new(self.protocol()).map(Protocol::from_raw);
        net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|error| NetlinkError::Socket { operation: "open", source: error.into() })
    }
}

/// Why a netlink exchange failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket could not be made or used.
    #[error("the netlink socket failed to {operation}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel said no.
    #[error("the kernel refused the request")]
    Kernel(#[source] io::Error),
    /// The kernel did not answer in time.
    #[error("the kernel did not answer on a netlink socket within {0:?}")]
    Timeout(Duration),
    /// The answer cannot be read.
    #[error("the kernel's netlink answer is malformed")]
    Malformed,
}

impl NetlinkError {
    /// The error number, when the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(source) | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Timeout(_) | Self::Malformed => None,
        }
    }
}

/// A netlink socket for requests. One exchange at a time; the lock is held only across non-blocking system calls and the wait above.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    exchange: Mutex<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Makes a socket in the current network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        family.socket().map(Self::from_socket)
    }

    /// Uses a socket that was made elsewhere, perhaps in another namespace.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket, exchange: Mutex::new(Exchange { sequence: 0, buffer: vec![0; NETLINK_BUFFER] }) }
    }

    /// Sends a request and waits until the kernel has acknowledged it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn request(&self, message: Message) -> Result<(), NetlinkError> {
        self.ask(message).map(drop)
    }

    /// Sends a request and returns what comes before the acknowledgement; `None` when nothing does.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ask(&self, message: Message) -> Result<Option<Reply>, NetlinkError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = exchange.next_sequence();
        self.send(&message.finish(REQUEST | ACK, sequence))?;
        let mut answer = None;
        self.replies(&mut exchange, sequence..=sequence, |reply| match reply.acknowledged() {
            Some(code) => code.map(|()| true),
            None => {
                answer = Some(reply.to_owned());
                Ok(false)
            }
        })?;
        Ok(answer)
    }

    /// Sends a request for a table and returns its rows.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn dump(&self, message: &Message) -> Result<Vec<Reply>, NetlinkError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = exchange.next_sequence();
            self.send(&message.clone().finish(REQUEST | DUMP, sequence))?;
            let mut interrupted = false;
            rows.clear();
            self.replies(&mut exchange, sequence..=sequence, |reply| {
                interrupted |= reply.flags & DUMP_INTERRUPTED != 0;
                match reply.kind {
                    DONE => Ok(true),
                    ERROR => reply.acknowledged().unwrap_or(Ok(())).map(|()| true),
                    _ => {
                        rows.push(reply.to_owned());
                        Ok(false)
                    }
                }
            })?;
            if !interrupted {
                break;
            }
        }
        Ok(rows)
    }

    /// Sends several messages as one nf_tables transaction between `begin` and `end`: all or nothing happens.
    ///
    /// # Errors
    /// [`NetlinkError`]; the first error that the kernel names.
    pub fn batch(&self, begin: Message, messages: Vec<Message>, end: Message) -> Result<(), NetlinkError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let first = exchange.next_sequence();
        let mut bytes = begin.finish(REQUEST, first);
        let mut last = first;
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            last = exchange.next_sequence();
            // Only the last one is acknowledged: errors come in any case, and a full receive buffer cannot swallow them.
            let flags = if index + 1 == count { REQUEST | ACK } else { REQUEST };
            bytes.extend(message.finish(flags, last));
        }
        bytes.extend(end.finish(REQUEST, exchange.next_sequence()));
        self.send(&bytes)?;
        self.replies(&mut exchange, first..=last, |reply| {
            reply.acknowledged().unwrap_or(Ok(())).map(|()| true)
        })
    }

    /// Joins a multicast group: its messages make [`Netlink::wait_for_news`] come back and are otherwise passed over.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub(crate) fn subscribe(&self, group: i32) -> Result<(), NetlinkError> {
        sys::set_int(&self.socket, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|source| NetlinkError::Socket { operation: "join a group", source })
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub(crate) fn unsubscribe(&self, group: i32) -> Result<(), NetlinkError> {
        sys::set_int(&self.socket, libc::SOL_NETLINK, libc::NETLINK_DROP_MEMBERSHIP, group)
            .map_err(|source| NetlinkError::Socket { operation: "leave a group", source })
    }

    /// Waits for a message of a group and takes it.
    ///
    /// # Errors
    /// [`NetlinkError::Timeout`] at the deadline.
    pub(crate) fn wait_for_news(&self, deadline: Instant) -> Result<(), NetlinkError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        match self.receive(&mut exchange.buffer, deadline) {
            // News were lost, so there are some.
            Err(error) if error.errno() == Some(libc::ENOBUFS) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Sends bytes to the kernel without waiting for an answer.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        send(self.socket.as_fd(), bytes)
    }

    /// Reads until `accept` says true, and gives it the replies with a sequence number within `wanted`. Others are left over from
    /// an exchange that failed half-way.
    fn replies(
        &self,
        exchange: &mut Exchange,
        wanted: std::ops::RangeInclusive<u32>,
        mut accept: impl FnMut(&Reply<&[u8]>) -> Result<bool, NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + NETLINK_REPLY;
        loop {
            let len = self.receive(&mut exchange.buffer, deadline)?;
            for reply in Messages::new(exchange.buffer.get(..len).unwrap_or_default()) {
                if wanted.contains(&reply.sequence) && accept(&reply)? {
                    return Ok(());
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], deadline: Instant) -> Result<usize, NetlinkError> {
        loop {
            match receive(self.socket.as_fd(), buffer) {
                Err(NetlinkError::Socket { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(NetlinkError::Timeout(NETLINK_REPLY));
                    }
                    wait_readable(self.socket.as_fd(), left)
                        .map_err(|source| NetlinkError::Socket { operation: "wait", source })?;
                }
                result => return result,
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Exchange {
    fn next_sequence(&mut self) -> u32 {
        // 0 is what unsolicited messages carry.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }
}

/// Sends one datagram to the kernel.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), NetlinkError> {
    rustix::io::retry_on_intr(|| net::send(socket, bytes, SendFlags::empty()))
        .map(drop)
        .map_err(|error| NetlinkError::Socket { operation: "send", source: error.into() })
}

/// Takes one datagram without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, NetlinkError> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let (len, whole) = rustix::io::retry_on_intr(|| net::recv(socket, &mut *buffer, flags))
        .map_err(|error| NetlinkError::Socket { operation: "receive", source: error.into() })?;
    if whole > len { Err(NetlinkError::Malformed) } else { Ok(len) }
}

/// Waits until there is something to read; false when the time is over.
pub(crate) fn wait_readable(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout = timeout.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        // The caller looks at its deadline and comes again.
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
