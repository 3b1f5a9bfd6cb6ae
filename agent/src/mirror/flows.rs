//! The connections that the mirror follows: which packets belong to which, and what becomes of them as items for the client.
//!
//! Pure but for the questions that it asks a [`Judge`]. Time comes with the packets.
//!
//! ```text
//! SYN -> Opening --first answer, judged--> Mirrored --both ended | RST--> Ended --linger--> gone
//!                       '-> Ignored (redirected, our own, too late)
//! data of an unknown connection --judged--> Mirrored (mid-stream)
//! ```
//! A connection is judged when the server's side has answered: then connection tracking knows whether it was redirected, so a
//! connection is mirrored or stolen, and never both or neither, whatever mode changes are under way.

mod teller;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use mirrord_netns::packet::{Parsed, TcpFlags, TcpHeader};
use mirrord_protocol::agent::v1::{MirrorClosed, MirrorOpened, mirror_item::Kind};

pub(crate) use self::teller::Counters;
use self::teller::Teller;
use super::{
    queue::Producer,
    reassembly::{Direction, Segment},
};
use crate::{
    address,
    limits::{FLOW_LINGER, FLOW_QUESTIONS, FLOW_QUIET, FLOWS, MIRROR_LINGER, OUT_OF_ORDER, OUT_OF_ORDER_ALL},
};

/// What decides about new connections.
pub(crate) trait Judge {
    /// Whether the connection belongs to somebody else: redirected by address translation, or opened by this agent.
    fn is_foreign(&mut self, client: SocketAddr, server: SocketAddr) -> bool;

    /// Whether the target surely has no such connection any more.
    fn is_gone(&mut self, client: SocketAddr, server: SocketAddr) -> bool;
}

/// Until when new connections of a port are mirrored: nanoseconds since the epoch; `None`: they are now.
pub(crate) type Until = Option<u64>;

/// Whether packets of a port are still needed: beginnings of connections may be under way, and open ones go on to their end.
pub(crate) fn is_live(until: Until, now_ns: u64, open: u64) -> bool {
    open > 0 || until.is_none_or(|until| Duration::from_nanos(now_ns.saturating_sub(until)) < MIRROR_LINGER)
}

/// A captured TCP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) time_ns: u64,
    /// Sent by the target's namespace; false on its loopback.
    pub(crate) outgoing: bool,
    pub(crate) loopback: bool,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) tcp: TcpHeader,
    pub(crate) payload: &'a [u8],
    pub(crate) payload_len: usize,
}

impl<'a> Packet<'a> {
    /// `None` when it is no TCP.
    pub(crate) fn new(parsed: &Parsed<'a>, time_ns: u64, outgoing: bool, loopback: bool) -> Option<Self> {
        Some(Self {
            time_ns,
            outgoing,
            loopback,
            src: parsed.flow.src,
            dst: parsed.flow.dst,
            tcp: parsed.tcp?,
            payload: parsed.payload,
            payload_len: parsed.payload_len,
        })
    }

    fn has(&self, flags: TcpFlags) -> bool {
        self.tcp.flags.contains(flags)
    }

    fn segment(&self) -> Segment<'a> {
        Segment {
            seq: self.tcp.seq,
            syn: self.has(TcpFlags::SYN),
            fin: self.has(TcpFlags::FIN),
            payload: self.payload,
            payload_len: self.payload_len,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    server: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    /// Last packet, or last question whether the connection is still there.
    last_ns: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client's SYN, and the data that may come with it (TCP Fast Open).
    Opening {
        isn: u32,
        syn_ns: u64,
        early: Bytes,
    },
    Mirrored(Box<Mirrored>),
    Ignored,
    Ended,
}

#[derive(Debug)]
struct Mirrored {
    id: u64,
    isn: Option<u32>,
    client: Side,
    server: Side,
}

#[derive(Debug, Default)]
struct Side {
    direction: Direction,
    /// Lost bytes that the client has not been told of.
    untold: u64,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    ports: BTreeMap<u16, Until>,
    counters: BTreeMap<u16, Counters>,
    table: HashMap<Key, Flow>,
    last_id: u64,
    /// Bytes behind holes of all connections.
    pending: usize,
}

impl Flows {
    /// Says which ports are mirrored, or were and still have connections.
    pub(crate) fn set_ports(&mut self, ports: BTreeMap<u16, Until>) {
        self.counters.retain(|port, _| ports.contains_key(port));
        self.ports = ports;
        self.table.retain(|key, _| self.ports.contains_key(&key.server.port()));
        self.pending = self.table.values().map(Flow::pending).sum();
    }

    /// Ports whose packets are still needed. `now_ns`: time of the day.
    pub(crate) fn live_ports(&self, now_ns: u64) -> impl Iterator<Item = u16> {
        self.ports
            .iter()
            .filter(move |(port, until)| is_live(**until, now_ns, self.open(**port)))
            .map(|(port, _)| *port)
    }

    pub(crate) fn counters(&self) -> &BTreeMap<u16, Counters> {
        &self.counters
    }

    /// Forgets all connections: a new client has not heard of them. Open ones are joined again in the middle.
    pub(crate) fn forget(&mut self) {
        self.table.clear();
        self.pending = 0;
        for counters in self.counters.values_mut() {
            counters.open = 0;
        }
    }

    fn open(&self, port: u16) -> u64 {
        self.counters.get(&port).map_or(0, |counters| counters.open)
    }

    /// Takes one packet in.
    pub(crate) fn packet(&mut self, packet: &Packet<'_>, judge: &mut impl Judge, out: &mut Producer) {
        let Some((key, from_server)) = self.place(packet) else { return };
        let counters = self.counters.entry(key.server.port()).or_default();
        counters.packets += 1;
        counters.bytes += u64::try_from(packet.payload_len).unwrap_or(0);
        if packet.has(TcpFlags::SYN) && !packet.has(TcpFlags::ACK) && !from_server {
            self.syn(key, packet, out);
            return;
        }
        let Some(flow) = self.table.get_mut(&key) else {
            self.unknown(key, from_server, packet, judge, out);
            return;
        };
        flow.last_ns = packet.time_ns;
        if let State::Opening { .. } = flow.state {
            self.answered(key, from_server, packet, judge, out);
        }
        self.follow(key, from_server, packet, out);
    }

    /// Which connection a packet belongs to and which way it goes. Packets of the target's own outgoing connections to such a
    /// port of another machine belong to none.
    fn place(&self, packet: &Packet<'_>) -> Option<(Key, bool)> {
        let to = Key { client: packet.src, server: packet.dst };
        let from = Key { client: packet.dst, server: packet.src };
        let may_be_to = !packet.outgoing && self.ports.contains_key(&packet.dst.port());
        let may_be_from = (packet.outgoing || packet.loopback) && self.ports.contains_key(&packet.src.port());
        match (may_be_to, may_be_from) {
            (true, false) => Some((to, false)),
            (false, true) => Some((from, true)),
            (false, false) => None,
            // Both ends have such a port, on the loopback.
            (true, true) => {
                let answer = packet.has(TcpFlags::SYN) && packet.has(TcpFlags::ACK);
                let known = self.table.contains_key(&from) && !self.table.contains_key(&to);
                Some(if answer || known { (from, true) } else { (to, false) })
            }
        }
    }

    fn syn(&mut self, key: Key, packet: &Packet<'_>, out: &mut Producer) {
        let isn = packet.tcp.seq;
        match self.table.get_mut(&key).map(|flow| &mut flow.state) {
            Some(State::Opening { isn: known, .. }) if *known == isn => return,
            Some(State::Mirrored(mirrored)) if mirrored.isn == Some(isn) => return,
            // The same addresses again: the end of the old connection was lost.
            Some(State::Mirrored(_)) => self.end(key, packet.time_ns, true, false, out),
            _ => {}
        }
        if let Some(counters) = self.counters.get_mut(&key.server.port()) {
            counters.syns += 1;
        }
        let early = Bytes::copy_from_slice(packet.payload);
        self.insert(key, packet.time_ns, State::Opening { isn, syn_ns: packet.time_ns, early });
    }

    /// A packet without a known beginning: data joins the connection in the middle.
    fn unknown(
        &mut self,
        key: Key,
        from_server: bool,
        packet: &Packet<'_>,
        judge: &mut impl Judge,
        out: &mut Producer,
    ) {
        let answer = packet.has(TcpFlags::SYN) && from_server;
        let mirrored_now = self.ports.get(&key.server.port()).is_some_and(Option::is_none);
        if packet.has(TcpFlags::RST) || !mirrored_now || (packet.payload.is_empty() && !answer) {
            return;
        }
        let state = if judge.is_foreign(key.client, key.server) {
            State::Ignored
        } else if answer {
            // Only the SYN was lost.
            let isn = packet.tcp.ack.wrapping_sub(1);
            self.mirrored(key, packet, Some(isn), Direction::opened(isn), Direction::default(), out)
        } else {
            self.mirrored(key, packet, None, Direction::default(), Direction::default(), out)
        };
        self.insert(key, packet.time_ns, state);
        self.follow(key, from_server, packet, out);
    }

    /// The first packet after the SYN: the connection is judged.
    fn answered(
        &mut self,
        key: Key,
        from_server: bool,
        packet: &Packet<'_>,
        judge: &mut impl Judge,
        out: &mut Producer,
    ) {
        let Some(State::Opening { isn, syn_ns, early }) = self.table.remove(&key).map(|flow| flow.state)
        else {
            return;
        };
        if packet.has(TcpFlags::RST) {
            // Refused, or given up by the client: nobody would have seen a connection.
            return;
        }
        let in_time = match self.ports.get(&key.server.port()) {
            Some(Some(until)) => syn_ns < *until,
            Some(None) => true,
            None => false,
        };
        let state = if !in_time || judge.is_foreign(key.client, key.server) {
            State::Ignored
        } else {
            let server = match (from_server, packet.has(TcpFlags::SYN)) {
                (true, true) => Direction::opened(packet.tcp.seq),
                (true, false) => Direction::default(),
                // The answer was lost; the client tells where the server's stream stands.
                (false, _) => Direction::opened(packet.tcp.ack.wrapping_sub(1)),
            };
            self.mirrored(key, packet, Some(isn), Direction::opened(isn), server, out)
        };
        self.insert(key, packet.time_ns, state);
        if !early.is_empty() {
            let tcp =
                TcpHeader { seq: isn.wrapping_add(1), ack: 0, flags: TcpFlags::default(), ..packet.tcp };
            let early = Packet { tcp, payload: &early, payload_len: early.len(), ..*packet };
            self.follow(key, false, &early, out);
        }
    }

    fn mirrored(
        &mut self,
        key: Key,
        packet: &Packet<'_>,
        isn: Option<u32>,
        client: Direction,
        server: Direction,
        out: &mut Producer,
    ) -> State {
        let id = self.last_id + 1;
        let opened = Kind::Opened(MirrorOpened {
            port: key.server.port().into(),
            client: Some(address::to_wire(key.client)),
            server: Some(address::to_wire(key.server)),
            mid_stream: isn.is_none(),
        });
        let counters = self.counters.entry(key.server.port()).or_default();
        if self.table.len() >= FLOWS || !out.control(id, packet.time_ns, opened) {
            // Lost as a whole; how many bytes that will be nobody counts.
            counters.gaps += 1;
            return State::Ignored;
        }
        counters.open += 1;
        self.last_id = id;
        let side = |direction| Side { direction, untold: 0 };
        State::Mirrored(Box::new(Mirrored { id, isn, client: side(client), server: side(server) }))
    }

    fn insert(&mut self, key: Key, time_ns: u64, state: State) {
        if self.table.len() < FLOWS || self.table.contains_key(&key) {
            self.table.insert(key, Flow { last_ns: time_ns, state });
        }
    }

    /// Feeds a packet to a mirrored connection; does nothing for others.
    fn follow(&mut self, key: Key, from_server: bool, packet: &Packet<'_>, out: &mut Producer) {
        let Some(Flow { state: State::Mirrored(flow), .. }) = self.table.get_mut(&key) else { return };
        let Some(counters) = self.counters.get_mut(&key.server.port()) else { return };
        let before = flow.pending();
        let id = flow.id;
        let (sender, receiver) = if from_server {
            (&mut flow.server, &mut flow.client)
        } else {
            (&mut flow.client, &mut flow.server)
        };
        let mut to_sender = Teller { id, time_ns: packet.time_ns, from_server, counters, out };
        // What the sender acknowledges it had before it sent this.
        if packet.has(TcpFlags::ACK) {
            to_sender.from_server = !from_server;
            let Side { direction, untold } = receiver;
            direction.acknowledged(packet.tcp.ack, |piece| to_sender.tell(untold, piece));
            to_sender.from_server = from_server;
        }
        let Side { direction, untold } = sender;
        direction.segment(&packet.segment(), |piece| to_sender.tell(untold, piece));
        while direction.pending_bytes() > 0
            && (direction.pending_bytes() > OUT_OF_ORDER || self.pending > OUT_OF_ORDER_ALL)
        {
            direction.give_up(|piece| to_sender.tell(untold, piece));
        }
        if direction.ended() {
            to_sender.from_server = !from_server;
            let Side { direction, untold } = receiver;
            direction.settle(|piece| to_sender.tell(untold, piece));
        }
        let over = flow.client.direction.ended() && flow.server.direction.ended();
        self.pending = (self.pending + flow.pending()).saturating_sub(before);
        if packet.has(TcpFlags::RST) {
            self.end(key, packet.time_ns, true, from_server, out);
        } else if over {
            self.set_ended(key);
        }
    }

    /// Ends a connection before its time.
    fn end(&mut self, key: Key, time_ns: u64, reset: bool, from_server: bool, out: &mut Producer) {
        let Some(Flow { state: State::Mirrored(flow), .. }) = self.table.get_mut(&key) else { return };
        if let Some(counters) = self.counters.get_mut(&key.server.port()) {
            flow.tell_gaps(time_ns, counters, out);
        }
        out.control(flow.id, time_ns, Kind::Closed(MirrorClosed { reset, from_server }));
        self.set_ended(key);
    }

    /// The end of a connection was lost.
    fn abandon(&mut self, key: Key, time_ns: u64, out: &mut Producer) {
        let Some(Flow { state: State::Mirrored(flow), .. }) = self.table.get_mut(&key) else { return };
        if let Some(counters) = self.counters.get_mut(&key.server.port()) {
            let Mirrored { id, client, server, .. } = &mut **flow;
            let mut teller = Teller { id: *id, time_ns, from_server: false, counters, out };
            client.direction.abandon(|piece| teller.tell(&mut client.untold, piece));
            teller.from_server = true;
            server.direction.abandon(|piece| teller.tell(&mut server.untold, piece));
        }
        self.set_ended(key);
    }

    fn set_ended(&mut self, key: Key) {
        let Some(flow) = self.table.get_mut(&key) else { return };
        if let State::Mirrored(mirrored) = &flow.state {
            self.pending = self.pending.saturating_sub(mirrored.pending());
            if let Some(counters) = self.counters.get_mut(&key.server.port()) {
                counters.open = counters.open.saturating_sub(1);
            }
        }
        flow.state = State::Ended;
    }

    /// Tells what could not be told yet, and removes what is over. `now_ns`: time of the day.
    pub(crate) fn sweep(&mut self, now_ns: u64, judge: &mut impl Judge, out: &mut Producer) {
        for (key, flow) in &mut self.table {
            if let State::Mirrored(flow) = &mut flow.state
                && out.has_room(0)
                && let Some(counters) = self.counters.get_mut(&key.server.port())
            {
                flow.tell_gaps(now_ns, counters, out);
            }
        }
        let age = |flow: &Flow| Duration::from_nanos(now_ns.saturating_sub(flow.last_ns));
        let quiet: Vec<Key> = self
            .table
            .iter()
            .filter(|(_, flow)| matches!(flow.state, State::Mirrored(_)) && age(flow) > FLOW_QUIET)
            .map(|(key, _)| *key)
            .take(FLOW_QUESTIONS)
            .collect();
        for key in quiet {
            if judge.is_gone(key.client, key.server) {
                self.abandon(key, now_ns, out);
            } else if let Some(flow) = self.table.get_mut(&key) {
                flow.last_ns = now_ns;
            }
        }
        self.table.retain(|_, flow| match flow.state {
            State::Mirrored(_) => true,
            State::Opening { .. } | State::Ignored => age(flow) <= FLOW_LINGER * 6,
            State::Ended => age(flow) <= FLOW_LINGER,
        });
    }
}

impl Flow {
    fn pending(&self) -> usize {
        match &self.state {
            State::Mirrored(mirrored) => mirrored.pending(),
            State::Opening { .. } | State::Ignored | State::Ended => 0,
        }
    }
}

impl Mirrored {
    fn tell_gaps(&mut self, time_ns: u64, counters: &mut Counters, out: &mut Producer) {
        let mut teller = Teller { id: self.id, time_ns, from_server: false, counters, out };
        teller.tell_gap(&mut self.client.untold);
        teller.from_server = true;
        teller.tell_gap(&mut self.server.untold);
    }

    fn pending(&self) -> usize {
        self.client.direction.pending_bytes() + self.server.direction.pending_bytes()
    }
}

#[cfg(test)]
mod tests;
