//! What viewers see of the session: one value, one writer, readers that get the latest.

use std::time::{SystemTime, UNIX_EPOCH};

use mirrord_protocol::session::v1 as wire;
use tokio::sync::watch;

use super::{
    requests::Phase,
    world::{Failure, Progress},
};
use crate::{
    agent_link::{LinkState, LinkStatus},
    events::Events,
};

/// The only writer of the session's information.
#[derive(Debug)]
pub(crate) struct Status {
    /// driver --latest--> viewers
    info_tx: watch::Sender<wire::SessionInfo>,
    events: Events,
}

impl Status {
    pub(crate) fn new(mut info: wire::SessionInfo, events: Events) -> Self {
        info.state = wire::State::Connecting.into();
        info.started_ms = now_ms();
        Self { info_tx: watch::Sender::new(info), events }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<wire::SessionInfo> {
        self.info_tx.subscribe()
    }

    /// Changes the information; viewers are woken only when it did change.
    pub(crate) fn change(&self, change: impl FnOnce(&mut wire::SessionInfo)) {
        self.info_tx.send_if_modified(|info| {
            let before = info.clone();
            change(info);
            *info != before
        });
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let state = match phase {
            Phase::Connecting => wire::State::Connecting,
            Phase::Launching => wire::State::Launching,
            Phase::Running => wire::State::Running,
            Phase::Draining => wire::State::Draining,
            Phase::Ended => wire::State::Ended,
        };
        tracing::info!(?phase, "session");
        self.change(|info| {
            info.state = state.into();
            info.detail.clear();
        });
    }

    /// The step that is being done, in words.
    pub(crate) fn step(&self, step: &str) {
        self.change(|info| step.clone_into(&mut info.detail));
    }

    /// The step of bring-up, and what it has learned so far.
    pub(crate) fn progress(&self, progress: Progress) {
        let Progress { step, place, sharing } = progress;
        self.change(|info| (info.detail, info.place, info.sharing) = (step, place, sharing));
    }

    /// Brings the counts up to date.
    pub(crate) fn count(&self) {
        let totals = self.events.totals();
        self.change(|info| info.totals = Some(totals));
    }

    pub(crate) fn agent(&self, link: &LinkStatus) {
        let link = agent_link(link);
        self.change(|info| info.agent = Some(link));
    }

    /// The last change: the session is over, with an explanation when something has gone wrong.
    pub(crate) fn end(&self, failure: Option<&Failure>) {
        let totals = self.events.totals();
        self.change(|info| {
            info.totals = Some(totals);
            info.processes.iter_mut().for_each(|process| process.running = false);
            info.listeners.clear();
            info.agent = None;
            match failure {
                None => info.state = wire::State::Ended.into(),
                Some(failure) => {
                    info.state = wire::State::Failed.into();
                    info.detail.clone_from(&failure.text);
                    info.hint.clone_from(&failure.hint);
                    if info.exit.is_none() {
                        info.exit.clone_from(&failure.exit);
                    }
                }
            }
        });
    }
}

/// The state of the link as viewers see it.
pub(crate) fn agent_link(link: &LinkStatus) -> wire::AgentLink {
    let state = match link.state {
        LinkState::Up => wire::agent_link::LinkState::Up,
        LinkState::Retrying => wire::agent_link::LinkState::Retrying,
        LinkState::Lost => wire::agent_link::LinkState::Lost,
    };
    wire::AgentLink {
        state: state.into(),
        rtt_us: u64::try_from(link.rtt.as_micros()).unwrap_or(u64::MAX),
        attempt: link.attempt,
        next_attempt_ms: link.next_attempt.map_or(0, millis),
        detail: link.detail.clone(),
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    millis(SystemTime::now())
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
