//! What happens beside the trapped calls: messages, children, execs.

use std::{ffi::CString, mem::MaybeUninit};

use mirrord_protocol::layer::v1::{ProcessExec, ProcessExit, Spawned, ToLayer, TreeEmpty, from_layer};
use rustix::{
    event::epoll,
    fs::{Access, AtFlags, CWD, FileType},
};

use super::{
    DOOR, EVENTS, ExitReason, HOLDER, HOST, Outcome, PROCESS, QUESTION, SIGNALS, START, Supervisor,
    SupervisorError, TRAPPED,
};
use crate::{
    limits::{PATH_BYTES, SHOWN_ARGUMENT_BYTES, SHOWN_ARGUMENTS},
    link::LinkError,
    paths,
    processes::{self, End, Thread},
    request,
    sys::memory,
    trapped::Trapped,
};

/// Size of struct signalfd_siginfo, and where the signal's number and sender lie in it.
const SIGNAL_INFO_BYTES: usize = 128;

impl Supervisor {
    /// Handles what epoll has; `Some`: the end.
    pub(super) fn handle_events(&mut self) -> Result<Option<ExitReason>, SupervisorError> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let events = match epoll::wait(&self.epoll, &mut buffer, Some(&now)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(SupervisorError::Wait(error.into())),
        };
        for event in events {
            let (flags, token) = (event.flags, event.data.u64());
            let end = match token {
                HOST => self.handle_host(flags)?,
                HOLDER => {
                    self.handle_holder();
                    None
                }
                SIGNALS => self.handle_signals()?,
                START => {
                    self.handle_start()?;
                    None
                }
                DOOR => {
                    self.handle_door();
                    None
                }
                question if question >= QUESTION => {
                    self.handle_question(question - QUESTION);
                    None
                }
                trapped if trapped >= TRAPPED => {
                    self.handle_trapped(usize::try_from(trapped - TRAPPED).unwrap_or(0), flags);
                    None
                }
                process => {
                    self.handle_process(process - PROCESS);
                    None
                }
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        self.watch_host()?;
        Ok(None)
    }

    fn handle_host(&mut self, flags: epoll::EventFlags) -> Result<Option<ExitReason>, SupervisorError> {
        let gone = |error: LinkError| match error {
            LinkError::Closed => Ok(Some(ExitReason::HostGone)),
            error => Err(SupervisorError::Link(error)),
        };
        if flags.contains(epoll::EventFlags::OUT)
            && let Err(error) = self.outbox.flush()
        {
            return gone(error);
        }
        loop {
            match self.outbox.link().receive::<ToLayer>(&mut self.scratch) {
                Ok((message, descriptors)) => self.handle_message(message, descriptors)?,
                Err(error) if error.would_block() => return Ok(None),
                Err(error) => return gone(error),
            }
        }
    }

    /// Asks for room in the socket as long as messages are queued.
    fn watch_host(&self) -> Result<(), SupervisorError> {
        let room = if self.outbox.is_blocked() { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        epoll::modify(
            &self.epoll,
            &self.outbox,
            epoll::EventData::new_u64(HOST),
            epoll::EventFlags::IN | room,
        )
        .map_err(|error| SupervisorError::Wait(error.into()))
    }

    pub(super) fn unwatch_holder(&mut self) {
        if let Some(sockets) = &self.sockets {
            // It is only watched once; a second end is impossible.
            epoll::delete(&self.epoll, sockets).ok();
        }
    }

    fn handle_signals(&mut self) -> Result<Option<ExitReason>, SupervisorError> {
        let mut info = [0_u8; SIGNAL_INFO_BYTES];
        while rustix::io::read(&self.signals, &mut info).is_ok_and(|count| count == SIGNAL_INFO_BYTES) {
            let [number, ..] = info;
            if i32::from(number) == libc::SIGTERM {
                return Ok(Some(ExitReason::Terminated));
            }
        }
        self.reap()
    }

    /// Reaps what has ended; `Some` when nothing is left.
    fn reap(&mut self) -> Result<Option<ExitReason>, SupervisorError> {
        loop {
            match processes::reap() {
                Ok(Some((pid, end))) => self.process_ended(pid, end)?,
                Ok(None) => return Ok(None),
                // What has not started yet, or failed to, is no tree that ends.
                Err(_) if self.command.is_none() || self.starting.is_some() => return Ok(None),
                Err(_) => {
                    self.outbox.send(from_layer::Kind::TreeEmpty(TreeEmpty {}))?;
                    return Ok(Some(ExitReason::TreeEmpty));
                }
            }
        }
    }

    fn process_ended(&mut self, pid: u32, end: End) -> Result<(), SupervisorError> {
        // Its last words may still lie in the socket.
        let is_starting = |supervisor: &Self| {
            supervisor.starting.as_ref().is_some_and(|(_, starting)| is(starting.pid, pid))
        };
        while is_starting(self) {
            self.handle_start()?;
        }
        let command = self.command.is_some_and(|command| is(command, pid));
        if self.processes.remove(pid) || command {
            self.report_exit(pid, end, command)?;
        }
        Ok(())
    }

    fn report_exit(&mut self, pid: u32, end: End, command: bool) -> Result<(), SupervisorError> {
        let exit = ProcessExit { pid, code: end.code, signal: end.signal, known: end.known, command };
        Ok(self.outbox.send(from_layer::Kind::Exit(exit))?)
    }

    /// A watched process has ended. Our own children are reaped elsewhere, on SIGCHLD.
    fn handle_process(&mut self, pid: u64) {
        let Ok(pid) = u32::try_from(pid) else { return };
        let Some(pidfd) = self.processes.pidfd(pid) else { return };
        epoll::delete(&self.epoll, pidfd).ok();
        if processes::is_our_child(pid) {
            return;
        }
        let end = processes::end_of_stranger(pid, pidfd);
        if self.processes.remove(pid) {
            self.outbox.report(from_layer::Kind::Exit(ProcessExit {
                pid,
                code: end.code,
                signal: end.signal,
                known: end.known,
                command: false,
            }));
        }
    }

    /// Reports a new process and waits for its end.
    pub(super) fn watch_process(&mut self, pid: u32, parent: u32) {
        if let Some(pidfd) = self.processes.pidfd(pid) {
            let data = epoll::EventData::new_u64(PROCESS + u64::from(pid));
            // Without a watch its end is noticed when it is a child of ours, else not.
            epoll::add(&self.epoll, pidfd, data, epoll::EventFlags::IN).ok();
        }
        self.outbox.report(from_layer::Kind::Spawned(Spawned { pid, parent }));
    }

    /// execve(2) and execveat(2): the kernel does it, we tell the host and see whether the program runs outside the session.
    pub(super) fn execute_call(&mut self, trapped: &Trapped, thread: &Thread) -> Outcome {
        let [a0, a1, a2, ..] = trapped.arguments;
        let is_at = i64::from(trapped.number) == libc::SYS_execveat;
        let (directory, path, arguments) =
            if is_at { (request::int(a0), a1, a2) } else { (libc::AT_FDCWD, a0, a1) };
        let raw = match &trapped.sent {
            Some(sent) => Ok(sent.path.clone()),
            None => memory::read_string(trapped.tid, path, PATH_BYTES),
        };
        let Ok(raw) = raw else { return Outcome::GoOn };
        let executable = if raw.is_empty() {
            // fexecve(3): the descriptor itself.
            let link = format!("/proc/{}/fd/{directory}", trapped.tid);
            rustix::fs::readlinkat(CWD, link, Vec::new()).map(CString::into_bytes).unwrap_or_default()
        } else {
            let resolved = paths::resolve(&self.directories, trapped.tid, directory, &raw);
            resolved.map(|absolute| absolute.path).unwrap_or(raw)
        };
        // A search through PATH tries files that are not there.
        if !executable.is_empty() && !may_be_executed(&executable) {
            return Outcome::GoOn;
        }
        let arguments = read_arguments(trapped.tid, arguments);
        let file_name = name(&executable).to_vec();
        let first = arguments.first().map_or(&[][..], |first| name(first));
        let outside = self.policy.skip.iter().any(|skip| *skip == file_name || *skip == first);
        self.processes.executes(thread.tgid, outside);
        self.outbox.report(from_layer::Kind::Exec(ProcessExec {
            pid: thread.tgid,
            parent: self.processes.parent(thread.tgid),
            comm: file_name.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            executable: executable.into(),
            outside,
        }));
        Outcome::GoOn
    }
}

/// Whether execve(2) can succeed: access(2) grants "execute" on a folder, too.
fn may_be_executed(path: &[u8]) -> bool {
    let kind = |found: rustix::fs::Stat| FileType::from_raw_mode(found.st_mode);
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()).is_ok()
        && rustix::fs::stat(path).is_ok_and(|found| kind(found) == FileType::RegularFile)
}

/// The first arguments of an exec, as far as they can be read.
fn read_arguments(tid: u32, mut address: u64) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    while arguments.len() < SHOWN_ARGUMENTS {
        match memory::read_word(tid, address) {
            Ok(pointer) if pointer != 0 => arguments.push(read_argument(tid, pointer)),
            _ => break,
        }
        address += 8;
    }
    arguments
}

/// One argument, cut to what is shown.
fn read_argument(tid: u32, address: u64) -> Vec<u8> {
    if let Ok(whole) = memory::read_string(tid, address, SHOWN_ARGUMENT_BYTES) {
        return whole;
    }
    let mut part = vec![0; SHOWN_ARGUMENT_BYTES];
    let count = memory::read(tid, address, &mut part).unwrap_or(0);
    part.truncate(count);
    part
}

pub(super) fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn is(pid: rustix::process::Pid, number: u32) -> bool {
    pid.as_raw_nonzero().get().unsigned_abs() == number
}
