//! The end of a session, in order, each step with a deadline, so that nothing hangs and nothing is left:
//!
//! 1. refuse new work;
//! 2. give the ports back, so that the target serves again while the rest ends;
//! 3. SIGTERM to the tree, [`COMMAND_GRACE`], SIGKILL (a second stop kills at once);
//! 4. drain the open streams;
//! 5. the agent, 6. supervisor and holder;
//! 7. recording, events;
//! 8. the folder; 9. the last word to viewers.

use std::{future::Future, path::Path, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    desk::{Desk, End, Stop, refuse_early},
    driver::Driver,
    requests::{Admission, Phase},
    world::Parts,
};
use crate::limits::{
    AGENT_STOP, COMMAND_GRACE, HELPERS_STOP, KILL_GRACE, RELEASE_PORTS, SHUTDOWN_GRACE, SHUTDOWN_SLACK,
};

/// Ends a session that was up.
pub(super) async fn run<P: Parts>(mut driver: Driver<P>, end: End) -> End {
    driver.admission.enter(Phase::Draining);
    driver.desk.status.enter(Phase::Draining);
    // What was asked for and is not answered yet gets its answer from the closed channel.
    driver.jobs.shutdown().await;
    step(
        &mut driver.desk,
        &mut driver.admission,
        "giving the ports back",
        RELEASE_PORTS,
        driver.parts.release(),
    )
    .await;
    if driver.tree {
        end_tree(&mut driver, end == End::Stopped(Stop::Asked { kill: true })).await;
    }
    driver.publish_exit();
    let Driver { mut parts, mut desk, mut admission, mut inputs, .. } = driver;
    let drain = SHUTDOWN_GRACE + SHUTDOWN_SLACK;
    step(&mut desk, &mut admission, "draining connections", drain, parts.drain()).await;
    step(&mut desk, &mut admission, "stopping the agent", AGENT_STOP + SHUTDOWN_SLACK, parts.stop_agent())
        .await;
    step(&mut desk, &mut admission, "removing the session's network", HELPERS_STOP, parts.stop_helpers())
        .await;
    inputs.layer_rx.close();
    without_parts(desk, admission, end).await
}

/// The steps that every session ends with, also one that never came up.
pub(super) async fn without_parts(mut desk: Desk, mut admission: Admission, end: End) -> End {
    admission.enter(Phase::Draining);
    if let End::Failed(failure) = &end {
        tracing::error!(text = failure.text, hint = failure.hint, "the session has failed");
    }
    if desk.recorder.is_some() {
        // The path stays in the last information: it is where the recording is.
        let path = desk.status.watch().borrow().recording.clone();
        if let Err(denied) = desk.finish_recording().await {
            desk.events.warn(denied.text, "the recording is not whole");
        }
        desk.status.change(|info| info.recording = path);
    }
    desk.events.close();
    desk.commands_rx.close();
    while let Ok(command) = desk.commands_rx.try_recv() {
        refuse_early(command, &mut admission);
    }
    admission.enter(Phase::Ended);
    remove(&desk.dir);
    let failure = match &end {
        End::Failed(failure) => Some(failure),
        End::Done | End::Stopped(_) => None,
    };
    desk.status.end(failure);
    end
}

/// Ends the process tree and waits for that.
async fn end_tree<P: Parts>(driver: &mut Driver<P>, kill: bool) {
    if !kill {
        driver.desk.status.step("waiting for the command to end");
        driver.parts.signal(libc::SIGTERM, true);
        if tree_ends(driver, COMMAND_GRACE).await {
            return;
        }
        driver.desk.events.warn(
            format!("the command did not end within {} s of SIGTERM and is killed", COMMAND_GRACE.as_secs()),
            "a program that needs longer should end on its own before the session is stopped",
        );
    }
    driver.desk.status.step("killing the command");
    driver.parts.signal(libc::SIGKILL, true);
    if !tree_ends(driver, KILL_GRACE).await {
        tracing::error!(
            "the process tree is still there after SIGKILL; the supervisor ends it when its link closes"
        );
    }
}

/// Waits for the end of the tree; `false` when it did not come in time or somebody wants it faster.
async fn tree_ends<P: Parts>(driver: &mut Driver<P>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while driver.tree {
        let waited = timeout_at(deadline, async {
            tokio::select! {
                biased;
                stop = driver.desk.stop_rx.recv() => Input::Stop(stop),
                event = driver.inputs.layer_rx.recv() => Input::Layer(event),
                Some(command) = driver.desk.commands_rx.recv() => Input::Command(command),
            }
        });
        match waited.await {
            Err(_) => return false,
            Ok(Input::Layer(Some(event))) => driver.observe(event),
            // Without a supervisor there is no tree: it takes it along.
            Ok(Input::Layer(None)) => driver.tree = false,
            Ok(Input::Command(command)) => refuse_early(command, &mut driver.admission),
            Ok(Input::Stop(Some(Stop::Asked { .. } | Stop::Signal))) => return false,
            Ok(Input::Stop(Some(Stop::OwnerGone))) => {}
            Ok(Input::Stop(None)) => return false,
        }
    }
    true
}

enum Input {
    Stop(Option<Stop>),
    Layer(Option<super::world::LayerEvent>),
    Command(super::requests::Command),
}

/// One step with its deadline; requests are refused meanwhile.
async fn step(
    desk: &mut Desk,
    admission: &mut Admission,
    name: &str,
    limit: Duration,
    work: impl Future<Output = ()>,
) {
    desk.status.step(name);
    let started = Instant::now();
    let mut work = std::pin::pin!(timeout(limit, work));
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            Some(command) = desk.commands_rx.recv() => refuse_early(command, admission),
        }
    };
    match done {
        Ok(()) => tracing::info!(step = name, ms = started.elapsed().as_millis(), "shutdown"),
        Err(_) => {
            tracing::error!(
                step = name,
                limit_ms = limit.as_millis(),
                "a step of the shutdown did not end in time"
            );
            let text = format!("{name} took longer than {} s and was given up", limit.as_secs());
            desk.events.warn(text, "what is left ends with the processes of the session");
        }
    }
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(%error, dir = %dir.display(), "the session's folder cannot be removed");
    }
}
