//! Service meshes: whose proxy takes the traffic of a pod, seen from what the mesh has put into it.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

/// A mesh whose proxy takes the traffic of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mesh {
    /// Istio with a sidecar; an init container sets the redirects.
    Istio,
    /// Istio with a sidecar; its CNI plugin sets the redirects.
    IstioCni,
    /// Istio without sidecars: the node's ztunnel.
    IstioAmbient,
    /// Linkerd.
    Linkerd,
    /// Kuma, Kong Mesh.
    Kuma,
}

impl Mesh {
    /// The mesh of a pod.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let has = |name: &str| all.clone().any(|container| container.name == name);
        let annotation = |name: &str, value: &str| {
            pod.metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .is_some_and(|found| found == value)
        };
        if has("istio-proxy") {
            // Only the CNI variant checks in the pod what the node's plugin has done.
            return Some(if has("istio-validation") { Self::IstioCni } else { Self::Istio });
        }
        if has("linkerd-proxy") {
            return Some(Self::Linkerd);
        }
        if has("kuma-sidecar") {
            return Some(Self::Kuma);
        }
        annotation("ambient.istio.io/redirection", "enabled").then_some(Self::IstioAmbient)
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Istio => "Istio (sidecar)",
            Self::IstioCni => "Istio (sidecar, CNI)",
            Self::IstioAmbient => "Istio (ambient)",
            Self::Linkerd => "Linkerd",
            Self::Kuma => "Kuma",
        })
    }
}
