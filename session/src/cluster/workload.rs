//! Workloads: the kinds of objects that stand for pods, and which of them a pod belongs to.
//!
//! A pod tells its workloads by its owner and the names and labels that controllers give, so that a user who may do no more than
//! list pods has workloads as targets as well.

use k8s_openapi::api::core::v1::Pod;
use kube::core::{ApiResource, GroupVersionKind};

use super::pod::created_ms;

/// A workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Workload {
    /// As targets name it.
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: String,
}

/// Workloads of a pod, nearest first: `replicaset/api-7d4b9`, `deployment/api`.
pub(crate) fn of(pod: &Pod) -> Vec<Workload> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.clone().find(|owner| owner.controller == Some(true)) else { return Vec::new() };
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let without = |suffix: Option<&String>| {
        Some(owner.name.strip_suffix(suffix?.as_str())?.strip_suffix('-')?.to_owned())
    };
    let (nearest, outer) = match owner.kind.as_str() {
        "ReplicaSet" => {
            let deployment = without(label("pod-template-hash")).map(|name| ("deployment", name));
            let rollout = || without(label("rollouts-pod-template-hash")).map(|name| ("rollout", name));
            ("replicaset", deployment.or_else(rollout))
        }
        "StatefulSet" => ("statefulset", None),
        "DaemonSet" => ("daemonset", None),
        "Job" => ("job", cron_job(&owner.name, created_ms(pod)).map(|name| ("cronjob", name))),
        _ => return Vec::new(),
    };
    let nearest = Workload { kind: nearest, name: owner.name.clone() };
    std::iter::once(nearest).chain(outer.map(|(kind, name)| Workload { kind, name })).collect()
}

/// Name of the cron job that made a job. It calls its jobs NAME-MINUTES, with the minutes since the epoch at which the job was due; the
/// pod was created not long after, which tells those names from others that end in digits.
fn cron_job(job: &str, pod_created_ms: i64) -> Option<String> {
    const LATE_MINUTES: i64 = 7 * 24 * 60;
    let (name, minutes) = job.rsplit_once('-')?;
    let due: i64 = minutes.parse().ok()?;
    let late = pod_created_ms / 60_000 - due;
    (!name.is_empty() && (-1..LATE_MINUTES).contains(&late)).then(|| name.to_owned())
}

/// The API's name of a kind of workload that has a selector of pods.
pub(crate) fn resource(kind: &str) -> Option<ApiResource> {
    let (group, version, api_kind, plural) = match kind {
        "deployment" => ("apps", "v1", "Deployment", "deployments"),
        "statefulset" => ("apps", "v1", "StatefulSet", "statefulsets"),
        "daemonset" => ("apps", "v1", "DaemonSet", "daemonsets"),
        "replicaset" => ("apps", "v1", "ReplicaSet", "replicasets"),
        "job" => ("batch", "v1", "Job", "jobs"),
        "cronjob" => ("batch", "v1", "CronJob", "cronjobs"),
        "rollout" => ("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
        _ => return None,
    };
    Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, api_kind), plural))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(kind: &str, owner: &str, labels: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "creationTimestamp": "2026-11-23T01:00:00Z", "labels": labels,
                "ownerReferences": [{ "apiVersion": "v1", "kind": kind, "name": owner, "uid": "u", "controller": true }],
            }
        }))
        .unwrap()
    }

    fn names(pod: &Pod) -> Vec<String> {
        of(pod).into_iter().map(|workload| format!("{}/{}", workload.kind, workload.name)).collect()
    }

    #[test]
    fn a_pod_tells_its_workloads() {
        let minutes = 29_923_260; // 2026-11-23T01:00:00Z
        for (kind, owner, labels, expected) in [
            (
                "ReplicaSet",
                "api-7d4b9",
                json!({ "pod-template-hash": "7d4b9" }),
                vec!["replicaset/api-7d4b9", "deployment/api"],
            ),
            (
                "ReplicaSet",
                "api-7d4b9",
                json!({ "rollouts-pod-template-hash": "7d4b9" }),
                vec!["replicaset/api-7d4b9", "rollout/api"],
            ),
            ("ReplicaSet", "by-hand", json!({}), vec!["replicaset/by-hand"]),
            ("StatefulSet", "db", json!({}), vec!["statefulset/db"]),
            ("DaemonSet", "log", json!({}), vec!["daemonset/log"]),
            ("Job", "migrate-20240101", json!({}), vec!["job/migrate-20240101"]),
            (
                "Job",
                &format!("nightly-{minutes}"),
                json!({}),
                vec![&*format!("job/nightly-{minutes}"), "cronjob/nightly"],
            ),
            ("Node", "node1", json!({}), vec![]),
        ] {
            assert_eq!(names(&pod(kind, owner, &labels)), expected, "{kind}/{owner}");
        }
        assert!(of(&Pod::default()).is_empty());
    }
}
