//! The port subscriptions of a session as a pure state machine: what is wanted, what the agent has acknowledged, what the local
//! process listens on. Events go in, [`Effect`]s come out; the driver in `ports/driver.rs` carries them out.
//!
//! ```text
//! wanted   what the user asked for            Off | Mirror | Steal
//! desired  what the agent shall do now        Steal only while the local process listens, else Off and `waiting` says why
//! asked    sent to the agent, no answer yet   at most one request per port is in flight
//! holds    acknowledged
//! ```

pub(super) mod driver;
mod facts;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use mirrord_protocol::agent::v1 as agent;

pub(super) use self::facts::Traffic;
use crate::config::{Incoming, Mode, PortSpec};

/// What the driver shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send a request; `None` ends the subscription.
    Ask { id: u64, port: u16, mode: Option<Mode> },
    /// The wish of [`Ports::set_mode`] number `wish` is fulfilled, or refused with the agent's sentence.
    Settled { wish: u64, result: Result<(), String> },
    /// For the event list.
    Changed { port: u16, local: u16, from: Mode, to: Mode, text: String },
    /// A socket of the session listens, or its pid has become known.
    Listens(Listening),
    /// It is gone.
    Gone { cookie: u64 },
    /// The agent refused a subscription that nobody waits for.
    Refused { port: u16, reason: String },
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
    /// The agent can be asked.
    linked: bool,
}

/// One port of the target.
#[derive(Debug)]
struct Entry {
    local: u16,
    wanted: Mode,
    /// Came from listening; ends when nothing listens any more.
    implicit: bool,
    /// Acknowledged; `None`: not subscribed.
    holds: Option<Mode>,
    /// In flight.
    asked: Option<Asked>,
    /// What to go back to when the agent refuses.
    before: Mode,
    /// Who waits for `wanted` to settle.
    wishes: Vec<u64>,
    /// The subscription shall end.
    leaving: bool,
    traffic: Traffic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    id: u64,
    mode: Option<Mode>,
}

impl Ports {
    /// The state at the start: explicit ports are known, the agent is not asked yet.
    pub(super) fn new(config: Incoming) -> Self {
        let entries = config.ports.iter().map(|spec| (spec.remote, Entry::new(*spec, false))).collect();
        Self { config, entries, listeners: HashMap::new(), next_id: 1, linked: false }
    }

    /// The subscription stream is open: everything is asked for anew.
    pub(super) fn linked(&mut self) -> Vec<Effect> {
        self.linked = true;
        self.entries.retain(|_, entry| !entry.leaving);
        for entry in self.entries.values_mut() {
            (entry.holds, entry.asked) = (None, None);
        }
        self.ask_all()
    }

    /// The stream broke: nothing holds.
    pub(super) fn unlinked(&mut self) -> Vec<Effect> {
        self.linked = false;
        self.entries.retain(|_, entry| !entry.leaving);
        let mut effects = Vec::new();
        for entry in self.entries.values_mut() {
            (entry.holds, entry.asked) = (None, None);
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
        if !self.linked {
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
        entry.wishes.push(wish);
        effects.extend(self.ask_all());
        Some(effects)
    }

    /// The agent answered.
    pub(super) fn acknowledged(&mut self, ack: &agent::SubscriptionAck) -> Vec<Effect> {
        let Ok(port) = u16::try_from(ack.port) else { return Vec::new() };
        let Some(entry) = self.entries.get_mut(&port) else { return Vec::new() };
        let Some(asked) = entry.asked.filter(|asked| asked.id == ack.id) else { return Vec::new() };
        entry.asked = None;
        let mut effects =
            if ack.error.is_empty() { entry.accepted(port, asked) } else { entry.refused(port, &ack.error) };
        if entry.leaving && entry.holds.is_none() {
            self.entries.remove(&port);
        }
        effects.extend(self.ask_all());
        effects
    }

    /// The agent's counters of a port.
    pub(super) fn status(&mut self, status: &agent::PortStatus, now_ms: i64) {
        if let Some(entry) = u16::try_from(status.port).ok().and_then(|port| self.entries.get_mut(&port)) {
            entry.traffic.update(status, now_ms);
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

    /// Asks the agent wherever what it does is not what it should do.
    fn ask_all(&mut self) -> Vec<Effect> {
        let listening: Vec<u16> = self.listeners.values().map(|listening| listening.address.port()).collect();
        let mut effects = Vec::new();
        let mut done = Vec::new();
        for (port, entry) in &mut self.entries {
            let desired = entry.desired(listening.contains(&entry.local));
            if !self.linked {
                if entry.leaving {
                    done.push(*port);
                }
            } else if entry.asked.is_none() && entry.holds != desired {
                let asked = Asked { id: self.next_id, mode: desired };
                self.next_id += 1;
                entry.asked = Some(asked);
                effects.push(Effect::Ask { id: asked.id, port: *port, mode: desired });
            } else if entry.asked.is_none() {
                effects.extend(entry.wishes.drain(..).map(|wish| Effect::Settled { wish, result: Ok(()) }));
                if entry.leaving {
                    done.push(*port);
                }
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
            holds: None,
            asked: None,
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

    fn accepted(&mut self, port: u16, asked: Asked) -> Vec<Effect> {
        let from = self.holds.replace(asked.mode.unwrap_or(Mode::Off)).unwrap_or(Mode::Off);
        self.before = self.wanted;
        let Some(to) = asked.mode else {
            self.holds = None;
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

    fn refused(&mut self, port: u16, reason: &str) -> Vec<Effect> {
        let mut effects: Vec<_> = self
            .wishes
            .drain(..)
            .map(|wish| Effect::Settled { wish, result: Err(reason.to_owned()) })
            .collect();
        if effects.is_empty() {
            effects.push(Effect::Refused { port, reason: reason.to_owned() });
        }
        // Nothing to go back to: what was wanted from the start is refused. Off needs nothing of the target.
        self.wanted = if self.wanted == self.before { Mode::Off } else { self.before };
        self.before = self.wanted;
        if self.wanted == Mode::Off && self.holds.is_none() {
            // Even "known but off" may be refused; asking again would go on for ever.
            self.holds = Some(Mode::Off);
        }
        effects
    }
}

#[cfg(test)]
mod tests;
