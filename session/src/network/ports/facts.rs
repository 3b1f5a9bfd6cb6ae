//! What is shown about a port: counters of both ends, why the wanted mode does not hold yet, where the flow stops.

use std::collections::BTreeMap;

use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};

use super::{Entry, Ports, SourceId};
use crate::{config::Mode, limits::SILENCE};

/// Counters of one port.
#[derive(Clone, Debug, Default)]
pub(in crate::network) struct Traffic {
    /// What each agent has said last about the port.
    statuses: BTreeMap<SourceId, agent::PortStatus>,
    /// What those had counted that are gone.
    past: agent::PortStatus,
    last_packet_ms: i64,
    /// When the port was first seen, for the diagnosis.
    since_ms: i64,
    pub(super) delivered: u64,
    pub(super) refused: u64,
}

impl Traffic {
    pub(super) fn update(&mut self, source: SourceId, status: &agent::PortStatus, now_ms: i64) {
        let last = self.statuses.insert(source, *status).unwrap_or_default();
        if status.packets > last.packets || status.redirected > last.redirected {
            self.last_packet_ms = now_ms;
        }
    }

    /// Keeps what an agent has counted; what it had open and whether its target listened is over.
    pub(super) fn gone(&mut self, source: SourceId) {
        if let Some(status) = self.statuses.remove(&source) {
            add(&mut self.past, &status);
            (self.past.target_listens, self.past.mirrored_open, self.past.stolen_open) = (false, 0, 0);
        }
    }

    /// All agents together.
    fn sum(&self) -> agent::PortStatus {
        let mut sum = self.past;
        for status in self.statuses.values() {
            add(&mut sum, status);
        }
        sum
    }
}

fn add(sum: &mut agent::PortStatus, status: &agent::PortStatus) {
    sum.target_listens |= status.target_listens;
    sum.packets += status.packets;
    sum.syns += status.syns;
    sum.redirected += status.redirected;
    sum.mirrored_open += status.mirrored_open;
    sum.stolen_open += status.stolen_open;
    sum.gaps += status.gaps;
    sum.gap_bytes += status.gap_bytes;
}

impl Ports {
    /// All ports in order, as the session API has them.
    pub(in crate::network) fn facts(&mut self, now_ms: i64) -> Vec<wire::Port> {
        let listening: Vec<u16> = self.listeners.values().map(|listening| listening.address.port()).collect();
        let linked = !self.linked.is_empty();
        self.entries
            .iter_mut()
            .map(|(remote, entry)| entry.facts(*remote, listening.contains(&entry.local), linked, now_ms))
            .collect()
    }
}

impl Entry {
    fn facts(&mut self, remote: u16, local_listens: bool, linked: bool, now_ms: i64) -> wire::Port {
        if self.traffic.since_ms == 0 {
            self.traffic.since_ms = now_ms;
        }
        let status = self.traffic.sum();
        let holds = self.holds.unwrap_or(Mode::Off);
        let mut asked = self.at.values().filter_map(|at| at.asked?.mode);
        let switching_to =
            asked.find(|mode| Some(*mode) != self.holds).map_or(wire::Mode::Unspecified, Into::into);
        let waiting = if !linked {
            "waiting for the agent".to_owned()
        } else if self.wanted == Mode::Steal && !local_listens {
            format!("waiting for the local process to listen on {}", self.local)
        } else {
            String::new()
        };
        let mut port = wire::Port {
            remote: remote.into(),
            local: self.local.into(),
            mode: wire::Mode::from(holds).into(),
            wanted: wire::Mode::from(self.wanted).into(),
            switching_to: switching_to.into(),
            waiting,
            local_listens,
            target_listens: status.target_listens,
            packets: status.packets,
            syns: status.syns,
            redirected: status.redirected,
            mirrored_open: status.mirrored_open,
            stolen_open: status.stolen_open,
            gaps: status.gaps,
            gap_bytes: status.gap_bytes,
            delivered: self.traffic.delivered,
            refused: self.traffic.refused,
            last_packet_ms: self.traffic.last_packet_ms,
            ..wire::Port::default()
        };
        let silent_ms = now_ms - self.traffic.last_packet_ms.max(self.traffic.since_ms);
        let silent = silent_ms >= i64::try_from(SILENCE.as_millis()).unwrap_or(i64::MAX);
        port.diagnosis = diagnosis(&port, holds, !self.traffic.statuses.is_empty(), silent);
        port
    }
}

/// Where the flow stops, in words; empty while it flows or when it is not expected to.
fn diagnosis(port: &wire::Port, holds: Mode, known: bool, silent: bool) -> String {
    let (remote, local) = (port.remote, port.local);
    match holds {
        Mode::Off => String::new(),
        _ if port.refused > 0 && port.delivered == 0 && port.local_listens => {
            format!("the local process refuses connections on {local}")
        }
        _ if !silent || !known => String::new(),
        Mode::Mirror if port.packets == 0 && !port.target_listens => {
            format!("no packet has reached port {remote}, and nothing in the target listens on it")
        }
        Mode::Mirror if port.packets == 0 => format!("no packet has reached port {remote} of the target"),
        Mode::Mirror if port.syns == 0 => {
            "packets flow on connections that were open before; new connections are delivered".to_owned()
        }
        Mode::Steal if port.redirected == 0 && port.syns > 0 => {
            format!(
                "connections reach port {remote} but are not redirected: another rule of the target comes first"
            )
        }
        Mode::Steal if port.redirected == 0 => {
            format!("no connection has reached port {remote} of the target")
        }
        _ if port.delivered == 0 && !port.local_listens => format!("nothing listens on {local} here"),
        _ => String::new(),
    }
}
