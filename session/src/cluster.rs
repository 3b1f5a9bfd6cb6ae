//! Targets in a Kubernetes cluster: the connection to the API, and finding the pods that a target means.
//!
//! Only `agent_job` creates and removes things in the cluster, and only the agent's own. The only home of `kube` and `k8s-openapi`.

pub mod agent_job;
pub mod client;
pub mod error;
#[cfg(test)]
mod fake;
pub mod members;
mod mesh;
pub mod pod;
pub(crate) mod port_forward;
pub mod preflight;
mod proxy;
pub mod resolve;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod watch;
mod workload;

pub use client::{Cluster, ClusterConfig, connect, connect_quietly, contexts};
pub use error::ClusterError;
pub use members::{Member, Members};
pub use mesh::Mesh;
pub use pod::TargetPod;
pub use resolve::{Which, resolve};
pub use targets::{ClusterTarget, Scope, list, namespaces};
pub use watch::{Place, Seen, Watching, watch};
