//! What is said before anything is created.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use mirrord_session::cluster::{
    Cluster, ClusterError, TargetPod, Which,
    agent_job::Form,
    connect, list,
    preflight::{Finding, Report, Steals, Verdict, Wants, check},
    resolve,
    targets::Scope,
};
use serde_json::{Value, json};

use crate::world::{World, in_cluster, pod_spec};

async fn target(cluster: &Cluster, name: &str) -> TargetPod {
    let target = format!("pod/{name}").parse().unwrap();
    resolve(cluster, &target, Which::One).await.unwrap().remove(0)
}

fn finding<'a>(report: &'a Report, name: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.name == name)
        .unwrap_or_else(|| panic!("{name} in {report:#?}"))
}

/// The rules of the role that is shipped.
fn shipped() -> Value {
    let text = include_str!("../../../assets/rbac/role.yaml");
    let role = text.split("\n---\n").next().unwrap();
    serde_saphyr::from_str::<Value>(role).unwrap()["rules"].clone()
}

/// The same without one verb on one resource.
fn without(resource: &str, verb: &str) -> Value {
    let mut rules = shipped();
    for rule in rules.as_array_mut().unwrap() {
        if rule["resources"][0] == resource {
            rule["verbs"].as_array_mut().unwrap().retain(|given| given != verb);
        }
    }
    rules.as_array_mut().unwrap().retain(|rule| rule["verbs"] != json!([]));
    rules
}

#[tokio::test]
async fn the_shipped_role_is_enough_and_each_right_is_missed_by_name() {
    in_cluster("rights", async |world| {
        world.pod("api", json!({})).await;
        world.ready("api").await;
        let user = connect(&world.user("developer", shipped()).await).await.unwrap();
        assert_eq!(
            list(&user, &Scope::Namespace(world.namespace.clone())).await.unwrap()[0].target,
            "pod/api"
        );
        let pod = target(&user, "api").await;
        let report = check(&user, &pod, &Wants::default()).await.unwrap();
        assert_eq!(finding(&report, "rights").verdict, Verdict::Fine);
        assert_eq!(report.refusals().chain(report.warnings()).count(), 0, "{report:#?}");
        for unknown in ["system", "pod security", "room on the node", "quota"] {
            assert_eq!(finding(&report, unknown).verdict, Verdict::Unknown, "{unknown}");
        }

        let missed = [
            ("pods", "get"),
            ("pods", "watch"),
            ("pods/portforward", "create"),
            ("pods/portforward", "get"),
            ("jobs", "create"),
            ("jobs", "delete"),
            ("configmaps", "create"),
        ];
        for (number, (resource, verb)) in missed.into_iter().enumerate() {
            let user =
                connect(&world.user(&format!("user{number}"), without(resource, verb)).await).await.unwrap();
            let report = check(&user, &pod, &Wants::default()).await.unwrap();
            let rights = finding(&report, "rights");
            assert_eq!(rights.verdict, Verdict::Refused);
            assert!(
                rights
                    .detail
                    .contains(&format!("may not {verb} {resource} in namespace `{}`", world.namespace)),
                "{}",
                rights.detail
            );
            assert!(
                rights.hint.ends_with(&format!("resources: [\"{resource}\"]\n  verbs: [\"{verb}\"]")),
                "{}",
                rights.hint
            );
            assert!(matches!(report.into_result(), Err(ClusterError::Preflight { .. })));
        }
        // With an image of its own the agent needs no ConfigMaps.
        let user = connect(&world.user("imaged", without("configmaps", "create")).await).await.unwrap();
        let wants = Wants { form: Form::ImageJob, ..Wants::default() };
        assert_eq!(finding(&check(&user, &pod, &wants).await.unwrap(), "rights").verdict, Verdict::Fine);
    })
    .await;
}

#[tokio::test]
async fn what_the_namespace_does_not_let_in() {
    in_cluster("lets_in", async |world| {
        world.pod("api", json!({})).await;
        world.ready("api").await;
        let pod = target(&world.admin, "api").await;
        let found = async || check(&world.admin, &pod, &Wants::default()).await.unwrap();
        let report = found().await;
        assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Fine), "{report:#?}");

        let elsewhere = Wants { agent_namespace: Some("no-such-namespace".to_owned()), ..Wants::default() };
        let report = check(&world.admin, &pod, &elsewhere).await.unwrap();
        assert!(finding(&report, "pod security").detail.contains("no namespace `no-such-namespace`"));

        let namespaces: Api<Namespace> = Api::all(world.admin.client.clone());
        for level in ["baseline", "restricted"] {
            let patch = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
            namespaces.patch(&world.namespace, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
            let report = found().await;
            let security = finding(&report, "pod security");
            assert!(security.verdict == Verdict::Refused && security.detail.contains(level), "{security:?}");
        }

        quota(world, json!({ "pods": "1", "count/configmaps": "50" })).await;
        let report = found().await;
        assert_eq!(finding(&report, "quota").detail, "quota `small` allows 1 pods, and 1 are used");
    })
    .await;
}

/// Sets a quota and waits until what is used is counted.
async fn quota(world: &World, hard: Value) {
    world.create(json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small" }, "spec": { "hard": hard } })).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.admin.client.clone(), &world.namespace);
    let listed = quotas.list(&ListParams::default()).await.unwrap();
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    if listed.items.iter().any(counted) {
        return;
    }
    let version = listed.metadata.resource_version.unwrap();
    let mut changes = quotas.watch(&WatchParams::default().timeout(30), &version).await.unwrap().boxed();
    while let Some(Ok(event)) = changes.next().await {
        if matches!(event, WatchEvent::Modified(quota) if counted(&quota)) {
            return;
        }
    }
    panic!("the quota is not counted");
}

#[tokio::test]
async fn ports_that_others_count_on() {
    in_cluster("ports", async |world| {
        let mut spec = pod_spec();
        spec["containers"][0]["readinessProbe"] = json!({ "httpGet": { "path": "/ready", "port": 8080 } });
        spec["containers"][0]["livenessProbe"] = json!({ "tcpSocket": { "port": 8080 } });
        world.pod("api", spec).await;
        world.ready("api").await;
        let pod = target(&world.admin, "api").await;
        let steal = Wants { steals: Steals::Ports(vec![8080]), ..Wants::default() };
        let report = check(&world.admin, &pod, &steal).await.unwrap();
        let probes = finding(&report, "probes");
        assert_eq!(probes.verdict, Verdict::Warning);
        assert!(probes.detail.contains("liveness (tcp on port 8080), readiness (GET /ready on port 8080)"), "{}", probes.detail);

        // What an agent of another session looks like: its job and its pod.
        world.create(json!({
            "apiVersion": "v1", "kind": "Pod", "spec": pod_spec(),
            "metadata": { "name": "mirrord-tui-other-0-x", "labels": { "app.kubernetes.io/managed-by": "mirrord-tui" } },
        })).await;
        let mut spec_of_job = pod_spec();
        spec_of_job["restartPolicy"] = json!("Never");
        world.create(json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "spec": { "suspend": true, "template": { "spec": spec_of_job } },
            "metadata": {
                "name": "mirrord-tui-other-0",
                "labels": { "app.kubernetes.io/managed-by": "mirrord-tui", "mirrord-tui/target-uid": pod.uid },
                "annotations": {
                    "mirrord-tui/owner": "ann@laptop", "mirrord-tui/since": "2026-11-23T01:00:00Z", "mirrord-tui/steal-ports": "8080",
                },
            },
        })).await;
        let report = check(&world.admin, &pod, &steal).await.unwrap();
        let others = finding(&report, "other sessions");
        assert_eq!(others.verdict, Verdict::Refused);
        assert!(others.detail.ends_with("already stolen by ann@laptop since 2026-11-23T01:00:00Z"), "{}", others.detail);
        let mirror = check(&world.admin, &pod, &Wants::default()).await.unwrap();
        assert_eq!(finding(&mirror, "other sessions").verdict, Verdict::Fine);
        assert_eq!(list(&world.admin, &Scope::Namespace(world.namespace.clone())).await.unwrap().len(), 1, "agents are no targets");
    })
    .await;
}
