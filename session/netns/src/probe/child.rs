//! Child processes of a probe: one that answers and ends, one that only waits to be looked at.
#![expect(unsafe_code, reason = "fork(2)")]

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::{limits::PROBE, netlink, ns};

/// A forked process; killed and waited for when it is dropped.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
}

impl Child {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Forks; the child runs `work` and ends.
    ///
    /// The child is a copy of one thread. It may allocate, because fork(3) of glibc and of musl hands the allocator over in a usable
    /// state, but must stay away from locks that another thread of the parent may have held, such as those of std's streams.
    fn fork(work: impl FnOnce()) -> Result<Self, String> {
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: fork(3) has no conditions of its own; what the copy of a process with threads must not do is obeyed by the callers
        // in this module's parent, which make system calls, format texts and touch no lock of std.
        match unsafe { libc::fork() } {
            0 => {
                let ended = ns::die_with_parent(u32::try_from(parent).ok());
                let done = ended.is_ok() && catch_unwind(AssertUnwindSafe(work)).is_ok();
                // SAFETY: _exit(2) ends the process at once; nothing of the copied state is used or flushed afterwards.
                unsafe { libc::_exit(i32::from(!done)) }
            }
            pid => match Pid::from_raw(pid) {
                Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Self { pid }),
                _ => Err(format!("no process can be made: {}", std::io::Error::last_os_error())),
            },
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It is ours and not waited for yet, so the number cannot belong to another process; it may have ended already.
        kill_process(self.pid, Signal::KILL).ok();
        rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty())).ok();
    }
}

/// Runs `work` in a child and returns the text that it gives.
pub(super) fn answer(work: impl FnOnce() -> String) -> Result<String, String> {
    let (read, write) = pipe()?;
    let child = Child::fork(move || {
        // A reader that has gone is the parent's decision.
        File::from(write).write_all(work().as_bytes()).ok();
    })?;
    let text = read_all(read);
    drop(child);
    text
}

/// A child that waits for the signal with which it is dropped.
pub(super) fn waiting() -> Result<Child, String> {
    Child::fork(rustix::event::pause)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("no pipe can be made: {error}"))
}

/// Reads until the other end is closed. The parent's copy of the writing end must be closed by then.
fn read_all(read: OwnedFd) -> Result<String, String> {
    let deadline = Instant::now() + PROBE;
    let mut file = File::from(read);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = netlink::wait_readable(file.as_fd(), left).map_err(|error| error.to_string())?;
        if !ready && left.is_zero() {
            return Err(format!("no answer within {PROBE:?}"));
        }
        if ready {
            match file.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                len => text.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            }
        }
    }
}
