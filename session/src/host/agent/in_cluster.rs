//! An agent in a cluster, as the host holds it: the Job of now, and how to make the next one.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent_link::Endpoint,
    cluster::{
        self, Cluster, ClusterError, TargetPod, Which,
        agent_job::{self, AgentJob, AgentJobError, AgentSpec},
        pod::Refusal,
    },
    host::{
        agent::announce::announce,
        process::KEEP_LOG,
        world::{Ended, Failure},
    },
    limits::{AGENT_STOP, TARGET_POLL, TARGET_RETURN},
    network::NetworkHandle,
    spec::SessionSpec,
    target::Target,
};

/// Handle on the agent's job; clones share it.
#[derive(Clone, Debug)]
pub(in crate::host) struct ClusterAgent {
    cluster: Cluster,
    /// The job of now, where the link looks for it.
    current: Arc<Mutex<AgentJob>>,
    spec: AgentSpec,
    /// Jobs that the session has had; each has a name of its own.
    jobs: Arc<AtomicU32>,
    /// Creations under way; nothing is deleted before they are through.
    creating: TaskTracker,
    /// Its end is wanted.
    stopping: CancellationToken,
}

impl ClusterAgent {
    /// An agent for `target` that does not exist yet. `jobs` counts those of the session.
    pub(in crate::host) fn new(
        cluster: Cluster,
        target: TargetPod,
        session: &SessionSpec,
        token: &str,
        jobs: Arc<AtomicU32>,
    ) -> Self {
        let spec = AgentSpec {
            session: session.id.clone(),
            target,
            options: session.agent.clone(),
            config: session.config.clone(),
            token_hash: format!("{:x}", Sha256::digest(token)),
            owner: agent_job::owner_of_this_process(),
            since: agent_job::now(),
            log_level: std::env::var("MIRRORD_AGENT_LOG").ok(),
        };
        let job = AgentJob::new(cluster.clone(), spec.clone(), jobs.fetch_add(1, Ordering::Relaxed));
        Self {
            cluster,
            current: Arc::new(Mutex::new(job)),
            spec,
            jobs,
            creating: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Creates the job and waits until the agent answers.
    pub(in crate::host) async fn start(&self) -> Result<(), Failure> {
        let job = self.job();
        let failed = |error: AgentJobError| Failure::caused(&error, error.hint());
        // In a task, so that it is whole even when this future is dropped: what is half created could not be deleted.
        let creating = self.creating.spawn({
            let job = job.clone();
            async move { job.create().await }
        });
        let uid = creating.await.map_err(|error| Failure::caused(&error, KEEP_LOG))?.map_err(failed)?;
        job.ready(&uid).await.map_err(failed)
    }

    /// Where the agent listens, also the next one.
    pub(in crate::host) fn endpoint(&self) -> Endpoint {
        agent_job::endpoint(Arc::clone(&self.current))
    }

    /// Name of the target's pod.
    pub(in crate::host) fn pod(&self) -> &str {
        &self.spec.target.name
    }

    /// See [`super::Agent::watch`].
    pub(in crate::host) async fn watch(self, network: NetworkHandle, ended_tx: mpsc::Sender<Ended>) {
        let job = self.job();
        let how = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return,
            how = job.ended() => how,
            () = announce(job.clone(), network.ports()) => return,
        };
        drop(network);
        tracing::warn!(how, "the agent has ended");
        // Closed: the session is ending as well.
        drop(ended_tx.send(Ended::Agent(how)).await);
    }

    /// Waits until the agent has ended, and says how.
    pub(in crate::host) async fn ended(&self) -> String {
        self.job().ended().await
    }

    /// See [`super::Agent::restart`]. The target's container may have been started again: the new one is looked up. The kubelet tells
    /// late that a container has ended, so an agent may be sent to one that is not there any more; then it is looked up once more.
    pub(in crate::host) async fn restart(mut self: Box<Self>) -> Result<(), Failure> {
        let deadline = Instant::now() + TARGET_RETURN;
        loop {
            self.delete().await;
            self.spec.target = self.target_again(deadline).await?;
            let number = self.jobs.fetch_add(1, Ordering::Relaxed);
            let job = AgentJob::new(self.cluster.clone(), self.spec.clone(), number);
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = job;
            match self.start().await {
                Err(failure) if Instant::now() < deadline && !self.stopping.is_cancelled() => {
                    tracing::info!(text = failure.text, "the next agent cannot be started yet");
                    sleep(TARGET_POLL).await;
                }
                started => return started,
            }
        }
    }

    /// See [`super::Agent::stop`].
    pub(in crate::host) async fn stop(self) {
        self.stopping.cancel();
        if timeout(AGENT_STOP, async {
            self.creating.close();
            self.creating.wait().await;
            self.delete().await;
        })
        .await
        .is_err()
        {
            tracing::warn!("the agent's job could not be deleted in time; it ends by itself");
        }
    }

    /// The job of now.
    pub(in crate::host) fn job(&self) -> AgentJob {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the container of the same pod to run: its kubelet may be about to start it again.
    async fn target_again(&self, deadline: Instant) -> Result<TargetPod, Failure> {
        let TargetPod { name, uid, container, .. } = &self.spec.target;
        let target = Target::Cluster {
            kind: "pod".to_owned(),
            name: name.clone(),
            container: Some(container.clone()),
        };
        let here = Cluster { namespace: self.spec.target.namespace.clone(), ..self.cluster.clone() };
        loop {
            let found = cluster::resolve(&here, &target, Which::One).await;
            let error = match found.map(|pods| pods.into_iter().next()) {
                Ok(Some(pod)) if pod.uid == *uid => return Ok(pod),
                Ok(_) => return Err(gone(name)),
                Err(error) if is_gone(&error) => return Err(gone(name)),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(Failure::caused(&error, error.hint()));
            }
            tracing::info!(%error, "the target does not run at the moment");
            sleep(TARGET_POLL).await;
        }
    }

    async fn delete(&self) {
        match self.job().delete().await {
            Ok(()) => tracing::info!("the agent's job is deleted, or its container left to its end"),
            Err(error) => tracing::warn!(%error, "the agent's job cannot be deleted; it ends by itself"),
        }
    }
}

/// Whether the pod will not run again.
fn is_gone(error: &ClusterError) -> bool {
    match error {
        ClusterError::NotFound { .. } => true,
        ClusterError::Pod(refused) => match &refused.why {
            Refusal::Deleted | Refusal::NoContainer { .. } | Refusal::Agent => true,
            Refusal::Phase(phase) => phase == "Failed" || phase == "Succeeded",
            Refusal::Container { .. } => false,
        },
        _ => false,
    }
}

fn gone(pod: &str) -> Failure {
    Failure::new(
        format!("the target, pod `{pod}`, is gone"),
        "start the session again when it is back; a workload as the target, such as deployment/NAME, finds the pod that takes its place",
    )
}
