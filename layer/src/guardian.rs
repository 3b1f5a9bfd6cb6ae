//! Ends process trees. The guardian is the supervisor's parent: when the supervisor dies, by whatever signal, the processes that
//! it left become the guardian's children and are killed.

use std::{io, time::Instant};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions},
};

use crate::{
    limits::{KILL_DEADLINE, KILL_ROUND},
    sys::process,
};

/// Waits for the supervisor, then kills what is left of its tree. Returns the supervisor's exit code.
pub(crate) fn guard(supervisor: Pid) -> io::Result<u8> {
    let code = loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if pid == supervisor {
            break status.exit_status();
        }
    };
    kill_tree()?;
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::supervisor::KILLED))
}

/// Kills all descendants of this process and reaps them. As a subreaper we become the parent of whatever loses its own.
///
/// # Errors
/// `TimedOut` when a process does not end within [`KILL_DEADLINE`]; as signalfd(2).
pub(crate) fn kill_tree() -> io::Result<()> {
    let ended = process::signal_descriptor(&[libc::SIGCHLD])?;
    let began = Instant::now();
    loop {
        signal_all(Signal::KILL);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
        if began.elapsed() > KILL_DEADLINE {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let round = rustix::event::Timespec { tv_sec: 0, tv_nsec: KILL_ROUND.subsec_nanos().into() };
        // Whether a child has ended or the round is over: the next round looks at everything anew.
        let mut wanted = [PollFd::new(&ended, PollFlags::IN)];
        rustix::event::poll(&mut wanted, Some(&round)).ok();
        let mut info = [0_u8; 4096];
        rustix::io::read(&ended, &mut info).ok();
    }
}

/// Sends a signal to every descendant of this process.
pub(crate) fn signal_all(signal: Signal) {
    // All are found before the first is signalled: the children of one that ends become ours and would be missed. Parents come
    // first, so that who is killed makes no more children.
    let mut found = children(rustix::process::getpid());
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(children(parent));
        next += 1;
    }
    for process in found {
        // It may have ended in the meantime, which is as good.
        rustix::process::kill_process(process, signal).ok();
    }
}

/// Children of all threads of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", parent.as_raw_nonzero());
    let threads = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}
