//! The port subscriptions of a session as a pure state machine: what is wanted, what the agent has acknowledged, what the local
//! process listens on. Events go in, [`Effect`]s come out; the driver in `ports/driver.rs` carries them out.
//!
//! ```text
//! wanted   what the user asked for            Off | Mirror | Steal
//! desired  what the agents shall do now       Steal only while the local process listens, else Off and `waiting` says why
//! asked    sent to an agent, no answer yet    at most one request per port and agent is in flight
//! holds    acknowledged by all agents
//! ```
//! A session has one agent, or one per pod of a workload; those come and go, and each is a source of connections.

pub(super) mod driver;
mod facts;
mod stream;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use mirrord_protocol::agent::v1 as agent;

pub(super) use self::facts::Traffic;
use super::source::SourceId;
use crate::config::{Incoming, Mode, PortSpec};

/// What the driver shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send a request; `None` ends the subscription.
    Ask { source: SourceId, id: u64, port: u16, mode: Option<Mode> },
    /// The wish of [`Ports::set_mode`] number `wish` is fulfilled, or refused with the agent's sentence.
    Settled { wish: u64, result: Result<(), String> },
    /// For the event list.
    Changed { port: u16, local: u16, from: Mode, to: Mode, text: String },
    /// A socket of the session listens, or its pid has become known.
    Listens(Listening),
    /// It is gone.
    Gone { cookie: u64 },
    /// An agent refused a subscription that nobody waits for.
    Refused { source: SourceId, port: u16, reason: String },
}

/// A listening socket of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) cookie: u64,
    /// 0 when it was found without the layer.
    pub(super) pid: u32,
}

/// All subscriptions and listeners.
#[derive(Debug)]
pub(super) struct Ports {
    config: Incoming,
    entries: BTreeMap<u16, Entry>,
    listeners: HashMap<u64, Listening>,
    next_id: u64,
    /// Agents that can be asked.
    linked: BTreeSet<SourceId>,
}

/// One port of the target.
#[derive(Debug)]
struct Entry {
    local: u16,
    wanted: Mode,
    /// Came from listening; ends when nothing listens any more.
    implicit: bool,
    /// What each linked agent does.
    at: BTreeMap<SourceId, At>,
    /// What all agents have acknowledged last; `None`: not subscribed.
    holds: Option<Mode>,
    /// What to go back to when an agent refuses.
    before: Mode,
    /// Who waits for `wanted` to settle.
    wishes: Vec<u64>,
    /// The subscription shall end.
    leaving: bool,
    traffic: Traffic,
}

/// A port at one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct At {
    /// Acknowledged; `None`: not subscribed.
    holds: Option<Mode>,
    /// In flight.
    asked: Option<Asked>,
    /// It refused what all others do, and stays as it is.
    given_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    id: u64,
    mode: Option<Mode>,
}

impl Ports {
    /// The state at the start: explicit ports are known, no agent is asked yet.
    pub(super) fn new(config: Incoming) -> Self {
        let entries = config.ports.iter().map(|spec| (spec.remote, Entry::new(*spec, false))).collect();
        Self { config, entries, listeners: HashMap::new(), next_id: 1, linked: BTreeSet::new() }
    }

    /// The subscription stream of an agent is open: it is asked for everything anew.
    pub(super) fn linked(&mut self, source: SourceId) -> Vec<Effect> {
        let mut effects = self.unlinked(source);
        self.linked.insert(source);
        effects.extend(self.ask_all());
        effects
    }

    /// The stream broke: nothing holds there. Without any agent nothing holds at all.
    pub(super) fn unlinked(&mut self, source: SourceId) -> Vec<Effect> {
        self.linked.remove(&source);
        for entry in self.entries.values_mut() {
            entry.at.remove(&source);
        }
        if !self.linked.is_empty() {
            // What was waited for may be only what this one has not said.
            let mut effects = self.agreements();
            effects.extend(self.ask_all());
            return effects;
        }
        self.entries.retain(|_, entry| !entry.leaving);
        let mut effects = Vec::new();
        for entry in self.entries.values_mut() {
            entry.holds = None;
            let refused = "the link to the agent broke";
            if !entry.wishes.is_empty() {
                entry.wanted = entry.before;
            }
            effects.extend(
                entry.wishes.drain(..).map(|wish| Effect::Settled { wish, result: Err(refused.to_owned()) }),
            );
        }
        effects
    }

    /// An agent will not come back: what it has counted stays counted.
    pub(super) fn gone(&mut self, source: SourceId) -> Vec<Effect> {
        for entry in self.entries.values_mut() {
            entry.traffic.gone(source);
        }
        self.unlinked(source)
    }

    /// A socket of the session listens. Told twice for one socket changes nothing but an unknown pid.
    pub(super) fn listening(&mut self, listening: Listening) -> Vec<Effect> {
        if let Some(known) = self.listeners.get_mut(&listening.cookie)
            && known.address == listening.address
        {
            if known.pid != 0 || listening.pid == 0 {
                return Vec::new();
            }
            known.pid = listening.pid;
            return vec![Effect::Listens(listening)];
        }
        self.listeners.insert(listening.cookie, listening);
        let mut effects = vec![Effect::Listens(listening)];
        self.subscribe_listener(listening.address);
        effects.extend(self.ask_all());
        effects
    }

    /// A listening socket is gone.
    pub(super) fn closed(&mut self, cookie: u64) -> Vec<Effect> {
        let Some(gone) = self.listeners.remove(&cookie) else { return Vec::new() };
        let mut effects = vec![Effect::Gone { cookie }];
        let port = gone.address.port();
        if !self.local_listens(port) {
            for entry in self.entries.values_mut().filter(|entry| entry.implicit && entry.local == port) {
                entry.leaving = true;
                let left = || Err(format!("nothing listens on {port} any more"));
                effects.extend(entry.wishes.drain(..).map(|wish| Effect::Settled { wish, result: left() }));
            }
        }
        effects.extend(self.ask_all());
        effects
    }

    /// The user wants another mode. `None` when the port is not known; else the wish settles with an effect.
    pub(super) fn set_mode(&mut self, wish: u64, port: u16, mode: Mode) -> Option<Vec<Effect>> {
        let entry = self.entries.get_mut(&port).filter(|entry| !entry.leaving)?;
        if self.linked.is_empty() {
            let result = Err("the agent cannot be reached now".to_owned());
            return Some(vec![Effect::Settled { wish, result }]);
        }
        let mut effects = Vec::new();
        if entry.wanted != mode {
            // A wish that is overtaken is over: its mode will never hold.
            let overtaken = || Err("another mode was asked for meanwhile".to_owned());
            effects.extend(entry.wishes.drain(..).map(|wish| Effect::Settled { wish, result: overtaken() }));
            entry.wanted = mode;
        }
        for at in entry.at.values_mut() {
            at.given_up = false;
        }
        entry.wishes.push(wish);
        effects.extend(self.ask_all());
        Some(effects)
    }

    /// An agent answered.
    pub(super) fn acknowledged(&mut self, source: SourceId, ack: &agent::SubscriptionAck) -> Vec<Effect> {
        let Ok(port) = u16::try_from(ack.port) else { return Vec::new() };
        let alone = self.linked.len() < 2;
        let Some(entry) = self.entries.get_mut(&port) else { return Vec::new() };
        let Some(at) = entry.at.get_mut(&source) else { return Vec::new() };
        let Some(asked) = at.asked.take_if(|asked| asked.id == ack.id) else { return Vec::new() };
        let mut effects = if ack.error.is_empty() {
            at.holds = asked.mode;
            entry.agreement(port)
        } else if alone {
            entry.refused(source, port, &ack.error)
        } else {
            entry.refused_by_one(source, port, &ack.error)
        };
        effects.extend(self.ask_all());
        effects
    }

    /// An agent's counters of a port.
    pub(super) fn status(&mut self, source: SourceId, status: &agent::PortStatus, now_ms: i64) {
        if let Some(entry) = u16::try_from(status.port).ok().and_then(|port| self.entries.get_mut(&port)) {
            entry.traffic.update(source, status, now_ms);
        }
    }

    /// A connection of the port was handed to the local process, or refused by it.
    pub(super) fn handed(&mut self, port: u16, delivered: bool) {
        if let Some(entry) = self.entries.get_mut(&port) {
            if delivered {
                entry.traffic.delivered += 1;
            } else {
                entry.traffic.refused += 1;
            }
        }
    }

    /// The listeners of the session.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listening> {
        self.listeners.values()
    }

    fn local_listens(&self, port: u16) -> bool {
        self.listeners.values().any(|listening| listening.address.port() == port)
    }

    /// Subscribes the port of a listener when the config says so.
    fn subscribe_listener(&mut self, address: SocketAddr) {
        let local = address.port();
        if !self.config.ports.is_empty()
            || self.config.ignore_ports.contains(&local)
            || (self.config.ignore_localhost && address.ip().to_canonical().is_loopback())
        {
            return;
        }
        let remote = self.config.port_mapping.get(&local).copied().unwrap_or(local);
        let spec = PortSpec { remote, local, mode: self.config.mode };
        let entry = self.entries.entry(remote).or_insert_with(|| Entry::new(spec, true));
        entry.leaving = false;
    }

    /// What all agents agree on now, for every port.
    fn agreements(&mut self) -> Vec<Effect> {
        self.entries.iter_mut().flat_map(|(port, entry)| entry.agreement(*port)).collect()
    }

    /// Asks every agent wherever what it does is not what it should do.
    fn ask_all(&mut self) -> Vec<Effect> {
        let listening: Vec<u16> = self.listeners.values().map(|listening| listening.address.port()).collect();
        let mut effects = Vec::new();
        let mut done = Vec::new();
        for (port, entry) in &mut self.entries {
            let desired = entry.desired(listening.contains(&entry.local));
            let mut settled = true;
            for source in &self.linked {
                let at = entry.at.entry(*source).or_default();
                let content = at.holds == desired || (at.given_up && desired.is_some());
                if at.asked.is_none() && !content {
                    let asked = Asked { id: self.next_id, mode: desired };
                    self.next_id += 1;
                    at.asked = Some(asked);
                    effects.push(Effect::Ask { source: *source, id: asked.id, port: *port, mode: desired });
                }
                settled &= at.asked.is_none();
            }
            if !settled {
                continue;
            }
            if !self.linked.is_empty() {
                entry.before = entry.wanted;
                effects.extend(entry.wishes.drain(..).map(|wish| Effect::Settled { wish, result: Ok(()) }));
            }
            if entry.leaving {
                done.push(*port);
            }
        }
        for port in done {
            self.entries.remove(&port);
        }
        effects
    }
}

impl Entry {
    fn new(spec: PortSpec, implicit: bool) -> Self {
        Self {
            local: spec.local,
            wanted: spec.mode,
            implicit,
            at: BTreeMap::new(),
            holds: None,
            before: spec.mode,
            wishes: Vec::new(),
            leaving: false,
            traffic: Traffic::default(),
        }
    }

    /// What the agent shall do now.
    fn desired(&self, local_listens: bool) -> Option<Mode> {
        match self.wanted {
            _ if self.leaving => None,
            // The target goes on serving until somebody is there who can.
            Mode::Steal if !local_listens => Some(Mode::Off),
            wanted => Some(wanted),
        }
    }

    /// The mode that all agents have, when that is another one than before; those that have given up do not count.
    fn agreement(&mut self, port: u16) -> Vec<Effect> {
        let mut agents = self.at.values().filter(|at| !at.given_up);
        let Some(first) = agents.next().filter(|at| at.asked.is_none()) else { return Vec::new() };
        let to = first.holds;
        if agents.any(|at| at.asked.is_some() || at.holds != to) || to == self.holds {
            return Vec::new();
        }
        let from = std::mem::replace(&mut self.holds, to).unwrap_or(Mode::Off);
        let Some(to) = to else {
            let text = "no longer subscribed".to_owned();
            return vec![Effect::Changed { port, local: self.local, from, to: Mode::Off, text }];
        };
        let text = match (to, self.wanted) {
            (Mode::Off, Mode::Steal) => format!("waiting for the local process to listen on {}", self.local),
            (Mode::Off, _) => "neither copied nor taken over".to_owned(),
            (Mode::Mirror, _) => "the local process gets a copy".to_owned(),
            (Mode::Steal, _) => "the local process takes over".to_owned(),
        };
        vec![Effect::Changed { port, local: self.local, from, to, text }]
    }

    /// The only agent refused.
    fn refused(&mut self, source: SourceId, port: u16, reason: &str) -> Vec<Effect> {
        let mut effects = self.fail_wishes(reason);
        if effects.is_empty() {
            effects.push(Effect::Refused { source, port, reason: reason.to_owned() });
        }
        // Nothing to go back to: what was wanted from the start is refused. Off needs nothing of the target.
        self.wanted = if self.wanted == self.before { Mode::Off } else { self.before };
        self.before = self.wanted;
        if self.wanted == Mode::Off && self.holds.is_none() {
            // Even "known but off" may be refused; asking again would go on for ever.
            self.holds = Some(Mode::Off);
            for at in self.at.values_mut() {
                at.holds.get_or_insert(Mode::Off);
            }
        }
        effects
    }

    /// One of several agents refused: a change of mode is taken back everywhere, else this one alone does without.
    fn refused_by_one(&mut self, source: SourceId, port: u16, reason: &str) -> Vec<Effect> {
        let mut effects = self.fail_wishes(reason);
        if !effects.is_empty() && self.wanted != self.before {
            self.wanted = self.before;
            return effects;
        }
        effects.push(Effect::Refused { source, port, reason: reason.to_owned() });
        let leaving = self.leaving;
        if let Some(at) = self.at.get_mut(&source) {
            at.given_up = true;
            at.holds = if leaving { None } else { at.holds.or(Some(Mode::Off)) };
        }
        effects.extend(self.agreement(port));
        effects
    }

    fn fail_wishes(&mut self, reason: &str) -> Vec<Effect> {
        let failed = |wish| Effect::Settled { wish, result: Err(reason.to_owned()) };
        self.wishes.drain(..).map(failed).collect()
    }
}

#[cfg(test)]
mod tests;
