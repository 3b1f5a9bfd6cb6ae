//! Users with few rights.

use mirrord_session::cluster::{ClusterError, Which, connect, list, resolve, targets::Scope};
use serde_json::json;

use crate::world::{in_cluster, is_ready, pod_spec};

#[tokio::test]
async fn listing_pods_is_enough() {
    in_cluster("few_rights", async |world| {
        world
            .create(json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "api" },
                "spec": {
                    "selector": { "matchLabels": { "app": "api" } },
                    "template": { "metadata": { "labels": { "app": "api" } }, "spec": pod_spec() },
                },
            }))
            .await;
        world.wait("app=api", 1, is_ready).await;
        let config = world
            .user("lister", json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]))
            .await;
        let user = connect(&config).await.unwrap();
        assert_eq!(user.namespace, world.namespace);
        let here = Scope::Namespace(world.namespace.clone());
        let listed = list(&user, &here).await.unwrap();
        assert_eq!(listed[0].target, "deployment/api");
        assert_eq!(listed.len(), 2);
        for target in ["deployment/api", &listed[0].target, &listed[1].target, "label/app=api"] {
            let found = resolve(&user, &target.parse().unwrap(), Which::One).await.unwrap();
            assert_eq!(found[0].name, listed[1].name, "{target}");
            assert_eq!(found[0].node_arch, None, "nodes may not be read");
        }
        match resolve(&user, &"service/api".parse().unwrap(), Which::One).await.unwrap_err() {
            ClusterError::Forbidden { action, .. } => assert!(action.contains("services"), "{action}"),
            other => panic!("{other:?}"),
        }
        assert!(list(&user, &Scope::All).await.unwrap_err().is_forbidden());

        let nobody = connect(&world.user("nobody", json!([])).await).await.unwrap();
        for target in ["pod/api", "deployment/api"] {
            let error = resolve(&nobody, &target.parse().unwrap(), Which::One).await.unwrap_err();
            assert!(error.is_forbidden() && error.hint().contains("doctor"), "{error:?}");
        }
    })
    .await;
}
