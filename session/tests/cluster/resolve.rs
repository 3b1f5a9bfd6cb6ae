//! Every kind of target, and every reason why there is none.

use mirrord_session::cluster::{
    ClusterError, Which, error::PodRefused, list, pod::Refusal, resolve, targets::Scope,
};
use serde_json::{Value, json};

use crate::world::{World, in_cluster, is_ready, pod_spec, waits_for};

fn template(app: &str) -> Value {
    json!({ "metadata": { "labels": { "app": app } }, "spec": pod_spec() })
}

async fn names(world: &World, target: &str, which: Which) -> Vec<String> {
    let target = target.parse().unwrap();
    resolve(&world.admin, &target, which).await.unwrap().into_iter().map(|pod| pod.name).collect()
}

#[tokio::test]
async fn every_kind() {
    in_cluster("every_kind", async |world| {
        let selector = |app: &str| json!({ "matchLabels": { "app": app } });
        let apps = |kind: &str, app: &str, replicas: u32| {
            json!({
                "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": app },
                "spec": { "replicas": replicas, "selector": selector(app), "template": template(app) },
            })
        };
        world.create(apps("Deployment", "api", 2)).await;
        world.create(apps("StatefulSet", "db", 1)).await;
        world.create(apps("ReplicaSet", "bare", 1)).await;
        world.create(json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "log" },
            "spec": { "selector": selector("log"), "template": template("log") },
        })).await;
        let mut job = template("nightly");
        job["spec"]["restartPolicy"] = json!("Never");
        let minutes = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 60;
        world.create(json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "nightly" },
            "spec": { "schedule": "0 0 29 2 *", "jobTemplate": { "spec": { "template": job } } },
        })).await;
        let due = format!("nightly-{minutes}");
        world.create(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": due }, "spec": { "template": job } })).await;
        world.create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "api" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        })).await;
        world.wait("app", 6, is_ready).await;

        let api = names(world, "deployment/api", Which::All).await;
        assert_eq!(api.len(), 2);
        assert!(api.iter().all(|name| name.starts_with("api-")), "{api:?}");
        assert_eq!(names(world, "deploy/api", Which::One).await, api[..1]);
        assert_eq!(names(world, "service/web", Which::All).await, api);
        assert_eq!(names(world, "label/app=api", Which::All).await, api);
        assert_eq!(names(world, "label/app in (db)", Which::All).await, ["db-0"]);
        assert_eq!(names(world, "sts/db/container/app", Which::All).await, ["db-0"]);
        for (target, prefix) in [("ds/log", "log-"), ("rs/bare", "bare-"), ("cronjob/nightly", &*due), (&*format!("job/{due}"), &*due)] {
            let found = names(world, target, Which::All).await;
            assert!(found.len() == 1 && found[0].starts_with(prefix), "{target}: {found:?}");
        }
        let pod = &resolve(&world.admin, &format!("pod/{}", api[0]).parse().unwrap(), Which::One).await.unwrap()[0];
        assert_eq!((pod.container.as_str(), pod.node_os.as_deref(), pod.phase.as_str()), ("app", Some("linux"), "Running"));
        assert_eq!((pod.container_id.len(), pod.containers[0].ports.as_slice()), (64, [8080].as_slice()));

        let listed = list(&world.admin, &Scope::Namespace(world.namespace.clone())).await.unwrap();
        let workloads: Vec<_> = listed.iter().filter(|target| target.kind != "pod").collect();
        let written: Vec<_> = workloads.iter().map(|target| (target.target.as_str(), target.ready, target.total)).collect();
        let expected = [
            ("deployment/api", 2, 2), ("statefulset/db", 1, 1), ("daemonset/log", 1, 1), ("cronjob/nightly", 1, 1),
            ("replicaset/bare", 1, 1), ("service/web", 2, 2),
        ];
        assert_eq!(written, expected);
        assert_eq!(listed.len(), expected.len() + 6);
        assert!(workloads.iter().all(|target| target.unfit.is_empty() && target.ports == [8080]), "{workloads:?}");
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_a_target() {
    in_cluster("no_target", async |world| {
        let error = async |target: &str| resolve(&world.admin, &target.parse().unwrap(), Which::One).await.unwrap_err();
        let refusal = async |target: &str| match error(target).await {
            ClusterError::Pod(PodRefused { why, .. }) => why,
            other => panic!("{target}: {other:?}"),
        };
        world.pod("running", json!({})).await;
        world.pod("nowhere", json!({ "nodeSelector": { "no": "such" } })).await;
        let absent = json!([{ "name": "app", "image": "registry.test/absent:1", "imagePullPolicy": "Never" }]);
        let beside = json!([{ "name": "side", "image": "registry.test/hello:1" }, absent[0]]);
        world.pod("no-image", json!({ "containers": beside })).await;
        let ends = json!([{ "name": "app", "image": "registry.test/busybox:1", "command": ["true"] }]);
        world.pod("ended", json!({ "containers": ends, "restartPolicy": "Never" })).await;
        world.create(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "asleep" },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "asleep" } }, "template": template("asleep") },
        })).await;
        world.create(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "outside" }, "spec": { "type": "ExternalName", "externalName": "example.org" } })).await;
        world.create(json!({
            "apiVersion": "v1", "kind": "Pod", "spec": pod_spec(),
            "metadata": { "name": "leaving", "finalizers": ["mirrord-tui.test/stay"] },
        })).await;
        world.ready("running").await;
        world.ready("leaving").await;
        world.wait("", 1, |pod| waits_for(pod).as_deref() == Some("ErrImageNeverPull")).await;
        world.wait("", 1, |pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded")).await;
        world.pods().delete("leaving", &Default::default()).await.unwrap();

        assert!(matches!(error("pod/absent").await, ClusterError::NotFound { .. }));
        assert!(matches!(error("deployment/absent").await, ClusterError::NotFound { .. }));
        assert!(matches!(error("rollout/absent").await, ClusterError::NotFound { .. }), "a kind that the cluster does not have");
        assert_eq!(refusal("pod/nowhere").await, Refusal::Phase("Pending".to_owned()));
        assert_eq!(refusal("pod/ended").await, Refusal::Phase("Succeeded".to_owned()));
        assert_eq!(refusal("pod/leaving").await, Refusal::Deleted);
        // The pod as a whole waits as well, as long as one of its containers has not started.
        let waiting = refusal("pod/no-image").await.to_string();
        assert!(waiting.contains("Pending") || waiting.contains("ErrImageNeverPull"), "{waiting}");
        let wanted = refusal("pod/running/container/none").await;
        assert_eq!(wanted, Refusal::NoContainer { wanted: "none".to_owned(), known: vec!["app".to_owned()] });
        match error("deployment/asleep").await {
            asleep @ ClusterError::NoPod { .. } => assert!(asleep.hint().contains("scaled to zero"), "{}", asleep.hint()),
            other => panic!("{other:?}"),
        }
        assert!(error("service/outside").await.to_string().contains("no selector"));
        assert!(matches!(error("label/==").await, ClusterError::Api { .. }), "the API server refuses the selector");
        assert!(matches!(error("pid/1").await, ClusterError::Target { .. }));

        let listed = list(&world.admin, &Scope::Namespace(world.namespace.clone())).await.unwrap();
        let unfit: Vec<_> = listed.iter().filter(|target| !target.unfit.is_empty()).map(|target| target.name.as_str()).collect();
        assert_eq!(unfit, ["leaving", "no-image", "nowhere"]);

        let patch = json!({ "metadata": { "finalizers": [] } });
        world.pods().patch("leaving", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    })
    .await;
}
