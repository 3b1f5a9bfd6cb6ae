//! The processes and threads that have made a trapped call: who is whose child, who runs outside the session, who has ended.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use prost::bytes::Bytes;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::{
    limits::{KNOWN_THREADS, WATCHED_PROCESSES},
    sys::process as pidfd,
};

/// A thread and the process that it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) tgid: u32,
    /// Name as in /proc/TID/comm, read when the thread was first seen or has executed a program.
    pub(crate) comm: Bytes,
    /// Belongs to a program on the skip list.
    pub(crate) outside: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) signal: u32,
    /// False: somebody else has reaped it and the kernel does not say.
    pub(crate) known: bool,
}

#[derive(Debug)]
struct Process {
    parent: u32,
    outside: bool,
    pidfd: Option<OwnedFd>,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    threads: HashMap<u32, Thread>,
    processes: HashMap<u32, Process>,
}

/// A thread that made a call; `started` when its process is new, with its parent.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) thread: Thread,
    pub(crate) started: Option<u32>,
}

impl Processes {
    /// Who this thread is; `None` when it is gone.
    pub(crate) fn identify(&mut self, tid: u32) -> Option<Seen> {
        if let Some(thread) = self.threads.get(&tid) {
            return Some(Seen { thread: thread.clone(), started: None });
        }
        let status = Status::read(tid)?;
        let started = (!self.processes.contains_key(&status.tgid)).then_some(status.parent);
        let outside = match self.processes.get(&status.tgid) {
            Some(process) => process.outside,
            None => self.add(status.tgid, status.parent),
        };
        if self.threads.len() >= KNOWN_THREADS {
            self.threads.clear();
        }
        let thread = Thread { tgid: status.tgid, comm: status.name.into(), outside };
        self.threads.insert(tid, thread.clone());
        Some(Seen { thread, started })
    }

    /// Adds a process; whether it runs outside, as its parent does.
    fn add(&mut self, pid: u32, parent: u32) -> bool {
        let outside = self.processes.get(&parent).is_some_and(|process| process.outside);
        let room = self.processes.len() < WATCHED_PROCESSES;
        let pidfd = room.then(|| open(pid)).flatten();
        self.processes.insert(pid, Process { parent, outside, pidfd });
        outside
    }

    /// The descriptor that becomes readable when the process ends.
    pub(crate) fn pidfd(&self, pid: u32) -> Option<BorrowedFd<'_>> {
        self.processes.get(&pid)?.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The process executes a program: all its threads but one end and the name changes.
    pub(crate) fn executes(&mut self, pid: u32, outside: bool) {
        self.threads.retain(|_, thread| thread.tgid != pid);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.outside |= outside;
        }
    }

    /// Parent of a process as it was when the process was first seen.
    pub(crate) fn parent(&self, pid: u32) -> u32 {
        self.processes.get(&pid).map_or(0, |process| process.parent)
    }

    /// Forgets a process; whether it was known.
    pub(crate) fn remove(&mut self, pid: u32) -> bool {
        self.threads.retain(|_, thread| thread.tgid != pid);
        self.processes.remove(&pid).is_some()
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

/// The lines of /proc/TID/status that we need.
struct Status {
    name: Vec<u8>,
    tgid: u32,
    parent: u32,
}

impl Status {
    fn read(tid: u32) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{tid}/status")).ok()?;
        let field = |name: &[u8]| {
            let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_ascii())
        };
        let number = |name| std::str::from_utf8(field(name)?).ok()?.parse().ok();
        Some(Self { name: field(b"Name:")?.to_vec(), tgid: number(b"Tgid:")?, parent: number(b"PPid:")? })
    }
}

/// One of our own children that has ended, reaped; `None` when there is none now.
///
/// # Errors
/// ECHILD when there are no children at all: as we are a subreaper, nothing of the process tree is left then.
pub(crate) fn reap() -> io::Result<Option<(u32, End)>> {
    let ended = rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG))?;
    Ok(ended.map(|(pid, status)| (pid.as_raw_nonzero().get().unsigned_abs(), End::of(status))))
}

/// Whether the process is a child of ours, which it also becomes when its parent ends.
pub(crate) fn is_our_child(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return false };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid), options).is_ok()
}

/// How a process that is not our child has ended, from its entry in /proc as long as nobody has reaped it, else from its pidfd.
pub(crate) fn end_of_stranger(pid: u32, pidfd: BorrowedFd<'_>) -> End {
    let unreaped = std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|text| exit_field(&text));
    let status = unreaped.or_else(|| pidfd::exit_code(pidfd));
    status.map_or(End { code: 0, signal: 0, known: false }, End::from_raw)
}

/// The last field of /proc/PID/stat, `exit_code` in the form of waitpid(2); only for a zombie.
fn exit_field(stat: &[u8]) -> Option<i32> {
    let after_name = stat.rsplit(|byte| *byte == b')').next()?.trim_ascii();
    let is_zombie = after_name.starts_with(b"Z");
    let last = after_name.rsplit(|byte| *byte == b' ').next()?;
    let code = std::str::from_utf8(last).ok()?.parse().ok()?;
    is_zombie.then_some(code)
}

impl End {
    /// From the form of waitpid(2).
    const fn from_raw(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self { code: libc::WEXITSTATUS(status), signal: 0, known: true }
        } else {
            Self { code: 0, signal: libc::WTERMSIG(status).unsigned_abs(), known: true }
        }
    }

    fn of(status: WaitStatus) -> Self {
        let signal = status.terminating_signal().map_or(0, i32::unsigned_abs);
        Self { code: status.exit_status().unwrap_or(0), signal, known: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_a_zombie_is_read() {
        assert_eq!(exit_field(b"12 (a) b) Z 1 2 3 256\n"), Some(256));
        assert_eq!(exit_field(b"12 (cat) S 1 2 3 0\n"), None);
        assert_eq!(exit_field(b""), None);
    }

    #[test]
    fn a_thread_is_identified_once() {
        let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let mut processes = Processes::default();
        let first = processes.identify(me).unwrap();
        assert_eq!(first.thread.tgid, me);
        assert!(first.started.is_some() && !first.thread.outside);
        assert!(processes.identify(me).unwrap().started.is_none());
        assert!(processes.pidfd(me).is_some());
        processes.executes(me, true);
        assert!(processes.identify(me).unwrap().thread.outside);
        assert!(processes.remove(me) && !processes.remove(me));
    }
}
