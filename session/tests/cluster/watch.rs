//! The list of targets follows the cluster.

use std::{pin::pin, time::Duration};

use futures_util::{Stream, StreamExt};
use mirrord_session::cluster::{ClusterError, ClusterTarget, Scope, Watching, namespaces, watch};
use serde_json::json;

use crate::world::in_cluster;

/// The first list that fits.
async fn until(
    stream: &mut (impl Stream<Item = Result<Vec<ClusterTarget>, ClusterError>> + Unpin),
    fits: impl Fn(&[ClusterTarget]) -> bool,
) -> Vec<ClusterTarget> {
    let found = async {
        loop {
            let targets =
                stream.next().await.expect("the watch goes on").expect("the watch is not interrupted");
            if fits(&targets) {
                return targets;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("the list gets there")
}

#[tokio::test]
async fn lists_follow_the_cluster() {
    in_cluster("watch", async |world| {
        let mut lists = pin!(watch(&world.admin, Scope::Namespace(world.namespace.clone())));
        assert!(until(&mut lists, |_| true).await.is_empty());
        world.pod("one", json!({})).await;
        let ready = |targets: &[ClusterTarget]| targets.iter().any(|target| target.ready == 1);
        let targets = until(&mut lists, ready).await;
        assert_eq!((targets[0].target.as_str(), targets[0].status.as_str()), ("pod/one", "Running"));
        let config = mirrord_session::cluster::ClusterConfig {
            kubeconfig: Some(world.pki("admin.kubeconfig")),
            namespace: Some(world.namespace.clone()),
            ..Default::default()
        };
        assert!(namespaces(&world.admin).await.unwrap().contains(&world.namespace));
        let mut everywhere = Watching::start(config.clone(), true).unwrap();
        let mut watching = Watching::start(config, false).unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while watching.seen().targets.is_none() {
                watching.changed().await;
            }
            watching.seen()
        });
        let seen = seen.await.unwrap();
        assert_eq!(seen.targets.as_deref(), Some(targets.as_slice()));
        assert_eq!(seen.place.as_ref().unwrap().scope, Scope::Namespace(world.namespace.clone()));
        let ours = |target: &ClusterTarget| target.namespace == world.namespace;
        let found = tokio::time::timeout(Duration::from_secs(30), async {
            while !everywhere.seen().targets.iter().flatten().any(ours) {
                everywhere.changed().await;
            }
        });
        found.await.unwrap();
        assert_eq!(everywhere.seen().place.as_ref().unwrap().scope, Scope::All);
        world.pods().delete("one", &Default::default()).await.unwrap();
        until(&mut lists, <[_]>::is_empty).await;
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_watch_says_so() {
    in_cluster("watch_lost", async |world| {
        let config = world.kubeconfig("gone", &json!({ "server": "https://127.0.0.1:1" }), &json!({}));
        let mut watching = Watching::start(config, false).unwrap();
        while watching.seen().problem.is_none() {
            watching.changed().await;
        }
        let seen = watching.seen();
        assert!(
            seen.targets.is_none()
                && matches!(**seen.problem.as_ref().unwrap(), ClusterError::Unreachable { .. })
        );
    })
    .await;
}
