//! What can go wrong with a cluster, in the user's words: one sentence, its causes, and what to do about it.

use std::{error::Error, fmt, path::PathBuf, time::Duration};

use kube::config::{InClusterError, KubeconfigError};
use thiserror::Error;

use super::{pod::Refusal, preflight::Finding};

/// Why something in a cluster cannot be had.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// There is no kubeconfig, and this is no pod.
    #[error("there is no kubeconfig: no {}, and this is not a pod of a cluster", list(looked))]
    NoKubeconfig {
        /// Files that were looked for.
        looked: Vec<PathBuf>,
        /// What is missing for being a pod.
        source: Box<InClusterError>,
    },
    /// The kubeconfig means nothing.
    #[error("the kubeconfig {} cannot be used", list(files))]
    Kubeconfig {
        /// The files it is made of.
        files: Vec<PathBuf>,
        /// What is wrong.
        source: Box<KubeconfigError>,
    },
    /// No context is chosen.
    #[error("the kubeconfig {} has no current context", list(files))]
    NoContext {
        /// The files it is made of.
        files: Vec<PathBuf>,
        /// Contexts that there are.
        known: Vec<String>,
    },
    /// The named context does not exist.
    #[error("there is no context `{context}` in the kubeconfig {}", list(files))]
    UnknownContext {
        /// The files it is made of.
        files: Vec<PathBuf>,
        /// What was named.
        context: String,
        /// Contexts that there are.
        known: Vec<String>,
    },
    /// No client can be made of the settings.
    #[error("no connection can be prepared for context `{context}`")]
    Prepare {
        /// The context.
        context: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The program that gives the credentials failed.
    #[error("`{command}` of context `{context}` gives no credentials")]
    Credentials {
        /// The context.
        context: String,
        /// The program.
        command: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing came in time.
    #[error("{} did not {action} within {} s", subject(server), limit.as_secs())]
    Deadline {
        /// What was waited for, as in "did not ...".
        action: String,
        /// The API server, or the program.
        server: String,
        /// How long.
        limit: Duration,
    },
    /// The API server cannot be reached.
    #[error("the API server {server} cannot be reached to {action}")]
    Unreachable {
        /// What was to be done.
        action: String,
        /// The API server.
        server: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The credentials are not accepted.
    #[error("the API server {server} does not accept the credentials of context `{context}`")]
    Unauthorized {
        /// The API server.
        server: String,
        /// The context.
        context: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A right is missing.
    #[error("the user of context `{context}` may not {action}")]
    Forbidden {
        /// What was to be done.
        action: String,
        /// The context.
        context: String,
        /// What the API server said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The object does not exist.
    #[error("there is no {kind} `{name}` in namespace `{namespace}` of context `{context}`")]
    NotFound {
        /// Kind, in lower case.
        kind: String,
        /// Name.
        name: String,
        /// Where it was looked for.
        namespace: String,
        /// The context.
        context: String,
    },
    /// The target's kind or selector means nothing here.
    #[error("`{target}` cannot be a target: {reason}")]
    Target {
        /// The target as written.
        target: String,
        /// Why.
        reason: String,
    },
    /// The object exists but has no pod that could be a target.
    #[error("{target} in namespace `{namespace}` has no pod that could be a target")]
    NoPod {
        /// The target as written.
        target: String,
        /// Its namespace.
        namespace: String,
        /// Why its pods cannot be; empty when there are none.
        refused: Vec<PodRefused>,
    },
    /// The pod cannot be a target now.
    #[error("{0}")]
    Pod(PodRefused),
    /// A session with the target cannot work.
    #[error("no session with {target} can be: {}", refusals.iter().map(|finding| finding.detail.as_str()).collect::<Vec<_>>().join("; "))]
    Preflight {
        /// Pod and container.
        target: String,
        /// Why.
        refusals: Vec<Finding>,
    },
    /// Anything else that the API server answers.
    #[error("the API server {server} did not {action}")]
    Api {
        /// What was to be done.
        action: String,
        /// The API server.
        server: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A pod that cannot be a target, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRefused {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub why: Refusal,
}

impl fmt::Display for PodRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod `{}/{}` cannot be a target: {}", self.namespace, self.name, self.why)
    }
}

impl ClusterError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoKubeconfig { .. } => {
                "point KUBECONFIG or --kubeconfig at one; targets on this machine (local/NAME, pid/N) need none".to_owned()
            }
            Self::Kubeconfig { .. } => "`kubectl config view` shows what is in it".to_owned(),
            Self::NoContext { known, .. } | Self::UnknownContext { known, .. } if known.is_empty() => {
                "it has no contexts at all: is it the right file?".to_owned()
            }
            Self::NoContext { known, .. } | Self::UnknownContext { known, .. } => {
                format!("name one with --context: {}", known.join(", "))
            }
            Self::Prepare { .. } => "`kubectl cluster-info` tells whether the kubeconfig works elsewhere".to_owned(),
            Self::Credentials { command, .. } => {
                format!("run `{command}` by hand, or `kubectl get pods`: it must be installed and logged in")
            }
            Self::Deadline { .. } => {
                "is the network (VPN) up? `kubectl get --raw /readyz` asks the API server the same way".to_owned()
            }
            Self::Unreachable { source, .. } if is_certificate(source.as_ref()) => {
                "the server's certificate is not trusted: set certificate-authority in the kubeconfig, or --accept-invalid-certificates for a cluster whose network you trust"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                "is the cluster up, and the network (VPN)? `kubectl get --raw /readyz` asks the same; --context names another cluster".to_owned()
            }
            Self::Unauthorized { .. } => "log in again: the token or certificate may have expired".to_owned(),
            Self::Forbidden { action, .. } if action.ends_with("in all namespaces") => {
                "name one namespace with -n".to_owned()
            }
            Self::Forbidden { .. } => {
                "`mirrord-tui doctor -t TARGET` prints the RBAC rules that are missing".to_owned()
            }
            Self::NotFound { namespace, .. } => {
                format!("`mirrord-tui ls -n {namespace}` lists what there is; -n names another namespace, --context another cluster")
            }
            Self::Target { .. } => "`mirrord-tui ls` lists targets as they are written".to_owned(),
            Self::NoPod { refused, .. } if refused.is_empty() => "it has no pods: is it scaled to zero?".to_owned(),
            Self::NoPod { refused, .. } => {
                refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Self::Pod(refused) => refused.why.hint(),
            Self::Preflight { refusals, .. } => {
                let hints: Vec<&str> = refusals.iter().map(|finding| finding.hint.as_str()).collect();
                hints.join("\n")
            }
            Self::Api { .. } => String::new(),
        }
    }

    /// The API server does not know the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// A right is missing.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}

/// TLS errors have no type of their own in the chain; rustls names what it dislikes.
fn is_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("certificate") {
            return true;
        }
        next = error.source();
    }
    false
}

fn subject(server: &str) -> String {
    if server.starts_with("http") { format!("the API server {server}") } else { server.to_owned() }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}
