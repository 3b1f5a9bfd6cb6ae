//! The one task that owns a session: it takes every input, decides, and returns how the session ended.
//!
//! ```text
//!                stop, signal, owner gone ─────────────────────────────┐
//! Connecting{step} ── up ──▶ Launching ── started ──▶ Running ── the tree has ended ──▶ Draining ──▶ Ended(exit)
//!        │                       │                       │                                 │
//!        └── a step failed       └── not started         └── agent, holder or supervisor   └────────▶ Failed(error, hint)
//!                                                            lost; the command gets SIGTERM
//! ```
//! Connecting holds what [`World::bring_up`] has made so far and undoes it. Launching and Running hold all parts. Draining gives them
//! back in the order of [`super::shutdown`]. When the command has ended and other processes of its tree live on, the state stays
//! Running with the exit set; an owner that leaves then does not end the session.
//!
//! Inputs, by priority: stop; layer; agent, with its farewell first; what of ours has ended; pods, ports and listeners; finished jobs; requests; timers. A
//! busy input cannot starve a stop, and each handler is short: whatever waits for somebody is a job.

use std::{collections::BTreeMap, future::Future, time::Duration};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Desk, End, Stop, refuse_early},
    process::KEEP_LOG,
    processes::Processes,
    replay,
    requests::{Admission, Command, Denied, Phase, Reason, Reply},
    shutdown,
    silence::Silence,
    status::agent_link,
    world::{Ended, Failure, Inputs, LayerEvent, Parts, Progress, Up, World},
};
use crate::{
    agent_link::{LinkState, LinkStatus},
    cluster::agent_job,
    limits::{AGENT_RESTARTS, STATUS_TICK, STEP_TIMEOUT, TREE_SETTLE},
    network::AgentEnding,
};

/// Whether the loop goes on.
enum Next {
    Continue,
    End(End),
}

/// A session that is up.
pub(super) struct Driver<P> {
    pub(super) parts: P,
    pub(super) inputs: Inputs,
    pub(super) desk: Desk,
    pub(super) admission: Admission,
    pub(super) processes: Processes,
    pub(super) jobs: JoinSet<Done>,
    silence: Silence,
    switching: BTreeMap<u32, wire::Mode>,
    diagnoses: BTreeMap<u32, String>,
    agent_restarts: u32,
    /// When something that was begun must have come to its end.
    deadline: Option<(Instant, Deadline)>,
    /// Whether the command has been started and something of its tree may live.
    pub(super) tree: bool,
    /// How the command ended. Published together with what that means: viewers of an owned session leave at once.
    exit: Option<wire::Exit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// The command must have been started.
    Launch,
    /// The command has ended and the layer has not said that the tree is empty.
    Settle,
}

/// A finished job.
#[derive(Debug)]
pub(super) enum Done {
    Mode { port: u16, result: Result<wire::Port, String>, reply: Reply<wire::Port> },
    AgentRestarted(Result<(), Failure>),
    Replied,
}

/// Runs a session to its end. The final state is also the last one in the status.
pub(crate) async fn run<W: World>(world: W, mut desk: Desk) -> End {
    let mut admission = Admission::new();
    if let Some(path) = desk.record.take()
        && let Err(denied) = desk.start_recording(path)
    {
        let failure = Failure::new(denied.text, "name another file with --record");
        return shutdown::without_parts(desk, admission, End::Failed(failure)).await;
    }
    match connect(world, &mut desk, &mut admission).await {
        Err(end) => shutdown::without_parts(desk, admission, end).await,
        Ok((up, stop)) => {
            let mut driver = Driver::new(up, desk, admission);
            let end = match stop {
                Some(stop) => End::Stopped(stop),
                None => driver.serve().await,
            };
            shutdown::run(driver, end).await
        }
    }
}

/// Brings the world up. A stop cancels that; should it be up already all the same, it is handed on together with the stop.
async fn connect<W: World>(
    world: W,
    desk: &mut Desk,
    admission: &mut Admission,
) -> Result<(Up<W::Parts>, Option<Stop>), End> {
    let (progress_tx, mut progress_rx) = watch::channel(Progress::default());
    let cancel = CancellationToken::new();
    let mut bring_up = std::pin::pin!(world.bring_up(progress_tx, cancel.clone()));
    let mut stopped = None;
    loop {
        tokio::select! {
            biased;
            stop = desk.stop_rx.recv(), if stopped.is_none() => {
                stopped = Some(stop.unwrap_or(Stop::OwnerGone));
                cancel.cancel();
                desk.status.step("stopping");
            }
            Ok(()) = progress_rx.changed(), if stopped.is_none() => {
                let progress = progress_rx.borrow_and_update().clone();
                tracing::info!(step = progress.step, "bring-up");
                desk.status.progress(progress);
            }
            result = &mut bring_up => return match (result, stopped) {
                (Ok(up), stopped) => Ok((up, stopped)),
                (Err(_), Some(stop)) => Err(End::Stopped(stop)),
                (Err(failure), None) => Err(End::Failed(failure)),
            },
            Some(command) = desk.commands_rx.recv() => refuse_early(command, admission),
        }
    }
}

impl<P: Parts> Driver<P> {
    fn new(up: Up<P>, desk: Desk, admission: Admission) -> Self {
        let (attachment, reason) = up.attachment;
        desk.status.change(|info| {
            info.attachment = attachment;
            info.attachment_reason = reason;
        });
        Self {
            parts: up.parts,
            inputs: up.inputs,
            processes: Processes::new(desk.events.clone()),
            desk,
            admission,
            jobs: JoinSet::new(),
            silence: Silence::default(),
            switching: BTreeMap::new(),
            diagnoses: BTreeMap::new(),
            agent_restarts: 0,
            deadline: None,
            tree: false,
            exit: None,
        }
    }

    /// Launches the command and takes inputs until the session shall end.
    async fn serve(&mut self) -> End {
        self.enter(Phase::Launching);
        self.pods();
        if let Err(failure) = self.launch().await {
            return End::Failed(failure);
        }
        let mut tick = interval(STATUS_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.deadline.map(|(at, _)| at);
            let inputs = &mut self.inputs;
            // All branches are cancel-safe: receivers, watches, a join set and timers.
            let next = tokio::select! {
                biased;
                stop = self.desk.stop_rx.recv() => self.stop(stop.unwrap_or(Stop::OwnerGone)),
                event = inputs.layer_rx.recv() => self.layer(event),
                // Before what follows from it: the agent's process and its link end a moment later.
                Ok(()) = inputs.ending_rx.changed() => {
                    let ending = inputs.ending_rx.borrow_and_update().clone();
                    ending.map_or(Next::Continue, |ending| self.agent_ending(&ending))
                }
                Ok(()) = inputs.agent_rx.changed() => {
                    let link = inputs.agent_rx.borrow_and_update().clone();
                    self.agent(&link)
                }
                Some(ended) = inputs.ended_rx.recv() => self.ended(ended),
                Ok(()) = inputs.pods_rx.changed() => {
                    self.pods();
                    Next::Continue
                }
                Ok(()) = inputs.ports_rx.changed() => self.ports(),
                Ok(()) = inputs.listeners_rx.changed() => {
                    let listeners = inputs.listeners_rx.borrow_and_update().clone();
                    self.desk.status.change(|info| info.listeners = listeners);
                    Next::Continue
                }
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.done(done),
                Some(command) = self.desk.commands_rx.recv() => self.command(command).await,
                () = at(deadline) => self.deadline_passed(),
                _ = tick.tick() => {
                    self.desk.status.count();
                    self.ports()
                }
            };
            if let Next::End(end) = next {
                return end;
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.admission.enter(phase);
        self.desk.status.enter(phase);
    }

    async fn launch(&mut self) -> Result<(), Failure> {
        self.deadline = Some((Instant::now() + STEP_TIMEOUT, Deadline::Launch));
        self.parts.launch().await
    }

    fn stop(&mut self, stop: Stop) -> Next {
        if stop == Stop::OwnerGone && self.exit.is_some() {
            tracing::info!("the owner has gone; the rest of the tree runs on");
            return Next::Continue;
        }
        Next::End(End::Stopped(stop))
    }

    /// Lets viewers see how the command ended.
    pub(super) fn publish_exit(&self) {
        self.desk.status.change(|info| info.exit.clone_from(&self.exit));
    }

    /// What the layer reports; also used while the session ends.
    pub(super) fn observe(&mut self, event: LayerEvent) {
        match event {
            LayerEvent::Started { pid } => {
                self.tree = true;
                self.processes.started(pid, &self.desk.command);
                self.desk.status.change(|info| info.command_pid = pid);
            }
            LayerEvent::NotStarted { .. } => {}
            LayerEvent::Spawned { pid, parent } => self.processes.spawned(pid, parent),
            LayerEvent::Exec(exec) => self.processes.executed(exec),
            LayerEvent::Exit { pid, exit, command } => {
                self.processes.ended(pid, exit.clone());
                if command {
                    let unknown = || wire::Exit {
                        code: 1,
                        error: "how the command ended is not known".to_owned(),
                        ..wire::Exit::default()
                    };
                    self.exit = Some(exit.unwrap_or_else(unknown));
                }
            }
            LayerEvent::TreeEmpty => {
                self.tree = false;
                self.processes.all_ended();
            }
            LayerEvent::Notice { text, hint } => self.desk.events.warn(text, hint),
        }
        let list = self.processes.list();
        self.desk.status.change(|info| info.processes = list);
    }

    fn layer(&mut self, event: Option<LayerEvent>) -> Next {
        let Some(event) = event else {
            self.tree = false;
            return Next::End(End::Failed(Failure::new(
                "the supervisor of the command has ended, and the command with it",
                KEEP_LOG,
            )));
        };
        let before = self.exit.is_some();
        self.observe(event.clone());
        match event {
            LayerEvent::Started { .. } => {
                self.deadline = None;
                self.enter(Phase::Running);
                Next::Continue
            }
            LayerEvent::NotStarted { errno, operation } => {
                Next::End(End::Failed(Failure::not_started(&self.desk.command, errno, &operation)))
            }
            LayerEvent::TreeEmpty => Next::End(End::Done),
            LayerEvent::Exit { command: true, .. } if !before => {
                if self.processes.running() > 0 {
                    self.remaining();
                } else if self.deadline.is_none() {
                    self.deadline = Some((Instant::now() + TREE_SETTLE, Deadline::Settle));
                }
                Next::Continue
            }
            _ => {
                if before && self.processes.running() > 0 {
                    self.remaining();
                }
                Next::Continue
            }
        }
    }

    /// The command has ended and others of its tree have not: its owner is told now, the session goes on for them.
    fn remaining(&self) {
        let running = self.processes.running().max(1);
        let (noun, verb) = if running == 1 { ("process", "runs") } else { ("processes", "run") };
        self.desk.status.change(|info| {
            info.exit.clone_from(&self.exit);
            info.detail = format!("the command has ended; {running} {noun} of its tree {verb} on");
        });
    }

    fn deadline_passed(&mut self) -> Next {
        match self.deadline.take() {
            Some((_, Deadline::Launch)) => Next::End(End::Failed(Failure::new(
                format!("the command was not started within {} s", STEP_TIMEOUT.as_secs()),
                KEEP_LOG,
            ))),
            Some((_, Deadline::Settle)) => {
                self.remaining();
                Next::Continue
            }
            None => Next::Continue,
        }
    }

    fn agent(&mut self, link: &LinkStatus) -> Next {
        let before = self.desk.status.watch().borrow().agent.as_ref().map(wire::AgentLink::state);
        self.desk.status.agent(link);
        let now = agent_link(link);
        if before != Some(now.state()) && (before.is_some() || link.state != LinkState::Up) {
            let text = match link.state {
                LinkState::Up => "the agent answers again".to_owned(),
                LinkState::Retrying => format!("the agent does not answer: {}", link.detail),
                LinkState::Lost => format!("the agent is lost: {}", link.detail),
            };
            self.agent_event(&text, now);
        }
        if link.state == LinkState::Lost {
            return self.lost(Failure::new(
                format!("the agent is lost: {}", link.detail),
                "the target may have ended, or its machine cannot be reached; start the session again",
            ));
        }
        Next::Continue
    }

    /// The agent takes leave without being asked. Without its target the session has no sense; otherwise the agent may come back.
    fn agent_ending(&mut self, ending: &AgentEnding) -> Next {
        if ending.target_ended && self.parts.target_may_return() {
            // Nobody was after the agent: its next end is its first.
            self.agent_restarts = 0;
            self.desk.events.warn("the target's container has ended; the session waits for the next one", "");
            return Next::Continue;
        }
        if ending.target_ended {
            return self.lost(Failure::new("the target has ended", "start it again, then the session"));
        }
        self.desk.events.warn(format!("the agent is about to end: {}", ending.text), "");
        Next::Continue
    }

    fn agent_event(&self, text: &str, link: wire::AgentLink) {
        let error =
            if link.state() == wire::agent_link::LinkState::Up { String::new() } else { text.to_owned() };
        self.desk.events.emit(wire::Event {
            kind: wire::Kind::Agent.into(),
            subject: text.to_owned(),
            error,
            detail: Some(wire::event::Detail::Agent(wire::AgentEvent {
                text: text.to_owned(),
                link: Some(link),
            })),
            ..wire::Event::default()
        });
    }

    fn lost(&mut self, failure: Failure) -> Next {
        self.desk.events.warn(failure.text.clone(), failure.hint.clone());
        Next::End(End::Failed(failure))
    }

    fn ended(&mut self, ended: Ended) -> Next {
        match ended {
            Ended::Agent(how) if self.agent_restarts < AGENT_RESTARTS => {
                self.agent_restarts += 1;
                self.desk.events.warn(format!("the agent has ended ({how})"), agent_job::hint_after(&how));
                let restart = self.parts.restart_agent();
                self.jobs.spawn(async { Done::AgentRestarted(restart.await) });
                Next::Continue
            }
            Ended::Agent(how) => {
                let hint = match agent_job::hint_after(&how) {
                    "" => {
                        "somebody or something kills it: look for it in the logs of its machine or node, e.g. for the OOM killer"
                    }
                    hint => hint,
                };
                self.lost(Failure::new(format!("the agent has ended again ({how})"), hint))
            }
            Ended::Target(failure) => self.lost(failure),
            Ended::Holder => self.lost(Failure::new(
                "the holder of the session's network has ended",
                "somebody or something killed it; start the session again",
            )),
        }
    }

    fn pods(&mut self) {
        let pods = self.inputs.pods_rx.borrow_and_update().clone();
        self.desk.status.change(|info| info.pods = pods);
    }

    /// Publishes the ports: the network's facts, with what only the driver knows.
    fn ports(&mut self) -> Next {
        let mut ports = self.inputs.ports_rx.borrow_and_update().clone();
        for port in &mut ports {
            let seen =
                u16::try_from(port.remote).map(|remote| self.desk.taps.count(remote)).unwrap_or_default();
            (port.requests, port.responses) = (seen.requests, seen.responses);
        }
        if self.admission.phase() == Phase::Running {
            for found in self.silence.look(Instant::now(), &mut ports) {
                self.desk.events.warn(found.text, found.hint);
            }
        }
        for port in &mut ports {
            if let Some(to) = self.switching.get(&port.remote) {
                port.switching_to = (*to).into();
            }
        }
        self.diagnoses = ports.iter().map(|port| (port.remote, port.diagnosis.clone())).collect();
        self.desk.status.change(|info| info.ports = ports);
        Next::Continue
    }

    async fn command(&mut self, command: Command) -> Next {
        if let Err(denied) = self.admission.admit(command.kind()) {
            command.deny(denied);
            return Next::Continue;
        }
        match command {
            Command::SetMode { port, mode, reply } => {
                self.switching.insert(port.into(), mode.into());
                let change = self.parts.set_mode(port, mode);
                self.jobs.spawn(async move { Done::Mode { port, result: change.await, reply } });
                return self.ports();
            }
            Command::Signal { signal, reply } => {
                self.parts.signal(signal, false);
                drop(reply.send(Ok(())));
            }
            Command::Record { path, reply } => drop(reply.send(self.desk.start_recording(path))),
            Command::StopRecording { reply } => {
                drop(reply.send(self.desk.finish_recording().await));
            }
            Command::Replay { request, reply } => {
                let ports = self.inputs.ports_rx.borrow().clone();
                match replay::prepare(&self.desk.events, &request, &ports) {
                    Err(denied) => drop(reply.send(Err(denied))),
                    Ok(prepared) => {
                        let connect = self.parts.connect_local(prepared.client, prepared.local_port);
                        let taps = self.desk.taps.clone();
                        self.jobs.spawn(async move {
                            drop(reply.send(prepared.send(connect, &taps).await));
                            Done::Replied
                        });
                    }
                }
            }
        }
        Next::Continue
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Next {
        match done {
            Ok(Done::Mode { port, result, reply }) => {
                self.admission.switched(port);
                self.switching.remove(&port.into());
                drop(reply.send(result.map_err(|text| Denied::new(Reason::Failed, text))));
                self.ports()
            }
            Ok(Done::AgentRestarted(Err(failure))) => self.lost(failure),
            Ok(Done::AgentRestarted(Ok(())) | Done::Replied) => Next::Continue,
            Err(error) => {
                tracing::error!(%error, "a job of the session broke down");
                Next::Continue
            }
        }
    }
}

/// Waits until the deadline, or for ever.
fn at(deadline: Option<Instant>) -> impl Future<Output = ()> {
    // A year: `select!` needs a future in either case.
    sleep_until(deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(31_536_000)))
}
