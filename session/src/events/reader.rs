//! A reader of the store with a position of its own.
//!
//! It reads in one of two ways. *Following* goes through the log of changes: a new event, or the last change of one that it
//! has seen before. *Scanning* goes through the ring in order of the events: at the start, and when the log has been cut off
//! before the reader came. Both deliver every event that is held at least once in its last form; what had left the ring
//! before the reader came to it is counted in [`Batch::dropped`]. Who follows also learns the end of an event that has left the
//! ring, such as a connection that stayed open for long.

use std::sync::Arc;

use mirrord_protocol::session::v1 as wire;

use super::{
    Shared,
    store::{KINDS, Store, size_of},
};
use crate::limits::{READER_BYTES, READER_LOOKS};

/// Position in the events of a session.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    wanted: Wanted,
    /// All events before this one have been delivered, lost, or were not wanted.
    next_seq: u64,
    /// All changes before this one have been looked at.
    next_change: u64,
    scan: Option<Scan>,
    /// Wanted events before `next_seq`.
    passed: u64,
    dropped: u64,
}

/// A walk through the ring.
#[derive(Clone, Copy, Debug)]
struct Scan {
    at: u64,
    /// Events that the reader had before are delivered again when they changed since this change.
    since: u64,
    /// Where to follow from afterwards.
    then: u64,
}

/// Some events, in their present form.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The events. One that was delivered before comes again when it has changed.
    pub events: Vec<Arc<wire::Event>>,
    /// Wanted events that this reader has lost since it began.
    pub dropped: u64,
    /// Number of the newest event of the session.
    pub last_seq: u64,
}

/// What [`Reader::take`] found.
#[derive(Debug)]
pub enum Taken {
    /// Events, or a higher count of lost ones.
    Some(Batch),
    /// Nothing now.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from_seq: u64, kinds: &[wire::Kind]) -> Self {
        let wanted = Wanted::new(kinds);
        let (next_seq, next_change, passed) = {
            let store = shared.store();
            let evicted = store.evicted(|kind| wanted.has(kind));
            let first = store.first_seq();
            let from = if from_seq == 0 { first } else { from_seq.min(store.next_seq()) };
            // What was wanted and is gone already counts as lost, as far as it can be known.
            let passed = if from < first {
                evicted.saturating_sub(first - from)
            } else {
                let before = (first..from).filter_map(|seq| store.slot(seq));
                evicted + before.filter(|slot| wanted.has(slot.event.kind)).count() as u64
            };
            (from, store.next_change(), passed)
        };
        let scan = Some(Scan { at: next_seq, since: next_change, then: next_change });
        Self { shared, wanted, next_seq, next_change, scan, passed, dropped: 0 }
    }

    /// Waits for events and takes at most `max` of them; `None` when the store has been closed and all is read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self, max: usize) -> Option<Batch> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            // Registered before looking, so that nothing falls between looking and waiting.
            changed.as_mut().enable();
            match self.take(max) {
                Taken::Some(batch) => return Some(batch),
                Taken::Closed => return None,
                Taken::Nothing => changed.await,
            }
        }
    }

    /// Takes what is there now, at most `max` events.
    pub fn take(&mut self, max: usize) -> Taken {
        let shared = Arc::clone(&self.shared);
        let before = self.dropped;
        loop {
            let store = shared.store();
            let mut batch = Batch { last_seq: store.next_seq() - 1, ..Batch::default() };
            self.skip_evicted(&store);
            let more = self.fill(&store, max.max(1), &mut batch.events);
            if !batch.events.is_empty() || self.dropped > before {
                batch.dropped = self.dropped;
                return Taken::Some(batch);
            }
            if !more {
                return if store.closed() { Taken::Closed } else { Taken::Nothing };
            }
            // Nothing wanted among those: let producers in before looking at the next ones.
        }
    }

    /// Counts what has left the ring before this reader came to it.
    fn skip_evicted(&mut self, store: &Store) {
        let first = store.first_seq();
        if self.next_seq < first {
            let evicted = store.evicted(|kind| self.wanted.has(kind));
            self.dropped += evicted.saturating_sub(self.passed);
            self.passed = evicted;
            self.next_seq = first;
        }
        if self.scan.is_none() && self.next_change < store.first_change() {
            self.scan = Some(Scan { at: first, since: self.next_change, then: store.next_change() });
        }
        if let Some(scan) = &mut self.scan
            && scan.at <= first
        {
            // Nothing of what is held has been scanned yet, so no change up to now can be missed.
            scan.at = first;
            scan.then = store.next_change();
        }
    }

    /// Looks at a bounded number of events; whether there are more to look at.
    fn fill(&mut self, store: &Store, max: usize, events: &mut Vec<Arc<wire::Event>>) -> bool {
        let mut room = Room { events: max, bytes: READER_BYTES };
        // Events from here on come new in this batch, in their last form: their later changes are not repeated.
        let fresh = self.next_seq;
        for _ in 0..READER_LOOKS {
            if !room.left() {
                return true;
            }
            match self.scan {
                Some(scan) if scan.at >= store.next_seq() => {
                    self.scan = None;
                    self.next_change = scan.then;
                    if scan.then < store.first_change() {
                        // The log has been cut off again meanwhile; the next call scans anew.
                        return true;
                    }
                }
                Some(mut scan) => {
                    let Some(slot) = store.slot(scan.at) else { return true };
                    let new = scan.at >= self.next_seq;
                    if self.wanted.has(slot.event.kind) && (new || slot.changed >= scan.since) {
                        room.take(slot.size);
                        events.push(Arc::clone(&slot.event));
                    }
                    if new {
                        self.pass(slot.event.kind, scan.at);
                    }
                    scan.at += 1;
                    self.scan = Some(scan);
                }
                None => {
                    let change = self.next_change;
                    let Some(seq) = store.change_at(change) else { return false };
                    self.next_change += 1;
                    let Some(slot) = store.slot(seq) else {
                        if let Some(event) = store.late(change).filter(|event| self.wanted.has(event.kind)) {
                            room.take(size_of(event));
                            events.push(Arc::clone(event));
                        }
                        continue;
                    };
                    let new = seq >= self.next_seq;
                    // An earlier change is left to the last one.
                    let last = slot.changed == change && slot.emitted != change && seq < fresh;
                    if self.wanted.has(slot.event.kind) && (new || last) {
                        room.take(slot.size);
                        events.push(Arc::clone(&slot.event));
                    }
                    if new {
                        self.pass(slot.event.kind, seq);
                    }
                }
            }
        }
        true
    }

    fn pass(&mut self, kind: i32, seq: u64) {
        self.passed += u64::from(self.wanted.has(kind));
        self.next_seq = seq + 1;
    }
}

/// What still fits into a batch.
struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    fn left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    fn take(&mut self, size: usize) {
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(size);
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug)]
struct Wanted([bool; KINDS]);

impl Wanted {
    fn new(kinds: &[wire::Kind]) -> Self {
        let mut set = [kinds.is_empty(); KINDS];
        for kind in kinds {
            if let Some(wanted) = usize::try_from(i32::from(*kind)).ok().and_then(|kind| set.get_mut(kind)) {
                *wanted = true;
            }
        }
        Self(set)
    }

    fn has(self, kind: i32) -> bool {
        usize::try_from(kind).ok().and_then(|kind| self.0.get(kind)).copied().unwrap_or(false)
    }
}
