//! Creates the agent's objects and waits until the agent answers, or until it is certain that it will not.
//!
//! Readiness is an answer through the port-forward: the kubelet reports the state of a pod up to a second late, and its log too.

use std::{
    ops::ControlFlow,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt, future::try_join_all};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams, WatchEvent},
};
use tokio::time::{sleep, timeout};

use super::{AgentJob, AgentJobError, NO_POD, manifest, owner, pod_state, program};
use crate::{
    cluster::error::ClusterError,
    limits::{AGENT_PROBE, JOB_EVENTS, WATCH_LIFE, WATCH_RETRY_MIN},
};

impl AgentJob {
    /// Returns when the agent answers; `uid` is the job's, from [`Self::create`]. When it fails, the job must be deleted by whoever
    /// called, as must one that is not waited for any more.
    ///
    /// # Errors
    /// Why there is no agent.
    pub async fn ready(&self, uid: &str) -> Result<(), AgentJobError> {
        let started = Instant::now();
        let seen = Mutex::new(NO_POD.to_owned());
        let limit = self.spec.options.startup;
        let waiting = timeout(limit, async {
            tokio::select! {
                biased;
                () = self.answers() => Ok(()),
                failure = self.fails(&seen) => Err(failure),
                failure = self.gets_no_pod(uid) => Err(failure),
            }
        });
        let result = match waiting.await {
            Ok(result) => result,
            Err(_) => {
                let mut state = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
                if let Some(warning) = self.last_warning().await {
                    state = format!("{state}: {warning}");
                }
                Err(AgentJobError::Late { seconds: limit.as_secs(), state })
            }
        };
        tracing::info!(ms = started.elapsed().as_millis(), ready = result.is_ok(), "waited for the agent");
        result
    }

    /// Waits until the agent's pod has ended, and says how.
    pub async fn ended(&self) -> String {
        let ended = self.watch(|pod, deleted| match pod_state::ended(pod, self.ephemeral()) {
            Some(how) => ControlFlow::Break(how),
            None if deleted => ControlFlow::Break("its pod was deleted".to_owned()),
            None => ControlFlow::Continue(()),
        });
        match ended.await {
            Ok(how) => how,
            // Then only the link tells.
            Err(error) => {
                tracing::warn!(%error, "the agent's pod cannot be watched");
                std::future::pending().await
            }
        }
    }

    /// Creates the job, then its ConfigMaps all at once: mounting is retried with growing pauses, so they must not come late. Gives
    /// the job's uid. What exists when it fails must be deleted by whoever called. Or adds the ephemeral container, which has none.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(&self) -> Result<String, AgentJobError> {
        let started = Instant::now();
        let (cluster, namespace) = (&self.cluster, &self.namespace);
        if let Some(name) = self.ephemeral() {
            self.join_pod(name).await?;
            tracing::info!(ms = started.elapsed().as_millis(), "the agent's container is added to the pod");
            return Ok(String::new());
        }
        let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), namespace);
        let job = manifest::job(&self.name, &self.spec);
        let post = PostParams::default();
        let action = format!("create jobs in namespace `{namespace}`");
        let created = cluster.call(action, jobs.create(&post, &job)).await?;
        let uid = created.uid().unwrap_or_default();
        if self.spec.options.image.is_none() {
            let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
            let labels = manifest::labels(&self.name, &self.spec);
            let content = program::config_maps(&self.name, &owner(&self.name, &uid), &labels);
            let (maps, post) = (&maps, &post);
            let create = |map: ConfigMap| async move {
                let action = format!("create configmaps in namespace `{namespace}`");
                cluster.call(action, maps.create(post, &map)).await
            };
            try_join_all(content.into_iter().map(create)).await?;
        }
        tracing::info!(ms = started.elapsed().as_millis(), "the agent's objects are created");
        Ok(uid)
    }

    /// Returns when the agent has said its first bytes.
    async fn answers(&self) {
        loop {
            if self.pod().is_some() {
                match self.connect().await {
                    // The stream served to find out; the link opens its own.
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "the agent does not listen yet"),
                }
            }
            sleep(AGENT_PROBE).await;
        }
    }

    /// Learns the pod's name, and returns when the pod cannot become an agent any more.
    async fn fails(&self, seen: &Mutex<String>) -> AgentJobError {
        let node = &self.spec.target.node;
        let failed = self.watch(|pod, deleted| {
            let name = pod.name_any();
            self.set_pod(&name);
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = pod_state::waiting(pod, self.ephemeral());
            let deleted = || deleted.then(|| "its pod was deleted".to_owned());
            match pod_state::ended(pod, self.ephemeral()).or_else(deleted) {
                Some(reason) => {
                    ControlFlow::Break(AgentJobError::Pod { pod: name, node: node.clone(), reason })
                }
                None => ControlFlow::Continue(()),
            }
        });
        failed.await.unwrap_or_else(AgentJobError::from)
    }

    /// Returns when the job controller says that it may not make the pod: pod security, quota, a missing service account.
    async fn gets_no_pod(&self, uid: &str) -> AgentJobError {
        let list = ListParams::default().fields(&format!("involvedObject.uid={uid},reason=FailedCreate"));
        let events = self.events();
        loop {
            sleep(JOB_EVENTS).await;
            if self.pod().is_some() {
                return std::future::pending().await;
            }
            // Who may not read events waits for the startup timeout.
            let Ok(found) = events.list(&list).await else { return std::future::pending().await };
            if let Some(event) = found.items.into_iter().next_back() {
                let reason = event.message.unwrap_or_default();
                let (job, namespace) = (self.name.clone(), self.namespace.clone());
                return AgentJobError::NoPod { job, namespace, reason };
            }
        }
    }

    /// What the kubelet complains about, for whoever may read it: a pod that cannot even begin shows nothing but `ContainerCreating`.
    async fn last_warning(&self) -> Option<String> {
        let mut about = format!("involvedObject.name={},type=Warning", self.pod()?);
        if let Some(name) = self.ephemeral() {
            // The pod is the target's, and has troubles of its own.
            about.push_str(&format!(",involvedObject.fieldPath=spec.ephemeralContainers{{{name}}}"));
        }
        let list = ListParams::default().fields(&about);
        let action = format!("list events in namespace `{}`", self.namespace);
        let events = self.cluster.call(action, self.events().list(&list)).await.ok()?;
        events.items.into_iter().next_back()?.message
    }

    /// Shows `look` every state of the agent's pod until it has seen enough.
    async fn watch<T>(&self, mut look: impl FnMut(&Pod, bool) -> ControlFlow<T>) -> Result<T, ClusterError> {
        let pods = self.pods();
        let params = self.watched().timeout(WATCH_LIFE);
        loop {
            // From any version on: what exists is told first.
            let action = format!("watch pods in namespace `{}`", self.namespace);
            let events = match self.cluster.call(action, pods.watch(&params, "0")).await {
                Ok(events) => events,
                Err(error @ (ClusterError::Forbidden { .. } | ClusterError::Unauthorized { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "watching the agent's pod");
                    sleep(WATCH_RETRY_MIN).await;
                    continue;
                }
            };
            let mut events = pin!(events);
            while let Some(Ok(event)) = events.next().await {
                let looked = match &event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => look(pod, false),
                    WatchEvent::Deleted(pod) => look(pod, true),
                    WatchEvent::Bookmark(_) => continue,
                    WatchEvent::Error(_) => break,
                };
                if let ControlFlow::Break(seen) = looked {
                    return Ok(seen);
                }
            }
            sleep(WATCH_RETRY_MIN).await;
        }
    }
}
