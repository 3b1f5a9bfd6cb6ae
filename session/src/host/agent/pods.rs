//! All pods of a target, as the host holds them: an agent beside each, one session for all.
//!
//! ```text
//! watch of the pods ──▶ owner ── join, leave ──▶ network (connections of every pod)
//!                        │  └── this one ──▶ link of the session (files, names, outgoing connections, environment)
//!                        └── member: job ─ link ─ its end ... one per pod
//! ```
//! The owner is one task. It ends when it is told to, and takes every agent along.

mod member;
mod owner;

use std::sync::{Arc, Mutex, atomic::AtomicU32};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::owner::Owner;
use crate::{
    agent_link::Endpoint,
    cluster::{
        Cluster,
        agent_job::{self, AgentJob},
    },
    events::Events,
    host::{
        process::KEEP_LOG,
        world::{Ended, Failure},
    },
    limits::AGENT_STOP,
    network::NetworkHandle,
    spec::SessionSpec,
};

/// What the agents are for.
#[derive(Clone, Debug)]
pub(in crate::host) struct Purpose {
    pub(in crate::host) cluster: Cluster,
    pub(in crate::host) session: Arc<SessionSpec>,
    pub(in crate::host) token: String,
    pub(in crate::host) events: Events,
    /// Jobs that the session has had.
    pub(in crate::host) jobs: Arc<AtomicU32>,
}

/// Handle on the agents of all pods; clones share them.
#[derive(Clone, Debug)]
pub(in crate::host) struct Pods {
    purpose: Purpose,
    /// The job that the session's link reaches.
    through: Through,
    /// owner --names of the pods, the one that is reached out through first--> driver
    names: watch::Receiver<Vec<String>>,
    names_tx: watch::Sender<Vec<String>>,
    /// host --what to do with connections--> owner
    attached_tx: mpsc::Sender<Attached>,
    attached_rx: Arc<Mutex<Option<mpsc::Receiver<Attached>>>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// The job that the session's link reaches; `None`: no pod has an agent at the moment.
type Through = Arc<Mutex<Option<AgentJob>>>;

/// Who takes the connections of the pods, and who is told when there will be no pod any more.
#[derive(Debug)]
struct Attached {
    network: NetworkHandle,
    ended_tx: mpsc::Sender<Ended>,
}

impl Pods {
    /// Agents that do not exist yet.
    pub(in crate::host) fn new(purpose: Purpose) -> Self {
        let (names_tx, names) = watch::channel(Vec::new());
        let (attached_tx, attached_rx) = mpsc::channel(1);
        Self {
            purpose,
            through: Arc::default(),
            names,
            names_tx,
            attached_tx,
            attached_rx: Arc::new(Mutex::new(Some(attached_rx))),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Starts an agent beside every pod that there is; returns when each has one or cannot have one. One is enough.
    pub(in crate::host) async fn start(&self) -> Result<(), Failure> {
        let again = || Failure::new("the agents can be started only once", KEEP_LOG);
        let attached_rx = self.attached_rx.lock().ok().and_then(|mut once| once.take()).ok_or_else(again)?;
        let (ready_tx, ready_rx) = oneshot::channel();
        let (through, names_tx) = (Arc::clone(&self.through), self.names_tx.clone());
        let owner = Owner::new(self.purpose.clone(), through, names_tx, attached_rx, ready_tx).await?;
        self.tasks.spawn(owner.run(self.stopping.clone()));
        ready_rx.await.unwrap_or_else(|_| Err(Failure::new("the owner of the agents broke down", KEEP_LOG)))
    }

    /// Where the agent listens that the session reaches out through, whichever it is.
    pub(in crate::host) fn endpoint(&self) -> Endpoint {
        let target = self.purpose.session.target.to_string();
        agent_job::endpoint_of_any(&target, Arc::clone(&self.through))
    }

    /// Names of the pods that have an agent, the one that the session reaches out through first.
    pub(in crate::host) fn names(&self) -> watch::Receiver<Vec<String>> {
        self.names.clone()
    }

    /// Lets connections of all pods, also of later ones, come to the network.
    pub(in crate::host) async fn attach(self, network: NetworkHandle, ended_tx: mpsc::Sender<Ended>) {
        // Closed: the session is ending as well.
        drop(self.attached_tx.send(Attached { network, ended_tx }).await);
    }

    /// Ends all agents and removes what they were made of.
    pub(in crate::host) async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        if timeout(AGENT_STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!("not all agents could be removed in time; they end by themselves");
        }
    }
}
