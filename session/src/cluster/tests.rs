//! The cluster's answers as a fake API server gives them: what the test cluster does not have, or does too seldom.

use std::pin::pin;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{
    ClusterError, ClusterTarget, Mesh, Scope, Which,
    fake::{self, pod, status},
    list,
    pod::{Refusal, target_pod},
    resolve, watch,
};

const ROLLOUT: &str = "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/api";
const PODS: &str = "/api/v1/namespaces/shop/pods?";
const SERVICES: &str = "/api/v1/namespaces/shop/services?";

fn rollout(spec: &Value) -> Value {
    json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": { "name": "api" }, "spec": spec })
}

#[tokio::test]
async fn a_rollout_has_its_own_selector_or_that_of_a_deployment() {
    let hash = json!({ "app": "api", "rollouts-pod-template-hash": "7d4b9" });
    let pods =
        [pod("api-7d4b9-x", "ReplicaSet/api-7d4b9", &hash), pod("other", "", &json!({ "app": "api" }))];
    let own = rollout(&json!({ "selector": { "matchLabels": { "app": "api" } } }));
    let borrowed = rollout(&json!({ "workloadRef": { "kind": "Deployment", "name": "api" } }));
    for (object, query) in [(own, "labelSelector=app%3Dapi"), (borrowed, "limit=500")] {
        let (cluster, fake) = fake::cluster([
            (ROLLOUT, 200, object),
            (PODS, 200, fake::list(&pods, "1", "")),
            ("/nodes/", 403, status(403, "Forbidden")),
        ]);
        let found = resolve(&cluster, &"rollout/api".parse().unwrap(), Which::All).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].container_id.as_str()), ("api-7d4b9-x", "abc"));
        let asked = fake.asked.lock().unwrap();
        assert!(asked.iter().any(|asked| asked.contains(query)), "{asked:?}");
    }
}

#[tokio::test]
async fn a_cluster_without_the_kind_does_not_have_the_object() {
    let (cluster, _) = fake::cluster([(ROLLOUT, 404, json!("404 page not found"))]);
    let error = resolve(&cluster, &"rollout/api".parse().unwrap(), Which::One).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let (cluster, fake) = fake::cluster([
        ("continue=more", 200, fake::list(&[pod("b", "", &json!({}))], "1", "")),
        (PODS, 200, fake::list(&[pod("a", "StatefulSet/db", &json!({}))], "1", "more")),
        (SERVICES, 403, status(403, "Forbidden")),
    ]);
    let found = list(&cluster, &Scope::Namespace("shop".to_owned())).await.unwrap();
    let names: Vec<_> = found.iter().map(|target| target.target.as_str()).collect();
    assert_eq!(names, ["statefulset/db", "pod/a", "pod/b"]);
    assert_eq!(found[0].restarts, 2);
    assert_eq!(fake.asked.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let (cluster, _) = fake::cluster([]);
    let error = resolve(&cluster, &"pod/api".parse().unwrap(), Which::One).await.unwrap_err();
    assert!(matches!(error, ClusterError::Deadline { .. }), "{error:?}");
    assert!(error.to_string().starts_with("the API server https://fake did not read pod `api`"), "{error}");
}

#[tokio::test]
async fn refusals_of_the_server_are_told_apart() {
    for (code, reason, expected) in [
        (401, "Unauthorized", "credentials"),
        (403, "Forbidden", "may not"),
        (500, "InternalError", "did not"),
    ] {
        // A forbidden `get` is followed by a `list`.
        let (cluster, _) =
            fake::cluster([("/pods", code, status(code, reason)), ("/pods", code, status(code, reason))]);
        let error = resolve(&cluster, &"pod/api".parse().unwrap(), Which::One).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{code}: {error}");
    }
}

/// The names in the next list.
async fn next(
    lists: &mut (impl futures_util::Stream<Item = Result<Vec<ClusterTarget>, ClusterError>> + Unpin),
) -> Vec<String> {
    lists.next().await.unwrap().unwrap().into_iter().map(|target| target.name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended_and_begins_anew_when_that_is_forgotten() {
    let event = |kind: &str, name: &str| json!({ "type": kind, "object": pod(name, "", &json!({})) });
    let forgotten = json!({ "type": "ERROR", "object": status(410, "Expired") });
    let (cluster, fake) = fake::cluster([
        (SERVICES, 403, status(403, "Forbidden")),
        ("limit=500", 200, fake::list(&[pod("a", "", &json!({}))], "3", "")),
        ("resourceVersion=3", 200, json!([event("ADDED", "b"), event("DELETED", "a")])),
        ("resourceVersion=7", 200, json!([event("ADDED", "c"), forgotten])),
        ("limit=500", 200, fake::list(&[pod("d", "", &json!({}))], "9", "")),
        ("resourceVersion=9", 500, status(500, "InternalError")),
    ]);
    let mut lists = pin!(watch(&cluster, Scope::Namespace("shop".to_owned())));
    assert_eq!(next(&mut lists).await, ["b", "c"], "what comes close together is one list");
    // The list that begins anew cannot be followed at first, which is said.
    let error = lists.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ClusterError::Api { .. }), "{error:?}");
    let asked = fake.asked.lock().unwrap();
    let watched: Vec<_> =
        asked.iter().filter(|asked| asked.contains("/pods?") && asked.contains("watch=true")).collect();
    assert_eq!(watched.len(), 3, "{asked:?}");
}

/// A pod with these containers, all of them running.
fn with_containers(names: &[&str], annotations: &Value) -> k8s_openapi::api::core::v1::Pod {
    let mut whole = pod("api", "", &json!({}));
    let status = whole["status"]["containerStatuses"][0].clone();
    whole["metadata"]["annotations"] = annotations.clone();
    whole["spec"]["containers"] = names.iter().map(|name| json!({ "name": name, "image": "i" })).collect();
    whole["status"]["containerStatuses"] = names
        .iter()
        .map(|name| {
            let mut status = status.clone();
            status["name"] = json!(name);
            status
        })
        .collect();
    serde_json::from_value(whole).unwrap()
}

#[test]
fn the_container_is_chosen_as_mirrord_does_it() {
    let chosen = |names: &[&str], annotations: Value, wanted: Option<&str>| {
        target_pod(&with_containers(names, &annotations), wanted).map(|pod| pod.container)
    };
    assert_eq!(chosen(&["istio-proxy", "app"], json!({}), None).unwrap(), "app");
    assert_eq!(
        chosen(&["linkerd-proxy", "vault-agent-init", "kuma-sidecar", "web"], json!({}), None).unwrap(),
        "web"
    );
    assert_eq!(chosen(&["queue-proxy"], json!({}), None).unwrap(), "queue-proxy", "when there is no other");
    let annotated = json!({ "kubectl.kubernetes.io/default-container": "second" });
    assert_eq!(chosen(&["first", "second"], annotated.clone(), None).unwrap(), "second");
    assert_eq!(chosen(&["first", "second"], annotated.clone(), Some("first")).unwrap(), "first");
    assert_eq!(chosen(&["first"], annotated, None).unwrap(), "first", "an annotation that names nothing");
    let refused = chosen(&["first", "second"], json!({}), Some("third")).unwrap_err();
    let known = vec!["first".to_owned(), "second".to_owned()];
    assert_eq!(refused.why, Refusal::NoContainer { wanted: "third".to_owned(), known });
    assert_eq!(refused.why.hint(), "it has first, second");
}

#[test]
fn a_sidecar_among_the_init_containers_can_be_named() {
    let mut whole = pod("api", "", &json!({}));
    whole["spec"]["initContainers"] = json!([{ "name": "setup", "image": "i" }, { "name": "log", "image": "i", "restartPolicy": "Always" }]);
    let mut status = whole["status"]["containerStatuses"][0].clone();
    status["name"] = json!("log");
    whole["status"]["initContainerStatuses"] = json!([status]);
    let whole = serde_json::from_value(whole).unwrap();
    assert_eq!(target_pod(&whole, Some("log")).unwrap().container, "log");
    assert!(target_pod(&whole, Some("setup")).is_err(), "it has ended");
    assert_eq!(target_pod(&whole, None).unwrap().container, "app");
}

#[test]
fn a_container_that_does_not_run_is_named_with_its_reason() {
    let mut whole = pod("api", "", &json!({}));
    whole["status"]["containerStatuses"][0]["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let refused = target_pod(&serde_json::from_value(whole).unwrap(), None).unwrap_err();
    let expected = "pod `shop/api` cannot be a target: its container `app` is waiting (CrashLoopBackOff) and not running";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn meshes_are_known_by_what_they_put_into_a_pod() {
    let mesh = |names: &[&str], annotations: Value| Mesh::of(&with_containers(names, &annotations));
    assert_eq!(mesh(&["app"], json!({})), None);
    assert_eq!(mesh(&["app", "istio-proxy"], json!({})), Some(Mesh::Istio));
    assert_eq!(mesh(&["istio-validation", "istio-proxy"], json!({})), Some(Mesh::IstioCni));
    assert_eq!(mesh(&["linkerd-proxy"], json!({})), Some(Mesh::Linkerd));
    assert_eq!(mesh(&["kuma-sidecar"], json!({})), Some(Mesh::Kuma));
    assert_eq!(
        mesh(&["app"], json!({ "ambient.istio.io/redirection": "enabled" })),
        Some(Mesh::IstioAmbient)
    );
}
