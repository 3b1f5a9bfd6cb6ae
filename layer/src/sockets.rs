//! The pool of sockets that were made in the session netns: the holder makes them ahead, socket(2) takes one at once.
//!
//! The holder answers in the order of the requests (`mirrord_protocol::sockets`), so a queue says what each reply is for.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use mirrord_protocol::sockets::{REPLY_BYTES, Reply, Request};
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
};

use crate::{
    limits::{HOLDER_ANSWER, POOLED_SOCKETS},
    trapped::Ticket,
};

/// Kind of a socket: the arguments of socket(2) without the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) domain: u16,
    pub(crate) kind: u32,
    pub(crate) protocol: u32,
}

/// A call that waits for a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    /// The call to answer.
    pub(crate) ticket: Ticket,
    /// Thread that waits and may ask again, 0: it will not.
    pub(crate) tid: u32,
    /// Thread whose socket it will be.
    pub(crate) caller: u32,
    /// SOCK_NONBLOCK was asked for.
    pub(crate) non_blocking: bool,
    /// SOCK_CLOEXEC was asked for.
    pub(crate) close_on_exec: bool,
}

/// A socket for a call that waited, or the error number for it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) waiter: Waiter,
    pub(crate) kind: Kind,
    pub(crate) socket: Result<OwnedFd, i32>,
}

struct Asked {
    kind: Kind,
    waiter: Option<Waiter>,
    since: Instant,
}

/// The pool and its link to the holder.
pub(crate) struct Sockets {
    link: OwnedFd,
    ready: HashMap<Kind, Vec<OwnedFd>>,
    asked: VecDeque<Asked>,
    /// Asked for when there is room in the link.
    unsent: VecDeque<Asked>,
    broken: bool,
}

impl Sockets {
    /// Takes the link and asks for the common kinds.
    pub(crate) fn new(link: OwnedFd) -> Self {
        let mut pool = Self {
            link,
            ready: HashMap::new(),
            asked: VecDeque::new(),
            unsent: VecDeque::new(),
            broken: false,
        };
        for kind in common_kinds() {
            for _ in 0..POOLED_SOCKETS {
                pool.ask(kind, None);
            }
        }
        pool
    }

    /// A socket of this kind when one is ready; a new one is asked for in its place.
    pub(crate) fn take(&mut self, kind: Kind) -> Option<OwnedFd> {
        let socket = self.ready.get_mut(&kind)?.pop()?;
        self.ask(kind, None);
        Some(socket)
    }

    /// Gives a socket back that nobody wanted in the end. It has never been used.
    pub(crate) fn give_back(&mut self, kind: Kind, socket: OwnedFd) {
        let ready = self.ready.entry(kind).or_default();
        if common_kinds().contains(&kind) && ready.len() < 2 * POOLED_SOCKETS {
            ready.push(socket);
        }
    }

    /// Asks for a socket for this call. False: the holder is gone. A thread that was interrupted and calls again takes the place
    /// that it had.
    pub(crate) fn wait_for(&mut self, kind: Kind, waiter: Waiter) -> bool {
        let mut all = self.asked.iter_mut().chain(&mut self.unsent).filter(|asked| asked.kind == kind);
        let own = |asked: &&mut Asked| {
            asked.waiter.is_some_and(|waiting| waiting.tid == waiter.tid && waiter.tid != 0)
        };
        if let Some(asked) = all.find(own) {
            asked.waiter = Some(waiter);
            return !self.broken;
        }
        // A pooled one that is on its way serves this call, and a new one the pool.
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.kind == kind && asked.waiter.is_none())
        {
            asked.waiter = Some(waiter);
            asked.since = Instant::now();
            self.ask(kind, None);
        } else {
            self.ask(kind, Some(waiter));
        }
        !self.broken
    }

    fn ask(&mut self, kind: Kind, waiter: Option<Waiter>) {
        self.unsent.push_back(Asked { kind, waiter, since: Instant::now() });
        self.send_unsent();
    }

    /// Sends what there is room for; the rest goes when replies come.
    fn send_unsent(&mut self) {
        while let Some(asked) = self.unsent.front() {
            let Kind { domain, kind, protocol } = asked.kind;
            let bytes = Request::Socket { domain, kind, protocol }.encode();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let mut control = SendAncillaryBuffer::default();
            let sent = rustix::io::retry_on_intr(|| {
                net::sendmsg(&self.link, &[IoSlice::new(&bytes)], &mut control, flags)
            });
            match sent {
                Ok(_) => self.asked.extend(self.unsent.pop_front()),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Reads the replies that have come; returns what belongs to calls that waited. `Err`: the holder is gone, with the calls that
    /// wait in vain.
    pub(crate) fn read_replies(&mut self) -> Result<Vec<Served>, Vec<Waiter>> {
        let mut served = Vec::new();
        loop {
            match self.receive() {
                Ok(Some((reply, socket))) => {
                    let Some(asked) = self.asked.pop_front() else { continue };
                    let socket = match (reply, socket) {
                        (Reply::Socket, Some(socket)) => Ok(socket),
                        (Reply::Failed { errno }, _) => Err(i32::try_from(errno).unwrap_or(libc::EIO)),
                        _ => Err(libc::EIO),
                    };
                    match (asked.waiter, socket) {
                        (Some(waiter), socket) => served.push(Served { waiter, kind: asked.kind, socket }),
                        (None, Ok(socket)) => self.give_back(asked.kind, socket),
                        // The kind cannot be made; a call that wants it asks again and gets the error.
                        (None, Err(_)) => {}
                    }
                }
                Ok(None) => {
                    self.send_unsent();
                    return Ok(served);
                }
                Err(_) => {
                    self.broken = true;
                    served.into_iter().for_each(drop);
                    return Err(self
                        .asked
                        .drain(..)
                        .chain(self.unsent.drain(..))
                        .filter_map(|asked| asked.waiter)
                        .collect());
                }
            }
        }
    }

    /// One reply; `None` when there is none now. Replies to nothing we know (from a newer holder) are passed on and skipped above.
    fn receive(&self) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
        let mut bytes = [0; REPLY_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.link, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        let received = match received.map_err(io::Error::from) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut sockets = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let socket = sockets.next();
        let reply = bytes.get(..received.bytes).and_then(Reply::decode);
        reply.map(|reply| Some((reply, socket))).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Calls that have waited too long; they are answered with an error and their sockets go to the pool when they come.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<Waiter> {
        let all = self.asked.iter_mut().chain(&mut self.unsent);
        let late = all.filter(|asked| now.duration_since(asked.since) > HOLDER_ANSWER);
        late.filter_map(|asked| asked.waiter.take()).collect()
    }

    /// Whether a call waits.
    pub(crate) fn has_waiters(&self) -> bool {
        self.asked.iter().chain(&self.unsent).any(|asked| asked.waiter.is_some())
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// TCP and UDP, IPv4 and IPv6.
fn common_kinds() -> [Kind; 4] {
    let kind = |domain: libc::c_int, kind: libc::c_int| Kind {
        domain: u16::try_from(domain).unwrap_or(0),
        kind: kind.unsigned_abs(),
        protocol: 0,
    };
    [
        kind(libc::AF_INET, libc::SOCK_STREAM),
        kind(libc::AF_INET, libc::SOCK_DGRAM),
        kind(libc::AF_INET6, libc::SOCK_STREAM),
        kind(libc::AF_INET6, libc::SOCK_DGRAM),
    ]
}

/// Protocol of Multipath TCP.
const MULTIPATH_TCP: u32 = 262;

/// What a program's socket(2) gets; `None`: the kernel shall make it here. The protocol is folded: the explicit number of the
/// default protocol means the default, and Multipath TCP becomes plain TCP, which its users must accept from any peer anyway.
/// Others (ping sockets, SCTP, UDP-Lite) have no relay behind them, so they stay on this machine's network.
pub(crate) fn kind_of(domain: u32, kind: u32, protocol: u32) -> Option<Kind> {
    let kind = kind & 0xf;
    let stream = kind == libc::SOCK_STREAM.unsigned_abs();
    let usual = if stream { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP }.unsigned_abs();
    let folds = protocol == 0 || protocol == usual || (stream && protocol == MULTIPATH_TCP);
    folds.then(|| u16::try_from(domain).ok().map(|domain| Kind { domain, kind, protocol: 0 })).flatten()
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    #[test]
    fn protocols_are_folded() {
        let tcp = kind_of(2, 1, 0).unwrap();
        assert_eq!(kind_of(2, 1, 6), Some(tcp));
        assert_eq!(kind_of(2, 1 | 0o4000 | 0o2_000_000, MULTIPATH_TCP), Some(tcp));
        assert_eq!(kind_of(2, 2, 17).unwrap().kind, 2);
        assert_eq!(kind_of(2, 2, 1), None);
        assert_eq!(kind_of(2, 1, 132), None);
    }

    #[test]
    fn a_holder_that_is_gone_is_told_at_once() {
        let (ours, theirs) =
            net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut sockets = Sockets::new(ours);
        let waiter = Waiter {
            ticket: Ticket::Question(7),
            tid: 1,
            caller: 1,
            non_blocking: false,
            close_on_exec: false,
        };
        let [first, ..] = common_kinds();
        assert!(sockets.take(first).is_none());
        assert!(sockets.wait_for(first, waiter));
        assert!(sockets.read_replies().unwrap().is_empty());
        drop(theirs);
        let lost = sockets.read_replies().unwrap_err();
        assert_eq!(lost.iter().map(|waiter| waiter.ticket).collect::<Vec<_>>(), [Ticket::Question(7)]);
        assert!(!sockets.wait_for(first, waiter));
    }
}
