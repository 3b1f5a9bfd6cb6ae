//! Process 1 of a pod (`__init DIR`): gives the pod its files and its name, starts the command, reaps, forwards signals, and ends
//! with the command; the kernel then ends what is left of the pod.
//!
//! Standard input is the link to the node. When it closes, the node or the process above is gone, and so is the pod.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use mirrord_netns::ns;
use rustix::{
    fs::Mode,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open, umask, wait,
    },
};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use super::{
    PodState, ROOT_DIR,
    pod::{read_plan, stdin_link},
    root,
    spec::PodPlan,
    wire::{AsyncWire, Failure, Note, Order, WireError},
};

/// Runs the role and returns its exit code: the command's, or 128 and the signal that ended it.
pub(crate) fn run(dir: &Path) -> u8 {
    let Ok(link) = stdin_link() else { return 70 };
    let state = match run_command(dir) {
        Ok(state) => state,
        Err(failure) => {
            link.send(&Note::Failed(failure), &[]).ok();
            return 1;
        }
    };
    // A node that is gone need not be told.
    link.send(&Note::Ended(state), &[]).ok();
    match state {
        PodState::Exited(code) => code.to_le_bytes()[0],
        PodState::Signalled(number) => (128 + number).to_le_bytes()[0],
        PodState::Running | PodState::Lost => 70,
    }
}

fn run_command(dir: &Path) -> Result<PodState, Failure> {
    rustix::thread::set_name(c"mirrord-init").ok();
    ns::die_with_parent(None).map_err(|error| Failure::setup("binding its life to the node's", &error))?;
    let plan = read_plan(dir)?;
    // As in a container, whatever the shell of the starter has.
    umask(Mode::from_raw_mode(0o022));
    root::enter(&plan, &dir.join(ROOT_DIR)).map_err(|error| Failure::setup("making its files", &error))?;
    rustix::system::sethostname(plan.hostname().as_bytes())
        .map_err(|error| Failure::setup("setting its host name", &io::Error::from(error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| Failure::setup("starting its first process", &error))?;
    runtime.block_on(serve(&plan))
}

/// Signals that go on to the command.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: SignalStream,
    interrupt: SignalStream,
    hang_up: SignalStream,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// A signal that was not returned is still pending.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}

async fn serve(plan: &PodPlan) -> Result<PodState, Failure> {
    let step = |error: io::Error| Failure::setup("starting its command", &error);
    let mut children = signal(SignalKind::child()).map_err(step)?;
    let mut signals = Signals::listen().map_err(step)?;
    let link = stdin_link().and_then(AsyncWire::new).map_err(step)?;
    let command = start(plan)?;
    let [init, main] = pidfds(command).map_err(step)?;
    link.send(&Note::Started, &[init.as_fd(), main.as_fd()])
        .map_err(|error| Failure::setup("telling the node", &error))?;
    drop([init, main]);
    loop {
        tokio::select! {
            biased;
            // What has ended comes first: the pod is over then, whatever else was asked.
            _ = children.recv() => if let Some(state) = reap(command) { return Ok(state) },
            order = link.recv::<Order>() => match order {
                Ok((Order::Terminate, _)) => forward(command, Signal::TERM),
                Err(WireError::Malformed(_)) => {}
                // The node is gone: end, and the kernel ends the rest of the pod.
                Err(_) => return Ok(PodState::Lost),
            },
            signal = signals.next() => forward(command, signal),
        }
    }
}

fn start(plan: &PodPlan) -> Result<Pid, Failure> {
    let program = plan.spec.command.first().cloned().unwrap_or_default();
    let cwd = plan.spec.cwd.as_deref().unwrap_or_else(|| Path::new("/"));
    // Looked at apart, so that a missing folder is not taken for a missing program.
    std::fs::read_dir(cwd).map_err(|error| {
        Failure::setup(format!("entering its working directory {}", cwd.display()), &error)
    })?;
    let child = Command::new(&program)
        .args(plan.spec.command.iter().skip(1))
        .env_clear()
        .envs(plan.environment())
        .current_dir(cwd)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn();
    let child = child.map_err(|error| exec_failure(&program.to_string_lossy(), &error))?;
    Ok(Pid::from_child(&child))
}

/// Why a program was not executed, as a shell tells it apart.
pub(super) fn exec_failure(program: &str, error: &io::Error) -> Failure {
    let command = program.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound { command },
        _ => Failure::NotExecutable { command, reason: error.to_string() },
    }
}

/// Descriptors of this process and of the command: the node reads from them what the processes are called on the machine.
fn pidfds(command: Pid) -> io::Result<[OwnedFd; 2]> {
    let init = pidfd_open(getpid(), PidfdFlags::empty())?;
    // Valid even when the command has ended: nobody else reaps.
    let main = pidfd_open(command, PidfdFlags::empty())?;
    Ok([init, main])
}

/// Takes all ended children off; the state of the command when it is among them.
fn reap(command: Pid) -> Option<PodState> {
    let mut state = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == command {
            state = ended(status);
        }
    }
    state
}

fn ended(status: WaitStatus) -> Option<PodState> {
    status
        .exit_status()
        .map(PodState::Exited)
        .or_else(|| status.terminating_signal().map(PodState::Signalled))
}

fn forward(command: Pid, signal: Signal) {
    // It may have ended in this moment; then there is nobody to be told.
    kill_process(command, signal).ok();
}
