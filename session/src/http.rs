//! Reads HTTP/1 beside the relays and turns it into request events. It changes and delays nothing.
//!
//! [`HttpTaps`] makes one [`tap::HttpTap`] per connection; `parser` knows the grammar, `route` the names of latencies.
//! HTTP/2 is not read: such a connection shows as a connection only.

mod body;
mod exchange;
mod parser;
mod route;
mod tap;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

pub use self::tap::HttpTap;
use crate::events::Events;

/// Maker of the taps of a session.
#[derive(Clone, Debug)]
pub struct HttpTaps {
    events: Events,
    counts: Counts,
}

/// Requests and responses per port of the target, shared by all taps.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<BTreeMap<u16, HttpCount>>>);

/// What was seen on one port of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpCount {
    /// Requests whose head was complete.
    pub requests: u64,
    /// Responses that were complete.
    pub responses: u64,
}

impl HttpTaps {
    /// Taps that write into `events`.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self { events, counts: Counts::default() }
    }

    /// What was seen on a port of the target so far.
    #[must_use]
    pub fn count(&self, port: u16) -> HttpCount {
        self.counts.lock().get(&port).copied().unwrap_or_default()
    }
}

impl Counts {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, HttpCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, port: u16) {
        self.lock().entry(port).or_default().requests += 1;
    }

    fn response(&self, port: u16) {
        self.lock().entry(port).or_default().responses += 1;
    }
}
