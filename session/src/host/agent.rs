//! The agent as the host holds it: a child on this machine, a Job in a cluster, or one Job for each of several pods. All are watched
//! for their end, started again when something killed them, and removed with the session.

mod announce;
mod in_cluster;
mod local;
mod pods;

use std::future::ready;

use tokio::sync::{mpsc, watch};

pub(super) use self::{
    in_cluster::ClusterAgent,
    local::{LocalAgent, LocalTarget, child_ended, start_agent},
    pods::{Pods, Purpose},
};
use super::world::{Ended, Failure, Owned};
use crate::network::{NetworkHandle, Serves};

/// Handle on the agent; clones share it.
#[derive(Clone, Debug)]
pub(super) enum Agent {
    Local(LocalAgent),
    Cluster(Box<ClusterAgent>),
    Pods(Box<Pods>),
}

impl Agent {
    /// Whose connections the session's network serves by itself.
    pub(super) fn serves(&self) -> Serves {
        match self {
            Self::Local(_) => Serves::Agent(None),
            Self::Cluster(agent) => Serves::Agent(Some(agent.pod().into())),
            Self::Pods(_) => Serves::Joined,
        }
    }

    /// Names of the cluster's pods that have an agent of the session.
    pub(super) fn pods(&self) -> watch::Receiver<Vec<String>> {
        match self {
            Self::Local(_) => watch::channel(Vec::new()).1,
            Self::Cluster(agent) => watch::channel(vec![agent.pod().to_owned()]).1,
            Self::Pods(pods) => pods.names(),
        }
    }

    /// Tells when the agent ends without being asked to. Runs until then, or until it is stopped. Several agents are attached to the
    /// network and see to themselves.
    pub(super) async fn watch(self, network: NetworkHandle, ended_tx: mpsc::Sender<Ended>) {
        match self {
            Self::Local(agent) => agent.watch(ended_tx).await,
            Self::Cluster(agent) => agent.watch(network, ended_tx).await,
            Self::Pods(pods) => pods.attach(network, ended_tx).await,
        }
    }

    /// Starts another one in its place, where the link finds it, if the target still lives.
    pub(super) fn restart(&self) -> Owned<Result<(), Failure>> {
        match self {
            Self::Local(agent) => {
                let failure = agent.why_not_again();
                Box::pin(async { Err(failure) })
            }
            Self::Cluster(agent) => {
                let agent = agent.clone();
                Box::pin(async move { agent.restart().await })
            }
            // Their owner does so by itself, and tells nobody to.
            Self::Pods(_) => Box::pin(ready(Ok(()))),
        }
    }

    /// Ends it and removes what it was made of.
    pub(super) async fn stop(self) {
        match self {
            Self::Local(agent) => agent.stop().await,
            Self::Cluster(agent) => agent.stop().await,
            Self::Pods(pods) => pods.stop().await,
        }
    }
}
