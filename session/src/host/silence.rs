//! "Nothing arrives": finds the station where the flow of a port stops, from facts, and says it in words.
//!
//! A connection passes these stations: client -> target's network -> (mirror) capture or (steal) redirect rule -> host -> local
//! process. [`diagnose`] is pure; [`Silence`] decides when it is asked: after [`SILENCE`] without a delivered connection, and for a
//! port that has worked before only when something arrives and is not delivered.

use std::collections::BTreeMap;

use mirrord_protocol::session::v1 as wire;
use tokio::time::Instant;

use crate::limits::{AGENT_STATUS_LAG, SILENCE};

/// Where the flow stops, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) text: String,
    pub(crate) hint: String,
}

impl Diagnosis {
    fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { text: text.into(), hint: hint.into() }
    }
}

/// The first station where the flow of a port stops. The counters are those since the flow was last seen to work.
pub(crate) fn diagnose(port: &wire::Port) -> Option<Diagnosis> {
    let (remote, local) = (port.remote, port.local);
    // Asked first: a wanted mode that does not hold yet looks like none.
    if !port.waiting.is_empty() {
        return Some(Diagnosis::new(
            format!("the wanted mode of port {remote} does not hold yet: {}", port.waiting),
            format!("let the local process listen on port {local}, or name its port with -p {remote}:LOCAL"),
        ));
    }
    let steal = match port.mode() {
        wire::Mode::Steal => true,
        wire::Mode::Mirror => false,
        wire::Mode::Off | wire::Mode::Unspecified => return None,
    };
    if port.delivered > 0 {
        return None;
    }
    if port.refused > 0 {
        return Some(Diagnosis::new(
            format!(
                "{} for port {remote} came, and the local process refused {} on port {local}",
                count(port.refused, "connection"),
                them(port.refused)
            ),
            format!("let the local process listen on port {local}, or name its port with -p {remote}:LOCAL"),
        ));
    }
    if port.packets == 0 && port.redirected == 0 {
        return Some(if port.target_listens || steal {
            Diagnosis::new(
                format!("no packet for port {remote} has reached the target"),
                "send it a request; check that clients use this pod and this port, and not another replica behind the service",
            )
        } else {
            Diagnosis::new(
                format!(
                    "no packet for port {remote} has reached the target, and nothing in the target listens on it"
                ),
                "check the number of the port: it is the container's, not the service's",
            )
        });
    }
    if port.syns == 0 && port.redirected == 0 {
        return Some(Diagnosis::new(
            format!(
                "port {remote} sees packets of connections that are older than the session, and no new one"
            ),
            "connections are followed from their beginning; let a client open a new one",
        ));
    }
    if steal && port.redirected == 0 {
        return Some(Diagnosis::new(
            format!(
                "{} for port {remote} reached the target, and the redirect rule matched none",
                count(port.syns, "new connection")
            ),
            "they come through a proxy in the target (a mesh sidecar) or from the target itself; steal the port that the proxy uses, or mirror",
        ));
    }
    if !steal && !port.target_listens {
        return Some(Diagnosis::new(
            format!(
                "{} for port {remote} reached the target, and nothing in the target listens on it, so there is nothing to mirror",
                count(port.syns, "new connection")
            ),
            format!("steal the port: `mirrord-tui mode ID {remote} steal`"),
        ));
    }
    if !port.local_listens {
        return Some(Diagnosis::new(
            format!(
                "{} for port {remote} came, and no local process listens on port {local}",
                count(port.syns.max(port.redirected), "new connection")
            ),
            format!("let the local process listen on port {local}, or name its port with -p {remote}:LOCAL"),
        ));
    }
    Some(Diagnosis::new(
        format!(
            "{} for port {remote} came and {} not handed to the local process",
            count(port.syns.max(port.redirected), "new connection"),
            if port.syns.max(port.redirected) == 1 { "was" } else { "were" }
        ),
        "see the warnings of this session and the state of the agent",
    ))
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn them(number: u64) -> &'static str {
    if number == 1 { "it" } else { "them" }
}

/// Watches all ports of a session.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    ports: BTreeMap<u32, Track>,
}

#[derive(Debug)]
struct Track {
    /// Facts when the flow was last seen to work, or when the port was subscribed.
    base: wire::Port,
    since: Instant,
    /// When a connection was last handed over.
    delivered: Option<Instant>,
    told: Option<Diagnosis>,
}

impl Silence {
    /// Fills in the diagnosis of each port and returns the ones that are new.
    pub(crate) fn look(&mut self, now: Instant, ports: &mut [wire::Port]) -> Vec<Diagnosis> {
        let mut new = Vec::new();
        self.ports.retain(|remote, _| ports.iter().any(|port| port.remote == *remote));
        for port in ports {
            let track = self.ports.entry(port.remote).or_insert_with(|| Track {
                base: wire::Port { mode: port.mode, ..wire::Port::default() },
                since: now,
                delivered: None,
                told: None,
            });
            if port.delivered > track.base.delivered || port.mode != track.base.mode {
                let delivered = (port.delivered > track.base.delivered).then_some(now);
                *track = Track { base: port.clone(), since: now, delivered, told: None };
            } else if track.delivered.is_some_and(|at| now.duration_since(at) < AGENT_STATUS_LAG) {
                // The agent counts what we have delivered already, but tells it from time to time only.
                track.base = port.clone();
            }
            let worked = track.base.delivered > 0;
            let facts = since(port, &track.base);
            if worked && facts.syns == 0 && facts.redirected == 0 && facts.refused == 0 {
                track.since = now;
            }
            if now.duration_since(track.since) < SILENCE {
                continue;
            }
            let diagnosis = diagnose(&facts);
            port.diagnosis = diagnosis.as_ref().map(|found| found.text.clone()).unwrap_or_default();
            if let Some(found) = diagnosis {
                // Counts in the text change; the station is told once.
                if track.told.as_ref().is_none_or(|told| told.hint != found.hint) {
                    new.push(found.clone());
                    track.told = Some(found);
                }
            }
        }
        new
    }
}

/// The facts of a port with its counters taken from `base` on.
fn since(port: &wire::Port, base: &wire::Port) -> wire::Port {
    let less = |now: u64, then: u64| now.saturating_sub(then);
    wire::Port {
        packets: less(port.packets, base.packets),
        syns: less(port.syns, base.syns),
        redirected: less(port.redirected, base.redirected),
        delivered: less(port.delivered, base.delivered),
        refused: less(port.refused, base.refused),
        ..port.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn port(mode: wire::Mode) -> wire::Port {
        wire::Port {
            remote: 80,
            local: 8080,
            mode: mode.into(),
            target_listens: true,
            local_listens: true,
            ..wire::Port::default()
        }
    }

    #[test]
    fn the_first_station_that_stops_the_flow_is_named() {
        use wire::{
            Mode::{Mirror, Off, Steal},
            Port,
        };
        for (facts, wanted) in [
            (port(Off), None),
            (Port { delivered: 1, packets: 9, syns: 1, ..port(Mirror) }, None),
            (
                Port { waiting: "waiting for the local process to listen on 8080".to_owned(), ..port(Steal) },
                Some("does not hold yet"),
            ),
            (port(Mirror), Some("no packet for port 80 has reached the target")),
            (Port { target_listens: false, ..port(Mirror) }, Some("nothing in the target listens")),
            (
                Port { target_listens: false, ..port(Steal) },
                Some("no packet for port 80 has reached the target"),
            ),
            (Port { packets: 7, ..port(Mirror) }, Some("older than the session")),
            (Port { packets: 7, syns: 2, ..port(Steal) }, Some("redirect rule matched none")),
            (Port { packets: 7, syns: 2, target_listens: false, ..port(Mirror) }, Some("nothing to mirror")),
            (
                Port { packets: 7, syns: 2, local_listens: false, ..port(Mirror) },
                Some("no local process listens on port 8080"),
            ),
            (
                Port { redirected: 2, local_listens: false, ..port(Steal) },
                Some("no local process listens on port 8080"),
            ),
            (Port { redirected: 2, refused: 2, ..port(Steal) }, Some("the local process refused them")),
            (Port { packets: 7, syns: 1, ..port(Mirror) }, Some("was not handed to the local process")),
        ] {
            let found = diagnose(&facts);
            match wanted {
                None => assert_eq!(found, None, "{facts:?}"),
                Some(wanted) => {
                    let found = found.unwrap_or_else(|| panic!("{wanted}"));
                    assert!(found.text.contains(wanted) && !found.hint.is_empty(), "{found:?} for {wanted}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_port_is_told_once_and_an_idle_one_is_left_alone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        let mut ports = [port(wire::Mode::Mirror)];
        assert!(silence.look(at(0), &mut ports).is_empty());
        assert!(silence.look(at(9), &mut ports).is_empty() && ports[0].diagnosis.is_empty());
        assert_eq!(silence.look(at(10), &mut ports).len(), 1);
        assert!(!ports[0].diagnosis.is_empty());
        assert!(silence.look(at(11), &mut ports).is_empty(), "told already");
        // A later station stops it now.
        ports[0].packets = 3;
        ports[0].syns = 1;
        ports[0].local_listens = false;
        assert_eq!(silence.look(at(12), &mut ports).len(), 1);
        // It works, though the agent tells of the handshake only afterwards, and is idle.
        ports[0].delivered = 1;
        ports[0].diagnosis.clear();
        assert!(silence.look(at(13), &mut ports).is_empty());
        ports[0].syns += 1;
        assert!(silence.look(at(14), &mut ports).is_empty());
        assert!(silence.look(at(90), &mut ports).is_empty() && ports[0].diagnosis.is_empty());
        // Something comes again and is refused.
        ports[0].syns += 1;
        ports[0].refused = 1;
        assert!(silence.look(at(91), &mut ports).is_empty());
        assert_eq!(silence.look(at(101), &mut ports).len(), 1);
    }
}
