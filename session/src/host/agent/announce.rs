//! Tells others which ports the session steals, on the agent's job: the preflight of their sessions reads it.
//!
//! A courtesy. Two sessions cannot steal one port whether it is told or not: the second agent sees the rules of the first.

use std::future::pending;

use mirrord_protocol::session::v1 as wire;
use tokio::{sync::watch, time::sleep};

use crate::{cluster::agent_job::AgentJob, limits::ANNOUNCE_RETRY};

/// Runs until it is dropped.
pub(super) async fn announce(job: AgentJob, mut ports_rx: watch::Receiver<Vec<wire::Port>>) {
    let at_start = job.stolen_at_start();
    let mut told = at_start.clone();
    loop {
        let now = stolen(&ports_rx.borrow_and_update(), &at_start);
        if now != told {
            match Box::pin(job.tell_stolen(&now)).await {
                Ok(()) => told = now,
                Err(error) if error.is_forbidden() => {
                    tracing::info!(%error, "others are not told what is stolen now");
                    return pending().await;
                }
                Err(error) => {
                    tracing::info!(%error, "others cannot be told now what is stolen");
                    sleep(ANNOUNCE_RETRY).await;
                }
            }
            continue;
        }
        if ports_rx.changed().await.is_err() {
            // The network has ended, and the session with it.
            return pending().await;
        }
    }
}

/// The ports that the session steals or wants to; what it began with as long as it knows none.
fn stolen(ports: &[wire::Port], at_start: &str) -> String {
    let wanted = ports.iter().filter(|port| port.wanted() == wire::Mode::Steal);
    let numbers: Vec<String> = wanted.map(|port| port.remote.to_string()).collect();
    if ports.is_empty() { at_start.to_owned() } else { numbers.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_counts() {
        let port = |remote, wanted: wire::Mode| wire::Port {
            remote,
            wanted: wanted.into(),
            ..wire::Port::default()
        };
        let ports = [port(80, wire::Mode::Steal), port(81, wire::Mode::Mirror), port(82, wire::Mode::Steal)];
        assert_eq!(stolen(&ports, "*"), "80,82");
        assert_eq!(stolen(&ports[1..2], "81"), "");
        assert_eq!(stolen(&[], "*"), "*");
    }
}
