//! The agent in a cluster: a Job with one pod on the target's node, and ConfigMaps with the agent in them, which the Job owns. Or, when
//! that is wanted, an ephemeral container of the target's pod (`ephemeral`), which nobody can remove.
//!
//! ```text
//! POST Job ─▶ POST ConfigMaps (owned by it) ─▶ its pod appears ─▶ port-forward until the agent answers ─▶ Running
//! DELETE Job with propagation: garbage collection takes pod and ConfigMaps along
//! ```
//! Without a delete the agent ends by itself when its client has gone, and the Job's time to live removes the rest.

mod cleanup;
mod deploy;
mod ephemeral;
mod manifest;
mod options;
mod pod_state;
mod program;

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::{Timestamp, Unit},
};
use kube::{
    Api,
    api::{Patch, PatchParams, WatchParams},
};
use serde_json::json;
use thiserror::Error;

pub use self::{
    cleanup::{LeftBehind, left_behind, remove, session_of},
    manifest::{MANAGED_BY, OWNER, SINCE, STEAL_PORTS, TARGET_LABEL},
    options::{AgentOptions, AgentOptionsError, Form},
};
use super::{client::Cluster, error::ClusterError, pod::TargetPod, port_forward};
use crate::{
    agent_link::{Connector, Endpoint},
    config::Config,
};

/// State of a job of which nobody has seen a pod.
const NO_POD: &str = "no pod has been made for it";

/// What an agent is started with.
#[derive(Clone, Debug, Default)]
pub struct AgentSpec {
    /// The session, for the job's name.
    pub session: String,
    /// Whom it serves.
    pub target: TargetPod,
    /// How it runs.
    pub options: AgentOptions,
    /// What the session wants of it.
    pub config: Config,
    /// SHA-256 of the session's token, in hexadecimal.
    pub token_hash: String,
    /// Who starts it, user@host.
    pub owner: String,
    /// Since when there is the session, as the API server writes times.
    pub since: String,
    /// How much the agent logs; `None`: its default.
    pub log_level: Option<String>,
}

/// Why there is no agent.
#[derive(Debug, Error)]
pub enum AgentJobError {
    /// The API server refused something or is away.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The Job may not make its pod.
    #[error("the cluster makes no pod for the agent (job `{job}` in namespace `{namespace}`): {reason}")]
    NoPod {
        /// The job.
        job: String,
        /// Where.
        namespace: String,
        /// What the job controller said.
        reason: String,
    },
    /// The pod cannot run or has ended.
    #[error("the agent cannot run in pod `{pod}` on node `{node}`: {reason}")]
    Pod {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
        /// What the kubelet said.
        reason: String,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {seconds} s: {state}")]
    Late {
        /// How long we waited.
        seconds: u64,
        /// What was seen last.
        state: String,
    },
}

impl AgentJobError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Cluster(error) => error.hint(),
            Self::NoPod { reason, .. } if reason.contains("PodSecurity") => {
                "the agent needs hostPID and capabilities: choose a namespace where pod security is `privileged` with `agent.namespace`"
                    .to_owned()
            }
            Self::NoPod { reason, .. } if reason.contains("exceeded quota") => {
                "ask for less with `agent.resources`, or choose another namespace with `agent.namespace`".to_owned()
            }
            Self::NoPod { .. } => "`kubectl describe job` says more".to_owned(),
            Self::Pod { reason, .. } if !hint_after(reason).is_empty() => hint_after(reason).to_owned(),
            // Of an ephemeral container only: the loopback of another pod is the agent's alone.
            Self::Pod { reason, .. } if reason.contains("Address already in use") => {
                "a program of the pod has the port that was chosen: start again, and another one is".to_owned()
            }
            Self::Pod { reason, .. } if reason.contains("mage") => {
                "check `agent.image`, `agent.image_pull_policy` and `agent.image_pull_secrets`".to_owned()
            }
            Self::Pod { reason, .. } if reason.starts_with("OutOf") || reason.contains("Insufficient") => {
                "the node is full: ask for less with `agent.resources`".to_owned()
            }
            Self::Late { state, .. } if state == NO_POD => {
                "pod security, a quota or an admission webhook of the namespace may refuse it: `kubectl describe job` says which; another namespace can be named with `agent.namespace`"
                    .to_owned()
            }
            Self::Pod { .. } | Self::Late { .. } => {
                "`agent.startup_timeout` gives it longer; `kubectl describe pod` and `kubectl logs` say more".to_owned()
            }
        }
    }
}

/// What to do about an agent that has ended under its session, by what was seen of its end; empty when that tells nothing.
#[must_use]
pub fn hint_after(end: &str) -> &'static str {
    if end.contains("OOMKilled") { "give it more memory with `agent.resources`" } else { "" }
}

/// The agent's job, or its ephemeral container. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct AgentJob {
    cluster: Cluster,
    namespace: String,
    name: String,
    spec: Arc<AgentSpec>,
    /// Name of its pod, once it is known.
    pod: Arc<Mutex<Option<String>>>,
}

impl AgentJob {
    /// A job that does not exist yet; `number` tells those of one session apart.
    #[must_use]
    pub fn new(cluster: Cluster, spec: AgentSpec, number: u32) -> Self {
        let ephemeral = spec.options.form() == Form::Ephemeral;
        let elsewhere = spec.options.namespace.clone().filter(|_| !ephemeral);
        let namespace = elsewhere.unwrap_or_else(|| spec.target.namespace.clone());
        let name = format!("mirrord-tui-{}-{number}", spec.session);
        let pod = ephemeral.then(|| spec.target.name.clone());
        Self { cluster, namespace, name, spec: Arc::new(spec), pod: Arc::new(Mutex::new(pod)) }
    }

    /// Namespace and name of the job.
    #[must_use]
    pub fn name(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// Name of the ephemeral container, when the agent is one.
    fn ephemeral(&self) -> Option<&str> {
        (self.spec.options.form() == Form::Ephemeral).then_some(&self.name)
    }

    /// Port of the agent on the loopback of its pod.
    fn port(&self) -> u16 {
        self.ephemeral().map_or(manifest::PORT, |name| ephemeral::port(name, &self.spec.target))
    }

    /// What it is, in words.
    fn described(&self) -> String {
        let Self { namespace, name, spec, .. } = self;
        let context = &self.cluster.context;
        match self.ephemeral() {
            Some(_) => {
                format!("container {name} of pod/{} in namespace {namespace} of {context}", spec.target.name)
            }
            None => format!("job/{name} in namespace {namespace} of {context}"),
        }
    }

    /// The agent's pod, once it is known.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a stream to the agent.
    ///
    /// # Errors
    /// When its pod is not known yet or nobody listens there.
    pub(crate) async fn connect(&self) -> std::io::Result<Box<dyn crate::agent_link::Transport>> {
        let pod = self.pod().ok_or(std::io::ErrorKind::NotConnected)?;
        port_forward::open(&self.cluster.client, &self.namespace, &pod, self.port())
            .await
            .map_err(std::io::Error::other)
    }

    /// Removes the job and all that it owns; the API server is told, and nobody waits for the kubelet. An ephemeral container cannot be
    /// removed: it ends when its session tells it to, or when its client has been gone for the idle timeout.
    ///
    /// # Errors
    /// When the API server does not do it. A job that is gone already is none.
    pub async fn delete(&self) -> Result<(), ClusterError> {
        match self.ephemeral() {
            Some(_) => Ok(()),
            None => remove(&self.cluster, &self.namespace, &self.name).await,
        }
    }

    /// What the session steals from the start, as [`STEAL_PORTS`] has it.
    #[must_use]
    pub fn stolen_at_start(&self) -> String {
        manifest::stolen(&self.spec.config)
    }

    /// Tells others what the session steals now; an ephemeral container has no place for that.
    ///
    /// # Errors
    /// When the API server does not take it; the right to patch jobs is not needed for a session.
    pub async fn tell_stolen(&self, ports: &str) -> Result<(), ClusterError> {
        if self.ephemeral().is_some() {
            return Ok(());
        }
        let jobs: Api<Job> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { STEAL_PORTS: ports } } }));
        let action = format!("patch jobs in namespace `{}`", self.namespace);
        let params = PatchParams::default();
        self.cluster.call(action, jobs.patch(&self.name, &params, &patch)).await.map(drop)
    }

    fn set_pod(&self, name: &str) {
        *self.pod.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    fn events(&self) -> Api<Event> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Which pod is watched: the one that the job makes, or the target's.
    fn watched(&self) -> WatchParams {
        match self.ephemeral() {
            Some(_) => WatchParams::default().fields(&format!("metadata.name={}", self.spec.target.name)),
            None => WatchParams::default().labels(&format!("{}={}", manifest::JOB_LABEL, self.name)),
        }
    }
}

/// Where the agent listens: the pod of whichever job `current` names when the link opens a connection.
#[must_use]
pub fn endpoint(current: Arc<Mutex<AgentJob>>) -> Endpoint {
    let job = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let name = job.described();
    let connector: Connector = Arc::new(move || {
        let job = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move { job.connect().await })
    });
    Endpoint::Connector(name, connector)
}

/// Where the agents of several pods listen: the connections go to whichever one `current` names, if any.
#[must_use]
pub fn endpoint_of_any(target: &str, current: Arc<Mutex<Option<AgentJob>>>) -> Endpoint {
    let connector: Connector = Arc::new(move || {
        let job = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let none =
                || std::io::Error::new(std::io::ErrorKind::NotConnected, "no pod has an agent at the moment");
            job.ok_or_else(none)?.connect().await
        })
    });
    Endpoint::Connector(format!("the pods of {target}"), connector)
}

/// Who this process works for, as annotations tell it: user@host.
#[must_use]
pub fn owner_of_this_process() -> String {
    let name = ["USER", "LOGNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    let user = name.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let machine = rustix::system::uname();
    format!("{user}@{}", machine.nodename().to_string_lossy())
}

/// The time as the API server writes it.
#[must_use]
pub fn now() -> String {
    Timestamp::now().round(Unit::Second).unwrap_or_default().to_string()
}

/// An owner of the given uid; it does not keep its owner from being deleted.
fn owner(job: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: job.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}
