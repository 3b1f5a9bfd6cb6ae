//! An agent on this machine, as the host holds it: a child that is watched for its end, started again, stopped.

use std::{
    path::PathBuf,
    process::Child,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::host::{
    bring_up::start_agent,
    world::{Ended, Failure, Owned},
};
use crate::{agent_link::Endpoint, agent_process::AgentProcess, async_fd};

/// Handle on the agent's process; clones share it.
#[derive(Clone, Debug)]
pub(in crate::host) struct LocalAgent {
    process: Arc<Mutex<Option<AgentProcess>>>,
    target: u32,
    dir: PathBuf,
    /// Its end is wanted.
    stopping: CancellationToken,
}

impl LocalAgent {
    pub(in crate::host) fn new(process: AgentProcess, target: u32, dir: PathBuf) -> Self {
        let process = Arc::new(Mutex::new(Some(process)));
        Self { process, target, dir, stopping: CancellationToken::new() }
    }

    /// Tells when the agent ends without being asked to. Runs until then, or until it is stopped.
    pub(in crate::host) async fn watch(self, ended_tx: mpsc::Sender<Ended>) {
        let pid = self.with(|process| process.child.id());
        // Its end is wanted: nobody is told.
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => return,
            ended = child_ended(pid) => if !ended {
                tracing::warn!("the agent's process cannot be watched; its end is seen by the link");
                return;
            }
        }
        let how = self.with(|process| exit_status(&mut process.child)).unwrap_or_default();
        tracing::warn!(how, "the agent has ended");
        // Closed: the session is ending as well.
        drop(ended_tx.send(Ended::Agent(how)).await);
    }

    /// Starts another one in its place, where the link finds it, if the target still lives.
    pub(in crate::host) fn restart(&self) -> Owned<Result<(), Failure>> {
        let this = self.clone();
        Box::pin(async move {
            if !std::path::Path::new("/proc").join(this.target.to_string()).exists() {
                return Err(Failure::new("the target has ended", "start it again, then the session"));
            }
            let endpoint = this.with(|process| process.endpoint.clone());
            if let Some(Endpoint::Unix(socket)) = endpoint {
                // A killed agent leaves it; the next one binds the same path, where the link looks for it.
                drop(std::fs::remove_file(socket));
            }
            let process = start_agent(this.target, this.dir.clone()).await?;
            let old = this.process.lock().unwrap_or_else(PoisonError::into_inner).replace(process);
            drop(old);
            Ok(())
        })
    }

    /// Ends it and waits for that.
    pub(in crate::host) async fn stop(self) {
        self.stopping.cancel();
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(process) = process else { return };
        match spawn_blocking(move || process.stop()).await {
            Ok(Ok(status)) => tracing::info!(%status, "the agent has ended"),
            Ok(Err(error)) => tracing::error!(%error, "the agent cannot be waited for"),
            Err(error) => tracing::error!(%error, "stopping the agent broke down"),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut AgentProcess) -> T) -> Option<T> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
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

/// How a child ended whose pidfd is readable, so that there is nothing to wait for.
fn exit_status(child: &mut Child) -> String {
    match child.try_wait() {
        Ok(Some(status)) => status.to_string(),
        Ok(None) | Err(_) => "it is not known how".to_owned(),
    }
}
