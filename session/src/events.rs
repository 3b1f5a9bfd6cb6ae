//! The event store of a session: a ring in memory, exact counters, histograms, and readers that may be slow.
//!
//! Everybody who observes something holds a clone of [`Events`] and calls [`Events::emit`]; nothing here waits for a reader.
//! There is no queue per reader: each [`Reader`] has a position of its own in the ring, so a slow one costs no memory, loses
//! only what has left the ring, and knows how many rows that were. Counters and histograms are brought up to date by the
//! producer, under the same lock, so they are exact whatever readers do.

mod reader;
mod store;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mirrord_protocol::session::v1 as wire;
use tokio::sync::Notify;

pub use self::reader::{Batch, Reader, Taken};
use self::store::Store;
pub(crate) use self::store::strip_bodies;

/// Handle on the store of one session.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<Shared>,
    /// Pod that the events of this handle name.
    pod: Option<Arc<str>>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// producers --something changed--> readers that have nothing left to read
    changed: Notify,
    start: Instant,
    /// Pod through which the session reaches out; `None`: the target is no pod of a cluster.
    through: Mutex<Option<Arc<str>>>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic in a producer's closure leaves at worst one half changed event; the session goes on.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// An empty store; its monotonic clock starts now.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty store with other bounds than the usual ones.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        let store = Mutex::new(Store::new(limits));
        let (changed, start, through) = (Notify::new(), Instant::now(), Mutex::default());
        Self { shared: Arc::new(Shared { store, changed, start, through }), pod: None }
    }

    /// The same store; events that this handle emits name the pod.
    #[must_use]
    pub fn at_pod(&self, pod: Option<Arc<str>>) -> Self {
        Self { shared: Arc::clone(&self.shared), pod }
    }

    /// From now on remote operations that name no pod happen at this one.
    pub fn reach_out_through(&self, pod: Option<Arc<str>>) {
        *self.shared.through.lock().unwrap_or_else(PoisonError::into_inner) = pod;
    }

    /// Adds an event and returns its sequence number, the first being 1. `seq` is set here; `time_ns` and `monotonic_ns` are
    /// set when they are 0.
    pub fn emit(&self, mut event: wire::Event) -> u64 {
        if event.time_ns == 0 {
            event.time_ns = wall_ns();
        }
        if event.monotonic_ns == 0 {
            event.monotonic_ns = u64::try_from(self.shared.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        if event.pod.is_empty() {
            event.pod = self.pod_of(&event);
        }
        let seq = self.shared.store().push(event);
        self.shared.changed.notify_waiters();
        seq
    }

    fn pod_of(&self, event: &wire::Event) -> String {
        let remote =
            || event.decision.as_ref().is_some_and(|decision| decision.r#where() == wire::Where::Remote);
        let pod = match &self.pod {
            Some(pod) => Some(Arc::clone(pod)),
            None if remote() => self.shared.through.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => None,
        };
        pod.as_deref().unwrap_or_default().to_owned()
    }

    /// Changes an event that was emitted as pending, e.g. when the response of a request has come. Readers get it again with
    /// the same number. When it has left the ring no reader sees the change, but the counters still do.
    pub fn update(&self, seq: u64, change: impl FnOnce(&mut wire::Event)) {
        self.shared.store().change(seq, change);
        self.shared.changed.notify_waiters();
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

    /// A reader of the events from `from_seq` on (0: everything that is still held) of the given kinds (none: all). Changes of
    /// earlier events come, too, from now on.
    #[must_use]
    pub fn subscribe(&self, from_seq: u64, kinds: &[wire::Kind]) -> Reader {
        Reader::new(Arc::clone(&self.shared), from_seq, kinds)
    }

    /// One event whole, if it is still held.
    #[must_use]
    pub fn event(&self, seq: u64) -> Option<Arc<wire::Event>> {
        self.shared.store().event(seq)
    }

    /// Exact counts since the start, whatever the ring still holds.
    #[must_use]
    pub fn totals(&self) -> wire::Totals {
        self.shared.store().totals()
    }

    /// Latency histograms since the start, of the given kinds (none: all).
    #[must_use]
    pub fn histograms(&self, kinds: &[wire::Kind]) -> Vec<wire::Histogram> {
        // Copied out before it is encoded: encoding all of them takes milliseconds, in which producers would wait.
        let copy = self.shared.store().histograms().clone();
        copy.encode(kinds)
    }

    /// Nothing more will come: readers end when they have read what is there.
    pub fn close(&self) {
        self.shared.store().close();
        self.shared.changed.notify_waiters();
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events held in memory.
    pub events: usize,
    /// Bytes held by them, bodies included.
    pub bytes: usize,
    /// Changes remembered for readers; one that is further behind looks through the whole ring once.
    pub changes: usize,
    /// Events that left the ring before they ended and are still counted when they do.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        use crate::limits::{RING_BYTES, RING_CHANGES, RING_EVENTS, RING_PENDING};
        Self { events: RING_EVENTS, bytes: RING_BYTES, changes: RING_CHANGES, pending: RING_PENDING }
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
