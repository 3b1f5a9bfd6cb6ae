//! The parts of a session on this machine: what the driver's orders mean in processes, links and tasks.

use std::{
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mirrord_layer::decide::{Mode as PathMode, Places, default_rules};
use mirrord_protocol::{
    agent::v1::EnvEntry,
    layer::v1::{self as layer, FromLayer, Started, from_layer},
    session::v1 as wire,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    agent::{Agent, child_ended},
    bring_up::Children,
    orphans,
    process::KEEP_LOG,
    unix_relay::UnixRelays,
    world::{Ended, Failure, LayerEvent, Owned, Parts},
};
use crate::{
    agent_link::{AgentLink, ip_address},
    config::{FileMode, Mode, path_rules::layer_rules},
    env,
    events::Events,
    layer_link::{LayerEnd, LayerError, LayerLink, LayerTask},
    limits::AGENT_GOODBYE,
    network::{Network, NetworkError, NetworkHandle},
    spec::SessionSpec,
};

/// All parts of a session that is up.
#[derive(Debug)]
pub(crate) struct Live {
    agent: Agent,
    link: AgentLink,
    network: Option<Network>,
    /// Holds the session netns through its holder, so it must go before the holder is waited for.
    handle: Option<NetworkHandle>,
    layer: Option<LayerLink>,
    children: Children,
    launching: Launching,
    /// launch --started or not--> the translation of layer messages, which waits for it
    launched_tx: Option<oneshot::Sender<LayerEvent>>,
    ended_tx: mpsc::Sender<Ended>,
    tasks: JoinSet<()>,
}

/// What the command is started with.
#[derive(Debug)]
pub(super) struct Launching {
    pub(super) spec: Arc<SessionSpec>,
    pub(super) environment: Vec<EnvEntry>,
    /// The target's host name.
    pub(super) hostname: bytes::Bytes,
    pub(super) stdio: Option<[OwnedFd; 3]>,
    pub(super) ignored_signals: u64,
    /// The libc attachment's library; `None`: the syscall attachment.
    pub(super) library: Option<layer::Library>,
}

impl Live {
    pub(super) fn start(
        (dir, events): (PathBuf, Events),
        (agent, link): (Agent, AgentLink),
        (network, children): (Network, Children),
        (layer, messages_rx, layer_task): (LayerLink, mpsc::Receiver<FromLayer>, LayerTask),
        launching: Launching,
        (layer_tx, ended_tx): (mpsc::Sender<LayerEvent>, mpsc::Sender<Ended>),
    ) -> Self {
        let mut tasks = JoinSet::new();
        let (launched_tx, launched_rx) = oneshot::channel();
        let handle = network.handle();
        let translation = Translation {
            layer_tx,
            handle: handle.clone(),
            layer: layer.clone(),
            unix: UnixRelays::new(&dir, link.clone()),
            events,
        };
        tasks.spawn(run_layer(layer_task));
        tasks.spawn(translation.run(messages_rx, launched_rx));
        tasks.spawn(agent.clone().watch(handle.clone(), ended_tx.clone()));
        let holder = child_ended(children.holder.as_ref().and_then(tokio::process::Child::id));
        let holder_tx = ended_tx.clone();
        tasks.spawn(async move {
            if holder.await {
                // Closed: the session is ending as well.
                drop(holder_tx.send(Ended::Holder).await);
            }
        });
        Self {
            agent,
            link,
            network: Some(network),
            handle: Some(handle),
            layer: Some(layer),
            children,
            launching,
            launched_tx: Some(launched_tx),
            ended_tx,
            tasks,
        }
    }
}

async fn run_layer(task: LayerTask) {
    match task.run().await {
        LayerEnd::Closed => tracing::info!("the supervisor has ended"),
        LayerEnd::Abandoned => tracing::info!("nobody listens to the supervisor any more"),
        LayerEnd::Failed(error) => tracing::error!(%error, "the link to the supervisor broke"),
    }
}

impl Parts for Live {
    async fn launch(&mut self) -> Result<(), Failure> {
        let hint = KEEP_LOG;
        let gone = || Failure::new("the command can be started only once", hint);
        let layer = self.layer.clone().ok_or_else(gone)?;
        let (stdio, launched_tx) =
            self.launching.stdio.take().zip(self.launched_tx.take()).ok_or_else(gone)?;
        let launch = self.launching.message();
        self.tasks.spawn(async move {
            let event = match layer.launch(launch, &stdio).await {
                Ok(Started { pid, errno: 0, .. }) => LayerEvent::Started { pid },
                Ok(Started { errno, operation, .. }) => {
                    let errno = i32::try_from(errno).unwrap_or(libc::EIO);
                    LayerEvent::NotStarted { errno, operation }
                }
                Err(error) => {
                    tracing::error!(%error, "launch");
                    let (LayerError::Start(_)
                    | LayerError::Link(_)
                    | LayerError::Ended { .. }
                    | LayerError::Timeout { .. }) = error;
                    LayerEvent::NotStarted { errno: libc::EIO, operation: error.to_string() }
                }
            };
            // A session that ends already does not mind.
            drop(launched_tx.send(event));
            // Only now: a pipe of the caller's must not stay open here once the command has ended.
            drop(stdio);
        });
        Ok(())
    }

    fn signal(&mut self, signal: i32, whole_tree: bool) {
        let (Some(layer), Ok(signal)) = (self.layer.clone(), u32::try_from(signal)) else { return };
        self.tasks.spawn(async move {
            if let Err(error) = layer.signal_tree(signal, whole_tree).await {
                tracing::warn!(%error, signal, "the signal could not be passed on");
            }
        });
    }

    fn set_mode(&self, port: u16, mode: Mode) -> Owned<Result<wire::Port, String>> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let handle = handle.ok_or("the session is ending")?;
            handle.set_mode(port, mode).await.map_err(|error| {
                tracing::warn!(%error, port, ?mode, "a change of mode failed");
                Failure::caused(&error, "").text
            })
        })
    }

    fn connect_local(&self, client: SocketAddr, local_port: u16) -> Owned<io::Result<TcpStream>> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let handle = handle.ok_or(io::ErrorKind::NotConnected)?;
            handle.connect_local(client, local_port).await
        })
    }

    fn restart_agent(&mut self) -> Owned<Result<(), Failure>> {
        let restart = self.agent.restart();
        let (agent, ended_tx, handle) = (self.agent.clone(), self.ended_tx.clone(), self.handle.clone());
        let (restarted_tx, restarted_rx) = oneshot::channel();
        self.tasks.spawn(async move {
            if let (Ok(()), Some(handle)) = (restarted_rx.await, handle) {
                agent.watch(handle, ended_tx).await;
            }
        });
        Box::pin(async move {
            restart.await?;
            restarted_tx.send(()).ok();
            Ok(())
        })
    }

    fn target_may_return(&self) -> bool {
        matches!(self.agent, Agent::Cluster(_))
    }

    async fn release(&mut self) {
        let Some(handle) = &self.handle else { return };
        let stolen: Vec<u16> = {
            let ports = handle.ports();
            let ports = ports.borrow();
            let stolen = ports.iter().filter(|port| port.mode() == wire::Mode::Steal);
            stolen.filter_map(|port| u16::try_from(port.remote).ok()).collect()
        };
        let mut releases = JoinSet::new();
        for port in stolen {
            let handle = handle.clone();
            releases.spawn(async move { (port, handle.set_mode(port, Mode::Off).await) });
        }
        while let Some(released) = releases.join_next().await {
            match released {
                Ok((_, Ok(_) | Err(NetworkError::Ended))) => {}
                Ok((port, Err(error))) => tracing::warn!(port, %error, "the port ends with the agent"),
                Err(error) => tracing::error!(%error, "giving a port back broke down"),
            }
        }
    }

    async fn drain(&mut self) {
        if let Some(network) = self.network.take() {
            network.shutdown().await;
        }
    }

    async fn stop_agent(&mut self) {
        // Its standard input tells it, too; the call lets it say in its log that it was asked.
        match timeout(AGENT_GOODBYE, self.link.shutdown_agent()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the agent did not take leave"),
            Err(_) => tracing::info!("the agent did not take leave in time"),
        }
        self.link.close().await;
        self.agent.clone().stop().await;
    }

    async fn stop_helpers(&mut self) {
        // Closes the links: the supervisor takes what is left of the tree along, the holder its namespace.
        self.layer = None;
        self.handle = None;
        self.tasks.shutdown().await;
        self.children.end().await;
        orphans::end().await;
    }
}

impl Launching {
    fn message(&self) -> layer::Launch {
        let spec = &self.spec;
        let merged = env::merge(&spec.config.env, &spec.environment, &self.environment, &spec.id);
        tracing::info!(taken = merged.taken, excluded = merged.excluded, "environment of the target");
        let mut rules = layer_rules(&spec.config, self.default_rules(), spec.report_local_files);
        if spec.config.hostname {
            rules.hostname.clone_from(&self.hostname);
        }
        let bytes = |text: &std::ffi::OsStr| bytes::Bytes::copy_from_slice(text.as_bytes());
        layer::Launch {
            arguments: spec.command.iter().map(|argument| bytes(argument)).collect(),
            environment: merged.entries(),
            cwd: bytes(spec.cwd.as_os_str()),
            process_group: spec.process_group.unwrap_or(0),
            rules: Some(rules),
            new_session: spec.terminal.is_some(),
            ignored_signals: self.ignored_signals,
            library: self.library.clone(),
            ..layer::Launch::default()
        }
    }

    fn default_rules(&self) -> Vec<layer::PathRule> {
        let variable = |name: &str| self.spec.environment.get(std::ffi::OsStr::new(name));
        let home = variable("HOME").map_or_else(|| Path::new("/root"), Path::new);
        let temporary = variable("TMPDIR").map_or_else(|| Path::new("/tmp"), Path::new);
        let executable = self.executable();
        let places = Places { home, cwd: &self.spec.cwd, executable: &executable, temporary };
        let mode = match self.spec.config.files.mode {
            FileMode::Local => PathMode::Local,
            FileMode::LocalWithOverrides => PathMode::LocalWithOverrides,
            FileMode::Read => PathMode::Read,
        };
        default_rules(mode, &places)
    }

    /// Where the command lies: as written when it has a slash, else in PATH.
    fn executable(&self) -> PathBuf {
        let path = self.spec.environment.get(std::ffi::OsStr::new("PATH"));
        let Some(name) = self.spec.command.first().map(Path::new) else { return PathBuf::new() };
        if name.components().count() > 1 {
            return self.spec.cwd.join(name);
        }
        let folders = path.into_iter().flat_map(std::env::split_paths);
        let mut found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
        found.next().unwrap_or_else(|| name.to_owned())
    }
}

/// Turns what the supervisor says into what the driver wants to know, and passes on what others want.
struct Translation {
    layer_tx: mpsc::Sender<LayerEvent>,
    handle: NetworkHandle,
    layer: LayerLink,
    unix: UnixRelays,
    events: Events,
}

impl Translation {
    /// Runs until the link ends. Nothing is passed on before the launch is answered, so that the driver hears of the start first.
    async fn run(
        mut self,
        mut messages_rx: mpsc::Receiver<FromLayer>,
        launched_rx: oneshot::Receiver<LayerEvent>,
    ) {
        let mut held = Vec::new();
        let mut launched_rx = std::pin::pin!(launched_rx);
        loop {
            tokio::select! {
                biased;
                launched = &mut launched_rx => {
                    let Ok(launched) = launched else { return };
                    if self.layer_tx.send(launched).await.is_err() {
                        return;
                    }
                    break;
                }
                message = messages_rx.recv() => match message {
                    Some(message) => held.push(message),
                    None => break,
                },
            }
        }
        for message in held {
            self.message(message).await;
        }
        while let Some(message) = messages_rx.recv().await {
            self.message(message).await;
        }
    }

    async fn message(&mut self, message: FromLayer) {
        use from_layer::Kind;
        let event = match message.kind {
            Some(Kind::Spawned(layer::Spawned { pid, parent })) => LayerEvent::Spawned { pid, parent },
            Some(Kind::Exec(exec)) => LayerEvent::Exec(exec),
            Some(Kind::Exit(exit)) => {
                LayerEvent::Exit { pid: exit.pid, command: exit.command, exit: exit_of(&exit) }
            }
            Some(Kind::TreeEmpty(layer::TreeEmpty {})) => LayerEvent::TreeEmpty,
            Some(Kind::Notice(layer::Notice { text, hint })) => LayerEvent::Notice { text, hint },
            Some(Kind::Listening(listening)) => return self.listening(listening).await,
            Some(Kind::UnixConnect(call)) => {
                return self.unix.connect(message.id, call, self.layer.clone(), self.events.clone());
            }
            Some(
                Kind::Ready(_)
                | Kind::Started(_)
                | Kind::File(_)
                | Kind::FileReport(_)
                | Kind::SocketMade(_)
                | Kind::Resolve(_)
                | Kind::SocketCall(_),
            )
            | None => return,
        };
        // Closed: the session has ended.
        drop(self.layer_tx.send(event).await);
    }

    async fn listening(&self, listening: layer::Listening) {
        let pid = listening.caller.as_ref().map_or(0, |caller| caller.pid);
        let (Some(ip), Ok(port)) = (ip_address(&listening.ip), u16::try_from(listening.port)) else {
            tracing::warn!(?listening, "a listener without an address");
            return;
        };
        self.handle.listening(ip, port, listening.cookie, pid).await;
    }
}

fn exit_of(exit: &layer::ProcessExit) -> Option<wire::Exit> {
    exit.known.then(|| wire::Exit { code: exit.code, signal: exit.signal, error: String::new() })
}

/// The agent's leave is a courtesy; it must not use up the step.
const _: () = assert!(AGENT_GOODBYE.as_millis() < Duration::from_secs(1).as_millis());
