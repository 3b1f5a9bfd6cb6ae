//! Runs a command within the namespaces of a pod or of the node (`__enter pod|node PID CMD...`).
//!
//! A process of its own, because only a process with a single thread may join a user namespace. The command gets the caller's
//! standard descriptors, terminal and process group.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use mirrord_netns::ns::{self, Kind, Namespaces, NsError};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    LocalError,
    init::{Signals, exec_failure},
    root,
    wire::Failure,
};

/// Which namespaces are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All of a pod's.
    Pod,
    /// The node's network, with the pods' names.
    Node,
}

impl Place {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }
}

/// Exit code for failures that are not the command's, as env(1) and timeout(1) use it.
const OWN_FAILURE: u8 = 125;

/// Runs the role and returns its exit code: the command's, or a shell's for what did not start.
pub(crate) fn run(args: &[OsString]) -> u8 {
    let parsed = match args {
        [place, pid, command @ ..] => {
            let place = [Place::Pod, Place::Node].into_iter().find(|known| place == known.word());
            let pid = pid.to_str().and_then(|pid| pid.parse().ok());
            place.zip(pid).zip(command.split_first())
        }
        _ => None,
    };
    let Some(((place, pid), (program, arguments))) = parsed else { return 64 };
    let result = enter(place, pid).and_then(|()| run_command(program, arguments));
    match result {
        Ok(status) => {
            status.code().or_else(|| Some(128 + status.signal()?)).map_or(1, |code| code.to_le_bytes()[0])
        }
        Err(failure) => {
            let error = LocalError::refused("", failure);
            // Without standard error the exit code has to do.
            writeln!(io::stderr(), "mirrord-tui: {error}").ok();
            error.exit_code().unwrap_or(OWN_FAILURE)
        }
    }
}

fn enter(place: Place, pid: u32) -> Result<(), Failure> {
    join(place, pid).map_err(|error| Failure::setup("entering its namespaces", &error))?;
    if place == Place::Node {
        root::enter_node().map_err(|error| Failure::setup("showing it the names of the pods", &error))?;
    }
    Ok(())
}

fn join(place: Place, pid: u32) -> Result<(), NsError> {
    let target = Namespaces::of(pid)?;
    // Root's pods share the machine's user namespace, and joining one's own is refused.
    if !same(&target.user, &ns::current(Kind::User)?) {
        ns::join(target.user.as_fd(), Kind::User)?;
    }
    ns::join(target.net.as_fd(), Kind::Net)?;
    match place {
        Place::Pod => {
            ns::join(target.uts.as_fd(), Kind::Uts)?;
            ns::join(target.ipc.as_fd(), Kind::Ipc)?;
            ns::join(target.pid.as_fd(), Kind::Pid)?;
            ns::join(target.mount.as_fd(), Kind::Mount)
        }
        Place::Node => ns::unshare(&[Kind::Mount]),
    }
}

fn same(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => one.st_ino == other.st_ino && one.st_dev == other.st_dev,
        _ => false,
    }
}

fn run_command(program: &OsStr, arguments: &[OsString]) -> Result<ExitStatus, Failure> {
    let step = |error: io::Error| Failure::setup("running a command", &error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(step)?;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(step)?;
        let child = tokio::process::Command::new(program).args(arguments).spawn();
        let mut child = child.map_err(|error| exec_failure(&program.to_string_lossy(), &error))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        loop {
            tokio::select! {
                biased;
                status = child.wait() => return status.map_err(step),
                // The terminal sends Ctrl-C to the command as well: it decides what comes of it.
                signal = signals.next() => if signal != Signal::INT && let Some(pid) = pid {
                    kill_process(pid, signal).ok();
                },
            }
        }
    })
}
