//! The pods of one target as they come and go, by a watch: for a session that serves all of them.

use std::{collections::HashMap, fmt, pin::Pin};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, timeout_at};

use super::{
    client::Cluster,
    error::ClusterError,
    pod::{Refusal, TargetPod, is_agent, target_pod},
    resolve::{Membership, membership},
    targets::Scope,
    watch::{Change, follow},
};
use crate::{limits::WATCH_GATHER, target::Target};

/// One pod of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What an agent needs to know of it, or why it cannot have one now.
    pub fit: Result<TargetPod, Refusal>,
}

/// The pods of a target, watched.
pub struct Members {
    changes: Pin<Box<dyn Stream<Item = Change<Member>> + Send>>,
    /// By uid; `None` as long as they have not been listed.
    known: Option<HashMap<String, Member>>,
    /// When what has changed is told: what comes close together is told once.
    due: Option<Instant>,
}

impl Members {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the target does not exist, or the API server does not say what its pods are.
    pub async fn watch(cluster: &Cluster, target: &Target) -> Result<Self, ClusterError> {
        let (members, container) = meant(cluster, target).await?;
        let scope = Scope::Namespace(cluster.namespace.clone());
        let selector = members.selector.clone();
        let facts = Box::new(move |pod: &Pod| member(pod, &members, container.as_deref()));
        let changes = follow(cluster.clone(), scope, ("pods", &selector), facts);
        Ok(Self { changes: Box::pin(changes), known: None, due: None })
    }

    /// All pods of the target, each time that something has changed, the first time at once. An error means that what was said last
    /// may be out of date; the watch goes on by itself.
    ///
    /// # Errors
    /// Why the API server says nothing at the moment.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Vec<Member>, ClusterError> {
        loop {
            let change = match self.due {
                None => self.changes.next().await,
                Some(due) => match timeout_at(due, self.changes.next()).await {
                    Ok(change) => change,
                    Err(_) => return Ok(self.all()),
                },
            };
            match change {
                Some(Change::All(all)) => {
                    self.known = Some(all);
                    return Ok(self.all());
                }
                Some(Change::One(uid, member)) => {
                    if self.set(uid, member) {
                        self.due.get_or_insert_with(|| Instant::now() + WATCH_GATHER);
                    }
                }
                Some(Change::Lost(error)) => return Err(error),
                // The stream has no end.
                None => std::future::pending().await,
            }
        }
    }

    fn all(&mut self) -> Vec<Member> {
        self.due = None;
        self.known.iter().flat_map(HashMap::values).cloned().collect()
    }

    /// Whether that changes anything.
    fn set(&mut self, uid: String, member: Option<Member>) -> bool {
        let Some(known) = &mut self.known else { return false };
        match member {
            Some(member) if known.get(&uid) == Some(&member) => false,
            Some(member) => {
                known.insert(uid, member);
                true
            }
            None => known.remove(&uid).is_some(),
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("known", &self.known).finish_non_exhaustive()
    }
}

/// Whether the target still exists; who may not ask takes it for existing.
///
/// # Errors
/// When the API server does not answer.
pub async fn exists(cluster: &Cluster, target: &Target) -> Result<bool, ClusterError> {
    match meant(cluster, target).await {
        Ok(_) => Ok(true),
        Err(ClusterError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn meant(cluster: &Cluster, target: &Target) -> Result<(Membership, Option<String>), ClusterError> {
    let Target::Cluster { kind, name, container } = target else {
        let reason = "it is on this machine and not in a cluster".to_owned();
        return Err(ClusterError::Target { target: target.to_string(), reason });
    };
    Ok((membership(cluster, target, kind, name).await?, container.clone()))
}

/// What is worth remembering of a pod. What has no meaning for a session changes all the time and is left out.
fn member(pod: &Pod, members: &Membership, container: Option<&str>) -> Option<Member> {
    if is_agent(pod) || !members.has(pod) {
        return None;
    }
    let fit = target_pod(pod, container).map_err(|refused| refused.why).map(|target| TargetPod {
        annotations: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        ..target
    });
    Some(Member {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        fit,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::fake::{self, list, pod};

    #[tokio::test]
    async fn pods_come_and_go() {
        let labels = json!({ "app": "api", "pod-template-hash": "7d4b9" });
        let [first, second] =
            ["api-7d4b9-1", "api-7d4b9-2"].map(|name| pod(name, "ReplicaSet/api-7d4b9", &labels));
        let stranger = pod("other-1", "ReplicaSet/other", &labels);
        let mut ending = first.clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-11-23T02:00:00Z");
        let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "api" },
            "spec": { "selector": { "matchLabels": { "app": "api" } } } });
        let events = json!([
            { "type": "ADDED", "object": second }, { "type": "MODIFIED", "object": ending }, { "type": "DELETED", "object": stranger },
        ]);
        let (cluster, asked) = fake::cluster([
            ("/deployments/api", 200, deployment),
            ("limit=", 200, list(&[first, stranger], "5", "")),
            ("watch=", 200, events),
        ]);
        let mut members = Members::watch(&cluster, &"deployment/api".parse().unwrap()).await.unwrap();
        let names = |members: &[Member]| {
            let mut names: Vec<_> =
                members.iter().map(|member| (member.name.clone(), member.fit.is_ok())).collect();
            names.sort();
            names
        };
        let before = members.next().await.unwrap();
        assert_eq!(names(&before), [("api-7d4b9-1".to_owned(), true)]);
        let after = members.next().await.unwrap();
        assert_eq!(names(&after), [("api-7d4b9-1".to_owned(), false), ("api-7d4b9-2".to_owned(), true)]);
        let deleted = after.iter().find(|member| member.fit.is_err()).unwrap();
        assert_eq!(deleted.fit, Err(Refusal::Deleted));
        assert!(asked.asked.lock().unwrap().iter().any(|uri| uri.contains("labelSelector=app%3Dapi")));
    }
}
