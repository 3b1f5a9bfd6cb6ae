//! The one task that owns the agents of all pods: what the cluster says of the pods goes in, agents are started and stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Attached, Purpose, Through,
    member::{self, Key, Member, Running, Stage, name_of},
};
use crate::{
    agent_link::AgentLink,
    cluster::{self, ClusterError, Members, TargetPod, agent_job, pod::Refusal},
    events::Events,
    host::{
        agent::{ClusterAgent, announce::announce},
        world::{Ended, Failure},
    },
    limits::{PODS, TARGET_LOOK},
};

/// See the module.
pub(super) struct Owner {
    purpose: Purpose,
    pods: Members,
    members: BTreeMap<Key, Member>,
    /// The member that the session reaches out through.
    reached: Option<Key>,
    through: Through,
    names_tx: watch::Sender<Vec<String>>,
    attached_rx: mpsc::Receiver<Attached>,
    attached: Option<Attached>,
    /// Waits for the first agents; `None` once told.
    ready_tx: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Why an agent could not be had, for whoever waits.
    failure: Option<Failure>,
    /// Starts and ends of agents, and questions about the target.
    tasks: JoinSet<Option<News>>,
    /// Agents that are being stopped.
    leaving: JoinSet<()>,
    attempts: u32,
    /// The pods have been listed.
    listed: bool,
    /// No pod is there: when to look whether the target still is.
    look: Option<Instant>,
    /// That there are too many pods has been said.
    too_many: bool,
}

/// What the tasks bring.
enum News {
    Started(Key, u32, Result<AgentLink, Failure>),
    Ended(Key, u32, String),
    /// Whether the target still exists.
    Exists(Result<bool, ClusterError>),
}

impl Owner {
    /// Asks for the target and begins to watch its pods.
    pub(super) async fn new(
        purpose: Purpose,
        through: Through,
        names_tx: watch::Sender<Vec<String>>,
        attached_rx: mpsc::Receiver<Attached>,
        ready_tx: oneshot::Sender<Result<(), Failure>>,
    ) -> Result<Self, Failure> {
        let pods = Members::watch(&purpose.cluster, &purpose.session.target).await;
        let pods = pods.map_err(|error| Failure::caused(&error, error.hint()))?;
        Ok(Self {
            purpose,
            pods,
            members: BTreeMap::new(),
            reached: None,
            through,
            names_tx,
            attached_rx,
            attached: None,
            ready_tx: Some(ready_tx),
            failure: None,
            tasks: JoinSet::new(),
            leaving: JoinSet::new(),
            attempts: 0,
            listed: false,
            look: None,
            too_many: false,
        })
    }

    /// Runs until it is told to stop, and ends all agents then.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        loop {
            let timer = self.next_timer();
            // The end outranks everything; what is done already comes before new work. All branches are cancel-safe.
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                Some(attached) = self.attached_rx.recv() => self.attach(attached).await,
                Some(news) = self.tasks.join_next(), if !self.tasks.is_empty() => match news {
                    Ok(Some(news)) => self.news(news).await,
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "an agent's task broke down"),
                },
                Some(_) = self.leaving.join_next(), if !self.leaving.is_empty() => {}
                pods = self.pods.next() => match pods {
                    Ok(pods) => self.seen(pods).await,
                    Err(error) => self.unseen(&error),
                },
                () = at(timer) => self.timer(),
            }
            self.settle();
        }
        self.end().await;
    }

    /// The pods as they are now.
    async fn seen(&mut self, pods: Vec<cluster::Member>) {
        self.listed = true;
        let mut fit: Vec<&TargetPod> = pods.iter().filter_map(|pod| pod.fit.as_ref().ok()).collect();
        fit.sort_by(|a, b| order(a).cmp(&order(b)));
        let wanted: BTreeSet<Key> = fit.iter().map(|pod| Key::of(pod)).collect();
        let deleted = |uid: &str| pods.iter().any(|pod| pod.uid == uid && pod.fit == Err(Refusal::Deleted));
        let mut gone = Vec::new();
        for (key, member) in &mut self.members {
            member.leaving = deleted(&key.uid);
            // One that is being deleted serves what it has until its container ends.
            if !(wanted.contains(key) || (member.leaving && member.is_up())) {
                gone.push(key.clone());
            }
        }
        for key in gone {
            let exists = pods.iter().any(|pod| pod.uid == key.uid) && !deleted(&key.uid);
            self.remove(&key, exists).await;
        }
        for pod in fit {
            if let Some(member) = self.members.get_mut(&Key::of(pod)) {
                member.pod = pod.clone();
            } else if self.members.len() < PODS {
                self.start(pod.clone());
            } else if !std::mem::replace(&mut self.too_many, true) {
                let text = format!("{} has more than {PODS} pods; the others are left alone", self.target());
                self.purpose.events.warn(text, "name a target with fewer pods, for example by a label");
            }
        }
    }

    fn unseen(&mut self, error: &ClusterError) {
        tracing::warn!(%error, "the pods of the target are not known at the moment");
        if !self.listed {
            self.failure.get_or_insert_with(|| Failure::caused(error, error.hint()));
        }
    }

    /// A new agent for a pod.
    fn start(&mut self, pod: TargetPod) {
        let Purpose { cluster, session, token, jobs, .. } = &self.purpose;
        let agent = ClusterAgent::new(cluster.clone(), pod.clone(), session, token, Arc::clone(jobs));
        self.attempts += 1;
        let running =
            Running { agent: agent.clone(), attempt: self.attempts, cancel: CancellationToken::new() };
        let (key, attempt, cancel) = (Key::of(&pod), self.attempts, running.cancel.clone());
        let started = member::start(agent, self.purpose.clone(), pod.clone());
        let task_key = key.clone();
        self.tasks.spawn(async move {
            let started = cancel.run_until_cancelled_owned(Box::pin(started)).await?;
            Some(News::Started(task_key, attempt, started))
        });
        match self.members.get_mut(&key) {
            Some(member) => member.stage = Stage::Starting(running),
            None => drop(self.members.insert(key, Member::new(pod, running))),
        }
    }

    async fn news(&mut self, news: News) {
        match news {
            News::Started(key, attempt, Ok(link)) => self.came_up(key, attempt, link).await,
            News::Started(key, attempt, Err(failure)) => {
                let Some(member) = self.current(&key, attempt) else { return };
                let (pod, stage) = (member.pod.clone(), member.pause());
                self.leaving.spawn(member::stop(stage));
                let text = format!("pod {} has no agent: {}", pod.name, failure.text);
                self.purpose.events.at_pod(name_of(&pod)).warn(text, &failure.hint);
                self.failure.get_or_insert(failure);
            }
            News::Ended(key, attempt, how) => {
                let Some(member) = self.current(&key, attempt) else { return };
                let (pod, leaving) = (member.pod.clone(), member.leaving);
                if leaving {
                    return self.remove(&key, false).await;
                }
                let stage = member.pause();
                self.leave(stage).await;
                let text = format!("the agent of pod {} has ended ({how}); it gets another one", pod.name);
                self.purpose.events.at_pod(name_of(&pod)).warn(text, agent_job::hint_after(&how));
            }
            News::Exists(Ok(false)) => {
                let text = format!("the target, {}, is gone", self.target());
                let failure = Failure::new(text, "start the session again when it is back");
                if let Some(attached) = &self.attached {
                    // Closed: the session is ending already.
                    drop(attached.ended_tx.send(Ended::Target(failure)).await);
                } else {
                    self.failure = Some(failure);
                }
                self.look = None;
            }
            News::Exists(answer) => {
                if let Err(error) = answer {
                    tracing::info!(%error, "it is not known whether the target still exists");
                }
                self.look = Some(Instant::now() + TARGET_LOOK);
            }
        }
    }

    async fn came_up(&mut self, key: Key, attempt: u32, link: AgentLink) {
        let Some(member) = self.current(&key, attempt) else { return };
        member.came_up(link.clone());
        let (pod, running) = (member.pod.clone(), member.running().cloned());
        if let Some(Running { agent, cancel, .. }) = running {
            let key = key.clone();
            self.tasks.spawn(async move {
                let how = cancel.run_until_cancelled_owned(Box::pin(member::ended(agent, link))).await?;
                Some(News::Ended(key, attempt, how))
            });
        }
        if self.attached.is_some() {
            self.join(&key).await;
            self.tell(&pod, format!("pod {} has joined: its traffic comes here, too", pod.name));
        }
    }

    /// The member whose news these are, unless they are old.
    fn current(&mut self, key: &Key, attempt: u32) -> Option<&mut Member> {
        self.members.get_mut(key).filter(|member| member.running().is_some_and(|now| now.attempt == attempt))
    }

    /// Connections of all pods go to the session from now on.
    async fn attach(&mut self, attached: Attached) {
        self.attached = Some(attached);
        let up: Vec<Key> = self.up().map(|(key, _)| key.clone()).collect();
        for key in up {
            self.join(&key).await;
        }
        let names = self.names();
        let (noun, first) = (if names.len() == 1 { "pod" } else { "pods" }, names.first());
        if let (Some(first), Some(member)) =
            (first, self.reached.as_ref().and_then(|key| self.members.get(key)))
        {
            let text = format!(
                "traffic of {} {noun} comes here: {}; files, names and outgoing connections go through {first}",
                names.len(),
                names.join(", ")
            );
            self.tell(&member.pod, text);
        }
    }

    async fn join(&mut self, key: &Key) {
        let Some(Attached { network, .. }) = &self.attached else { return };
        let Some(member) = self.members.get_mut(key) else { return };
        if let Stage::Up { running, link, source } = &mut member.stage {
            // An error: the session is ending.
            *source = network.join(name_of(&member.pod), link.clone()).await.ok();
            let announced = Box::pin(announce(running.agent.job(), network.ports()));
            let cancel = running.cancel.clone();
            self.tasks.spawn(async move {
                cancel.run_until_cancelled_owned(announced).await;
                None
            });
        }
    }

    /// Takes a pod out. `exists`: the pod is still there, but cannot have an agent now.
    async fn remove(&mut self, key: &Key, exists: bool) {
        let Some(member) = self.members.remove(key) else { return };
        let was_up = member.is_up();
        self.leave(member.stage).await;
        let left = self.up().count();
        let pods = match left {
            0 => "no pod is left".to_owned(),
            1 => "1 pod is left".to_owned(),
            left => format!("{left} pods are left"),
        };
        let name = &member.pod.name;
        let text = if exists {
            format!("the container of pod {name} does not run; the session waits for it, {pods}")
        } else {
            format!("pod {name} is gone; {pods}")
        };
        if was_up {
            self.tell(&member.pod, text);
        }
    }

    /// Ends an agent and what comes from it.
    async fn leave(&mut self, stage: Stage) {
        if let (Stage::Up { source: Some(source), .. }, Some(Attached { network, .. })) =
            (&stage, &self.attached)
        {
            network.leave(*source).await;
        }
        self.leaving.spawn(member::stop(stage));
    }

    /// What follows from what has changed: whom the session reaches out through, what others know, when to look again.
    fn settle(&mut self) {
        let starting = self.members.values().any(|member| matches!(member.stage, Stage::Starting(_)));
        let decided = self.listed && !starting || self.failure.is_some() && !self.listed;
        // At the start the best pod is waited for.
        if decided || self.ready_tx.is_none() {
            self.elect();
        }
        let names = self.names();
        let none = names.is_empty();
        self.names_tx.send_if_modified(|known| std::mem::replace(known, names.clone()) != names);
        if decided && let Some(ready_tx) = self.ready_tx.take() {
            let no_pod = Failure::new(format!("{} has no pod", self.target()), "");
            let ready = if none { Err(self.failure.take().unwrap_or(no_pod)) } else { Ok(()) };
            // Nobody waits any more: the start was given up.
            ready_tx.send(ready).ok();
        }
        if !self.members.is_empty() {
            self.look = None;
        } else if self.listed && self.attached.is_some() && self.look.is_none() {
            let text = format!("{} has no pod at the moment; the session waits for one", self.target());
            self.purpose.events.warn(text, "");
            self.look = Some(Instant::now());
        }
    }

    /// Keeps the pod that the session reaches out through; when it is gone, another one takes its place.
    fn elect(&mut self) {
        if self.reached.as_ref().is_some_and(|key| self.members.get(key).is_some_and(Member::is_up)) {
            return;
        }
        let before = self.reached.take();
        let best =
            self.up().min_by(|(_, a), (_, b)| (a.leaving, order(&a.pod)).cmp(&(b.leaving, order(&b.pod))));
        let best = best.map(|(key, member)| (key.clone(), member.pod.clone(), member.running().cloned()));
        let job = best.as_ref().and_then(|(.., running)| Some(running.as_ref()?.agent.job()));
        *self.through.lock().unwrap_or_else(PoisonError::into_inner) = job;
        let name = best.as_ref().and_then(|(_, pod, _)| name_of(pod));
        self.purpose.events.reach_out_through(name);
        if let Some((key, pod, _)) = best {
            if before.is_some() || self.attached.is_some() {
                let text = format!("files, names and outgoing connections go through pod {} now", pod.name);
                self.tell(&pod, text);
            }
            self.reached = Some(key);
        }
    }

    fn up(&self) -> impl Iterator<Item = (&Key, &Member)> {
        self.members.iter().filter(|(_, member)| member.is_up())
    }

    /// Names of the pods that have an agent, the one that is reached out through first.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .up()
            .map(|(key, member)| (self.reached.as_ref() != Some(key), member.pod.name.clone()))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// When a pause ends, or the target is looked for.
    fn next_timer(&self) -> Option<Instant> {
        let pauses = self.members.values().filter_map(|member| match member.stage {
            Stage::Pausing(until) if !member.leaving => Some(until),
            _ => None,
        });
        pauses.chain(self.look).min()
    }

    fn timer(&mut self) {
        let now = Instant::now();
        let over = self.members.values().filter(|member| match member.stage {
            Stage::Pausing(until) => until <= now && !member.leaving,
            _ => false,
        });
        let over: Vec<TargetPod> = over.map(|member| member.pod.clone()).collect();
        for pod in over {
            self.start(pod);
        }
        if self.look.is_some_and(|look| look <= now) {
            // Until it is answered.
            self.look = Some(now + TARGET_LOOK * 10);
            let (cluster, session) = (self.purpose.cluster.clone(), Arc::clone(&self.purpose.session));
            self.tasks.spawn(async move {
                Some(News::Exists(Box::pin(cluster::members::exists(&cluster, &session.target)).await))
            });
        }
    }

    /// Ends all agents.
    async fn end(mut self) {
        self.tasks.abort_all();
        self.attached = None;
        for (_, member) in std::mem::take(&mut self.members) {
            self.leaving.spawn(member::stop(member.stage));
        }
        while let Some(stopped) = self.leaving.join_next().await {
            if let Err(error) = stopped {
                tracing::error!(%error, "stopping an agent broke down");
            }
        }
    }

    fn target(&self) -> String {
        self.purpose.session.target.to_string()
    }

    fn tell(&self, pod: &TargetPod, text: String) {
        tell(&self.purpose.events.at_pod(name_of(pod)), text);
    }
}

/// An event of the agents.
fn tell(events: &Events, text: String) {
    tracing::info!(text, "pods");
    events.emit(wire::Event {
        kind: wire::Kind::Agent.into(),
        subject: text.clone(),
        detail: Some(wire::event::Detail::Agent(wire::AgentEvent { text, link: None })),
        ..wire::Event::default()
    });
}

/// The best pod comes first: ready, and the oldest of those.
fn order(pod: &TargetPod) -> (bool, i64, &str) {
    (!pod.ready, pod.created_ms, &pod.name)
}

/// Waits until then, or for good.
async fn at(timer: Option<Instant>) {
    match timer {
        Some(timer) => sleep_until(timer).await,
        None => std::future::pending().await,
    }
}
