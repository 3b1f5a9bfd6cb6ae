//! Path calls: decided by rule; the remote ones go to the host and its answers are written into the program.
//!
//! Writing is local. A call that would write to a path which a rule sends to the target goes to the local side when the path is
//! there, or when the program creates the file and replaces it or only appends (O_CREAT with O_TRUNC, O_EXCL or O_APPEND). Otherwise
//! the host is asked: EROFS when the target has the file, else the local side, which creates it or fails in its own words. What was
//! written locally is read locally from then on, as long as it exists here.
//!
//! Calls that change the tree (mkdir, rename, unlink, ...) and chdir(2) are not trapped: they are local. A directory that only the
//! target has can be entered with fchdir(2) on a descriptor that we handed out, not by path.

use std::{collections::HashSet, os::fd::OwnedFd, time::Instant};

use mirrord_protocol::{
    agent::v1::Stat,
    layer::v1::{Caller, FileAnswer, FileCall, FileReport, file_call, from_layer},
};
use rustix::fs::{Access, AtFlags, CWD};

use super::{
    Outcome, Supervisor,
    calls::{Arrived, Pending, Repeat, Subject, Wish},
};
use crate::{
    answer,
    decide::Side,
    filter::PathCall,
    limits::WRITTEN_PATHS,
    paths::{self, Absolute},
    processes::Thread,
    request::{self, Request, Want},
    sys::memory,
    trapped::{Ticket, Trapped},
};

/// Paths that the program has written on the local side.
#[derive(Debug, Default)]
pub(super) struct Written {
    paths: HashSet<Vec<u8>>,
}

impl Written {
    fn add(&mut self, path: &[u8]) {
        if self.paths.len() < WRITTEN_PATHS {
            self.paths.insert(path.to_vec());
        }
    }

    fn holds(&self, path: &[u8]) -> bool {
        !self.paths.is_empty() && self.paths.contains(path) && exists_here(path)
    }
}

/// Why a call went where it went.
struct Reason<'a> {
    rule: &'a str,
    side: Side,
}

impl Supervisor {
    pub(super) fn path_call(&mut self, call: PathCall, trapped: &Trapped, thread: &Thread) -> Outcome {
        let request = match request::read(call, trapped) {
            Ok(request) => request,
            Err(error) => {
                if error.raw_os_error() == Some(libc::EPERM) {
                    self.notice_unreadable(thread);
                }
                // The kernel gives the program the right error.
                return Outcome::GoOn;
            }
        };
        let resolved = paths::resolve(&self.directories, trapped.tid, request.directory, &request.path);
        let Some(absolute) = resolved else { return Outcome::GoOn };
        let decision = self.policy.decider.decide(&absolute.path);
        let (side, rule) = if absolute.remote {
            (Side::Remote, "inside a remote directory")
        } else {
            (decision.side, decision.rule)
        };
        if side == Side::Local {
            if self.policy.report_local_files {
                let rule = rule.to_owned();
                self.report_file(trapped, thread, &request, &absolute.path, &Reason { rule: &rule, side }, 0);
            }
            return Outcome::GoOn;
        }
        if paths::is_private(&absolute.path) || !paths::shares_our_root(trapped.tid) {
            return Outcome::GoOn;
        }
        let rule = rule.to_owned();
        let path = if absolute.remote { absolute.path.clone() } else { decision.path.into_owned() };
        if !self.is_valid(trapped.ticket) {
            return Outcome::Later;
        }
        if side == Side::NotFound {
            self.report_file(trapped, thread, &request, &path, &Reason { rule: &rule, side }, libc::ENOENT);
            return Outcome::Errno(libc::ENOENT);
        }
        self.remote_call(trapped, thread, &request, Absolute { path, ..absolute }, &rule)
    }

    fn remote_call(
        &mut self,
        trapped: &Trapped,
        thread: &Thread,
        request: &Request,
        absolute: Absolute,
        rule: &str,
    ) -> Outcome {
        let path = absolute.path.as_slice();
        let local = Reason { rule: "written locally", side: Side::Local };
        if request.want.writes() {
            if exists_here(path) || request.want.makes_its_own() {
                self.written.add(path);
                self.report_local(trapped, thread, request, path, &local);
                return Outcome::GoOn;
            }
        } else if self.written.holds(path) {
            self.report_local(trapped, thread, request, path, &local);
            return Outcome::GoOn;
        }
        match request.want {
            // Attributes of the target's files are access control lists and labels of its own security modules.
            Want::Attribute => Outcome::Errno(libc::ENODATA),
            Want::AttributeList => Outcome::Value(0),
            want => {
                let subject = Subject { path: absolute.path, follow: request.follow, want: Wish::Path(want) };
                match self.calls.repeat(trapped.repeating_tid(), &subject, trapped.ticket) {
                    Repeat::Waiting => Outcome::Later,
                    Repeat::Arrived(found) => {
                        let (pending, arrived) = *found;
                        self.outcome(&pending, arrived)
                    }
                    Repeat::New => {
                        let caller = caller(trapped, thread);
                        self.ask_host(trapped, caller, request.operation, subject, absolute.directory, rule)
                    }
                }
            }
        }
    }

    fn ask_host(
        &mut self,
        trapped: &Trapped,
        caller: Caller,
        operation: &str,
        subject: Subject,
        directory: bool,
        rule: &str,
    ) -> Outcome {
        let Wish::Path(wanted) = subject.want else { return Outcome::GoOn };
        let (want, flags) = match wanted {
            Want::Open { flags } if wanted.writes() => (file_call::Want::Existence, flags),
            Want::Open { flags } if directory => {
                (file_call::Want::Descriptor, flags | libc::O_DIRECTORY.unsigned_abs())
            }
            Want::Open { flags } => (file_call::Want::Descriptor, flags),
            Want::Access { mode } if wanted.writes() => (file_call::Want::Existence, mode),
            Want::Access { mode } => (file_call::Want::Stat, mode),
            Want::Link { .. } => (file_call::Want::Link, 0),
            Want::Statfs { .. } => (file_call::Want::Statfs, 0),
            _ => (file_call::Want::Stat, 0),
        };
        let call = FileCall {
            caller: Some(caller),
            operation: operation.to_owned(),
            path: subject.path.clone().into(),
            // A slash at the end follows the link before it.
            follow: subject.follow || directory,
            flags,
            want: want.into(),
            rule: rule.to_owned(),
        };
        match self.outbox.ask(from_layer::Kind::File(call)) {
            Ok(id) => {
                self.calls.insert(id, (trapped.repeating_tid(), trapped.ticket), subject, directory, None);
                Outcome::Later
            }
            Err(_) => Outcome::Errno(libc::EIO),
        }
    }

    /// The host's answer to a path call.
    pub(super) fn file_answer(&mut self, id: u64, answer: FileAnswer, descriptor: Option<OwnedFd>) {
        // Unknown: the call was given up or came too late.
        let Some(pending) = self.calls.take(id) else { return };
        if !self.is_valid(pending.ticket) {
            self.calls.keep(id, pending, Arrived { answer, descriptor });
            return;
        }
        let duplicate = descriptor.as_ref().and_then(|descriptor| descriptor.try_clone().ok());
        let again = Arrived { answer: answer.clone(), descriptor: duplicate };
        let outcome = self.outcome(&pending, Arrived { answer, descriptor });
        if !self.conclude(pending.ticket, outcome) {
            self.calls.keep(id, pending, again);
        }
    }

    /// Writes the answer into the caller's memory and says how the call ends. The caller has just been found waiting.
    fn outcome(&mut self, pending: &Pending, arrived: Arrived) -> Outcome {
        let Arrived { answer, descriptor } = arrived;
        let Wish::Path(want) = pending.subject.want else { return Outcome::Errno(libc::EIO) };
        if answer.local {
            if want.writes() {
                self.written.add(&pending.subject.path);
            }
            return Outcome::GoOn;
        }
        if answer.errno != 0 {
            return Outcome::Errno(i32::try_from(answer.errno).unwrap_or(libc::EIO));
        }
        let stat = answer.stat.unwrap_or_default();
        let written = |address, bytes: Vec<u8>| put(pending, address, bytes, 0);
        let is_directory = stat.mode & libc::S_IFMT == libc::S_IFDIR;
        match want {
            Want::Open { flags } => self.open_outcome(pending, flags, descriptor, is_directory),
            _ if pending.directory && !is_directory && !matches!(want, Want::Statfs { .. }) => {
                Outcome::Errno(libc::ENOTDIR)
            }
            Want::Stat { buffer } => written(buffer, answer::stat(&stat)),
            Want::Statx { buffer } => written(buffer, answer::statx(&stat)),
            Want::Access { mode } => access_outcome(&stat, mode),
            Want::Link { buffer, size } => link_outcome(pending, buffer, size, &answer.link),
            Want::Statfs { buffer } => written(buffer, answer::statfs(&answer.stat_fs.unwrap_or_default())),
            Want::Attribute | Want::AttributeList => Outcome::GoOn,
        }
    }

    fn open_outcome(
        &mut self,
        pending: &Pending,
        flags: u32,
        descriptor: Option<OwnedFd>,
        is_directory: bool,
    ) -> Outcome {
        let Some(descriptor) = descriptor else { return Outcome::Errno(libc::EIO) };
        if is_directory && self.directories.add(&descriptor, &pending.subject.path).is_err() {
            return Outcome::Errno(libc::EIO);
        }
        Outcome::Descriptor { descriptor, close_on_exec: flags & libc::O_CLOEXEC.unsigned_abs() != 0 }
    }

    /// Ends calls that host or holder have not answered in time.
    pub(super) fn fail_overdue(&mut self, now: Instant) {
        for pending in self.calls.overdue(now) {
            self.conclude(pending.ticket, Outcome::Errno(libc::EIO));
        }
        self.fail_overdue_questions(now);
        self.fail_overdue_sockets(now);
    }

    fn report_local(
        &mut self,
        trapped: &Trapped,
        thread: &Thread,
        request: &Request,
        path: &[u8],
        reason: &Reason<'_>,
    ) {
        if self.policy.report_local_files {
            self.report_file(trapped, thread, request, path, reason, 0);
        }
    }

    fn report_file(
        &mut self,
        trapped: &Trapped,
        thread: &Thread,
        request: &Request,
        path: &[u8],
        reason: &Reason<'_>,
        errno: i32,
    ) {
        self.outbox.report(from_layer::Kind::FileReport(FileReport {
            caller: Some(caller(trapped, thread)),
            operation: request.operation.to_owned(),
            path: path.to_vec().into(),
            rule: reason.rule.to_owned(),
            errno: errno.unsigned_abs(),
            refused: reason.side == Side::NotFound,
        }));
    }
}

/// Who made a call, as the host is told.
pub(super) fn caller(trapped: &Trapped, thread: &Thread) -> Caller {
    Caller { pid: thread.tgid, tid: trapped.tid, comm: thread.comm.clone() }
}

/// Reading is possible when the agent could see the file; executing needs one of the bits.
const fn access_outcome(stat: &Stat, mode: u32) -> Outcome {
    let executable = stat.mode & 0o111 != 0 || stat.mode & libc::S_IFMT == libc::S_IFDIR;
    if mode & libc::X_OK.unsigned_abs() != 0 && !executable {
        return Outcome::Errno(libc::EACCES);
    }
    Outcome::Value(0)
}

fn link_outcome(pending: &Pending, buffer: u64, size: u64, link: &[u8]) -> Outcome {
    let size = usize::try_from(request::int(size)).unwrap_or(0);
    if size == 0 {
        return Outcome::Errno(libc::EINVAL);
    }
    let part = link.get(..size).unwrap_or(link);
    put(pending, buffer, part.to_vec(), i64::try_from(part.len()).unwrap_or(0))
}

/// Gives the caller the bytes of a result: a question's by its answer, a notification's by writing them into its memory.
fn put(pending: &Pending, address: u64, bytes: Vec<u8>, value: i64) -> Outcome {
    if matches!(pending.ticket, Ticket::Question(_)) {
        return Outcome::Bytes { value, bytes };
    }
    match memory::write(pending.tid, address, &bytes) {
        Ok(()) => Outcome::Value(value),
        Err(error) => Outcome::Errno(error.raw_os_error().unwrap_or(libc::EFAULT)),
    }
}

fn exists_here(path: &[u8]) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
