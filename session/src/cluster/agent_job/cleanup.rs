//! Removes agents: one by name, and those that nobody owns any more.
//!
//! Every delete carries a propagation policy. Without one the API server orphans what a Job owns: its pod would run on.

use k8s_openapi::{api::batch::v1::Job, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};

use super::manifest::{MANAGED_BY, OWNER, SINCE};
use crate::{
    cluster::{client::Cluster, error::ClusterError},
    limits::JOB_SETTLED,
};

/// A job that no session needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who has started it, user@host.
    pub owner: String,
    /// When, as the API server writes times.
    pub since: String,
}

/// Deletes a job with everything that it owns. One that does not exist is fine.
///
/// # Errors
/// When the API server does not do it.
pub async fn remove(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), ClusterError> {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), namespace);
    let params = DeleteParams::background();
    let deleted = async {
        match jobs.delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    };
    cluster.call(format!("delete job `{name}` in namespace `{namespace}`"), deleted).await
}

/// The agents' jobs that nobody needs: those of `owner` whose session does not live any more, and those of anybody that have long
/// been without a running pod. All namespaces when they may be listed, else the cluster's own.
///
/// # Errors
/// When jobs may not be listed.
pub async fn left_behind(
    cluster: &Cluster,
    owner: &str,
    lives: impl Fn(&str) -> bool,
) -> Result<Vec<LeftBehind>, ClusterError> {
    let params = ListParams::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let everywhere: Api<Job> = Api::all(cluster.client.clone());
    let found = match cluster.call("list jobs", everywhere.list(&params)).await {
        Err(ClusterError::Forbidden { .. }) => {
            let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
            cluster
                .call(format!("list jobs in namespace `{}`", cluster.namespace), jobs.list(&params))
                .await?
        }
        found => found?,
    };
    let unneeded = |job: &Job| {
        let ours = job.annotations().get(OWNER).is_some_and(|of| of == owner);
        (ours && session_of(&job.name_any()).is_some_and(|session| !lives(session))) || is_over(job)
    };
    Ok(found.items.iter().filter(|job| unneeded(job)).map(describe).collect())
}

/// The session in the name of a job: `mirrord-tui-SESSION-NUMBER`.
#[must_use]
pub fn session_of(job: &str) -> Option<&str> {
    Some(job.strip_prefix("mirrord-tui-")?.rsplit_once('-')?.0)
}

/// Whether it has no running pod, and is old enough to have had one.
fn is_over(job: &Job) -> bool {
    let active = job.status.as_ref().and_then(|status| status.active).unwrap_or_default() > 0;
    let age =
        job.creation_timestamp().map_or(0, |created| Timestamp::now().as_second() - created.0.as_second());
    !active && age > i64::try_from(JOB_SETTLED.as_secs()).unwrap_or(i64::MAX)
}

fn describe(job: &Job) -> LeftBehind {
    let annotation = |key| job.annotations().get(key).cloned().unwrap_or_default();
    LeftBehind {
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        owner: annotation(OWNER),
        since: annotation(SINCE),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_of_a_job_tells_its_session() {
        assert_eq!(session_of("mirrord-tui-ab12c-0"), Some("ab12c"));
        assert_eq!(session_of("mirrord-tui-x"), None);
        assert_eq!(session_of("backup-1-0"), None);
    }

    #[test]
    fn only_an_old_job_without_a_pod_is_over() {
        let job = |created: &str, active: i32| -> Job {
            serde_json::from_value(
                json!({"metadata": {"creationTimestamp": created}, "status": {"active": active}}),
            )
            .unwrap()
        };
        assert!(is_over(&job("2020-01-01T00:00:00Z", 0)));
        assert!(!is_over(&job("2020-01-01T00:00:00Z", 1)));
        assert!(!is_over(&job(&Timestamp::now().to_string(), 0)));
    }
}
