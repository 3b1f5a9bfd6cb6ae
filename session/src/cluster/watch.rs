//! The targets of a cluster as they change, by watches of the API: one list at the start, then only what changes.

use std::{collections::HashMap, fmt, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    client::{Cluster, ClusterConfig, connect_quietly},
    error::ClusterError,
    targets::{ClusterTarget, PodFacts, Scope, ServiceFacts, targets},
};
use crate::limits::{
    CLUSTER_PAGE, CLUSTER_PODS, WATCH_GATHER, WATCH_LIFE, WATCH_RETRY_MAX, WATCH_RETRY_MIN, WATCH_SILENCE,
};

/// What a watch says.
#[derive(Debug)]
pub(super) enum Change<F> {
    /// This is all that there is.
    All(HashMap<String, F>),
    /// This object is new or has changed; `None`: it is not worth remembering any more.
    One(String, Option<F>),
    /// The watch is interrupted and will be tried again.
    Lost(ClusterError),
}

/// What is worth remembering of an object; `None`: nothing.
pub(super) type Facts<K, F> = Box<dyn Fn(&K) -> Option<F> + Send + Sync>;

/// Either watch, for the one loop that follows both.
enum News {
    Pods(Box<Change<PodFacts>>),
    Services(Change<ServiceFacts>),
}

/// Full lists of targets, each time that something has changed, the first at once. An error means that what was said last may be out of
/// date; the stream goes on and tries again, with growing pauses.
pub fn watch(
    cluster: &Cluster,
    scope: Scope,
) -> impl Stream<Item = Result<Vec<ClusterTarget>, ClusterError>> + Send + use<> {
    let pods = follow(cluster.clone(), scope.clone(), ("pods", ""), Box::new(PodFacts::of))
        .map(|change| News::Pods(Box::new(change)));
    let services =
        follow(cluster.clone(), scope, ("services", ""), Box::new(ServiceFacts::of)).map(News::Services);
    let news: Pin<Box<dyn Stream<Item = News> + Send>> = Box::pin(stream::select(pods, services));
    let state = State { news, pods: None, services: HashMap::new() };
    stream::unfold(state, |mut state| async move {
        let said = state.next().await?;
        Some((said, state))
    })
}

struct State {
    news: Pin<Box<dyn Stream<Item = News> + Send>>,
    /// By uid; `None` as long as they have not been listed.
    pods: Option<HashMap<String, PodFacts>>,
    services: HashMap<String, ServiceFacts>,
}

impl State {
    /// The next list or failure. What comes close together becomes one list.
    async fn next(&mut self) -> Option<Result<Vec<ClusterTarget>, ClusterError>> {
        let mut until: Option<Instant> = None;
        loop {
            let news = match until {
                None => self.news.next().await?,
                Some(until) => match timeout_at(until, self.news.next()).await {
                    Ok(news) => news?,
                    Err(_) => {
                        let pods: Vec<_> = self.pods.iter().flat_map(HashMap::values).collect();
                        return Some(Ok(targets(&pods, self.services.values())));
                    }
                },
            };
            let changed = match news {
                News::Pods(change) => match *change {
                    Change::All(all) => {
                        let changed = self.pods.as_ref() != Some(&all);
                        self.pods = Some(all);
                        changed
                    }
                    Change::One(uid, facts) => self.pods.as_mut().is_some_and(|pods| set(pods, uid, facts)),
                    Change::Lost(error) => return Some(Err(error)),
                },
                News::Services(Change::All(all)) => {
                    std::mem::replace(&mut self.services, all) != self.services
                }
                News::Services(Change::One(uid, facts)) => set(&mut self.services, uid, facts),
                News::Services(Change::Lost(error)) => {
                    tracing::info!(%error, "there are no services in the list");
                    false
                }
            };
            if changed && self.pods.is_some() {
                until.get_or_insert_with(|| Instant::now() + WATCH_GATHER);
            }
        }
    }
}

/// Whether that changes anything.
fn set<F: PartialEq>(all: &mut HashMap<String, F>, uid: String, facts: Option<F>) -> bool {
    match facts {
        Some(facts) if all.get(&uid) == Some(&facts) => false,
        Some(facts) => {
            all.insert(uid, facts);
            true
        }
        None => all.remove(&uid).is_some(),
    }
}

/// What a watch stands at.
enum Stage<K> {
    /// All objects must be listed, after this pause.
    List(Duration),
    /// Changes arrive.
    Watch(Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<K>>> + Send>>, String),
}

/// Follows all objects of a kind that have these labels (none: all): lists, watches, and begins anew when that breaks off.
pub(super) fn follow<K, F>(
    cluster: Cluster,
    scope: Scope,
    (plural, labels): (&'static str, &str),
    facts: Facts<K, F>,
) -> impl Stream<Item = Change<F>> + Send + use<K, F>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + 'static,
    K::DynamicType: Default,
    F: Send + 'static,
{
    let api: Api<K> = scope.api(&cluster);
    let labels = labels.to_owned();
    let follower = Follower { cluster, scope, plural, labels, api, facts, retry: WATCH_RETRY_MIN };
    stream::unfold((follower, Stage::List(Duration::ZERO)), |(mut follower, mut stage)| async move {
        loop {
            let (change, next) = follower.step(stage).await;
            stage = next;
            if let Some(change) = change {
                return Some((change, (follower, stage)));
            }
        }
    })
}

struct Follower<K, F> {
    cluster: Cluster,
    scope: Scope,
    plural: &'static str,
    /// Selector of labels.
    labels: String,
    api: Api<K>,
    facts: Facts<K, F>,
    /// Pause before the next attempt.
    retry: Duration,
}

impl<K, F> Follower<K, F>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    async fn step(&mut self, stage: Stage<K>) -> (Option<Change<F>>, Stage<K>) {
        match stage {
            Stage::List(pause) => {
                sleep(pause).await;
                match self.list().await {
                    Ok((all, version)) => match self.open(&version).await {
                        Ok(watch) => {
                            self.retry = WATCH_RETRY_MIN;
                            (Some(Change::All(all)), watch)
                        }
                        Err(error) => self.lost(error),
                    },
                    Err(error) => self.lost(error),
                }
            }
            Stage::Watch(mut events, version) => match timeout(WATCH_SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => self.take(event, events, version),
                // The server ends watches after a while: the next one goes on where this one ended.
                Ok(None) => match self.open(&version).await {
                    Ok(watch) => (None, watch),
                    Err(error) => self.lost(error),
                },
                Ok(Some(Err(error))) => {
                    let action = self.scope.action(&format!("go on with watching {}", self.plural));
                    let error = self.cluster.failed(action, error);
                    self.lost(error)
                }
                Err(_) => {
                    let action = self.scope.action(&format!("say anything about {}", self.plural));
                    let server = self.cluster.server.clone();
                    self.lost(ClusterError::Deadline { action, server, limit: WATCH_SILENCE })
                }
            },
        }
    }

    /// Handles one event of a watch.
    fn take(
        &self,
        event: WatchEvent<K>,
        events: Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<K>>> + Send>>,
        version: String,
    ) -> (Option<Change<F>>, Stage<K>) {
        let (object, facts) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let facts = (self.facts)(&object);
                (object, facts)
            }
            WatchEvent::Deleted(object) => (object, None),
            WatchEvent::Bookmark(mark) => {
                return (None, Stage::Watch(events, mark.metadata.resource_version));
            }
            // Mostly 410: the server has forgotten the version. A list begins anew.
            WatchEvent::Error(status) => {
                tracing::debug!(reason = %status.reason, "the watch of {} begins anew", self.plural);
                return (None, Stage::List(self.retry));
            }
        };
        let version = object.meta().resource_version.clone().unwrap_or(version);
        let uid = object.meta().uid.clone().unwrap_or_default();
        (Some(Change::One(uid, facts)), Stage::Watch(events, version))
    }

    /// Says the failure once and lists again after a pause that grows.
    fn lost(&mut self, error: ClusterError) -> (Option<Change<F>>, Stage<K>) {
        let pause = self.retry;
        self.retry = (pause * 2).min(WATCH_RETRY_MAX);
        (Some(Change::Lost(error)), Stage::List(pause))
    }

    async fn list(&self) -> Result<(HashMap<String, F>, String), ClusterError> {
        let mut all = HashMap::new();
        let mut page = ListParams::default().limit(CLUSTER_PAGE).labels(&self.labels);
        loop {
            let action = self.scope.action(&format!("list {}", self.plural));
            let listed = self.cluster.call(action, self.api.list(&page)).await?;
            for object in &listed.items {
                let uid = object.meta().uid.clone().unwrap_or_default();
                all.extend((self.facts)(object).map(|facts| (uid, facts)));
            }
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if all.len() < CLUSTER_PODS => page = page.continue_token(&token),
                Some(_) | None => return Ok((all, listed.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    async fn open(&self, version: &str) -> Result<Stage<K>, ClusterError> {
        let params = WatchParams::default().timeout(WATCH_LIFE).labels(&self.labels);
        let action = self.scope.action(&format!("watch {}", self.plural));
        let events = self.cluster.call(action, self.api.watch(&params, version)).await?;
        Ok(Stage::Watch(Box::pin(events), version.to_owned()))
    }
}

/// The targets of a cluster at this moment, watched on a thread of its own. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watching {
    /// watch --what is known--> readers; latest only
    seen_rx: watch::Receiver<Arc<Seen>>,
    _stop: DropGuard,
}

/// Where targets are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the context.
    pub context: String,
    /// What is looked at there.
    pub scope: Scope,
}

/// What is known of a cluster's targets.
#[derive(Debug, Default)]
pub struct Seen {
    /// What is watched; `None` as long as it is not known.
    pub place: Option<Place>,
    /// The targets that were seen last; `None` before the first answer.
    pub targets: Option<Vec<ClusterTarget>>,
    /// Why that may be out of date, or is not there.
    pub problem: Option<Arc<ClusterError>>,
}

impl Watching {
    /// Begins to watch the configured namespace of the configured cluster, or all of its namespaces.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(config: ClusterConfig, all_namespaces: bool) -> std::io::Result<Self> {
        let (seen_tx, seen_rx) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("cluster".to_owned()).spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(publish(config, all_namespaces, seen_tx)));
            // A name service that hangs is left behind.
            runtime.shutdown_background();
        })?;
        Ok(Self { seen_rx, _stop: stop.drop_guard() })
    }

    /// What is known now.
    #[must_use]
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen_rx.borrow())
    }

    /// Waits until there is something new to see.
    pub async fn changed(&mut self) {
        // An error means that the watch has ended, which only a drop of this brings about.
        drop(self.seen_rx.changed().await);
    }
}

/// Connects, again and again if need be, and says what the watch says.
async fn publish(config: ClusterConfig, all_namespaces: bool, seen_tx: watch::Sender<Arc<Seen>>) {
    let mut pause = WATCH_RETRY_MIN;
    let cluster = loop {
        match connect_quietly(&config).await {
            Ok(cluster) => break cluster,
            Err(error) => {
                seen_tx.send_replace(Arc::new(Seen { problem: Some(Arc::new(error)), ..Seen::default() }))
            }
        };
        sleep(pause).await;
        pause = (pause * 2).min(WATCH_RETRY_MAX);
    };
    let scope = if all_namespaces { Scope::All } else { Scope::Namespace(cluster.namespace.clone()) };
    let place = Some(Place { context: cluster.context.clone(), scope: scope.clone() });
    seen_tx.send_replace(Arc::new(Seen { place: place.clone(), ..Seen::default() }));
    let mut stream = std::pin::pin!(watch(&cluster, scope));
    let mut known = None;
    while let Some(said) = stream.next().await {
        let problem = match said {
            Ok(targets) => {
                known = Some(targets);
                None
            }
            Err(error) => Some(Arc::new(error)),
        };
        seen_tx.send_replace(Arc::new(Seen { place: place.clone(), targets: known.clone(), problem }));
    }
}
