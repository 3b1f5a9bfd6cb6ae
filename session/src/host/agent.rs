//! The agent as the host holds it: a child on this machine, or a Job in a cluster. Both are watched for their end, started again when
//! something killed them, and removed with the session.

mod in_cluster;
mod local;

use tokio::sync::mpsc;

pub(super) use self::{
    in_cluster::ClusterAgent,
    local::{LocalAgent, child_ended},
};
use super::world::{Ended, Failure, Owned};

/// Handle on the agent; clones share it.
#[derive(Clone, Debug)]
pub(super) enum Agent {
    Local(LocalAgent),
    Cluster(Box<ClusterAgent>),
}

impl Agent {
    /// Tells when the agent ends without being asked to. Runs until then, or until it is stopped.
    pub(super) async fn watch(self, ended_tx: mpsc::Sender<Ended>) {
        match self {
            Self::Local(agent) => agent.watch(ended_tx).await,
            Self::Cluster(agent) => agent.watch(ended_tx).await,
        }
    }

    /// Starts another one in its place, where the link finds it, if the target still lives.
    pub(super) fn restart(&self) -> Owned<Result<(), Failure>> {
        match self {
            Self::Local(agent) => agent.restart(),
            Self::Cluster(agent) => {
                let agent = agent.clone();
                Box::pin(async move { agent.restart().await })
            }
        }
    }

    /// Ends it and removes what it was made of.
    pub(super) async fn stop(self) {
        match self {
            Self::Local(agent) => agent.stop().await,
            Self::Cluster(agent) => agent.stop().await,
        }
    }
}
