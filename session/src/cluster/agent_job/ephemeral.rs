//! The agent as an ephemeral container of the target's own pod, for those who may make no pods, or no pods that see a node's processes.
//!
//! It shares the pod's network and the process ids of the target's container, so that it enters nothing and needs no `SYS_ADMIN`. It
//! has no volumes: only an image can bring the agent. Kubernetes knows no way to take it out of the pod again: it ends with its
//! session, and its entry stays, terminated, as long as the pod.

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{AgentJob, AgentJobError, AgentSpec, manifest};
use crate::{cluster::pod::TargetPod, limits::EPHEMERAL_AGENT_PORTS};

impl AgentJob {
    /// Adds the container to the pod. A strategic merge patch appends, so that nothing has to be read before.
    pub(super) async fn join_pod(&self, name: &str) -> Result<(), AgentJobError> {
        let pods: Api<Pod> = self.pods();
        let pod = &self.spec.target.name;
        let container = container(name, &self.spec);
        let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
        let action =
            format!("patch pods/ephemeralcontainers of pod `{pod}` in namespace `{}`", self.namespace);
        let params = PatchParams::default();
        self.cluster.call(action, pods.patch_ephemeral_containers(pod, &params, &patch)).await?;
        Ok(())
    }
}

/// A port for the agent in the network of the pod, where others listen, too: not one that the pod declares, and another one for each
/// agent, so that whoever meets a program that listens there without saying so has luck the next time.
pub(super) fn port(name: &str, target: &TargetPod) -> u16 {
    let declared = |port: &u16| target.containers.iter().any(|container| container.ports.contains(port));
    let (first, count) = EPHEMERAL_AGENT_PORTS;
    let [high, low, ..] = <[u8; 32]>::from(Sha256::digest(name));
    let begin = u16::from_be_bytes([high, low]) % count;
    let ports = (0..count).map(|step| first + (begin + step) % count);
    ports.into_iter().find(|port| !declared(port)).unwrap_or(first)
}

/// The container. What it has not, Kubernetes allows to no ephemeral container: resources, volumes, ports, probes.
fn container(name: &str, spec: &AgentSpec) -> EphemeralContainer {
    let mut capabilities = manifest::capabilities(&spec.config, &spec.options.disabled_capabilities);
    // It is where it has to be already.
    capabilities.retain(|capability| capability != "SYS_ADMIN");
    EphemeralContainer {
        name: name.to_owned(),
        target_container_name: Some(spec.target.container.clone()),
        image: spec.options.image.clone(),
        image_pull_policy: Some(manifest::pull_policy(spec)),
        command: Some(manifest::command(spec, port(name, &spec.target))),
        env: manifest::environment(spec),
        working_dir: Some("/".to_owned()),
        security_context: Some(manifest::security(capabilities)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..EphemeralContainer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::pod::PodContainer;

    fn target(ports: Vec<u16>) -> TargetPod {
        let container = PodContainer { ports, ..PodContainer::default() };
        TargetPod { container: "app".to_owned(), containers: vec![container], ..TargetPod::default() }
    }

    #[test]
    fn the_container_joins_the_targets_and_enters_nothing() {
        let mut spec = AgentSpec { target: target(Vec::new()), ..AgentSpec::default() };
        spec.options.image = Some("x/agent:1".to_owned());
        let container = serde_json::to_value(container("a", &spec)).unwrap();
        assert_eq!(container["targetContainerName"], "app");
        assert_eq!(container["image"], "x/agent:1");
        assert_eq!(container["command"][0], "/mirrord-agent");
        let listen = format!("tcp:127.0.0.1:{}", port("a", &spec.target));
        assert_eq!(container["command"][2], listen);
        let added = &container["securityContext"]["capabilities"]["add"];
        assert_eq!(*added, json!(["SYS_PTRACE", "NET_ADMIN", "NET_RAW", "DAC_READ_SEARCH"]));
        assert!(container.get("resources").is_none() && container.get("volumeMounts").is_none());
    }

    #[test]
    fn a_port_of_the_pod_is_left_to_it() {
        let chosen = port("a", &target(Vec::new()));
        let (first, count) = EPHEMERAL_AGENT_PORTS;
        assert!((first..first + count).contains(&chosen));
        assert_ne!(port("a", &target(vec![chosen])), chosen);
        assert_ne!(port("b", &target(Vec::new())), chosen);
    }
}
