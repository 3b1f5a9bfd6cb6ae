//! Targets in a Kubernetes cluster: the connection to the API, and finding the pods that a target means.
//!
//! Nothing here creates or changes anything in the cluster. The only home of `kube` and `k8s-openapi` beside the agent's pod.

pub mod client;
pub mod error;
pub mod pod;

pub use client::{Cluster, ClusterConfig, connect};
pub use error::ClusterError;
pub use pod::{TargetPod, Which, resolve};
