//! The agent for targets on this machine: the embedded executable, started from memory as a child of the session host.
//!
//! In a cluster the same bytes travel as ConfigMaps. The child lives as long as it has a client, and no longer than this process:
//! it reads a socket or pipe whose other end only we hold. (PR_SET_PDEATHSIG would not do. It follows the *thread* that started the child,
//! and the kernel forgets it when the agent joins the target's user namespace.)

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    pipe::PipeFlags,
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    agent_link::{Endpoint, HandedSockets},
    cluster::agent_job,
    limits::{AGENT_IDLE, AGENT_LOG_TAIL, AGENT_STOP, STEP_TIMEOUT},
};

/// The agent's executable: static, so that it runs in any container.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mirrord-agent"));

/// What the agent prints when clients may connect.
const READY: &[u8] = b"ready\n";

/// Why no agent runs.
#[derive(Debug, Error)]
pub enum AgentProcessError {
    /// Neither memory nor the session's folder can hold the executable.
    #[error("cannot lay the agent's executable into memory or into {}", folder.display())]
    Executable {
        /// The session's folder.
        folder: PathBuf,
        /// Why the second attempt failed.
        source: io::Error,
    },
    /// The log could not be made.
    #[error("cannot write {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No randomness for the token.
    #[error("cannot make a token for the agent")]
    Token(#[source] io::Error),
    /// The child could not be started or watched.
    #[error("cannot start the agent")]
    Spawn(#[source] io::Error),
    /// The child ended before it was ready.
    #[error("the agent ended at once ({status}): {reason}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said last.
        reason: String,
    },
    /// The child did not say that it is ready.
    #[error("the agent was not ready after {} s; see {}", after.as_secs(), log.display())]
    Late {
        /// How long we waited.
        after: Duration,
        /// Where it may have said why.
        log: PathBuf,
    },
}

/// A running agent of ours. Dropping it asks the agent to end; [`AgentProcess::stop`] also waits for that.
#[derive(Debug)]
pub struct AgentProcess {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What every call must show.
    pub token: String,
    /// The process.
    pub process: Running,
}

/// An agent's process; its standard input keeps it alive.
#[derive(Debug)]
pub enum Running {
    /// A child of this process; over its standard input it hands sockets over.
    Child(Child, Arc<HandedSockets>),
    /// Started for us by the node of the local pods, whose child it is.
    OfNode {
        /// As this machine sees it.
        pid: u32,
        /// Says when it has ended.
        pidfd: OwnedFd,
        /// The pipe.
        stdin: OwnedFd,
    },
}

impl Running {
    /// The process as this machine sees it.
    #[must_use]
    pub fn id(&self) -> u32 {
        match self {
            Self::Child(child, _) => child.id(),
            Self::OfNode { pid, .. } => *pid,
        }
    }

    /// How it has ended, of a process that has.
    pub(crate) fn end(&mut self) -> String {
        let status = match self {
            Self::Child(child, _) => child.try_wait().ok().flatten(),
            Self::OfNode { .. } => None,
        };
        status.map_or_else(|| "it is not known how".to_owned(), |status| status.to_string())
    }
}

/// Starts an agent beside the process `pid` of this machine. Its socket and its log lie in `dir`, which must be for us only.
/// Returns when clients may connect; blocks for some milliseconds, at most [`STEP_TIMEOUT`].
///
/// # Errors
/// [`AgentProcessError`]; when the agent itself gave up, with its own words.
pub fn start_local(pid: u32, dir: &Path) -> Result<AgentProcess, AgentProcessError> {
    let Place { socket, log, token } = Place::new(dir)?;
    let handed = Arc::new(HandedSockets::new().map_err(AgentProcessError::Spawn)?);
    let mut child = spawn((pid, dir), &socket, &log, &token, &handed)?;
    let ready = child.stdout.take().map_or(Ok(false), |output| wait_until_ready(output.into()));
    match ready {
        Ok(true) => {
            let endpoint = Endpoint::Child(socket, Arc::clone(&handed));
            Ok(AgentProcess { endpoint, token, process: Running::Child(child, handed) })
        }
        Ok(false) => {
            let status = child.wait().map_err(AgentProcessError::Spawn)?;
            Err(AgentProcessError::Ended { status, reason: last_words(&log) })
        }
        Err(error) => {
            kill(&mut child);
            if error.kind() == io::ErrorKind::TimedOut {
                Err(AgentProcessError::Late { after: STEP_TIMEOUT, log })
            } else {
                Err(AgentProcessError::Spawn(error))
            }
        }
    }
}

/// What an agent of ours is reached by.
struct Place {
    socket: PathBuf,
    log: PathBuf,
    token: String,
}

impl Place {
    fn new(dir: &Path) -> Result<Self, AgentProcessError> {
        let token = token().map_err(AgentProcessError::Token)?;
        Ok(Self { socket: dir.join("agent.sock"), log: dir.join("agent.log"), token })
    }
}

/// As [`start_local`], by the node of the local pods: for a place where namespaces cannot be joined, while the node, which lives
/// outside of it, can. `ask` passes arguments and standard descriptors to the node and returns the agent's process.
///
/// # Errors
/// [`AgentProcessError`].
pub(crate) fn start_by_node(
    pid: u32,
    dir: &Path,
    ask: impl FnOnce(&[OsString], [OwnedFd; 3]) -> io::Result<u32>,
) -> Result<AgentProcess, AgentProcessError> {
    let Place { socket, log, token } = Place::new(dir)?;
    let stderr = open_log(&log)?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| AgentProcessError::Spawn(e.into()));
    let ((their_input, input), (output, their_output)) = (pipe()?, pipe()?);
    let standard = [their_input, their_output, stderr.into()];
    let pid = ask(&arguments(pid, &socket, &token), standard).map_err(AgentProcessError::Spawn)?;
    let ready = open_process(pid).and_then(|pidfd| Ok((pidfd, wait_until_ready(output)?)));
    match ready.map_err(AgentProcessError::Spawn)? {
        (pidfd, true) => {
            let process = Running::OfNode { pid, pidfd, stdin: input };
            Ok(AgentProcess { endpoint: Endpoint::Unix(socket), token, process })
        }
        (_, false) => Err(AgentProcessError::Spawn(io::Error::other(last_words(&log)))),
    }
}

/// Starts an agent in the node, for one of its clients.
pub(crate) fn spawn_for_client(arguments: &[OsString], standard: [OwnedFd; 3]) -> io::Result<Child> {
    let memory = in_memory()?;
    let [stdin, stdout, stderr] = standard.map(Stdio::from);
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    command(Path::new(&path), arguments).stdin(stdin).stdout(stdout).stderr(stderr).spawn()
}

impl AgentProcess {
    /// Ends the agent and waits for it, at most [`AGENT_STOP`]; after that it is killed, and its rules go with its sockets.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn stop(self) -> io::Result<()> {
        match self.process {
            Running::Child(mut child, handed) => {
                handed.hang_up();
                if !wait_until_ended(&open_process(child.id())?, AGENT_STOP)? {
                    kill(&mut child);
                }
                let status = child.wait()?;
                tracing::info!(%status, "the agent has ended");
            }
            Running::OfNode { pidfd, stdin, .. } => {
                drop(stdin);
                if !wait_until_ended(&pidfd, AGENT_STOP)? {
                    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
                }
            }
        }
        Ok(())
    }
}

fn spawn(
    (pid, dir): (u32, &Path),
    socket: &Path,
    log: &Path,
    token: &str,
    handed: &HandedSockets,
) -> Result<Child, AgentProcessError> {
    let stderr = open_log(log)?;
    let mut arguments = arguments(pid, socket, token);
    arguments.push("--hand-over".into());
    let start = |executable: &Path| {
        command(executable, &arguments)
            .stdin(handed.for_agent()?)
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone()?)
            .spawn()
    };
    let from_memory = in_memory().and_then(|memory| {
        // The child inherits the descriptor until exec(2), which has opened the path by then.
        start(Path::new(&format!("/proc/self/fd/{}", memory.as_raw_fd())))
    });
    match from_memory {
        Ok(child) => Ok(child),
        Err(refused) => {
            tracing::debug!(error = %refused, "the agent cannot run from memory; vm.memfd_noexec may forbid it");
            let path = dir.join("agent");
            let executable = |source| AgentProcessError::Executable { folder: dir.to_owned(), source };
            in_file(&path).map_err(executable)?;
            let child = start(&path).map_err(AgentProcessError::Spawn);
            // It runs, or it never will.
            std::fs::remove_file(&path).map_err(executable)?;
            child
        }
    }
}

fn open_log(path: &Path) -> Result<File, AgentProcessError> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|source| AgentProcessError::Log { path: path.to_owned(), source })
}

/// What an agent is told.
fn arguments(pid: u32, socket: &Path, token: &str) -> Vec<OsString> {
    let mut listen = OsString::from("unix:");
    listen.push(socket);
    let hash = format!("{:x}", Sha256::digest(token));
    let idle = AGENT_IDLE.as_secs().to_string();
    let client = format!("{} since {}", agent_job::owner_of_this_process(), agent_job::now());
    let words = [
        "--client",
        &client,
        "--target-pid",
        &pid.to_string(),
        "--token-sha256",
        &hash,
        "--idle-timeout",
        &idle,
        "--end-with-stdin",
    ];
    [OsString::from("--listen"), listen].into_iter().chain(words.map(OsString::from)).collect()
}

fn command(executable: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new(executable);
    command
        .arg0("mirrord-agent")
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("MIRRORD_AGENT_LOG").map(|level| ("MIRRORD_AGENT_LOG", level)))
        .current_dir("/");
    command
}

fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The executable in a file without a name.
fn in_memory() -> io::Result<OwnedFd> {
    let memory = match memfd_create(c"mirrord-agent", MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and allow it without.
        Err(Errno::INVAL) => memfd_create(c"mirrord-agent", MemfdFlags::CLOEXEC)?,
        memory => memory?,
    };
    let mut file = File::from(memory);
    file.write_all(AGENT)?;
    // Open for reading only: the kernel refuses to execute what somebody may still write (ETXTBSY).
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(readable.into())
}

fn in_file(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o700).open(path)?;
    file.write_all(AGENT)?;
    file.set_permissions(Permissions::from_mode(0o500))
}

/// What every call to an agent must show: 128 random bits, in hexadecimal. The agent itself gets only their hash.
pub(crate) fn token() -> io::Result<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// False: the agent has closed its output without the word, so it has ended or is about to.
fn wait_until_ready(output: OwnedFd) -> io::Result<bool> {
    let mut output = File::from(output);
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut said = Vec::new();
    while !said.ends_with(READY) {
        if !readable(output.as_fd(), deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; 64];
        match output.read(&mut buffer)? {
            0 => return Ok(false),
            read => said.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(true)
}

/// False: it still runs after `limit`.
fn wait_until_ended(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    readable(pidfd.as_fd(), Instant::now() + limit)
}

/// Waits with poll(2); false when the deadline passed.
fn readable(descriptor: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn kill(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(%error, pid = child.id(), "the agent cannot be killed");
    }
}

/// The error in the last line of the agent's log, which is JSON; the line itself when it is something else.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let tail = text.get(text.len().saturating_sub(AGENT_LOG_TAIL)..).unwrap_or_default();
    let tail = String::from_utf8_lossy(tail);
    let Some(line) = tail.lines().rev().find(|line| !line.trim().is_empty()) else {
        return "it said nothing".to_owned();
    };
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let error = parsed.as_ref().and_then(|value| value.pointer("/fields/error")?.as_str());
    error.unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_link::AgentLink;

    /// A process to be the target; it ends with the value.
    struct Victim(Child);

    impl Victim {
        fn start() -> Self {
            Self(
                Command::new("cat")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .env("VICTIM", "yes")
                    .spawn()
                    .unwrap(),
            )
        }
    }

    impl Drop for Victim {
        fn drop(&mut self) {
            kill(&mut self.0);
        }
    }

    #[tokio::test]
    async fn the_embedded_agent_runs_and_ends_with_us() {
        let victim = Victim::start();
        let folder = tempfile::tempdir().unwrap();
        let mut agent = start_local(victim.0.id(), folder.path()).unwrap();
        let link = AgentLink::connect(agent.endpoint.clone(), &agent.token).await.unwrap();
        assert_eq!(link.hello().pid, victim.0.id());
        let env = link.env().await.unwrap();
        assert!(env.iter().any(|entry| &*entry.name == b"VICTIM" && &*entry.value == b"yes"));
        let Running::Child(child, _) = &mut agent.process else { panic!("it is our child") };
        assert!(child.try_wait().unwrap().is_none());
        link.close().await;
        drop(link);
        agent.stop().unwrap();
    }

    #[test]
    fn a_missing_target_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = Victim::start();
        kill(&mut ended.0);
        let error = start_local(ended.0.id(), folder.path()).unwrap_err();
        assert!(error.to_string().contains("there is no process"), "{error}");
    }

    #[test]
    fn the_executable_also_runs_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        in_file(&path).unwrap();
        let output = Command::new(&path).env_clear().output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("--listen"));
    }
}
