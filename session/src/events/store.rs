//! What is behind the lock: ring, log of changes, counters and histograms. No clock, no I/O, no waiting.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mirrord_protocol::session::v1 as wire;
use prost::Message;

use super::Limits;
use crate::histogram::Histograms;

/// Number of kinds on the wire, the unspecified one included.
pub(super) const KINDS: usize = 10;

/// Ring of events, in order of their numbers and without holes.
#[derive(Debug)]
pub(super) struct Store {
    limits: Limits,
    ring: VecDeque<Slot>,
    /// Number of the ring's first event, or of the next one when it is empty.
    first_seq: u64,
    /// Sequence number of each change, an emission being the first change of an event.
    log: VecDeque<u64>,
    /// Number of the log's first change.
    first_change: u64,
    bytes: usize,
    /// Pending events that left the ring, without bodies: their end must still be counted.
    pending: BTreeMap<u64, (Box<wire::Event>, Noted)>,
    /// Those whose end has come, by the number of that change: for readers that follow.
    late: VecDeque<(u64, Arc<wire::Event>)>,
    counters: [Counter; KINDS],
    histograms: Histograms,
    closed: bool,
}

/// One event of the ring.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) event: Arc<wire::Event>,
    pub(super) size: usize,
    /// Number of the change that brought it.
    pub(super) emitted: u64,
    /// Number of its last change.
    pub(super) changed: u64,
    noted: Noted,
}

/// What of an event the counters know already.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    bytes: u64,
    error: bool,
    latency: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    count: u64,
    errors: u64,
    bytes: u64,
    evicted: u64,
}

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ring: VecDeque::new(),
            first_seq: 1,
            log: VecDeque::new(),
            first_change: 0,
            bytes: 0,
            pending: BTreeMap::new(),
            late: VecDeque::new(),
            counters: [Counter::default(); KINDS],
            histograms: Histograms::default(),
            closed: false,
        }
    }

    /// Takes an event in and returns its number.
    pub(super) fn push(&mut self, mut event: wire::Event) -> u64 {
        let seq = self.next_seq();
        event.seq = seq;
        self.counter(event.kind).count += 1;
        let noted = self.note(&event, Noted::default());
        let size = size_of(&event);
        self.bytes += size;
        let change = self.log_change(seq);
        self.ring.push_back(Slot { event: Arc::new(event), size, emitted: change, changed: change, noted });
        self.evict();
        seq
    }

    /// Changes an event, wherever it is.
    pub(super) fn change(&mut self, seq: u64, change: impl FnOnce(&mut wire::Event)) {
        if let Some(index) = self.index(seq) {
            let number = self.next_change();
            let Some(slot) = self.ring.get_mut(index) else { return };
            let event = Arc::make_mut(&mut slot.event);
            change(event);
            event.seq = seq;
            slot.changed = number;
            let size = size_of(event);
            self.bytes = self.bytes.saturating_sub(slot.size).saturating_add(size);
            slot.size = size;
            let (event, noted) = (Arc::clone(&slot.event), slot.noted);
            let noted = self.note(&event, noted);
            drop(event);
            if let Some(slot) = self.ring.get_mut(index) {
                slot.noted = noted;
            }
            self.log_change(seq);
            self.evict();
        } else if let Some((mut event, noted)) = self.pending.remove(&seq) {
            change(&mut event);
            let noted = self.note(&event, noted);
            if event.pending {
                strip_bodies(&mut event);
                self.pending.insert(seq, (event, noted));
            } else {
                let change = self.log_change(seq);
                if self.late.len() >= self.limits.pending {
                    self.late.pop_front();
                }
                self.late.push_back((change, Arc::from(event)));
            }
        }
    }

    /// Brings counters and histograms up to date with an event.
    fn note(&mut self, event: &wire::Event, noted: Noted) -> Noted {
        let counter = self.counter(event.kind);
        counter.bytes = counter.bytes.saturating_sub(noted.bytes).saturating_add(event.bytes);
        let error = !event.error.is_empty();
        if error && !noted.error {
            counter.errors += 1;
        }
        let known = event.latency_ns > 0 || !event.pending;
        if known && !noted.latency {
            self.histograms.record(event);
        }
        if error && !noted.error {
            self.histograms.error(event);
        }
        Noted { bytes: event.bytes, error: error || noted.error, latency: known || noted.latency }
    }

    fn evict(&mut self) {
        while self.ring.len() > self.limits.events || (self.bytes > self.limits.bytes && self.ring.len() > 1)
        {
            let Some(slot) = self.ring.pop_front() else { return };
            self.first_seq += 1;
            self.bytes = self.bytes.saturating_sub(slot.size);
            self.counter(slot.event.kind).evicted += 1;
            if slot.event.pending {
                let mut event = Box::new(Arc::unwrap_or_clone(slot.event));
                strip_bodies(&mut event);
                if self.pending.len() >= self.limits.pending {
                    self.pending.pop_first();
                }
                self.pending.insert(event.seq, (event, slot.noted));
            }
        }
    }

    fn log_change(&mut self, seq: u64) -> u64 {
        let number = self.next_change();
        if self.log.len() >= self.limits.changes {
            self.log.pop_front();
            self.first_change += 1;
        }
        self.log.push_back(seq);
        number
    }

    fn counter(&mut self, kind: i32) -> &mut Counter {
        let [unknown, known @ ..] = &mut self.counters;
        usize::try_from(kind).ok().and_then(|kind| known.get_mut(kind.wrapping_sub(1))).unwrap_or(unknown)
    }

    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first_seq)?).ok().filter(|index| *index < self.ring.len())
    }

    pub(super) fn slot(&self, seq: u64) -> Option<&Slot> {
        self.ring.get(self.index(seq)?)
    }

    pub(super) fn event(&self, seq: u64) -> Option<Arc<wire::Event>> {
        self.slot(seq).map(|slot| Arc::clone(&slot.event))
    }

    /// Number of the oldest event that is held.
    pub(super) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Number that the next event will get.
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.ring.len() as u64)
    }

    /// Number of the oldest change that is remembered.
    pub(super) fn first_change(&self) -> u64 {
        self.first_change
    }

    /// Number that the next change will get.
    pub(super) fn next_change(&self) -> u64 {
        self.first_change.saturating_add(self.log.len() as u64)
    }

    /// Which event a change belongs to.
    pub(super) fn change_at(&self, number: u64) -> Option<u64> {
        let index = usize::try_from(number.checked_sub(self.first_change)?).ok()?;
        self.log.get(index).copied()
    }

    /// The event whose end was this change and came after it had left the ring.
    pub(super) fn late(&self, change: u64) -> Option<&Arc<wire::Event>> {
        let index = self.late.binary_search_by_key(&change, |(number, _)| *number).ok()?;
        self.late.get(index).map(|(_, event)| event)
    }

    /// How many events of the wanted kinds have left the ring.
    pub(super) fn evicted(&self, wanted: impl Fn(i32) -> bool) -> u64 {
        (0i32..)
            .zip(&self.counters)
            .filter(|(kind, _)| wanted(*kind))
            .map(|(_, counter)| counter.evicted)
            .sum()
    }

    pub(super) fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn totals(&self) -> wire::Totals {
        let kinds = (0i32..).zip(&self.counters).filter(|(_, counter)| counter.count > 0);
        wire::Totals {
            kinds: kinds
                .map(|(kind, counter)| wire::KindTotal {
                    kind,
                    count: counter.count,
                    errors: counter.errors,
                    bytes: counter.bytes,
                })
                .collect(),
            evicted: self.evicted(|_| true),
            ring_bytes: self.bytes as u64,
            last_seq: self.next_seq() - 1,
            first_seq: if self.ring.is_empty() { 0 } else { self.first_seq },
        }
    }
}

/// Memory that an event holds, nearly: the struct and what its fields point to.
pub(super) fn size_of(event: &wire::Event) -> usize {
    std::mem::size_of::<wire::Event>() + event.encoded_len()
}

/// Throws the bodies away and keeps their sizes.
pub(crate) fn strip_bodies(event: &mut wire::Event) {
    if let Some(wire::event::Detail::Request(request)) = &mut event.detail {
        for body in [&mut request.body, &mut request.response_body].into_iter().flatten() {
            body.data = bytes::Bytes::new();
        }
    }
}
