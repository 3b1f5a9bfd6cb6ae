//! What a namespace, or a whole cluster, has to offer as targets: pods, and the workloads and services that stand for them.
//!
//! All of it comes from pods (and services, where they may be listed). Pure but for [`list`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{Api, api::ListParams};
use serde::Serialize;

use super::{
    client::Cluster,
    error::ClusterError,
    mesh::Mesh,
    pod::{Refusal, created_ms, is_agent, target_pod},
    workload::{self, Workload},
};
use crate::limits::{CLUSTER_PAGE, CLUSTER_PODS};

/// One target of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterTarget {
    /// As `exec -t` takes it: `deployment/api`.
    pub target: String,
    /// `deployment`, `pod`, ...
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Ready pods of a workload, ready containers of a pod.
    pub ready: usize,
    /// Pods of a workload, containers of a pod.
    pub total: usize,
    /// `Running`, `CrashLoopBackOff`, ...
    pub status: String,
    /// Why it cannot be a target now; empty when it can.
    pub unfit: String,
    /// Restarts of all its containers.
    pub restarts: u32,
    /// When it, or its oldest pod, was created; milliseconds since the epoch, 0 when unknown.
    pub created_ms: i64,
    /// Declared ports.
    pub ports: Vec<u16>,
    /// Containers, the one that would be chosen first.
    pub containers: Vec<String>,
    /// Node of a pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Address of a pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Mesh whose proxy takes the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Mesh>,
}

/// Where targets are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One namespace.
    Namespace(String),
    /// All of them; needs the right to list pods in all.
    All,
}

/// What is remembered of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    target: ClusterTarget,
    workloads: Vec<Workload>,
    labels: BTreeMap<String, String>,
}

/// What is remembered of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    namespace: String,
    name: String,
    selector: BTreeMap<String, String>,
}

/// Lists the targets once, workloads before their pods.
///
/// # Errors
/// When pods may not be listed or the API server does not answer.
pub async fn list(cluster: &Cluster, scope: &Scope) -> Result<Vec<ClusterTarget>, ClusterError> {
    let (pods, services) = tokio::join!(list_pods(cluster, scope), list_services(cluster, scope));
    Ok(targets(&pods?.iter().collect::<Vec<_>>(), &services))
}

/// Names of the namespaces, in order; the first [`CLUSTER_PAGE`] where there are more.
///
/// # Errors
/// When they may not be listed, which many users may not, or the API server does not answer.
pub async fn namespaces(cluster: &Cluster) -> Result<Vec<String>, ClusterError> {
    let all: Api<Namespace> = Api::all(cluster.client.clone());
    let page = ListParams::default().limit(CLUSTER_PAGE);
    let listed = cluster.call("list namespaces", all.list_metadata(&page)).await?;
    let mut names: Vec<String> = listed.items.into_iter().filter_map(|item| item.metadata.name).collect();
    names.sort_unstable();
    Ok(names)
}

async fn list_pods(cluster: &Cluster, scope: &Scope) -> Result<Vec<PodFacts>, ClusterError> {
    let pods: Api<Pod> = scope.api(cluster);
    let mut page = ListParams::default().limit(CLUSTER_PAGE);
    let mut found = Vec::new();
    loop {
        let listed = cluster.call(scope.action("list pods"), pods.list(&page)).await?;
        found.extend(listed.items.iter().filter_map(PodFacts::of));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if found.len() < CLUSTER_PODS => page = page.continue_token(&token),
            Some(_) | None => return Ok(found),
        }
    }
}

/// Services are a convenience: without the right to list them there are none.
async fn list_services(cluster: &Cluster, scope: &Scope) -> Vec<ServiceFacts> {
    let services: Api<Service> = scope.api(cluster);
    let page = ListParams::default().limit(CLUSTER_PAGE);
    match cluster.call(scope.action("list services"), services.list(&page)).await {
        Ok(listed) => listed.items.iter().filter_map(ServiceFacts::of).collect(),
        Err(error) => {
            tracing::info!(%error, "there are no services in the list");
            Vec::new()
        }
    }
}

impl Scope {
    /// The API of a kind in this scope.
    pub(crate) fn api<K>(&self, cluster: &Cluster) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::Namespace(namespace) => Api::namespaced(cluster.client.clone(), namespace),
            Self::All => Api::all(cluster.client.clone()),
        }
    }

    /// What is done, with where.
    pub(crate) fn action(&self, what: &str) -> String {
        match self {
            Self::Namespace(namespace) => format!("{what} in namespace `{namespace}`"),
            Self::All => format!("{what} in all namespaces"),
        }
    }
}

impl PodFacts {
    /// What is worth remembering; nothing of pods that have ended for good, and of agents.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        if is_agent(pod) || phase == "Succeeded" || phase == "Failed" {
            return None;
        }
        let meta = &pod.metadata;
        let name = meta.name.clone()?;
        let mut target = ClusterTarget {
            target: format!("pod/{name}"),
            kind: "pod".to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            status: phase,
            created_ms: created_ms(pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            ip: status.pod_ip.unwrap_or_default(),
            mesh: Mesh::of(pod),
            name,
            ..ClusterTarget::default()
        };
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        target.containers = containers.clone().map(|container| container.name.clone()).collect();
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        target.ports = ports.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
        let states = status.container_statuses.unwrap_or_default();
        target.total = target.containers.len();
        target.ready = states.iter().filter(|state| state.ready).count();
        target.restarts = states.iter().filter_map(|state| u32::try_from(state.restart_count).ok()).sum();
        match target_pod(pod, None) {
            Ok(chosen) => target.containers.sort_by_key(|name| *name != chosen.container),
            Err(refused) => {
                if let Refusal::Container { state, .. } = &refused.why {
                    target.status.clone_from(state);
                }
                target.unfit = refused.why.to_string();
            }
        }
        if meta.deletion_timestamp.is_some() {
            "Terminating".clone_into(&mut target.status);
        }
        Some(Self { target, workloads: workload::of(pod), labels: meta.labels.clone().unwrap_or_default() })
    }
}

impl ServiceFacts {
    /// What is worth remembering; nothing of services without a selector.
    pub(crate) fn of(service: &Service) -> Option<Self> {
        let selector = service.spec.as_ref()?.selector.clone().filter(|selector| !selector.is_empty())?;
        Some(Self {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone()?,
            selector,
        })
    }
}

/// All targets, sorted: by namespace, kind and name.
pub(crate) fn targets<'a>(
    pods: &[&'a PodFacts],
    services: impl IntoIterator<Item = &'a ServiceFacts>,
) -> Vec<ClusterTarget> {
    let mut groups: BTreeMap<(&str, usize, &str), Vec<&ClusterTarget>> = BTreeMap::new();
    for pod in pods {
        // The outermost workload stands for those within.
        if let Some(workload) = pod.workloads.last() {
            let key = (pod.target.namespace.as_str(), rank(workload.kind), workload.name.as_str());
            groups.entry(key).or_default().push(&pod.target);
        }
        let key = (pod.target.namespace.as_str(), rank("pod"), pod.target.name.as_str());
        groups.entry(key).or_default().push(&pod.target);
    }
    for service in services {
        let selected = |pod: &&PodFacts| {
            pod.target.namespace == service.namespace
                && service.selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value))
        };
        let members: Vec<_> = pods.iter().copied().filter(selected).map(|pod| &pod.target).collect();
        if !members.is_empty() {
            groups.insert((&service.namespace, rank("service"), &service.name), members);
        }
    }
    let built = groups.into_iter().filter_map(|((_, rank, name), pods)| match KINDS.get(rank)? {
        &"pod" => pods.first().map(|pod| (*pod).clone()),
        kind => Some(group(kind, name, &pods)),
    });
    built.collect()
}

/// Kinds in the order of the list, as mirrord has it.
const KINDS: [&str; 9] =
    ["deployment", "rollout", "statefulset", "daemonset", "cronjob", "job", "replicaset", "service", "pod"];

fn rank(kind: &str) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len())
}

/// A workload or service, out of its pods.
fn group(kind: &str, name: &str, pods: &[&ClusterTarget]) -> ClusterTarget {
    let fit = pods.iter().find(|pod| pod.unfit.is_empty());
    let typical = fit.or_else(|| pods.first()).copied().cloned().unwrap_or_default();
    let ports: BTreeSet<u16> = pods.iter().flat_map(|pod| &pod.ports).copied().collect();
    ClusterTarget {
        target: format!("{kind}/{name}"),
        kind: kind.to_owned(),
        name: name.to_owned(),
        ready: pods.iter().filter(|pod| pod.unfit.is_empty() && pod.ready == pod.total).count(),
        total: pods.len(),
        restarts: pods.iter().map(|pod| pod.restarts).sum(),
        created_ms: pods.iter().map(|pod| pod.created_ms).min().unwrap_or(0),
        ports: ports.into_iter().collect(),
        unfit: if fit.is_some() {
            String::new()
        } else {
            format!("of its pod {}, {}", typical.name, typical.unfit)
        },
        node: String::new(),
        ip: String::new(),
        ..typical
    }
}
