//! Where connections come from: one agent and the pod that it sits beside.
//!
//! A session has one source, or one per pod of a workload. Each has its own subscriptions, parked streams and mirror; what they bring
//! goes the same way from there on.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{agent_link::AgentLink, events::Events};

/// Number of a source, never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(super) u32);

/// Name of a pod for events; `None`: the target is no pod of a cluster.
pub type PodName = Option<Arc<str>>;

/// One agent as a source of connections. Clones mean the same one.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) id: SourceId,
    pub(super) pod: PodName,
    pub(super) agent: AgentLink,
    /// The source is taken away: nothing new comes from it, what is open goes on.
    pub(super) left: CancellationToken,
}

impl Source {
    /// Events that name the pod.
    pub(super) fn events(&self, events: &Events) -> Events {
        events.at_pod(self.pod.clone())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("id", &self.id).field("pod", &self.pod).finish_non_exhaustive()
    }
}
