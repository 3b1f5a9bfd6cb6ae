//! From a target as the user writes it to the pods that it means.
//!
//! Reading the workload gives its selector; where that is forbidden, all pods of the namespace are listed and asked for their
//! workloads, so that the right to list pods is enough.

use std::collections::HashMap;

use futures_util::future::join_all;
use k8s_openapi::{
    api::core::v1::{Node, Pod, Service},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
    core::Selector,
};

use super::{
    client::Cluster,
    error::ClusterError,
    pod::{Refusal, TargetPod, target_pod},
    workload::{self, Workload},
};
use crate::{
    limits::{CLUSTER_PAGE, CLUSTER_PODS},
    target::Target,
};

/// How many pods of a workload are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The best one: ready, and the oldest of those.
    One,
    /// All that can be a target.
    All,
}

/// Finds the pods that a target means, those that can be targets, best first; never empty.
///
/// # Errors
/// When the target does not exist or has no pod that could be a target, and when the API server does not answer.
pub async fn resolve(
    cluster: &Cluster,
    target: &Target,
    which: Which,
) -> Result<Vec<TargetPod>, ClusterError> {
    let Target::Cluster { kind, name, container } = target else {
        return Err(not_a_target(target, "it is on this machine and not in a cluster"));
    };
    let pods = match kind.as_str() {
        "pod" => vec![pod(cluster, name).await?],
        _ => pods_of(cluster, target, kind, name).await?,
    };
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for pod in &pods {
        match target_pod(pod, container.as_deref()) {
            Ok(pod) => found.push(pod),
            Err(why) if why.why == Refusal::Agent && kind != "pod" => {}
            Err(why) => refused.push(why),
        }
    }
    if found.is_empty() {
        return Err(match (kind.as_str(), refused.pop()) {
            ("pod", Some(refused)) => ClusterError::Pod(refused),
            (_, last) => {
                refused.extend(last);
                ClusterError::NoPod {
                    target: target.to_string(),
                    namespace: cluster.namespace.clone(),
                    refused,
                }
            }
        });
    }
    found.sort_by(|a, b| (!a.ready, a.created_ms, &a.name).cmp(&(!b.ready, b.created_ms, &b.name)));
    if which == Which::One {
        found.truncate(1);
    }
    node_facts(cluster, &mut found).await;
    Ok(found)
}

/// One pod by its name. Whoever may not get it may still be allowed to list.
async fn pod(cluster: &Cluster, name: &str) -> Result<Pod, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let action = format!("read pod `{name}` in namespace `{}`", cluster.namespace);
    let found = match cluster.call(&action, pods.get_opt(name)).await {
        Err(forbidden) if forbidden.is_forbidden() => {
            let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
            // The first answer names the right that is asked for.
            let listed = cluster.call(&action, pods.list(&by_name)).await.map_err(|_| forbidden)?;
            listed.items.into_iter().next()
        }
        other => other?,
    };
    found.ok_or_else(|| not_found(cluster, "pod", name))
}

/// The pods of a workload, a service or a selector.
async fn pods_of(
    cluster: &Cluster,
    target: &Target,
    kind: &str,
    name: &str,
) -> Result<Vec<Pod>, ClusterError> {
    let members = membership(cluster, target, kind, name).await?;
    let all = list(cluster, &members.selector).await?;
    Ok(all.into_iter().filter(|pod| members.has(pod)).collect())
}

/// Which pods a target means, as far as their own labels and owners tell.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// Labels that all of them have; empty: any.
    pub(super) selector: String,
    belongs: Belongs,
}

#[derive(Clone, Debug)]
enum Belongs {
    /// The selector says it all.
    Selected,
    /// Selectors of different workloads may overlap by mistake; the owner decides.
    Workload {
        kind: String,
        name: String,
    },
    Name(String),
}

impl Membership {
    /// Whether the pod, which has the labels, is meant.
    pub(super) fn has(&self, pod: &Pod) -> bool {
        match &self.belongs {
            Belongs::Selected => true,
            Belongs::Name(name) => pod.metadata.name.as_ref() == Some(name),
            Belongs::Workload { kind, name } => {
                workload::of(pod).iter().any(|Workload { kind: of, name: named }| of == kind && named == name)
            }
        }
    }
}

/// Asks for the target, and so whether it exists.
pub(super) async fn membership(
    cluster: &Cluster,
    target: &Target,
    kind: &str,
    name: &str,
) -> Result<Membership, ClusterError> {
    let selected = |selector| Membership { selector, belongs: Belongs::Selected };
    let selector = match kind {
        "label" => return Ok(selected(name.to_owned())),
        "pod" => {
            pod(cluster, name).await?;
            return Ok(Membership { selector: String::new(), belongs: Belongs::Name(name.to_owned()) });
        }
        "service" => {
            let selector = service(cluster, name).await?;
            let none = "it has no selector, so that its endpoints are no pods of its own choice";
            return Ok(selected(selector.ok_or_else(|| not_a_target(target, none))?));
        }
        "cronjob" => cron_job(cluster, name).await?,
        _ => selector(cluster, target, kind, name).await?,
    };
    let belongs = Belongs::Workload { kind: kind.to_owned(), name: name.to_owned() };
    Ok(Membership { selector: selector.unwrap_or_default(), belongs })
}

/// The selector of a workload; `None` when it may not be read or has none of its own.
async fn selector(
    cluster: &Cluster,
    target: &Target,
    kind: &str,
    name: &str,
) -> Result<Option<String>, ClusterError> {
    let Some(object) = object(cluster, kind, name).await? else { return Ok(None) };
    let Some(written) = object.data.pointer("/spec/selector") else { return Ok(None) };
    let parsed = serde_json::from_value::<LabelSelector>(written.clone()).ok().map(Selector::try_from);
    match parsed {
        Some(Ok(selector)) => Ok(Some(selector.to_string())),
        Some(Err(_)) | None => Err(not_a_target(target, "its selector cannot be understood")),
    }
}

/// A cron job's pods have nothing in common but the names of their jobs: there is no selector. It is read to know that it exists.
async fn cron_job(cluster: &Cluster, name: &str) -> Result<Option<String>, ClusterError> {
    object(cluster, "cronjob", name).await.map(|_| None)
}

/// A workload; `None` when it may not be read.
async fn object(cluster: &Cluster, kind: &str, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
    let Some(resource) = workload::resource(kind) else { return Ok(None) };
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    let action = format!("read {kind} `{name}` in namespace `{}`", cluster.namespace);
    let found = async {
        match api.get_opt(name).await {
            // A cluster that does not have the kind answers with a 404 of another form.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other,
        }
    };
    match cluster.call(action, found).await {
        Ok(Some(object)) => Ok(Some(object)),
        Ok(None) => Err(not_found(cluster, kind, name)),
        Err(error) if error.is_forbidden() => {
            tracing::info!(%error, "its pods are found by their owners");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The selector of a service, if it has one.
async fn service(cluster: &Cluster, name: &str) -> Result<Option<String>, ClusterError> {
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let action = format!("get services in namespace `{}`", cluster.namespace);
    let service = cluster.call(action, services.get_opt(name)).await?;
    let service = service.ok_or_else(|| not_found(cluster, "service", name))?;
    let selector = service.spec.and_then(|spec| spec.selector).filter(|selector| !selector.is_empty());
    Ok(selector.map(|selector| selector.into_iter().collect::<Selector>().to_string()))
}

/// Pods of the namespace that a selector matches, page by page.
async fn list(cluster: &Cluster, selector: &str) -> Result<Vec<Pod>, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let action = format!("list pods in namespace `{}`", cluster.namespace);
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(CLUSTER_PAGE).labels(selector);
    loop {
        let listed = cluster.call(&action, pods.list(&page)).await?;
        found.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if found.len() < CLUSTER_PODS => page = page.continue_token(&token),
            Some(_) | None => return Ok(found),
        }
    }
}

/// Asks for the nodes' systems, where that is allowed.
async fn node_facts(cluster: &Cluster, pods: &mut [TargetPod]) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let mut names: Vec<String> = pods.iter().map(|pod| pod.node.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let asked = names.into_iter().map(|name| {
        let nodes = nodes.clone();
        async move {
            let node = cluster.call(format!("read node `{name}`"), nodes.get_opt(&name)).await;
            match node {
                Ok(node) => Some((name, node?.status?.node_info?)),
                Err(error) => {
                    tracing::debug!(%error, "the node may not be read");
                    None
                }
            }
        }
    });
    let known: HashMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
    for pod in pods {
        if let Some(info) = known.get(&pod.node) {
            pod.node_os = Some(info.operating_system.clone());
            pod.node_arch = Some(info.architecture.clone());
        }
    }
}

fn not_found(cluster: &Cluster, kind: &str, name: &str) -> ClusterError {
    ClusterError::NotFound {
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: cluster.namespace.clone(),
        context: cluster.context.clone(),
    }
}

fn not_a_target(target: &Target, reason: &str) -> ClusterError {
    ClusterError::Target { target: target.to_string(), reason: reason.to_owned() }
}
