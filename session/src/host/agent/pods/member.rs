//! One pod of the target and its agent.
//!
//! ```text
//! Starting ── answers ──▶ Up ── ended, lost ──▶ Pausing ── later ──▶ Starting
//!     └────── failed ───────────────────────────▲
//! ```

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Purpose;
use crate::{
    agent_link::{AgentLink, LinkState},
    cluster::{
        TargetPod,
        preflight::{self, Wants},
    },
    host::{agent::ClusterAgent, process::KEEP_LOG, world::Failure},
    limits::{AGENT_GOODBYE, POD_RETRY_MAX, POD_RETRY_MIN},
    network::SourceId,
};

/// A container of a pod: a container that is started again is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) uid: String,
    pub(super) container_id: String,
}

impl Key {
    pub(super) fn of(pod: &TargetPod) -> Self {
        Self { uid: pod.uid.clone(), container_id: pod.container_id.clone() }
    }
}

/// A pod that has an agent, or shall have one.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pod: TargetPod,
    pub(super) stage: Stage,
    /// Pause after the next failure.
    retry: Duration,
    /// The pod is being deleted: its agent stays to its end and is not started again.
    pub(super) leaving: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// An agent is being started.
    Starting(Running),
    /// It answers. `source`: its connections come to the network.
    Up { running: Running, link: AgentLink, source: Option<SourceId> },
    /// It could not be had; it is tried again then.
    Pausing(Instant),
}

/// An agent that exists, or may.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) agent: ClusterAgent,
    /// Number of the attempt, so that news of an earlier one are known.
    pub(super) attempt: u32,
    /// Nobody waits for its start or end any more.
    pub(super) cancel: CancellationToken,
}

impl Member {
    pub(super) fn new(pod: TargetPod, running: Running) -> Self {
        Self { pod, stage: Stage::Starting(running), retry: POD_RETRY_MIN, leaving: false }
    }

    /// Whether its agent answers.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    /// The agent, unless it is waited before the next one.
    pub(super) fn running(&self) -> Option<&Running> {
        match &self.stage {
            Stage::Starting(running) | Stage::Up { running, .. } => Some(running),
            Stage::Pausing(_) => None,
        }
    }

    /// Waits longer each time; the stage before is handed out.
    pub(super) fn pause(&mut self) -> Stage {
        let until = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(POD_RETRY_MAX);
        std::mem::replace(&mut self.stage, Stage::Pausing(until))
    }

    /// An agent that answers has earned a short pause.
    pub(super) fn came_up(&mut self, link: AgentLink) {
        if let Stage::Starting(running) = &self.stage {
            self.stage = Stage::Up { running: running.clone(), link, source: None };
        }
    }
}

/// Starts an agent and connects to it. What exists when this fails must be stopped by whoever called.
pub(super) async fn start(
    agent: ClusterAgent,
    purpose: Purpose,
    pod: TargetPod,
) -> Result<AgentLink, Failure> {
    let session = &purpose.session;
    let wants = Wants { session: session.id.clone(), ..Wants::of(&session.agent, &session.config) };
    let report =
        preflight::check_pod(&purpose.cluster, &pod, &wants).await.and_then(preflight::Report::into_result);
    report.map_err(|error| Failure::caused(&error, error.hint()))?;
    agent.start().await?;
    let link = AgentLink::connect(agent.endpoint(), &purpose.token).await;
    link.map_err(|error| Failure::caused(&error, KEEP_LOG))
}

/// Waits until the agent has ended or is lost, and says how.
pub(super) async fn ended(agent: ClusterAgent, link: AgentLink) -> String {
    let mut status = link.status();
    let lost = async {
        let lost = status.wait_for(|status| status.state == LinkState::Lost).await;
        lost.map(|status| status.detail.clone()).ok()
    };
    tokio::select! {
        biased;
        how = agent.ended() => how,
        // `None`: the link is closed, and whoever did that does not ask.
        Some(how) = lost => how,
    }
}

/// Ends an agent and removes what it was made of.
pub(super) async fn stop(stage: Stage) {
    let (running, link) = match stage {
        Stage::Starting(running) => (running, None),
        Stage::Up { running, link, .. } => (running, Some(link)),
        Stage::Pausing(_) => return,
    };
    running.cancel.cancel();
    if let Some(link) = link {
        // The call lets it say in its log that it was asked; its end does not depend on it.
        if !matches!(timeout(AGENT_GOODBYE, link.shutdown_agent()).await, Ok(Ok(()))) {
            tracing::info!("an agent did not take leave");
        }
        link.close().await;
    }
    running.agent.stop().await;
}

/// The name of a pod for events.
pub(super) fn name_of(pod: &TargetPod) -> Option<Arc<str>> {
    Some(Arc::from(pod.name.as_str()))
}
