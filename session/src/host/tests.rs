//! The driver against fakes, with paused time and faults at every step: whatever happens, the session ends, in order, in bounded
//! time, and nothing that was made is left.

use std::time::Duration;

use mirrord_protocol::session::v1 as wire;
use tokio::time::{Instant, sleep};

use super::{
    desk::{End, Stop},
    fake::{Faults, STEPS, Stage, stage},
    requests::{Command, Reason},
    world::{Ended, LayerEvent},
};
use crate::{
    agent_link::{LinkState, LinkStatus},
    config::Mode,
    limits::{COMMAND_GRACE, KILL_GRACE, SILENCE},
    network::AgentEnding,
};

const ORDER: [&str; 4] = ["release", "drain", "stop agent", "stop helpers"];

/// Plays a session against a script and returns both, when the session has ended.
async fn play<F: Future<Output = ()>>(
    faults: Faults,
    script: impl FnOnce(std::rc::Rc<Stage>) -> F,
) -> (std::rc::Rc<Stage>, End) {
    let (stage, session) = stage(faults);
    let stage = std::rc::Rc::new(stage);
    let (end, ()) = tokio::join!(session, script(std::rc::Rc::clone(&stage)));
    (stage, end)
}

fn assert_ended(stage: &Stage, state: wire::State) {
    let info = stage.info.borrow().clone();
    assert_eq!(info.state(), state, "{info:?}");
    assert!(!stage.dir.path().join("session").exists(), "the folder is removed");
}

/// The parts were given back in order, each once.
fn assert_order(stage: &Stage) {
    let log = stage.log.all();
    let found: Vec<_> = log.iter().filter(|line| ORDER.contains(&line.as_str())).collect();
    assert_eq!(found, ORDER, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_and_ends_and_its_exit_code_is_the_sessions() {
    let (stage, end) = play(Faults::default(), |stage| async move {
        let info = stage.running().await;
        assert_eq!((info.command_pid, info.attachment.as_str()), (10, "syscall"));
        stage.command_exits(3, 0).await;
    })
    .await;
    assert_eq!(end, End::Done);
    assert_ended(&stage, wire::State::Ended);
    assert_order(&stage);
    assert_eq!(stage.info.borrow().exit.as_ref().map(|exit| exit.code), Some(3));
    assert!(!stage.log.all().iter().any(|line| line.starts_with("signal")), "nobody is left to be told");
}

#[tokio::test(start_paused = true)]
async fn a_stop_at_any_step_undoes_what_was_made() {
    for step in 0..STEPS {
        let faults = Faults { step_hangs: Some(step), ..Faults::default() };
        let (stage, end) = play(faults, |stage| async move {
            stage.until(|info| info.detail == format!("step {step}")).await;
            stage.stop_tx.send(Stop::Signal).await.unwrap();
        })
        .await;
        assert_eq!(end, End::Stopped(Stop::Signal));
        assert_ended(&stage, wire::State::Ended);
        let done = (0..step).map(|step| format!("do {step}"));
        let undone = (0..step).rev().map(|step| format!("undo {step}"));
        assert_eq!(stage.log.all(), done.chain(undone).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_told_with_its_hint() {
    for step in 0..STEPS {
        let (stage, end) = play(Faults { step_fails: Some(step), ..Faults::default() }, |_| async {}).await;
        assert!(matches!(end, End::Failed(_)));
        assert_ended(&stage, wire::State::Failed);
        let info = stage.info.borrow().clone();
        assert_eq!((info.detail.as_str(), info.hint.as_str()), ("broken", "mend it"));
        assert_eq!(stage.log.all().len(), 2 * step);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_be_started_has_a_shells_exit_code() {
    for (errno, code) in [(libc::ENOENT, 127), (libc::EACCES, 126), (libc::E2BIG, 126)] {
        let (stage, end) = play(Faults { errno: Some(errno), ..Faults::default() }, |_| async {}).await;
        assert!(matches!(end, End::Failed(_)));
        assert_ended(&stage, wire::State::Failed);
        assert_order(&stage);
        assert_eq!(stage.info.borrow().exit.as_ref().map(|exit| exit.code), Some(code));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_asks_first_and_kills_what_does_not_listen() {
    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.stop_tx.send(Stop::Asked { kill: false }).await.unwrap();
    })
    .await;
    assert_eq!(end, End::Stopped(Stop::Asked { kill: false }));
    assert_order(&stage);
    assert!(stage.log.has("signal 15 tree") && !stage.log.has("signal 9 tree"));
    // The ports are the target's again before the command is told.
    let log = stage.log.all();
    let at = |what: &str| log.iter().position(|line| line == what).unwrap();
    assert!(at("release") < at("signal 15 tree") && at("signal 15 tree") < at("drain"));

    let start = Instant::now();
    let faults = Faults { ignores_term: true, ..Faults::default() };
    let (stage, _) = play(faults.clone(), |stage| async move {
        stage.running().await;
        stage.stop_tx.send(Stop::OwnerGone).await.unwrap();
    })
    .await;
    assert!(stage.log.has("signal 9 tree") && start.elapsed() >= COMMAND_GRACE);
    assert_eq!(stage.info.borrow().exit.as_ref().map(|exit| exit.signal), Some(9));

    let start = Instant::now();
    let (stage, _) = play(faults, |stage| async move {
        stage.running().await;
        stage.stop_tx.send(Stop::Asked { kill: false }).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        stage.stop_tx.send(Stop::Asked { kill: false }).await.unwrap();
    })
    .await;
    assert!(stage.log.has("signal 9 tree") && start.elapsed() < COMMAND_GRACE, "asked twice");

    let (stage, _) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.stop_tx.send(Stop::Asked { kill: true }).await.unwrap();
    })
    .await;
    assert!(stage.log.has("signal 9 tree") && !stage.log.has("signal 15 tree"), "kill does not ask");
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_whatever_part_does() {
    let all = Faults {
        hangs: ORDER.to_vec(),
        ignores_term: true,
        ignores_kill: true,
        mode_hangs: true,
        ..Faults::default()
    };
    let start = Instant::now();
    let (stage, end) = play(all, |stage| async move {
        stage.running().await;
        let (reply, answer) = tokio::sync::oneshot::channel();
        stage.ports_tx.send_replace(vec![wire::Port { remote: 80, ..wire::Port::default() }]);
        stage.commands_tx.send(Command::SetMode { port: 80, mode: Mode::Steal, reply }).await.unwrap();
        stage.until(|info| info.ports.iter().any(|port| port.switching_to() == wire::Mode::Steal)).await;
        stage.stop_tx.send(Stop::Signal).await.unwrap();
        assert!(answer.await.is_err(), "it ends with the session");
    })
    .await;
    assert_eq!(end, End::Stopped(Stop::Signal));
    assert_ended(&stage, wire::State::Ended);
    assert_order(&stage);
    let most = COMMAND_GRACE + KILL_GRACE + Duration::from_secs(12);
    assert!(start.elapsed() < most, "{:?}", start.elapsed());
    assert!(stage.warnings().iter().any(|text| text.contains("given up")));
}

#[tokio::test(start_paused = true)]
async fn daemons_keep_the_session_and_the_owner_may_go() {
    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.command_exits(0, 2).await;
        let info = stage.until(|info| info.exit.is_some()).await;
        assert_eq!(info.state(), wire::State::Running);
        assert!(info.detail.contains("2 processes of its tree run on"), "{}", info.detail);
        stage.stop_tx.send(Stop::OwnerGone).await.unwrap();
        stage.layer(LayerEvent::Exit { pid: 20, exit: None, command: false }).await;
        stage.until(|info| info.detail.contains("1 process of its tree runs on")).await;
        stage.layer(LayerEvent::TreeEmpty).await;
    })
    .await;
    assert_eq!(end, End::Done);
    assert_ended(&stage, wire::State::Ended);
    // A layer that saw less of the tree than there is still tells in time.
    let (stage, _) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.layer(LayerEvent::Exit { pid: 10, exit: None, command: true }).await;
        stage.until(|info| info.detail.contains("1 process")).await;
        stage.stop_tx.send(Stop::Asked { kill: false }).await.unwrap();
    })
    .await;
    assert!(stage.log.has("signal 15 tree"));
}

#[tokio::test(start_paused = true)]
async fn a_killed_agent_is_started_again_once() {
    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.ended_tx.send(Ended::Agent("signal 9".to_owned())).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(stage.info.borrow().state(), wire::State::Running);
        stage.ended_tx.send(Ended::Agent("signal 9".to_owned())).await.unwrap();
    })
    .await;
    assert!(matches!(&end, End::Failed(failure) if failure.text.contains("ended again")), "{end:?}");
    assert!(stage.log.has("restart agent") && stage.log.has("signal 15 tree"));
    assert_order(&stage);
    assert_ended(&stage, wire::State::Failed);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_replaced_ends_the_session_with_an_explanation() {
    let target_ended = Faults { no_restart: true, ..Faults::default() };
    let (stage, end) = play(target_ended, |stage| async move {
        stage.running().await;
        stage.ended_tx.send(Ended::Agent("exit 0".to_owned())).await.unwrap();
    })
    .await;
    assert!(matches!(&end, End::Failed(failure) if failure.text == "the target has ended"), "{end:?}");
    // The command was told, and its end is its own.
    assert_eq!(stage.info.borrow().exit.as_ref().map(|exit| exit.signal), Some(15));

    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        let retrying =
            LinkStatus { state: LinkState::Retrying, detail: "refused".to_owned(), ..LinkStatus::default() };
        stage.agent_tx.send_replace(retrying.clone());
        stage
            .until(|info| {
                info.agent.as_ref().is_some_and(|link| link.state() == wire::agent_link::LinkState::Retrying)
            })
            .await;
        stage.agent_tx.send_replace(LinkStatus { state: LinkState::Lost, ..retrying });
    })
    .await;
    assert!(matches!(&end, End::Failed(failure) if failure.text.contains("agent is lost")), "{end:?}");
    assert_order(&stage);

    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.ended_tx.send(Ended::Holder).await.unwrap();
    })
    .await;
    assert!(matches!(&end, End::Failed(failure) if failure.text.contains("holder")), "{end:?}");
    assert_order(&stage);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_target_ends_the_session_at_once() {
    let ending = |target_ended, text: &str| Some(AgentEnding { target_ended, text: text.to_owned() });
    let start = Instant::now();
    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        // Both at once, as it happens with an agent on this machine: what is certain comes first, nothing is started again.
        stage.ending_tx.send_replace(ending(true, "the target's process has ended"));
        stage.ended_tx.send(Ended::Agent("exit status: 0".to_owned())).await.unwrap();
    })
    .await;
    assert!(matches!(&end, End::Failed(failure) if failure.text == "the target has ended"), "{end:?}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(stage.log.has("signal 15 tree") && !stage.log.has("restart agent"));
    assert_order(&stage);
    assert_ended(&stage, wire::State::Failed);

    let (stage, end) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.ending_tx.send_replace(ending(false, "the agent was told to end by a signal"));
        stage.ended_tx.send(Ended::Agent("exit status: 0".to_owned())).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        stage.command_exits(0, 0).await;
    })
    .await;
    assert_eq!(end, End::Done, "an agent that was told to end is replaced");
    assert!(stage.log.has("restart agent"));
    assert!(stage.warnings().iter().any(|text| text.contains("told to end by a signal")));
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_every_state() {
    let faults = Faults { step_hangs: Some(1), ..Faults::default() };
    let set_mode = |reply| Command::SetMode { port: 80, mode: Mode::Steal, reply };
    play(faults, |stage| async move {
        let denied = stage.ask(set_mode).await.unwrap_err();
        assert_eq!((denied.reason, denied.text.as_str()), (Reason::NotNow, "the session is not running yet"));
        stage.stop_tx.send(Stop::Signal).await.unwrap();
    })
    .await;

    let (stage, _) = play(Faults::default(), |stage| async move {
        stage.running().await;
        stage.ports_tx.send_replace(vec![wire::Port { remote: 80, ..wire::Port::default() }]);
        let (first, second) = tokio::join!(stage.ask(set_mode), stage.ask(set_mode));
        assert_eq!(first.unwrap().remote, 80);
        assert!(second.unwrap_err().text.contains("being switched already"));
        stage.ask(set_mode).await.unwrap();
        stage.ask(|reply| Command::Signal { signal: libc::SIGUSR1, reply }).await.unwrap();
        let path = stage.dir.path().join("r.jsonl");
        stage.ask(|reply| Command::Record { path: path.clone(), reply }).await.unwrap();
        let twice = stage.ask(|reply| Command::Record { path: path.clone(), reply }).await.unwrap_err();
        assert!(twice.text.contains("already"));
        let recorded = stage.ask(|reply| Command::StopRecording { reply }).await.unwrap();
        assert!(recorded.events > 0 && path.exists());
        let replay = wire::ReplayRequest { seq: 99, ..wire::ReplayRequest::default() };
        let denied =
            stage.ask(|reply| Command::Replay { request: Box::new(replay), reply }).await.unwrap_err();
        assert_eq!(denied.reason, Reason::NotFound);
        stage.command_exits(0, 0).await;
    })
    .await;
    assert!(stage.log.has("signal 10 command"));

    let refusing = Faults { mode_fails: true, ignores_term: true, ..Faults::default() };
    play(refusing, |stage| async move {
        stage.running().await;
        assert_eq!(stage.ask(set_mode).await.unwrap_err().text, "the agent refused");
        stage.stop_tx.send(Stop::Signal).await.unwrap();
        stage.until(|info| info.detail.contains("waiting for the command")).await;
        assert_eq!(stage.ask(set_mode).await.unwrap_err().text, "the session is ending");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_port_gets_a_diagnosis() {
    let (stage, _) = play(Faults::default(), |stage| async move {
        stage.running().await;
        let port = wire::Port {
            remote: 80,
            local: 8080,
            mode: wire::Mode::Mirror.into(),
            target_listens: true,
            packets: 7,
            syns: 1,
            ..wire::Port::default()
        };
        stage.ports_tx.send_replace(vec![port]);
        let started = Instant::now();
        let info = stage.until(|info| info.ports.iter().any(|port| !port.diagnosis.is_empty())).await;
        assert!(info.ports[0].diagnosis.contains("no local process listens on port 8080"));
        assert!(started.elapsed() >= SILENCE && started.elapsed() < SILENCE + Duration::from_secs(2));
        stage.command_exits(0, 0).await;
    })
    .await;
    assert_eq!(stage.warnings().len(), 1);
}
