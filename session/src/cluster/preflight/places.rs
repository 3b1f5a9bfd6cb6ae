//! The places where an agent would run: the node's system and room, and what the namespace lets in.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota};
use kube::{Api, api::ListParams};

use super::{Finding, Verdict};
use crate::cluster::{agent_job::Form, client::Cluster, error::ClusterError, pod::TargetPod};

/// Label of a namespace that says which pods it lets in.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Objects that an agent without an image needs at most: the binary in up to 2.7 MiB.
const CONFIG_MAPS: i64 = 3;

/// The node must run what the agent is built for.
pub(super) fn system(pod: &TargetPod) -> Finding {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    match (pod.node_os.as_deref(), pod.node_arch.as_deref()) {
        (Some("linux"), Some(arch)) if arch == own => Finding::fine("system", format!("linux/{arch}")),
        (Some(os), Some(arch)) => Finding::new(
            "system",
            Verdict::Refused,
            format!("node {} runs {os}/{arch}, and this program carries an agent for linux/{own}", pod.node),
            format!("take a target on a linux/{own} node, or a build of mirrord-tui for {os}/{arch}"),
        ),
        _ => Finding::new(
            "system",
            Verdict::Unknown,
            format!("not known: you may not read node {}", pod.node),
            "",
        ),
    }
}

/// Pod Security Admission of the agent's namespace.
pub(super) async fn pod_security(
    cluster: &Cluster,
    namespace: &str,
    form: Form,
) -> Result<Finding, ClusterError> {
    const NAME: &str = "pod security";
    let (needs, way_out) = if form == Form::Ephemeral {
        let way_out = "without `agent.ephemeral` the agent can be in another namespace, which `agent.namespace` names; the target can stay where it is";
        ("needs more than that lets a container have (SYS_PTRACE, NET_ADMIN)", way_out.to_owned())
    } else {
        let way_out = format!(
            "name a namespace with {ENFORCE}=privileged in `agent.namespace` of the configuration; the target can stay where it is"
        );
        ("must see the node's processes (hostPID, SYS_ADMIN)", way_out)
    };
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let answer = cluster.call(format!("read namespace `{namespace}`"), namespaces.get_opt(namespace)).await;
    Finding::asked(NAME, answer, |found| {
        let Some(found) = found else {
            let detail = format!("there is no namespace `{namespace}` for the agent");
            return Finding::new(
                NAME,
                Verdict::Refused,
                detail,
                "create it, or name another one in `agent.namespace`",
            );
        };
        let labels = found.metadata.labels.unwrap_or_default();
        match labels.get(ENFORCE).map(String::as_str) {
            Some(level @ ("baseline" | "restricted")) => Finding::new(
                NAME,
                Verdict::Refused,
                format!("namespace `{namespace}` enforces `{level}`, and an agent {needs}"),
                way_out,
            ),
            level => Finding::fine(
                NAME,
                format!("namespace `{namespace}` enforces {}", level.unwrap_or("nothing")),
            ),
        }
    })
}

/// Whether one more pod fits on the node: an agent is put there without the scheduler.
pub(super) async fn capacity(cluster: &Cluster, node: &str) -> Result<Finding, ClusterError> {
    const NAME: &str = "room on the node";
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    let running = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let running = ListParams::default().fields(&running);
    let answers = tokio::join!(
        cluster.call(format!("read node `{node}`"), nodes.get(node)),
        cluster.call("list pods in all namespaces", pods.list_metadata(&running)),
    );
    let answer = answers.0.and_then(|node| Ok((node, answers.1?.items.len())));
    Finding::asked(NAME, answer, |(found, running)| {
        let allocatable = found.status.and_then(|status| status.allocatable).unwrap_or_default();
        let limit = allocatable.get("pods").and_then(|quantity| quantity.0.parse::<usize>().ok());
        match limit {
            Some(limit) if running >= limit => Finding::new(
                NAME,
                Verdict::Refused,
                format!("node {node} runs {running} pods and may run {limit}: there is no room for an agent"),
                "take a target on another node, or make room on this one",
            ),
            Some(limit) => Finding::fine(NAME, format!("{running} of {limit} pods")),
            None => Finding::fine(NAME, format!("{running} pods, no limit")),
        }
    })
}

/// Quotas of the agent's namespace that are used up.
pub(super) async fn quota(cluster: &Cluster, namespace: &str, form: Form) -> Result<Finding, ClusterError> {
    const NAME: &str = "quota";
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client.clone(), namespace);
    let action = format!("list resource quotas in namespace `{namespace}`");
    let answer = cluster.call(action, quotas.list(&ListParams::default())).await;
    Finding::asked(NAME, answer, |quotas| {
        if quotas.items.is_empty() {
            return Finding::fine(NAME, format!("namespace `{namespace}` has none"));
        }
        let exhausted: Vec<String> = quotas.items.iter().flat_map(|quota| used_up(quota, form)).collect();
        if exhausted.is_empty() {
            return Finding::fine(NAME, format!("namespace `{namespace}` has room"));
        }
        let hint =
            "raise the quota, remove what is not needed, or name another namespace in `agent.namespace`";
        Finding::new(NAME, Verdict::Refused, exhausted.join("; "), hint)
    })
}

/// What of a quota is too little for an agent. Amounts of CPU and memory are compared as they are written: the API server writes both
/// in the same form, and an agent asks for next to nothing.
fn used_up(quota: &ResourceQuota, form: Form) -> Vec<String> {
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let short = hard.iter().filter_map(|(resource, hard)| {
        let used = used.get(resource)?;
        let needed = match resource.as_str() {
            "pods" | "count/pods" | "count/jobs.batch" => Some(1),
            "configmaps" | "count/configmaps" => Some(if form == Form::Job { CONFIG_MAPS } else { 0 }),
            "cpu" | "memory" | "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory" => None,
            _ => return None,
        };
        let short = match needed {
            Some(needed) => used.0.parse::<i64>().ok()? + needed > hard.0.parse().ok()?,
            None => used == hard,
        };
        short.then(|| format!("quota `{name}` allows {} {resource}, and {} are used", hard.0, used.0))
    });
    short.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_with_too_little_is_named() {
        let quota = |hard: &str, used: &str, resource: &str| {
            let quota = json!({
                "metadata": { "name": "q" },
                "status": { "hard": { (resource): hard }, "used": { (resource): used } },
            });
            used_up(&serde_json::from_value(quota).unwrap(), Form::Job)
        };
        assert_eq!(quota("5", "5", "pods"), ["quota `q` allows 5 pods, and 5 are used"]);
        assert!(quota("5", "4", "pods").is_empty());
        assert_eq!(quota("5", "3", "count/configmaps").len(), 1);
        assert!(quota("5", "2", "count/configmaps").is_empty());
        assert_eq!(quota("1Gi", "1Gi", "limits.memory").len(), 1);
        assert!(quota("1Gi", "512Mi", "limits.memory").is_empty());
        assert!(quota("1", "1", "services").is_empty());
    }

    #[test]
    fn only_the_agents_own_system_will_do() {
        let pod = |os: Option<&str>, arch: Option<&str>| TargetPod {
            node_os: os.map(str::to_owned),
            node_arch: arch.map(str::to_owned),
            ..TargetPod::default()
        };
        let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        assert_eq!(system(&pod(Some("linux"), Some(own))).verdict, Verdict::Fine);
        assert_eq!(system(&pod(Some("windows"), Some(own))).verdict, Verdict::Refused);
        assert_eq!(system(&pod(Some("linux"), Some("s390x"))).verdict, Verdict::Refused);
        assert_eq!(system(&pod(None, None)).verdict, Verdict::Unknown);
    }
}
