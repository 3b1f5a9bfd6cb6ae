//! A pod as a target: which container of it, where it runs, and whether it can be a target now. Pure: what the API said goes in.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::{Deserialize, Serialize};

use super::{agent_job::MANAGED_BY, error::PodRefused, mesh::Mesh};

/// One container of one running pod: what an agent needs to know about its target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The chosen container.
    pub container: String,
    /// Its id at the runtime, without `containerd://` and the like.
    pub container_id: String,
    /// Image of the container, as the pod names it.
    pub container_image: String,
    /// Node that it runs on.
    pub node: String,
    /// Operating system of the node (`linux`), when it may be read.
    pub node_os: Option<String>,
    /// Architecture of the node as Go names it (`amd64`, `arm64`), when it may be read.
    pub node_arch: Option<String>,
    /// Phase of the pod.
    pub phase: String,
    /// Address of the pod.
    pub ip: String,
    /// When it was created, milliseconds since the epoch.
    pub created_ms: i64,
    /// All its containers are ready.
    pub ready: bool,
    /// It uses the network of its node.
    pub host_network: bool,
    /// The mesh whose proxy takes its traffic.
    pub mesh: Option<Mesh>,
    /// All containers that run side by side, sidecars included.
    pub containers: Vec<PodContainer>,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodContainer {
    /// Name.
    pub name: String,
    /// Image, as the pod names it.
    pub image: String,
    /// Whether its readiness probe, if any, succeeds.
    pub ready: bool,
    /// Ports that it declares.
    pub ports: Vec<u16>,
    /// Ports that the kubelet probes over the network.
    pub probes: Vec<PortProbe>,
}

/// A probe of the kubelet that dials the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortProbe {
    /// `liveness`, `readiness` or `startup`.
    pub kind: String,
    /// Port that is dialled.
    pub port: u16,
    /// `GET /path`, `tcp` or `grpc`.
    pub how: String,
}

/// Why a pod cannot be a target now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not running.
    Phase(String),
    /// It is being deleted.
    Deleted,
    /// It was made by a session for its agent.
    Agent,
    /// It has no such container.
    NoContainer {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The container does not run.
    Container {
        /// Its name.
        name: String,
        /// State and reason.
        state: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => write!(f, "it is {phase} and not Running"),
            Self::Deleted => f.write_str("it is being deleted"),
            Self::Agent => f.write_str("it is the agent of a session"),
            Self::NoContainer { wanted, .. } => write!(f, "it has no container `{wanted}`"),
            Self::Container { name, state } => write!(f, "its container `{name}` is {state} and not running"),
        }
    }
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoContainer { known, .. } => format!("it has {}", known.join(", ")),
            Self::Deleted => {
                "take its successor; a target like deployment/NAME finds it by itself".to_owned()
            }
            Self::Agent => "take the pod beside which it runs".to_owned(),
            Self::Phase(_) | Self::Container { .. } => "`kubectl describe pod` says why".to_owned(),
        }
    }
}

/// What makes the pod a target, or why it is none.
pub(crate) fn target_pod(pod: &Pod, wanted: Option<&str>) -> Result<TargetPod, PodRefused> {
    let meta = &pod.metadata;
    let (namespace, name) =
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let refused = |why| PodRefused { namespace: namespace.clone(), name: name.clone(), why };
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_else(|| "Unknown".to_owned());
    if is_agent(pod) {
        return Err(refused(Refusal::Agent));
    }
    if meta.deletion_timestamp.is_some() {
        return Err(refused(Refusal::Deleted));
    }
    if phase != "Running" {
        return Err(refused(Refusal::Phase(phase)));
    }
    let container = choose_container(pod, wanted).map_err(refused)?;
    let statuses: Vec<&ContainerStatus> =
        status.container_statuses.iter().chain(&status.init_container_statuses).flatten().collect();
    let state = statuses.iter().find(|status| status.name == container.name);
    let container_id = match state {
        Some(status) => {
            running_id(status).map_err(|state| Refusal::Container { name: container.name.clone(), state })
        }
        None => Err(Refusal::Container { name: container.name.clone(), state: "not created".to_owned() }),
    };
    let container_id = container_id.map_err(refused)?;
    let ready = |name: &str| statuses.iter().any(|status| status.name == name && status.ready);
    Ok(TargetPod {
        uid: meta.uid.clone().unwrap_or_default(),
        container: container.name.clone(),
        container_id,
        container_image: container.image.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        node_os: None,
        node_arch: None,
        phase,
        ip: status.pod_ip.clone().unwrap_or_default(),
        created_ms: created_ms(pod),
        ready: pod.spec.iter().flat_map(|spec| &spec.containers).all(|container| ready(&container.name)),
        host_network: pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false),
        mesh: Mesh::of(pod),
        containers: long_running(pod)
            .map(|container| pod_container(container, ready(&container.name)))
            .collect(),
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: meta.annotations.clone().unwrap_or_default(),
        namespace,
        name,
    })
}

/// When the pod was created, milliseconds since the epoch; 0 when it does not say.
pub(crate) fn created_ms(pod: &Pod) -> i64 {
    pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond())
}

/// Whether the pod is an agent of a session, of whomever.
pub(crate) fn is_agent(pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY.0));
    label.is_some_and(|value| value == MANAGED_BY.1)
}

fn pod_container(container: &Container, ready: bool) -> PodContainer {
    let ports = container.ports.iter().flatten().filter_map(|port| u16::try_from(port.container_port).ok());
    PodContainer {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        ready,
        ports: ports.collect(),
        probes: probes(container),
    }
}

fn probes(container: &Container) -> Vec<PortProbe> {
    let named = |name: &str| {
        let port = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
        port.map(|port| port.container_port)
    };
    let number = |port: &IntOrString| match port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(name) => name.parse().ok().or_else(|| named(name)),
    };
    let dialled = |probe: &Probe| {
        if let Some(http) = &probe.http_get {
            return Some((number(&http.port)?, format!("GET {}", http.path.as_deref().unwrap_or("/"))));
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Some((number(&tcp.port)?, "tcp".to_owned()));
        }
        Some((probe.grpc.as_ref()?.port, "grpc".to_owned()))
    };
    let all = [
        ("liveness", &container.liveness_probe),
        ("readiness", &container.readiness_probe),
        ("startup", &container.startup_probe),
    ];
    let found = all.into_iter().filter_map(|(kind, probe)| {
        let (port, how) = dialled(probe.as_ref()?)?;
        Some(PortProbe { kind: kind.to_owned(), port: u16::try_from(port).ok()?, how })
    });
    found.collect()
}

/// The id without the runtime's name, or the state that the container is in instead of running.
fn running_id(status: &ContainerStatus) -> Result<String, String> {
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        let id = status.container_id.as_deref().unwrap_or_default();
        return Ok(id.rsplit_once("://").map_or(id, |(_, id)| id).to_owned());
    }
    let described = |state: &str, reason: Option<String>| match reason {
        Some(reason) => format!("{state} ({reason})"),
        None => state.to_owned(),
    };
    Err(match (state.waiting, state.terminated) {
        (Some(waiting), _) => described("waiting", waiting.reason),
        (None, Some(ended)) => described("terminated", ended.reason),
        (None, None) => "not started".to_owned(),
    })
}

/// Containers that run as long as the pod: its containers, and init containers that are restarted (sidecars).
fn long_running(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().filter(sidecar);
    spec.map(|spec| spec.containers.iter()).into_iter().flatten().chain(sidecars)
}

/// The named container, else mirrord's choice: the one that kubectl takes by annotation, else the first that is no helper of a mesh
/// or of a secret store.
fn choose_container<'a>(pod: &'a Pod, wanted: Option<&str>) -> Result<&'a Container, Refusal> {
    const ANNOTATION: &str = "kubectl.kubernetes.io/default-container";
    let known = || long_running(pod).map(|container| container.name.clone()).collect();
    let named = |name: &str| long_running(pod).find(|container| container.name == name);
    if let Some(wanted) = wanted {
        return named(wanted)
            .ok_or_else(|| Refusal::NoContainer { wanted: wanted.to_owned(), known: known() });
    }
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    let containers = || pod.spec.iter().flat_map(|spec| &spec.containers);
    annotated
        .and_then(|name| named(name))
        .or_else(|| containers().find(|container| !is_helper(&container.name)))
        .or_else(|| containers().next())
        .ok_or_else(|| Refusal::NoContainer { wanted: "any".to_owned(), known: known() })
}

/// Containers that meshes and secret stores put into pods of others.
fn is_helper(name: &str) -> bool {
    const NAMES: [&str; 4] = ["istio-proxy", "istio-init", "queue-proxy", "traffic-agent"];
    const PREFIXES: [&str; 3] = ["linkerd-", "kuma-", "vault-agent"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
