//! The event store of a session: a ring in memory, exact counters, and readers that may be slow.
//!
//! Everybody who observes something holds a clone of [`Events`] and calls [`Events::emit`]; nothing here waits for a reader.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mirrord_protocol::session::v1 as wire;

use crate::limits::RING_EVENTS;

/// Handle on the store of one session.
#[derive(Clone, Debug)]
pub struct Events {
    store: Arc<Mutex<Store>>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Store {
    ring: VecDeque<wire::Event>,
    next: u64,
}

impl Events {
    /// An empty store; its monotonic clock starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { store: Arc::default(), start: Instant::now() }
    }

    /// Adds an event and returns its sequence number, the first being 1. `seq` is set here; `time_ns` and `monotonic_ns` are
    /// set when they are 0.
    pub fn emit(&self, mut event: wire::Event) -> u64 {
        if event.time_ns == 0 {
            event.time_ns = wall_ns();
        }
        if event.monotonic_ns == 0 {
            event.monotonic_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.next += 1;
        event.seq = store.next;
        if store.ring.len() == RING_EVENTS {
            store.ring.pop_front();
        }
        store.ring.push_back(event);
        store.next
    }

    /// Changes an event that was emitted as pending, e.g. when the response of a request has come. Readers get it again with
    /// the same number. Does nothing when it has left the ring.
    pub fn update(&self, seq: u64, change: impl FnOnce(&mut wire::Event)) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(index) = store.ring.binary_search_by_key(&seq, |event| event.seq)
            && let Some(event) = store.ring.get_mut(index)
        {
            change(event);
        }
    }

    /// A warning: one sentence and what to do about it.
    pub fn warn(&self, text: impl Into<String>, hint: impl Into<String>) {
        let text = text.into();
        self.emit(wire::Event {
            kind: wire::Kind::Warning.into(),
            subject: text.clone(),
            detail: Some(wire::event::Detail::Warning(wire::Warning { text, hint: hint.into() })),
            ..wire::Event::default()
        });
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds since the epoch.
fn wall_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|now| i64::try_from(now.as_nanos()).ok())
        .unwrap_or(0)
}
