//! socket(2), listen(2) and, for unix sockets of the target, connect(2).

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use mirrord_protocol::layer::v1::{Caller, Listening, SocketMade, UnixAnswer, UnixConnect, from_layer};
use rustix::net::{SocketAddrAny, SocketAddrUnix, sockopt};

use super::{
    Outcome, Supervisor,
    answers::Answerer,
    calls::{Repeat, Subject, Wish},
    files::caller,
};
use crate::{
    paths,
    processes::Thread,
    request,
    sockets::{self, Kind, Sockets, Waiter},
    sys::{memory, process},
    trapped::Trapped,
};

/// Sockets that were connected to their relay while a signal interrupted the call; its repetition succeeds at once.
pub(super) type Relayed = HashSet<u64>;

/// struct sockaddr_un: the family and at most 108 bytes of path.
const UNIX_ADDRESS_BYTES: usize = 110;

impl Supervisor {
    pub(super) fn socket_call(&mut self, trapped: &Trapped) -> Outcome {
        let [domain, kind_and_flags, protocol, ..] = trapped.arguments.map(request::uint);
        let Some(kind) = sockets::kind_of(domain, kind_and_flags, protocol) else { return Outcome::GoOn };
        let waiter = Waiter {
            ticket: trapped.ticket,
            tid: trapped.repeating_tid(),
            caller: trapped.tid,
            non_blocking: kind_and_flags & libc::SOCK_NONBLOCK.unsigned_abs() != 0,
            close_on_exec: kind_and_flags & libc::SOCK_CLOEXEC.unsigned_abs() != 0,
        };
        let Some(sockets) = &mut self.sockets else { return Outcome::GoOn };
        match sockets.take(kind) {
            Some(socket) => {
                self.serve_socket(waiter, kind, socket);
                Outcome::Later
            }
            None if sockets.wait_for(kind, waiter) => Outcome::Later,
            None => Outcome::Errno(libc::ENETDOWN),
        }
    }

    /// Hands a socket out, or puts it back when the caller was interrupted.
    fn serve_socket(&mut self, waiter: Waiter, kind: Kind, socket: OwnedFd) {
        if waiter.non_blocking && set_non_blocking(&socket, true).is_err() {
            self.conclude(waiter.ticket, Outcome::Errno(libc::EMFILE));
            return;
        }
        self.report_socket(waiter.caller, &socket);
        if self.hand_out(waiter.ticket, &socket, waiter.close_on_exec) {
            return;
        }
        if (!waiter.non_blocking || set_non_blocking(&socket, false).is_ok())
            && let Some(sockets) = &mut self.sockets
        {
            sockets.give_back(kind, socket);
        }
    }

    /// Tells the host whose the socket is, so that events can name the process. Before it is handed out: the kernel lets the program run
    /// at once, and its first packet would overtake the message. Whoever gets a socket that was given back is told as its owner again.
    fn report_socket(&mut self, tid: u32, socket: &OwnedFd) {
        let (Some(thread), Ok(cookie)) = (self.identify(tid), sockopt::socket_cookie(socket)) else { return };
        let caller = Caller { pid: thread.tgid, tid, comm: thread.comm };
        self.outbox.report(from_layer::Kind::SocketMade(SocketMade { caller: Some(caller), cookie }));
    }

    /// Sockets have come from the holder, or it is gone.
    pub(super) fn handle_holder(&mut self) {
        let replies = self.sockets.as_mut().map(Sockets::read_replies);
        match replies {
            Some(Ok(served)) => {
                for served in served {
                    match served.socket {
                        Ok(socket) => self.serve_socket(served.waiter, served.kind, socket),
                        Err(errno) => drop(self.conclude(served.waiter.ticket, Outcome::Errno(errno))),
                    }
                }
            }
            Some(Err(lost)) => {
                for waiter in lost {
                    self.conclude(waiter.ticket, Outcome::Errno(libc::ENETDOWN));
                }
                self.unwatch_holder();
            }
            None => {}
        }
    }

    pub(super) fn fail_overdue_sockets(&mut self, now: Instant) {
        let late = self.sockets.as_mut().map(|sockets| sockets.overdue(now)).unwrap_or_default();
        for waiter in late {
            self.conclude(waiter.ticket, Outcome::Errno(libc::ENETDOWN));
        }
    }

    /// Does the listen(2) on a duplicate, so that the port is known to listen when the host hears of it. When the socket cannot be
    /// had the kernel does the call and the host finds the listener by itself.
    pub(super) fn listen_call(&mut self, trapped: &Trapped, thread: &Thread) -> Outcome {
        let [number, backlog, ..] = trapped.arguments;
        let Ok(socket) = own_socket(trapped, thread, number) else { return Outcome::GoOn };
        if !self.is_valid(trapped.ticket) {
            return Outcome::Later;
        }
        if internet_address(&socket).is_none() {
            return Outcome::GoOn;
        }
        if let Err(error) = rustix::net::listen(&socket, request::int(backlog)) {
            return Outcome::Errno(error.raw_os_error());
        }
        // Asked again: an unbound socket has got its port by listen(2).
        if let (Some(address), Ok(cookie)) = (internet_address(&socket), sockopt::socket_cookie(&socket)) {
            let ip = match address {
                SocketAddr::V4(address) => address.ip().octets().to_vec(),
                SocketAddr::V6(address) => address.ip().octets().to_vec(),
            };
            // Also sent for a second listen(2) on the same socket, and again when a signal came between: same cookie.
            self.outbox.report(from_layer::Kind::Listening(Listening {
                caller: Some(caller(trapped, thread)),
                ip: ip.into(),
                port: address.port().into(),
                cookie,
            }));
        }
        Outcome::Value(0)
    }

    /// connect(2); asks the host where to when the path is dialled from the target.
    pub(super) fn connect_call(&mut self, trapped: &Trapped, thread: &Thread) -> Outcome {
        let [number, address, length, ..] = trapped.arguments;
        let raw = match &trapped.sent {
            Some(sent) => Some(sent.path.clone()),
            None => unix_path(trapped.tid, address, request::uint(length)),
        };
        let Some(raw) = raw else { return Outcome::GoOn };
        let resolved = paths::resolve(&self.directories, trapped.tid, libc::AT_FDCWD, &raw);
        let Some(path) = resolved.map(|absolute| absolute.path) else { return Outcome::GoOn };
        let Some(index) = self.policy.unix_streams.matches(&path).iter().next() else { return Outcome::GoOn };
        let Ok(socket) = own_socket(trapped, thread, number) else { return Outcome::GoOn };
        if !self.is_valid(trapped.ticket) {
            return Outcome::Later;
        }
        let Ok(cookie) = sockopt::socket_cookie(&socket) else { return Outcome::GoOn };
        if self.relayed.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie) {
            return Outcome::Value(0);
        }
        let subject = Subject { path: path.clone(), follow: true, want: Wish::Connect { cookie } };
        let repeated = self.calls.repeat(trapped.repeating_tid(), &subject, trapped.ticket);
        if !matches!(repeated, Repeat::New) {
            return Outcome::Later;
        }
        let question = UnixConnect {
            caller: Some(caller(trapped, thread)),
            path: path.into(),
            rule: format!("feature.network.outgoing.unix_streams[{index}]"),
        };
        match self.outbox.ask(from_layer::Kind::UnixConnect(question)) {
            Ok(id) => {
                let caller = (trapped.repeating_tid(), trapped.ticket);
                self.calls.insert(id, caller, subject, false, Some(socket));
                Outcome::Later
            }
            Err(_) => Outcome::Errno(libc::ECONNREFUSED),
        }
    }

    /// The host says where the program's socket shall be connected to. Connecting may wait for the relay's backlog, so it is done
    /// on a thread of its own, which lives no longer than that.
    pub(super) fn unix_answer(&mut self, id: u64, answer: &UnixAnswer) {
        let Some(mut pending) = self.calls.take(id) else { return };
        let Some(socket) = pending.socket.take() else { return };
        let relay = SocketAddrUnix::new(answer.path.as_ref());
        let (0, Ok(relay)) = (answer.errno, relay) else {
            let errno =
                i32::try_from(answer.errno).ok().filter(|errno| *errno != 0).unwrap_or(libc::ECONNREFUSED);
            self.conclude(pending.ticket, Outcome::Errno(errno));
            return;
        };
        let relayed = Arc::clone(&self.relayed);
        let Some(answerer) = self.answerer(pending.ticket) else { return };
        let connect = move || connect_to_relay(&answerer, &socket, &relay, &relayed);
        // When there are too many threads the call waits for its deadline, like the program that made as many.
        if let Err(error) = std::thread::Builder::new().name("relay-connect".to_owned()).spawn(connect) {
            drop(error);
        }
    }
}

fn connect_to_relay(answerer: &Answerer, socket: &OwnedFd, relay: &SocketAddrUnix, relayed: &Mutex<Relayed>) {
    let connected = rustix::io::retry_on_intr(|| rustix::net::connect(socket, relay));
    let answered = match connected {
        Ok(()) => answerer.answer(Outcome::Value(0)),
        Err(error) => answerer.answer(Outcome::Errno(error.raw_os_error())),
    };
    if !answered
        && connected.is_ok()
        && let Ok(cookie) = sockopt::socket_cookie(socket)
    {
        relayed.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie);
    }
}

/// The path of a unix address in the caller's memory; `None` for other families, abstract names and what cannot be read. The length
/// may be larger than the address (some programs pass a whole buffer's), the path ends at its NUL.
fn unix_path(tid: u32, address: u64, length: u32) -> Option<Vec<u8>> {
    let mut bytes = [0; UNIX_ADDRESS_BYTES];
    let length = usize::try_from(length).ok()?.min(UNIX_ADDRESS_BYTES);
    let bytes = bytes.get_mut(..length)?;
    let count = memory::read(tid, address, bytes).ok()?;
    let (family, path) = bytes.get(..count)?.split_first_chunk::<2>()?;
    if i32::from(u16::from_ne_bytes(*family)) != libc::AF_UNIX {
        return None;
    }
    let path = path.split(|byte| *byte == 0).next()?;
    (!path.is_empty()).then(|| path.to_vec())
}

/// The caller's own socket: as the library sent it, or a duplicate.
fn own_socket(trapped: &Trapped, thread: &Thread, number: u64) -> std::io::Result<OwnedFd> {
    match &trapped.sent {
        Some(sent) => sent.descriptor.as_ref().ok_or(std::io::ErrorKind::NotFound)?.try_clone(),
        None => process::duplicate_of(trapped.tid, thread.tgid, request::uint(number)),
    }
}

fn internet_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let address: SocketAddrAny = rustix::net::getsockname(socket).ok()?;
    SocketAddr::try_from(address).ok()
}

fn set_non_blocking(socket: &OwnedFd, on: bool) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(socket, on)
}
