//! The supervisor process: parent of the command, answers its trapped system calls. One thread, one loop, nothing slow on it.
//!
//! ```text
//! poll(listener, everything else in one epoll)
//!   listener ready -> one notification -> decided here: answered at once
//!                                      -> needs host or holder: noted, answered when the reply comes
//!   host           -> Launch, answers, signals; its end: kill the tree
//!   holder         -> sockets
//!   children       -> exits; nothing left: TreeEmpty and end
//! ```
//! Signals may interrupt a trapped call at any time; the kernel then throws our answer away and the program makes the call again.
//! Every handler can therefore be repeated: see [`calls`].

mod answers;
mod calls;
mod events;
mod files;
mod hostname;
mod library;
mod network;
mod outbox;
mod start;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Instant,
};

use mirrord_protocol::layer::v1::{Notice, ToLayer, from_layer, to_layer};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll},
    process::{Pid, Signal},
};
use thiserror::Error;

use self::{calls::Calls, files::Written, library::Library, network::Relayed, outbox::Outbox, start::Policy};
use crate::{
    filter::{Architecture, Call},
    guardian,
    launch::Starting,
    limits::DEADLINE_TICK,
    link::{Link, LinkError},
    paths::Directories,
    processes::{Processes, Thread},
    sockets::Sockets,
    sys::{
        process::{self, Side},
        seccomp,
    },
    trapped::Trapped,
};

/// Why the supervisor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// Nothing of the process tree was left.
    TreeEmpty,
    /// The host closed its link; the tree has been killed.
    HostGone,
    /// SIGTERM came, or the guardian was killed; the tree has been killed.
    Terminated,
    /// The supervisor failed or was killed; the tree has been killed by its guardian.
    Failed,
}

/// Exit code of the guardian when the supervisor had none.
pub(crate) const KILLED: u8 = 74;

impl ExitReason {
    /// Exit code of the process; 0 when all went well.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::TreeEmpty => 0,
            Self::HostGone => 71,
            Self::Terminated => 72,
            Self::Failed => KILLED,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::TreeEmpty,
            71 => Self::HostGone,
            72 => Self::Terminated,
            _ => Self::Failed,
        }
    }
}

pub(crate) use self::library::{ask as ask_as_the_library, exchange, wanted};

/// What the supervisor cannot go on without.
#[derive(Debug, Error)]
enum SupervisorError {
    #[error("the supervisor could not set itself up")]
    SetUp(#[source] io::Error),
    #[error("waiting for events failed")]
    Wait(#[source] io::Error),
    #[error("the link to the host failed")]
    Link(#[from] LinkError),
}

/// Descriptor of the link to the host, by convention of whoever starts the process.
pub const HOST_DESCRIPTOR: i32 = 3;
/// Descriptor of the endpoint of the holder of the session netns; it may be missing.
pub const HOLDER_DESCRIPTOR: i32 = 4;

/// [`run`] with the descriptors that this process was started with.
#[must_use]
pub fn run_inherited() -> ExitReason {
    let take = |number: i32| process::inherited(number.unsigned_abs());
    match take(HOST_DESCRIPTOR) {
        Some(host) => run(host, take(HOLDER_DESCRIPTOR)),
        None => ExitReason::Failed,
    }
}

/// Runs the supervisor until the process tree or the host is gone. `host` is the link to the session host, `sockets` an endpoint of
/// the holder of the session netns; without it internet sockets are left alone.
///
/// Must be called by the only thread of a process that does nothing else: it forks, and the calling process becomes the guardian of
/// the tree.
#[must_use]
pub fn run(host: OwnedFd, sockets: Option<OwnedFd>) -> ExitReason {
    // Not fatal: without names the processes are only harder to tell apart in ps.
    rustix::thread::set_name(c"mirrord-guard").ok();
    if rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_err() {
        return ExitReason::Failed;
    }
    match process::fork() {
        Err(_) => ExitReason::Failed,
        Ok(Side::Child) => supervise(host, sockets),
        Ok(Side::Parent(supervisor)) => {
            // The host shall see the end of the link when the supervisor ends.
            drop((host, sockets));
            let every_other = !process::mask_of(&[libc::SIGTERM]);
            if process::set_mask(every_other).is_err() {
                return ExitReason::Failed;
            }
            guardian::guard(supervisor).map_or(ExitReason::Failed, ExitReason::from_code)
        }
    }
}

#[expect(
    clippy::exit,
    reason = "the forked half of `run` must not return to the caller, who expects to be there once"
)]
fn supervise(host: OwnedFd, sockets: Option<OwnedFd>) -> ! {
    let reason = Supervisor::new(host.into(), sockets).and_then(|mut supervisor| supervisor.serve());
    if !matches!(reason, Ok(ExitReason::TreeEmpty)) {
        // What a kill leaves behind the guardian tries again.
        drop(guardian::kill_tree());
    }
    std::process::exit(reason.unwrap_or(ExitReason::Failed).code().into())
}

/// Tokens of the epoll instance; a process is `PROCESS + pid`, the listener of a filter within the libc attachment `TRAPPED +
/// number`, a question that is not there yet `QUESTION + number`.
const HOST: u64 = 0;
const HOLDER: u64 = 1;
const SIGNALS: u64 = 2;
const START: u64 = 3;
const DOOR: u64 = 4;
const PROCESS: u64 = 1 << 32;
const TRAPPED: u64 = 1 << 33;
const QUESTION: u64 = 1 << 48;

/// Events taken per round; what does not fit is still there in the next.
const EVENTS: usize = 32;

struct Supervisor {
    outbox: Outbox,
    scratch: Vec<u8>,
    sockets: Option<Sockets>,
    /// Shared with the threads that connect to relays.
    listener: Option<Arc<OwnedFd>>,
    epoll: OwnedFd,
    signals: OwnedFd,
    starting: Option<(u64, Starting)>,
    command: Option<Pid>,
    policy: Policy,
    processes: Processes,
    directories: Directories,
    written: Written,
    calls: Calls,
    relayed: Arc<Mutex<Relayed>>,
    library: Library,
    noticed_unreadable: bool,
    next_deadlines: Instant,
}

/// What to do with a trapped call.
enum Outcome {
    /// The kernel shall do it.
    GoOn,
    Value(i64),
    Errno(i32),
    Descriptor {
        descriptor: OwnedFd,
        close_on_exec: bool,
    },
    /// A result of which bytes are a part; only for questions, the memory of others has been written to.
    Bytes {
        value: i64,
        bytes: Vec<u8>,
    },
    /// Addresses of a name, the name of an address, or an error of getaddrinfo(3).
    Addresses {
        error: i32,
        bytes: Vec<u8>,
    },
    /// The program shall execute this helper in place of what it wanted to.
    Helper(Vec<u8>),
    /// Somebody answers later.
    Later,
}

impl Supervisor {
    fn new(host: Link, sockets: Option<OwnedFd>) -> Result<Self, SupervisorError> {
        Self::set_up(host, sockets).map_err(SupervisorError::SetUp)
    }

    fn set_up(host: Link, sockets: Option<OwnedFd>) -> io::Result<Self> {
        let guardian = rustix::process::getppid();
        rustix::thread::set_name(c"mirrord-super").ok();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let signals = process::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM])?;
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        if rustix::process::getppid() != guardian {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |source: rustix::fd::BorrowedFd<'_>, token| {
            epoll::add(&epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        watch(host.as_fd(), HOST)?;
        watch(signals.as_fd(), SIGNALS)?;
        let sockets = sockets.map(Sockets::new);
        if let Some(sockets) = &sockets {
            watch(sockets.as_fd(), HOLDER)?;
        }
        Ok(Self {
            outbox: Outbox::new(host),
            scratch: Vec::new(),
            sockets,
            listener: None,
            epoll,
            signals,
            starting: None,
            command: None,
            policy: Policy::none()?,
            processes: Processes::default(),
            directories: Directories::default(),
            written: Written::default(),
            calls: Calls::default(),
            relayed: Arc::default(),
            library: Library::default(),
            noticed_unreadable: false,
            next_deadlines: Instant::now(),
        })
    }

    /// The loop.
    fn serve(&mut self) -> Result<ExitReason, SupervisorError> {
        self.outbox.send(from_layer::Kind::Ready(mirrord_protocol::layer::v1::Ready {}))?;
        loop {
            let (trapped, others) = self.wait().map_err(SupervisorError::Wait)?;
            // First, as an event may bring another listener, for which `trapped` does not hold.
            if trapped.contains(PollFlags::IN) {
                self.handle_notification();
            } else if trapped.intersects(PollFlags::HUP | PollFlags::ERR) {
                // Nobody runs under the filter any more.
                self.listener = None;
            }
            if others && let Some(reason) = self.handle_events()? {
                return Ok(reason);
            }
            self.look_at_deadlines();
        }
    }

    /// Waits for a trapped call or anything else.
    fn wait(&self) -> io::Result<(PollFlags, bool)> {
        let tick = Timespec { tv_sec: 0, tv_nsec: DEADLINE_TICK.subsec_nanos().into() };
        let timeout = self.is_waiting().then_some(&tick);
        let events = PollFd::new(&self.epoll, PollFlags::IN);
        let ready = |fds: &mut [PollFd<'_>]| match rustix::event::poll(fds, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        match &self.listener {
            Some(listener) => {
                let mut both = [events, PollFd::new(listener.as_ref(), PollFlags::IN)];
                ready(&mut both)?;
                let [events, listener] = both;
                Ok((listener.revents(), !events.revents().is_empty()))
            }
            None => {
                let mut one = [events];
                ready(&mut one)?;
                let [events] = one;
                Ok((PollFlags::empty(), !events.revents().is_empty()))
            }
        }
    }

    /// Ends what has waited too long. Not at every turn: it looks at everything that waits.
    fn look_at_deadlines(&mut self) {
        if !self.is_waiting() {
            return;
        }
        let now = Instant::now();
        if now >= self.next_deadlines {
            self.next_deadlines = now + DEADLINE_TICK;
            self.fail_overdue(now);
        }
    }

    fn is_waiting(&self) -> bool {
        !self.calls.is_empty()
            || self.library.waits_for_host()
            || self.sockets.as_ref().is_some_and(Sockets::has_waiters)
    }

    fn handle_notification(&mut self) {
        let Some(listener) = self.listener.clone() else { return };
        // An error means that the caller was killed or interrupted before we came to it.
        self.serve_notification(0, &listener);
    }

    /// Takes one notification of a listener and answers it.
    fn serve_notification(&mut self, number: usize, listener: &OwnedFd) {
        let Ok(notification) = seccomp::receive(listener.as_fd()) else { return };
        let trapped = Trapped::notified(number, &notification);
        let outcome = self.decide(&trapped);
        // A caller that no longer waits makes the call again if it is still there.
        let _ = self.conclude(trapped.ticket, outcome);
    }

    fn decide(&mut self, trapped: &Trapped) -> Outcome {
        let Some(call) = Architecture::NATIVE.call(trapped.number) else { return Outcome::GoOn };
        let Some(thread) = self.identify(trapped.tid) else { return Outcome::GoOn };
        if thread.outside {
            return Outcome::GoOn;
        }
        match call {
            Call::Path(call) => self.path_call(call, trapped, &thread),
            Call::Socket => self.socket_call(trapped),
            Call::Listen => self.listen_call(trapped, &thread),
            Call::Connect => self.connect_call(trapped, &thread),
            Call::Execute => self.execute_call(trapped, &thread),
            Call::Uname => self.uname_call(trapped),
        }
    }

    /// Who made the call; a process that is new is reported and watched.
    fn identify(&mut self, tid: u32) -> Option<Thread> {
        let seen = self.processes.identify(tid)?;
        if let Some(parent) = seen.started {
            self.watch_process(seen.thread.tgid, parent);
        }
        Some(seen.thread)
    }

    fn handle_message(&mut self, message: ToLayer, descriptors: Vec<OwnedFd>) -> Result<(), SupervisorError> {
        match message.kind {
            Some(to_layer::Kind::Launch(launch)) => self.launch(message.id, &launch, descriptors)?,
            Some(to_layer::Kind::File(answer)) => {
                self.file_answer(message.id, answer, descriptors.into_iter().next());
            }
            Some(to_layer::Kind::UnixConnect(answer)) => self.unix_answer(message.id, &answer),
            Some(to_layer::Kind::Resolved(answer)) => self.resolved(message.id, &answer),
            Some(to_layer::Kind::SocketCall(answer)) => self.socket_answer(message.id, answer),
            Some(to_layer::Kind::Signal(signal)) => self.signal(signal.signal, signal.whole_tree),
            // A message of a newer host: it does not know us well, but nothing waits for it.
            None => {}
        }
        Ok(())
    }

    /// Says once that a process cannot be looked into; its calls then stay local.
    fn notice_unreadable(&mut self, thread: &Thread) {
        if self.noticed_unreadable {
            return;
        }
        self.noticed_unreadable = true;
        let name = String::from_utf8_lossy(&thread.comm).into_owned();
        self.outbox.report(from_layer::Kind::Notice(Notice {
            text: format!("Process {} ({name}) cannot be read by its supervisor, so its file calls stay local.", thread.tgid),
            hint: "It has made itself non-dumpable or its executable is not readable; run as root to include it.".to_owned(),
        }));
    }
}
