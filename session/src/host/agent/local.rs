//! An agent on this machine, as the host holds it: a child that is watched for its end and stopped.

use std::{
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_process::{self, AgentProcess},
    async_fd,
    host::{
        bring_up::broken,
        world::{Ended, Failure},
    },
    local,
};

/// What the agent stands beside.
#[derive(Clone, Copy, Debug)]
pub(in crate::host) struct LocalTarget {
    pub(in crate::host) pid: u32,
    /// It is a local pod, whose node can start an agent as well.
    pub(in crate::host) pod: bool,
}

/// Handle on the agent's process; clones share it.
#[derive(Clone, Debug)]
pub(in crate::host) struct LocalAgent {
    process: Arc<Mutex<Option<AgentProcess>>>,
    /// The target's process.
    target: u32,
    /// Its end is wanted.
    stopping: CancellationToken,
}

impl LocalAgent {
    pub(in crate::host) fn new(process: AgentProcess, target: u32) -> Self {
        let process = Arc::new(Mutex::new(Some(process)));
        Self { process, target, stopping: CancellationToken::new() }
    }

    /// Tells when the agent ends without being asked to. Runs until then, or until it is stopped.
    pub(in crate::host) async fn watch(self, ended_tx: mpsc::Sender<Ended>) {
        let pid = self.with(|process| process.process.id());
        // Its end is wanted: nobody is told.
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => return,
            ended = child_ended(pid) => if !ended {
                tracing::warn!("the agent's process cannot be watched; its end is seen by the link");
                return;
            }
        }
        let how = self.with(|process| process.process.end()).unwrap_or_default();
        tracing::warn!(how, "the agent has ended");
        // Closed: the session is ending as well.
        drop(ended_tx.send(Ended::Agent(how)).await);
    }

    /// Why there is no other one in its place. In a cluster agents come and go with their machines; here somebody has killed it, and
    /// stealing from the target again would be against that will.
    pub(in crate::host) fn why_not_again(&self) -> Failure {
        if std::path::Path::new("/proc").join(self.target.to_string()).exists() {
            Failure::new(
                "somebody or something has killed the agent",
                "the target serves by itself; start the session again",
            )
        } else {
            Failure::new("the target has ended", "start it again, then the session")
        }
    }

    /// Ends it and waits for that.
    pub(in crate::host) async fn stop(self) {
        self.stopping.cancel();
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(process) = process else { return };
        match spawn_blocking(move || process.stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the agent cannot be waited for"),
            Err(error) => tracing::error!(%error, "stopping the agent broke down"),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut AgentProcess) -> T) -> Option<T> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}

/// Starts an agent; blocks for some milliseconds on a thread of its own. Where this process may not join the namespaces of a local
/// pod, its node is asked for an agent.
pub(in crate::host) async fn start_agent(target: LocalTarget, dir: PathBuf) -> Result<AgentProcess, Failure> {
    // Dropped by the runtime when nobody waits any more; an agent that is dropped ends.
    let started = spawn_blocking(move || {
        if !target.pod || may_join_namespaces() {
            return agent_process::start_local(target.pid, &dir);
        }
        tracing::info!("no namespace can be joined here, so the node is asked for an agent");
        agent_process::start_by_node(target.pid, &dir, |arguments, standard| {
            local::start_agent(arguments, &standard).map_err(io::Error::other)
        })
    });
    started.await.map_err(|error| broken(&error))?.map_err(|error| {
        Failure::caused(
            &error,
            "the target must be a process of yours, or this program must run as root; `mirrord-tui doctor` tells more",
        )
    })
}

/// Whether setns(2) can be called at all: on a file that is no namespace it fails in another way when it can.
fn may_join_namespaces() -> bool {
    let Ok(file) = std::fs::File::open("/proc/self/stat") else { return true };
    rustix::thread::move_into_link_name_space(file.as_fd(), None) != Err(rustix::io::Errno::PERM)
}

/// Waits until a child of ours has ended, without reaping it; `false` when it cannot be watched.
pub(in crate::host) async fn child_ended(pid: Option<u32>) -> bool {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let watched = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    match watched.and_then(|pidfd| async_fd::watch(pidfd).ok()) {
        Some(pidfd) => pidfd.readable().await.is_ok(),
        None => false,
    }
}
