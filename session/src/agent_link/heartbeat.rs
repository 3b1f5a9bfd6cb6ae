//! Whether the agent is there: a small call every few seconds, its round-trip time, and the verdict when it stays away.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::connect::Channels;
use crate::limits::{AGENT_HEARTBEAT, AGENT_RETRY_MAX, AGENT_RETRY_MIN};

/// Whether the agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LinkState {
    /// The last heartbeat was answered.
    #[default]
    Up,
    /// It was not; trying again.
    Retrying,
    /// Given up: the agent has been away for too long.
    Lost,
}

/// What is known about the link.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LinkStatus {
    /// Whether the agent answers.
    pub state: LinkState,
    /// Round trip of the last heartbeat that was answered.
    pub rtt: Duration,
    /// Failed attempts in a row.
    pub attempt: u32,
    /// When the next attempt is due.
    pub next_attempt: Option<SystemTime>,
    /// What the last failure was, in words; empty when the link is up.
    pub detail: String,
}

/// Measures until cancelled or until the agent is lost, which it is after `patience`, if at all. heartbeat --status--> host
pub(super) async fn run(
    channels: Channels,
    status_tx: watch::Sender<LinkStatus>,
    cancel: CancellationToken,
    patience: Option<Duration>,
) {
    let mut last_seen = Instant::now();
    let mut attempt = 0;
    let mut wait = Duration::ZERO;
    loop {
        // Shutting down outranks the next heartbeat.
        let sent = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = sleep(wait) => Instant::now(),
        };
        let answer = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            answer = channels.hello() => answer,
        };
        match answer {
            Ok(_) => {
                (last_seen, attempt, wait) = (Instant::now(), 0, AGENT_HEARTBEAT);
                let up = LinkStatus { rtt: sent.elapsed(), ..LinkStatus::default() };
                status_tx.send_replace(up);
            }
            Err(error) => {
                attempt += 1;
                wait = backoff(attempt);
                let lost = patience.is_some_and(|patience| last_seen.elapsed() >= patience);
                tracing::warn!(%error, attempt, lost, "the agent does not answer");
                status_tx.send_modify(|status| {
                    status.state = if lost { LinkState::Lost } else { LinkState::Retrying };
                    status.attempt = attempt;
                    status.next_attempt = (!lost).then(|| SystemTime::now() + wait);
                    status.detail = error.to_string();
                });
                if lost {
                    return;
                }
            }
        }
    }
}

/// Doubles from the smallest to the largest wait.
fn backoff(attempt: u32) -> Duration {
    AGENT_RETRY_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(AGENT_RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert_eq!(backoff(1), AGENT_RETRY_MIN);
        assert_eq!(backoff(2), AGENT_RETRY_MIN * 2);
        assert_eq!(backoff(u32::MAX), AGENT_RETRY_MAX);
    }
}
