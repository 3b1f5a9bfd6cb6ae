//! A world of fakes for the driver's tests: it writes down what is asked of it, and its faults are set by the test.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Desk, End, Stop},
    driver,
    requests::{Command, Denied, Reply},
    status::Status,
    world::{Ended, Failure, Inputs, LayerEvent, Owned, Parts, Progress, Up, World},
};
use crate::{
    agent_link::LinkStatus, config::Mode, events::Events, http::HttpTaps, jsonl::Header, network::AgentEnding,
};

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// This step of bring-up fails.
    pub(crate) step_fails: Option<usize>,
    /// This step of bring-up never ends.
    pub(crate) step_hangs: Option<usize>,
    /// The tree ignores SIGTERM.
    pub(crate) ignores_term: bool,
    /// The tree survives SIGKILL, as a process that hangs in the kernel.
    pub(crate) ignores_kill: bool,
    /// These parts of the shutdown never end.
    pub(crate) hangs: Vec<&'static str>,
    /// The agent cannot be started again.
    pub(crate) no_restart: bool,
    /// Changing a mode fails.
    pub(crate) mode_fails: bool,
    /// Changing a mode never ends.
    pub(crate) mode_hangs: bool,
    /// The command cannot be executed.
    pub(crate) errno: Option<i32>,
}

/// Steps of the fake bring-up.
pub(crate) const STEPS: usize = 4;

/// Both ends of a session with fakes.
pub(crate) struct Stage {
    pub(crate) log: Log,
    pub(crate) events: Events,
    pub(crate) info: watch::Receiver<wire::SessionInfo>,
    pub(crate) layer_tx: mpsc::Sender<LayerEvent>,
    pub(crate) agent_tx: watch::Sender<LinkStatus>,
    pub(crate) ending_tx: watch::Sender<Option<AgentEnding>>,
    pub(crate) ports_tx: watch::Sender<Vec<wire::Port>>,
    pub(crate) ended_tx: mpsc::Sender<Ended>,
    pub(crate) commands_tx: mpsc::Sender<Command>,
    pub(crate) stop_tx: mpsc::Sender<Stop>,
    pub(crate) dir: tempfile::TempDir,
}

/// What was asked of the fakes, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn has(&self, what: &str) -> bool {
        self.all().iter().any(|line| line == what)
    }
}

pub(crate) struct FakeWorld {
    log: Log,
    faults: Faults,
    inputs: Inputs,
    layer_tx: mpsc::Sender<LayerEvent>,
    ports: watch::Receiver<Vec<wire::Port>>,
    _listeners_tx: watch::Sender<Vec<wire::Listener>>,
    _pods_tx: watch::Sender<Vec<String>>,
}

pub(crate) struct FakeParts {
    log: Log,
    faults: Faults,
    layer_tx: mpsc::Sender<LayerEvent>,
    ports: watch::Receiver<Vec<wire::Port>>,
    _listeners_tx: watch::Sender<Vec<wire::Listener>>,
    _pods_tx: watch::Sender<Vec<String>>,
}

/// A stage and the session that plays on it.
pub(crate) fn stage(faults: Faults) -> (Stage, impl Future<Output = End>) {
    let (layer_tx, layer_rx) = mpsc::channel(64);
    let (agent_tx, agent_rx) = watch::channel(LinkStatus::default());
    let (ending_tx, ending_rx) = watch::channel(None);
    let (ports_tx, ports_rx) = watch::channel(Vec::new());
    let (listeners_tx, listeners_rx) = watch::channel(Vec::new());
    let (pods_tx, pods_rx) = watch::channel(Vec::new());
    let (ended_tx, ended_rx) = mpsc::channel(4);
    let (commands_tx, commands_rx) = mpsc::channel(4);
    let (stop_tx, stop_rx) = mpsc::channel(4);
    let (log, events, dir) = (Log::default(), Events::new(), tempfile::tempdir().unwrap());
    let status = Status::new(wire::SessionInfo::default(), events.clone());
    let info = status.watch();
    let world = FakeWorld {
        log: log.clone(),
        faults,
        ports: ports_rx.clone(),
        inputs: Inputs { layer_rx, agent_rx, ending_rx, ports_rx, listeners_rx, pods_rx, ended_rx },
        layer_tx: layer_tx.clone(),
        _listeners_tx: listeners_tx,
        _pods_tx: pods_tx,
    };
    let session_dir = dir.path().join("session");
    std::fs::create_dir(&session_dir).unwrap();
    let desk = Desk {
        status,
        events: events.clone(),
        taps: HttpTaps::new(events.clone()),
        commands_rx,
        stop_rx,
        command: vec!["server".into()],
        header: Header::default(),
        record: None,
        recorder: None,
        dir: session_dir,
    };
    let stage = Stage {
        log,
        events,
        info,
        layer_tx,
        agent_tx,
        ending_tx,
        ports_tx,
        ended_tx,
        commands_tx,
        stop_tx,
        dir,
    };
    (stage, driver::run(world, desk))
}

impl World for FakeWorld {
    type Parts = FakeParts;

    async fn bring_up(
        self,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Up<FakeParts>, Failure> {
        for step in 0..STEPS {
            progress.send_modify(|progress| progress.step = format!("step {step}"));
            let work = async {
                if self.faults.step_hangs == Some(step) {
                    pending::<()>().await;
                }
                sleep(Duration::from_millis(10)).await;
            };
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled()),
                () = work => Ok(()),
            };
            let done = if self.faults.step_fails == Some(step) {
                Err(Failure::new("broken", "mend it"))
            } else {
                done
            };
            if let Err(failure) = done {
                (0..step).rev().for_each(|step| self.log.add(format!("undo {step}")));
                return Err(failure);
            }
            self.log.add(format!("do {step}"));
        }
        Ok(Up {
            parts: FakeParts {
                log: self.log,
                faults: self.faults,
                layer_tx: self.layer_tx,
                ports: self.ports,
                _listeners_tx: self._listeners_tx,
                _pods_tx: self._pods_tx,
            },
            inputs: self.inputs,
            attachment: ("syscall".to_owned(), String::new()),
        })
    }
}

impl FakeParts {
    async fn part(&self, name: &'static str) {
        self.log.add(name);
        if self.faults.hangs.contains(&name) {
            pending::<()>().await;
        }
    }
}

impl Parts for FakeParts {
    async fn launch(&mut self) -> Result<(), Failure> {
        self.log.add("launch");
        let event = match self.faults.errno {
            Some(errno) => LayerEvent::NotStarted { errno, operation: "execve".to_owned() },
            None => LayerEvent::Started { pid: 10 },
        };
        self.layer_tx.send(event).await.unwrap();
        Ok(())
    }

    fn signal(&mut self, signal: i32, whole_tree: bool) {
        self.log.add(format!("signal {signal} {}", if whole_tree { "tree" } else { "command" }));
        let dies = match signal {
            libc::SIGTERM => !self.faults.ignores_term,
            libc::SIGKILL => !self.faults.ignores_kill,
            _ => false,
        };
        if dies && whole_tree {
            let exit = wire::Exit { signal: signal.unsigned_abs(), ..wire::Exit::default() };
            for event in
                [LayerEvent::Exit { pid: 10, exit: Some(exit), command: true }, LayerEvent::TreeEmpty]
            {
                // Closed once the session has gone on without it.
                drop(self.layer_tx.try_send(event));
            }
        }
    }

    fn set_mode(&self, port: u16, mode: Mode) -> Owned<Result<wire::Port, String>> {
        self.log.add(format!("mode {port} {mode:?}"));
        let faults = self.faults.clone();
        let ports = self.ports.clone();
        Box::pin(async move {
            if faults.mode_hangs {
                pending::<()>().await;
            }
            sleep(Duration::from_millis(5)).await;
            if faults.mode_fails {
                return Err("the agent refused".to_owned());
            }
            Ok(ports.borrow().first().cloned().unwrap_or_default())
        })
    }

    fn connect_local(
        &self,
        _: std::net::SocketAddr,
        _: u16,
    ) -> Owned<std::io::Result<tokio::net::TcpStream>> {
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }

    fn restart_agent(&mut self) -> Owned<Result<(), Failure>> {
        self.log.add("restart agent");
        let result =
            if self.faults.no_restart { Err(Failure::new("the target has ended", "")) } else { Ok(()) };
        Box::pin(async move { result })
    }

    async fn release(&mut self) {
        self.part("release").await;
    }

    async fn drain(&mut self) {
        self.part("drain").await;
    }

    async fn stop_agent(&mut self) {
        self.part("stop agent").await;
    }

    async fn stop_helpers(&mut self) {
        self.part("stop helpers").await;
    }
}

impl Stage {
    /// Waits until the information satisfies the condition.
    pub(crate) async fn until(&self, condition: impl Fn(&wire::SessionInfo) -> bool) -> wire::SessionInfo {
        let mut info = self.info.clone();
        let found = tokio::time::timeout(Duration::from_secs(3_600), info.wait_for(condition)).await;
        found.expect("it comes to that").expect("the session is there").clone()
    }

    pub(crate) async fn running(&self) -> wire::SessionInfo {
        self.until(|info| info.state() == wire::State::Running).await
    }

    pub(crate) async fn layer(&self, event: LayerEvent) {
        self.layer_tx.send(event).await.unwrap();
    }

    /// The command ends; `left` other processes of its tree do not.
    pub(crate) async fn command_exits(&self, code: i32, left: u32) {
        for n in 0..left {
            self.layer(LayerEvent::Spawned { pid: 20 + n, parent: 10 }).await;
        }
        let exit = Some(wire::Exit { code, ..wire::Exit::default() });
        self.layer(LayerEvent::Exit { pid: 10, exit, command: true }).await;
        if left == 0 {
            self.layer(LayerEvent::TreeEmpty).await;
        }
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Denied> {
        let (reply, answer) = oneshot::channel();
        self.commands_tx.send(command(reply)).await.expect("the session takes requests");
        answer.await.expect("every request is answered")
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let last = self.events.totals().last_seq;
        let events = (1..=last).filter_map(|seq| self.events.event(seq));
        events
            .filter(|event| event.kind() == wire::Kind::Warning)
            .map(|event| event.subject.clone())
            .collect()
    }
}
