//! The processes of a session as the machine sees them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{LIMIT, wait_for};

/// Processes of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `mirrord-tui exec`: the viewer.
    pub exec: u32,
    /// The session host.
    pub host: u32,
    /// Holder of the session netns.
    pub netns: u32,
    /// Parent of the command.
    pub supervisor: u32,
    /// The agent beside the target.
    pub agent: u32,
    /// The command.
    pub command: u32,
}

impl Family {
    /// The processes below `exec`, once all of them are there.
    #[track_caller]
    pub(crate) fn of(exec: u32, command: u32) -> Self {
        wait_for("all processes of the session are there", LIMIT, || {
            let below = descendants(exec);
            let with = |word: &str| {
                below
                    .iter()
                    .copied()
                    .find(|pid| arguments(*pid).iter().any(|argument| argument.contains(word)))
            };
            Some(Self {
                exec,
                host: with("__host")?,
                netns: with("__netns")?,
                supervisor: with("__supervisor")?,
                agent: with("mirrord-agent")?,
                command,
            })
        })
    }

    /// All of them by name, the session's own first.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u32); 6] {
        [
            ("exec", self.exec),
            ("host", self.host),
            ("netns holder", self.netns),
            ("supervisor", self.supervisor),
            ("agent", self.agent),
            ("command", self.command),
        ]
    }
}

/// Sends a signal; a process that is gone is what was wanted.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// The most memory that a process has had at once, in bytes: it lives still.
///
/// # Panics
/// When there is no such process.
#[must_use]
#[track_caller]
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has a peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the peak is a number");
    kib << 10
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    descendants(pid).into_iter().skip(1).filter(|child| parent(*child) == Some(pid)).collect()
}

/// All processes below `ancestor`, nearest first.
fn descendants(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    found
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, come the state and the parent.
    stat.rsplit(')').next()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut all: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .take(2)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    all.push(name);
    all
}
