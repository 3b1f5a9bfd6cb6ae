//! Bring-up of a real session, as steps that consume each other, so that a half-built session can be neither used nor forgotten:
//!
//! ```text
//! find the target ─▶ WithAgent  agent ─ link ─ hello, environment ─┐
//!      (at once)     Helpers    holder of the session netns ─ supervisor ──┴─▶ network ─▶ layer link ─▶ Live
//! ```
//! Every step has a deadline and a name that viewers see; when one fails or the session is stopped, what exists is undone in
//! reverse order.

use std::{
    future::Future,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use mirrord_netns::holder::Holder;
use mirrord_protocol::{agent::v1::EnvEntry, layer::v1 as layer};
use tokio::{
    process::Child,
    sync::{mpsc, watch},
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    agent::{Agent, ClusterAgent, LocalAgent, LocalTarget, Pods, Purpose, start_agent},
    holder::{HOLDER, end_child, make_netns},
    live::{Launching, Live},
    process::KEEP_LOG,
    resolve,
    world::{Failure, Inputs, Progress, Up, World},
};
use crate::{
    agent_link::{AgentLink, Endpoint},
    agent_process,
    attachment::{self, Attachment, Choice, Plan},
    cluster::{
        self, ClusterError, Which,
        preflight::{self, Report},
    },
    events::Events,
    files::{FileOptions, Files},
    http::HttpTaps,
    layer_link::{self, LayerLink},
    library,
    limits::{CLUSTER_CALL, CLUSTER_CREDENTIALS, ENDED_QUEUE, LAYER_EVENTS, STEP_TIMEOUT},
    network::{Network, NetworkSpec},
    role,
    spec::SessionSpec,
    target::Target,
};

/// Descriptor on which the holder is controlled.
pub(crate) const HOLDER_CONTROL: i32 = 3;

/// A session on this machine.
#[derive(Debug)]
pub(crate) struct LocalWorld {
    pub(crate) spec: Arc<SessionSpec>,
    pub(crate) dir: PathBuf,
    pub(crate) events: Events,
    pub(crate) taps: HttpTaps,
    /// What the command gets as its standard descriptors.
    pub(crate) stdio: [OwnedFd; 3],
    /// Signals that the caller ignores, bit N-1 for signal N.
    pub(crate) ignored_signals: u64,
}

/// The target is found, an agent runs beside it and answers.
#[derive(Debug)]
struct WithAgent {
    agent: Agent,
    link: AgentLink,
    environment: Vec<EnvEntry>,
}

/// The processes that hold the session netns and supervise the command run.
#[derive(Debug)]
struct Helpers {
    holder: Option<Holder>,
    /// Why there is no session netns.
    no_netns: Option<String>,
    children: Children,
    supervisor_link: OwnedFd,
}

/// Child processes of the host.
#[derive(Debug)]
pub(super) struct Children {
    /// Only with a session netns.
    pub(super) holder: Option<Child>,
    pub(super) supervisor: Child,
}

impl World for LocalWorld {
    type Parts = Live;

    async fn bring_up(
        self,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Up<Live>, Failure> {
        let steps = Steps { progress, cancel };
        let choice = self.spec.config.layer;
        let (with_agent, helpers, plan) = tokio::join!(
            steps.with_agent(&self),
            steps.helpers(choice),
            spawn_blocking(move || attachment::plan(choice))
        );
        let plan = plan.map_err(|error| broken(&error)).map(|plan| match &helpers {
            Ok(Helpers { no_netns: Some(why), .. }) => plan.without_netns(why),
            _ => plan,
        });
        let library = plan.and_then(|plan| Ok((library_for(&plan, &self)?, plan)));
        let (with_agent, helpers, (library, plan)) = match (with_agent, helpers, library) {
            (Ok(with_agent), Ok(helpers), Ok(library)) => (with_agent, helpers, library),
            (Ok(with_agent), Ok(helpers), Err(failure)) => {
                tokio::join!(with_agent.undo(), helpers.undo());
                return Err(failure);
            }
            (Ok(with_agent), Err(failure), _) => {
                with_agent.undo().await;
                return Err(failure);
            }
            (Err(failure), Ok(helpers), _) => {
                helpers.undo().await;
                return Err(failure);
            }
            (Err(failure), Err(other), _) => return Err(if failure.cancelled { other } else { failure }),
        };
        let WithAgent { agent, link, environment } = with_agent;
        let Helpers { holder, mut children, supervisor_link, .. } = helpers;
        match steps.connect(&self, (&agent, &link), holder, supervisor_link).await {
            Ok(Connected { network, layer, messages_rx, layer_task }) => {
                let (layer_tx, layer_rx) = mpsc::channel(LAYER_EVENTS);
                let (ended_tx, ended_rx) = mpsc::channel(ENDED_QUEUE);
                let inputs = Inputs {
                    layer_rx,
                    agent_rx: link.status(),
                    ending_rx: network.handle().agent_ending(),
                    ports_rx: network.handle().ports(),
                    listeners_rx: network.handle().listeners(),
                    pods_rx: agent.pods(),
                    ended_rx,
                };
                let launching = Launching {
                    spec: Arc::clone(&self.spec),
                    environment,
                    hostname: link.hello().hostname.clone(),
                    stdio: Some(self.stdio),
                    ignored_signals: self.ignored_signals,
                    library,
                };
                if plan.fallback {
                    let hint = "`mirrord-tui doctor` tells what would improve it";
                    self.events.warn(format!("the libc attachment is used: {}", plan.reason), hint);
                }
                let live = Live::start(
                    (self.dir, self.events),
                    (agent, link),
                    (network, children),
                    (layer, messages_rx, layer_task),
                    launching,
                    (layer_tx, ended_tx),
                );
                Ok(Up { parts: live, inputs, attachment: (plan.name().to_owned(), plan.reason) })
            }
            Err(failure) => {
                children.end().await;
                WithAgent { agent, link, environment }.undo().await;
                Err(failure)
            }
        }
    }
}

/// The library in the session's folder, when the plan needs one.
fn library_for(plan: &Plan, world: &LocalWorld) -> Result<Option<layer::Library>, Failure> {
    let Attachment::Libc { filters, netns } = plan.attachment else { return Ok(None) };
    let (path, socket) = library::lay_out(&world.dir).map_err(|error| {
        Failure::caused(&error, "the session's folder must be writable; see XDG_RUNTIME_DIR")
    })?;
    let bytes = |path: PathBuf| path.into_os_string().into_encoded_bytes().into();
    Ok(Some(layer::Library {
        path: bytes(path),
        socket: bytes(socket),
        filters,
        names: world.spec.config.dns.remote,
        addresses: !netns,
    }))
}

/// What the last steps make.
struct Connected {
    network: Network,
    layer: LayerLink,
    messages_rx: mpsc::Receiver<mirrord_protocol::layer::v1::FromLayer>,
    layer_task: layer_link::LayerTask,
}

/// Names, deadlines and the way out, for all steps.
struct Steps {
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Steps {
    /// One step: shown, bounded, and given up when the session is stopped.
    async fn step<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.step_within(STEP_TIMEOUT, name, work).await
    }

    /// As [`Self::step`], with another deadline.
    async fn step_within<T>(
        &self,
        limit: Duration,
        name: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.progress.send_modify(|progress| name.clone_into(&mut progress.step));
        let started = tokio::time::Instant::now();
        let result = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Failure::cancelled()),
            result = timeout(limit, work) => result,
        };
        tracing::debug!(step = name, us = started.elapsed().as_micros(), "bring-up step");
        result.unwrap_or_else(|_| {
            Err(Failure::new(format!("{name} took longer than {} s", limit.as_secs()), KEEP_LOG))
        })
    }

    async fn with_agent(&self, world: &LocalWorld) -> Result<WithAgent, Failure> {
        let (agent, endpoint, token) = match &world.spec.target {
            Target::Cluster { .. } => Box::pin(self.cluster_agent(world)).await?,
            Target::Local(_) | Target::Pid(_) | Target::Container(_) => self.local_agent(world).await?,
        };
        let connected = self.step("connecting to the agent", async {
            let hint = KEEP_LOG;
            let link = match &agent {
                Agent::Pods(_) => AgentLink::connect_for_good(endpoint, &token).await,
                Agent::Local(_) | Agent::Cluster(_) => AgentLink::connect(endpoint, &token).await,
            };
            let link = link.map_err(|error| Failure::caused(&error, hint))?;
            let environment = if world.spec.config.env.enabled {
                link.env().await.map_err(|error| Failure::caused(&error, hint))?
            } else {
                Vec::new()
            };
            Ok((link, environment))
        });
        match connected.await {
            Ok((link, environment)) => Ok(WithAgent { agent, link, environment }),
            Err(failure) => {
                agent.stop().await;
                Err(failure)
            }
        }
    }

    async fn local_agent(&self, world: &LocalWorld) -> Result<(Agent, Endpoint, String), Failure> {
        let spec = Arc::clone(&world.spec);
        let found = self.step("finding the target", async move {
            spawn_blocking(move || resolve::find(&spec.target))
                .await
                .unwrap_or_else(|error| Err(broken(&error)))
        });
        let pod = matches!(world.spec.target, Target::Local(_));
        let target = LocalTarget { pid: found.await?.pid, pod };
        let process = self.step("starting the agent", start_agent(target, world.dir.clone())).await?;
        let (endpoint, token) = (process.endpoint.clone(), process.token.clone());
        Ok((Agent::Local(LocalAgent::new(process, target.pid)), endpoint, token))
    }

    async fn cluster_agent(&self, world: &LocalWorld) -> Result<(Agent, Endpoint, String), Failure> {
        let spec = &world.spec;
        let failed = |error: ClusterError| Failure::caused(&error, error.hint());
        // Each of their calls has a deadline and a text of its own, which comes before that of the step.
        let (credentials, resolution) = (CLUSTER_CREDENTIALS + STEP_TIMEOUT, CLUSTER_CALL * 3);
        let cluster = self.step_within(credentials, "connecting to the cluster", async {
            cluster::connect(&spec.cluster).await.map_err(failed)
        });
        let cluster = cluster.await?;
        let place = format!("{}/{}", cluster.context, cluster.namespace);
        self.progress.send_modify(|progress| progress.place = place);
        let target = self.step_within(resolution, "finding the target", async {
            let found = cluster::resolve(&cluster, &spec.target, Which::One).await.map_err(failed)?;
            found.into_iter().next().ok_or_else(|| Failure::new("the target has no pod", ""))
        });
        let target = target.await?;
        let checked = self.step_within(resolution, "checking what the cluster allows", async {
            let wants = preflight::Wants::of(&spec.agent, &spec.config);
            preflight::check(&cluster, &target, &wants).await.and_then(Report::into_result).map_err(failed)
        });
        let report = checked.await?;
        self.progress.send_modify(|progress| progress.sharing = report.sharing(&target));
        for warning in report.warnings() {
            world.events.warn(format!("{}: {}", spec.target, warning.detail), &warning.hint);
        }
        let token = agent_process::token().map_err(|error| Failure::caused(&error, ""))?;
        let jobs = Arc::new(AtomicU32::new(0));
        let startup = spec.agent.startup + CLUSTER_CALL * 3;
        if spec.all_pods {
            let (session, events) = (Arc::clone(spec), world.events.clone());
            let pods = Pods::new(Purpose { cluster, session, token: token.clone(), events, jobs });
            let name = "starting the agents in the cluster";
            let started = self.step_within(startup, name, Box::pin(pods.start())).await;
            let endpoint = pods.endpoint();
            return Self::or_stop(started, Agent::Pods(Box::new(pods)), endpoint, token).await;
        }
        let agent = ClusterAgent::new(cluster, target, spec, &token, jobs);
        let name = "starting the agent in the cluster";
        let started = self.step_within(startup, name, Box::pin(agent.start())).await;
        world.events.reach_out_through(Some(agent.pod().into()));
        let endpoint = agent.endpoint();
        Self::or_stop(started, Agent::Cluster(Box::new(agent)), endpoint, token).await
    }

    /// What has been started, or the failure after what exists has been removed.
    async fn or_stop(
        started: Result<(), Failure>,
        agent: Agent,
        endpoint: Endpoint,
        token: String,
    ) -> Result<(Agent, Endpoint, String), Failure> {
        match started {
            Ok(()) => Ok((agent, endpoint, token)),
            Err(failure) => {
                agent.stop().await;
                Err(failure)
            }
        }
    }

    /// The session netns where one can be made and the supervisor. Without a netns only the libc attachment works.
    async fn helpers(&self, choice: Choice) -> Result<Helpers, Failure> {
        let made = self.step("making the session's network", async { Ok(make_netns().await) }).await?;
        let (netns, no_netns) = match made {
            Ok(netns) => (Some(netns), None),
            Err(failure) if choice == Choice::Syscall => return Err(failure),
            Err(failure) => (None, Some(failure.text)),
        };
        let (holder, mut holder_child, endpoint) = match netns {
            Some((holder, child, endpoint)) => (Some(holder), Some(child), Some(endpoint)),
            None => (None, None, None),
        };
        let started = role::program().map_err(|error| Failure::caused(&error, "")).and_then(|program| {
            layer_link::start_supervisor(&program, endpoint).map_err(|error| Failure::caused(&error, ""))
        });
        match started {
            Ok((supervisor, supervisor_link)) => {
                let children = Children { holder: holder_child, supervisor };
                Ok(Helpers { holder, no_netns, children, supervisor_link })
            }
            Err(failure) => {
                drop(holder);
                if let Some(child) = &mut holder_child {
                    end_child(child, HOLDER).await;
                }
                Err(failure)
            }
        }
    }

    async fn connect(
        &self,
        world: &LocalWorld,
        (agent, link): (&Agent, &AgentLink),
        holder: Option<Holder>,
        supervisor_link: OwnedFd,
    ) -> Result<Connected, Failure> {
        let config = &world.spec.config;
        let network = NetworkSpec {
            incoming: config.incoming.clone(),
            outgoing: config.outgoing.clone(),
            dns: config.dns.clone(),
            agent: link.clone(),
            serves: agent.serves(),
            events: world.events.clone(),
            holder,
            hold: true,
            tap: world.taps.factory(),
        };
        let network = self.step("setting up the session's network", async {
            Network::start(network).await.map_err(|error| {
                Failure::caused(&error, "`mirrord-tui doctor` tells what this machine allows")
            })
        });
        let network = network.await?;
        let options = FileOptions {
            dns_remote: config.dns.remote,
            helper: role::program().ok(),
            scratch: Some(world.dir.clone()),
        };
        let files = Files::new(Arc::new(link.clone()), world.events.clone(), options);
        let owners = network.handle().owners();
        let linked = async { LayerLink::new(supervisor_link, files, owners) };
        let linked = self.step("linking to the layer", async {
            linked.await.map_err(|error| Failure::caused(&error, ""))
        });
        match linked.await {
            Ok((layer, messages_rx, layer_task)) => {
                let layer_task = layer_task.with_network(network.handle());
                Ok(Connected { network, layer, messages_rx, layer_task })
            }
            Err(failure) => {
                network.shutdown().await;
                Err(failure)
            }
        }
    }
}

impl WithAgent {
    async fn undo(self) {
        self.link.close().await;
        self.agent.stop().await;
    }
}

impl Helpers {
    async fn undo(self) {
        let Self { holder, mut children, supervisor_link, .. } = self;
        drop((holder, supervisor_link));
        children.end().await;
    }
}

impl Children {
    /// Waits for both to end, which they do when their links are closed; kills what does not.
    pub(super) async fn end(&mut self) {
        tokio::join!(end_child(&mut self.supervisor, "the supervisor"), async {
            if let Some(holder) = &mut self.holder {
                end_child(holder, HOLDER).await;
            }
        });
    }
}

pub(super) fn broken(error: &JoinError) -> Failure {
    Failure::caused(error, KEEP_LOG)
}
