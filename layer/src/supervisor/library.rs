//! Questions of the library in the programs of the session (`mirrord_preload`): one connection each.
//!
//! ```text
//! accept -> question there? -> decided as a trapped call is -> answer, close
//!              no: epoll          needs the host: kept until its answer comes
//! ```

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Instant,
};

use mirrord_preload::wire::{self, PAYLOAD_BYTES, QUESTION_BYTES};
use mirrord_protocol::layer::v1::{
    Caller, Notice, ProcessExec, Resolve, Resolved, SocketAnswer, SocketCall, from_layer,
};
use rustix::{
    event::epoll,
    fs::CWD,
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
};

use super::{Outcome, QUESTION, Supervisor, TRAPPED, events};
use crate::{
    filter::Wanted,
    limits::{
        ADDRESSES, HOST_ANSWER, NAMED_PROGRAMS, QUESTIONS, SHOWN_ARGUMENT_BYTES, SHOWN_ARGUMENTS,
        SOCKET_ANSWER,
    },
    loadable::{self, Loadable},
    paths,
    processes::Thread,
    request,
    trapped::{Sent, Ticket, Trapped},
};

/// The supervisor's end of the library.
#[derive(Debug, Default)]
pub(super) struct Library {
    door: Option<OwnedFd>,
    waiting: HashMap<u64, OwnedFd>,
    next: u64,
    /// Listeners of filters that the helper has put in place, from number 1 on.
    listeners: Vec<Arc<OwnedFd>>,
    wanted: Wanted,
    names: bool,
    /// There is no session netns: the host says what addresses become.
    addresses: bool,
    /// Path of the helper that puts a program under a filter, when this machine allows filters.
    helper: Option<Vec<u8>>,
    /// Names that the host looks up: the question of each, and since when.
    resolving: HashMap<u64, (u64, Instant)>,
    /// Calls on sockets that are with the host, likewise.
    socket_calls: HashMap<u64, (u64, Instant)>,
    /// Programs that the user has been told about.
    named: HashSet<Vec<u8>>,
}

/// A question as it came.
struct Question {
    pid: u32,
    kind: u64,
    number: u64,
    arguments: [u64; 6],
    sent: Sent,
}

impl Library {
    /// Listens at `path`, which must not exist yet.
    pub(super) fn open(
        path: &Path,
        wanted: Wanted,
        (names, addresses): (bool, bool),
        helper: Option<Vec<u8>>,
    ) -> rustix::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let door = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        net::bind(&door, &SocketAddrUnix::new(path)?)?;
        net::listen(&door, libc::SOMAXCONN)?;
        Ok(Self { door: Some(door), wanted, names, addresses, helper, ..Self::default() })
    }

    pub(super) const fn door(&self) -> Option<&OwnedFd> {
        self.door.as_ref()
    }

    /// The connection of a question, which is about to be answered.
    pub(super) fn take(&mut self, number: u64) -> Option<OwnedFd> {
        self.waiting.remove(&number)
    }

    pub(super) fn waits(&self, number: u64) -> bool {
        self.waiting.contains_key(&number)
    }

    pub(super) fn listener(&self, number: usize) -> Option<&Arc<OwnedFd>> {
        self.listeners.get(number.checked_sub(1)?)
    }

    fn wants(&self) -> u64 {
        let bit = |wanted: bool, bit| if wanted { bit } else { 0 };
        bit(self.wanted.network, wire::wants::NETWORK)
            | bit(self.wanted.files, wire::wants::FILES)
            | bit(self.wanted.unix, wire::wants::UNIX)
            | bit(self.names, wire::wants::NAMES)
            | bit(self.wanted.hostname, wire::wants::HOSTNAME)
            | bit(self.addresses, wire::wants::ADDRESSES)
    }

    /// Whether the host is waited for.
    pub(super) fn waits_for_host(&self) -> bool {
        !self.resolving.is_empty() || !self.socket_calls.is_empty()
    }

    fn accept(&mut self) -> Option<u64> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = net::accept_with(self.door.as_ref()?, flags).ok()?;
        // The program then goes its usual way.
        if self.waiting.len() >= QUESTIONS {
            return Some(0);
        }
        self.next += 1;
        self.waiting.insert(self.next, connection);
        Some(self.next)
    }

    /// Reads a question. `None`: it has not come yet; an error: it will not.
    fn read(&self, number: u64) -> io::Result<Option<Question>> {
        let connection = self.waiting.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = [0; QUESTION_BYTES + PAYLOAD_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        let count = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let descriptor = descriptors.next();
        let bytes = bytes.get(..count).unwrap_or_default();
        let [kind, number, arguments @ ..] = wire::question(bytes).ok_or(io::ErrorKind::InvalidData)?;
        let path = bytes.get(QUESTION_BYTES..).unwrap_or_default().to_vec();
        let pid = net::sockopt::socket_peercred(connection)?.pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Some(Question { pid, kind, number, arguments, sent: Sent { path, descriptor } }))
    }
}

/// Sends an answer; false when nobody waits for it any more.
pub(super) fn answer(connection: &OwnedFd, outcome: Outcome) -> bool {
    use wire::answer;
    let (kind, value, bytes, descriptor) = match outcome {
        Outcome::GoOn | Outcome::Later => (answer::GO_ON, 0, Vec::new(), None),
        Outcome::Value(value) => (answer::VALUE, value, Vec::new(), None),
        Outcome::Errno(errno) => (answer::VALUE, -i64::from(errno.abs()), Vec::new(), None),
        Outcome::Bytes { value, bytes } => (answer::VALUE, value, bytes, None),
        Outcome::Addresses { error, bytes } => (answer::ADDRESSES, error.into(), bytes, None),
        Outcome::Helper(path) => (answer::HELPER, 0, path, None),
        Outcome::Descriptor { descriptor, .. } => (answer::DESCRIPTOR, 0, Vec::new(), Some(descriptor)),
    };
    let borrowed = descriptor.as_ref().map(AsFd::as_fd);
    send(connection, wire::encode_answer(kind, value), &bytes, borrowed)
}

/// Hands a descriptor to whoever asked on this connection.
pub(super) fn hand_out(connection: &OwnedFd, descriptor: &OwnedFd) -> bool {
    send(connection, wire::encode_answer(wire::answer::DESCRIPTOR, 0), &[], Some(descriptor.as_fd()))
}

fn send(
    connection: &OwnedFd,
    fixed: [u8; wire::ANSWER_BYTES],
    bytes: &[u8],
    descriptor: Option<rustix::fd::BorrowedFd<'_>>,
) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    let parts = [IoSlice::new(&fixed), IoSlice::new(bytes)];
    net::sendmsg(connection, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

impl Supervisor {
    /// Takes all connections that have come.
    pub(super) fn handle_door(&mut self) {
        while let Some(number) = self.library.accept() {
            if number != 0 && !self.handle_question(number) {
                // The question is still on its way.
                let data = epoll::EventData::new_u64(QUESTION + number);
                let watched = self.library.waiting.get(&number).is_some_and(|connection| {
                    epoll::add(&self.epoll, connection, data, epoll::EventFlags::IN).is_ok()
                });
                if !watched {
                    self.library.take(number);
                }
            }
        }
    }

    /// Takes a question; false when it has not come yet.
    pub(super) fn handle_question(&mut self, number: u64) -> bool {
        match self.library.read(number) {
            Ok(None) => return false,
            Ok(Some(question)) => {
                if let Some(connection) = self.library.waiting.get(&number) {
                    // Watched or not: its end would say nothing that the answer does not find out.
                    epoll::delete(&self.epoll, connection).ok();
                }
                let ticket = Ticket::Question(number);
                let outcome = self.asked(ticket, question);
                self.conclude(ticket, outcome);
            }
            Err(_) => drop(self.library.take(number)),
        }
        true
    }

    fn asked(&mut self, ticket: Ticket, question: Question) -> Outcome {
        use wire::ask;
        let Question { pid, kind, number, arguments, sent } = question;
        match kind {
            ask::HELLO => self.hello(pid),
            ask::CALL => {
                let number = i32::try_from(number).unwrap_or(-1);
                self.decide(&Trapped { ticket, tid: pid, number, arguments, sent: Some(sent) })
            }
            ask::EXECUTE => self.about_to_execute(pid, &sent),
            ask::FILTER => Outcome::Value(self.library.wants().cast_signed()),
            ask::RESOLVE => {
                let [family, ..] = arguments;
                let name = sent.path.into();
                self.resolve(
                    ticket,
                    pid,
                    Resolve { name, family: request::uint(family), ..Resolve::default() },
                )
            }
            ask::NAME => {
                self.resolve(ticket, pid, Resolve { address: sent.path.into(), ..Resolve::default() })
            }
            ask::LISTENER => self.add_listener(sent.descriptor),
            ask::SOCKET => self.socket_question(ticket, pid, number, arguments, sent),
            _ => Outcome::GoOn,
        }
    }

    /// A program has been loaded with the library: it is a new process or has executed something.
    fn hello(&mut self, pid: u32) -> Outcome {
        self.processes.executes(pid, false);
        let Some(thread) = self.identify(pid) else { return Outcome::GoOn };
        let executable =
            rustix::fs::readlinkat(CWD, format!("/proc/{pid}/exe"), Vec::new()).map(CString::into_bytes);
        let executable = executable.unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let file_name = events::name(&executable).to_vec();
        let first = arguments.first().map_or(&[][..], |first| events::name(first));
        let skipped = self.policy.skip.iter().any(|skip| *skip == file_name || *skip == first);
        let outside = skipped || thread.outside;
        self.processes.executes(pid, outside);
        let shown = arguments.iter().take(SHOWN_ARGUMENTS);
        let shown = shown.map(|argument| argument.get(..SHOWN_ARGUMENT_BYTES).unwrap_or(argument).to_vec());
        self.outbox.report(from_layer::Kind::Exec(ProcessExec {
            pid,
            parent: self.processes.parent(pid),
            comm: file_name.into(),
            arguments: shown.map(Into::into).collect(),
            executable: executable.into(),
            outside,
        }));
        let wants = if outside { 0 } else { self.library.wants() };
        Outcome::Value(wants.cast_signed())
    }

    /// Whether the library can be loaded into the program; else it goes under a filter, or the user is told.
    fn about_to_execute(&mut self, pid: u32, sent: &Sent) -> Outcome {
        let Some(Thread { outside: false, .. }) = self.identify(pid) else { return Outcome::GoOn };
        let (path, loadable) = if let Some(descriptor) = &sent.descriptor {
            let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
            let path = rustix::fs::readlinkat(CWD, &link, Vec::new()).map(CString::into_bytes);
            (path.unwrap_or_default(), loadable::of(link.as_bytes()))
        } else {
            let Some(absolute) = paths::resolve(&self.directories, pid, libc::AT_FDCWD, &sent.path) else {
                return Outcome::GoOn;
            };
            let loadable = loadable::of(&absolute.path);
            (absolute.path, loadable)
        };
        match loadable {
            Loadable::Yes => Outcome::GoOn,
            Loadable::No { why } if self.library.helper.is_some() => {
                self.tell_trapped(&path, why);
                self.library.helper.clone().map_or(Outcome::GoOn, Outcome::Helper)
            }
            Loadable::No { why } => {
                self.tell_outside(&path, why);
                Outcome::GoOn
            }
        }
    }

    /// Tells the user once about a program that cannot be in the session.
    pub(super) fn tell_outside(&mut self, path: &[u8], why: &str) {
        let name = events::name(path).to_vec();
        if self.library.named.len() >= NAMED_PROGRAMS || !self.library.named.insert(name.clone()) {
            return;
        }
        self.outbox.report(from_layer::Kind::Notice(Notice {
            text: format!("{} {why}: not in the session", String::from_utf8_lossy(&name)),
            hint: "use a dynamically linked build of it, or a machine that allows the syscall attachment (`mirrord-tui doctor`)"
                .to_owned(),
        }));
    }

    /// The same about one of which only the file calls are in the session: its sockets cannot be exchanged without a session netns.
    pub(super) fn tell_trapped(&mut self, path: &[u8], why: &str) {
        let name = events::name(path).to_vec();
        if !self.library.addresses
            || self.library.named.len() >= NAMED_PROGRAMS
            || !self.library.named.insert(name.clone())
        {
            return;
        }
        self.outbox.report(from_layer::Kind::Notice(Notice {
            text: format!("{} {why}: its network is not in the session, its files are", String::from_utf8_lossy(&name)),
            hint: "use a dynamically linked build of it, or a machine that allows network namespaces (`mirrord-tui doctor`)"
                .to_owned(),
        }));
    }

    /// Lets the host do, or translate, a call on a socket of the machine's own network.
    fn socket_question(
        &mut self,
        ticket: Ticket,
        pid: u32,
        kind: u64,
        [number, ..]: [u64; 6],
        sent: Sent,
    ) -> Outcome {
        let Some(thread) = self.identify(pid) else { return Outcome::GoOn };
        let Ticket::Question(question) = ticket else { return Outcome::GoOn };
        if thread.outside || !self.library.addresses {
            return Outcome::GoOn;
        }
        let call = SocketCall {
            caller: Some(Caller { pid: thread.tgid, tid: pid, comm: thread.comm }),
            kind: i32::try_from(kind).unwrap_or(0),
            address: sent.path.into(),
            number: request::int(number),
        };
        match self.outbox.ask_with(from_layer::Kind::SocketCall(call), sent.descriptor) {
            Ok(id) => {
                self.library.socket_calls.insert(id, (question, Instant::now()));
                Outcome::Later
            }
            Err(_) => Outcome::Errno(libc::ENETDOWN),
        }
    }

    /// The host's answer about a socket.
    pub(super) fn socket_answer(&mut self, id: u64, answer: SocketAnswer) {
        let Some((number, _)) = self.library.socket_calls.remove(&id) else { return };
        let outcome = match answer {
            SocketAnswer { go_on: true, .. } => Outcome::GoOn,
            SocketAnswer { value, .. } if value < 0 => Outcome::Errno(value),
            SocketAnswer { value, address, .. } => {
                Outcome::Bytes { value: value.into(), bytes: address.to_vec() }
            }
        };
        self.conclude(Ticket::Question(number), outcome);
    }

    /// Lets the host look a name up, or that of an address.
    fn resolve(&mut self, ticket: Ticket, pid: u32, question: Resolve) -> Outcome {
        let Some(thread) = self.identify(pid) else { return Outcome::GoOn };
        let Ticket::Question(number) = ticket else { return Outcome::GoOn };
        if thread.outside || !self.library.names {
            return Outcome::GoOn;
        }
        let caller = Some(Caller { pid: thread.tgid, tid: pid, comm: thread.comm });
        match self.outbox.ask(from_layer::Kind::Resolve(Resolve { caller, ..question })) {
            Ok(id) => {
                self.library.resolving.insert(id, (number, Instant::now()));
                Outcome::Later
            }
            Err(_) => Outcome::Addresses { error: libc::EAI_AGAIN, bytes: Vec::new() },
        }
    }

    /// The host's answer about a name.
    pub(super) fn resolved(&mut self, id: u64, answer: &Resolved) {
        let Some((number, _)) = self.library.resolving.remove(&id) else { return };
        // Empty when addresses were asked for.
        let mut bytes = answer.name.to_vec();
        for address in answer.addresses.iter().take(ADDRESSES) {
            bytes.push(if address.len() == 4 { 4 } else { 6 });
            bytes.extend(address.iter().copied().chain(std::iter::repeat(0)).take(wire::ADDRESS_BYTES - 1));
        }
        self.conclude(Ticket::Question(number), Outcome::Addresses { error: answer.error, bytes });
    }

    /// Ends the questions about names and sockets that the host has not answered.
    pub(super) fn fail_overdue_questions(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .library
            .socket_calls
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) > SOCKET_ANSWER)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some((number, _)) = self.library.socket_calls.remove(&id) {
                self.conclude(Ticket::Question(number), Outcome::Errno(libc::ETIMEDOUT));
            }
        }
        let late: Vec<(u64, u64)> = self
            .library
            .resolving
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) > HOST_ANSWER)
            .map(|(id, (number, _))| (*id, *number))
            .collect();
        for (id, number) in late {
            self.library.resolving.remove(&id);
            let again = Outcome::Addresses { error: libc::EAI_AGAIN, bytes: Vec::new() };
            self.conclude(Ticket::Question(number), again);
        }
    }

    /// A program is about to run under a filter of its own.
    fn add_listener(&mut self, listener: Option<OwnedFd>) -> Outcome {
        let Some(listener) = listener else { return Outcome::Errno(libc::EBADF) };
        let number = self.library.listeners.len() + 1;
        let data = epoll::EventData::new_u64(TRAPPED + u64::try_from(number).unwrap_or(0));
        if let Err(error) = epoll::add(&self.epoll, &listener, data, epoll::EventFlags::IN) {
            return Outcome::Errno(error.raw_os_error());
        }
        self.library.listeners.push(Arc::new(listener));
        Outcome::Value(0)
    }

    /// A call of a program under such a filter, or the end of the last program under it.
    pub(super) fn handle_trapped(&mut self, number: usize, flags: epoll::EventFlags) {
        let Some(listener) = self.library.listener(number).cloned() else { return };
        if flags.contains(epoll::EventFlags::IN) {
            self.serve_notification(number, &listener);
        } else {
            epoll::delete(&self.epoll, &listener).ok();
        }
    }
}

/// Asks as the library does, for the helper.
pub(crate) fn ask(socket: &Path) -> io::Result<OwnedFd> {
    let connection =
        net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    net::connect(&connection, &SocketAddrUnix::new(socket)?)?;
    Ok(connection)
}

/// Sends a question on such a connection and waits for the value of its answer.
pub(crate) fn exchange(connection: &OwnedFd, kind: u64, descriptor: Option<&OwnedFd>) -> io::Result<i64> {
    let mut words = [0; QUESTION_BYTES];
    words.iter_mut().zip(kind.to_ne_bytes()).for_each(|(to, from)| *to = from);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed = descriptor.map(AsFd::as_fd);
    if let Some(descriptor) = &borrowed {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    net::sendmsg(connection, &[IoSlice::new(&words)], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0; wire::ANSWER_BYTES];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(connection, &mut answer))?;
    let value = answer.get(8..count).and_then(|bytes| bytes.try_into().ok()).map(i64::from_ne_bytes);
    value.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// The groups of calls behind the bits of [`wire::wants`].
pub(crate) const fn wanted(bits: u64) -> Wanted {
    Wanted {
        network: bits & wire::wants::NETWORK != 0,
        files: bits & wire::wants::FILES != 0,
        unix: bits & wire::wants::UNIX != 0,
        hostname: bits & wire::wants::HOSTNAME != 0,
    }
}
