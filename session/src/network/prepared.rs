//! Connections whose far end is ready and whose near end is about to arrive at the relay listener.
//!
//! A verdict lets a held SYN go on to the relay; what the relay then accepts is matched here by its two ends. Entries that nobody
//! fetches (the program gave up meanwhile) are dropped after [`PREPARED`], which closes the far end.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::net::TcpStream;

use super::connection_log::ConnectionLog;
use crate::{agent_link::Connected, limits::PREPARED};

/// The far end of a connection.
pub(super) enum FarEnd {
    /// Dialled by the agent.
    Remote(Box<Connected>),
    /// Dialled in this host's network.
    Local(TcpStream),
    /// The resolver of the session.
    Resolver,
}

/// A connection that waits for its near end.
pub(super) struct Ready {
    pub(super) far: FarEnd,
    /// `None` for the resolver, whose events are the questions.
    pub(super) log: Option<ConnectionLog>,
    pub(super) connection: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Prepared {
    waiting: Mutex<HashMap<Key, (Instant, Ready)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    near: SocketAddr,
    to: SocketAddr,
}

impl Prepared {
    pub(super) fn insert(&self, near: SocketAddr, to: SocketAddr, ready: Ready) {
        self.lock().insert(Key { near, to }, (Instant::now(), ready));
    }

    /// The far end for what was accepted from `near` on its way to `to`.
    pub(super) fn take(&self, near: SocketAddr, to: SocketAddr) -> Option<Ready> {
        let mut waiting = self.lock();
        if let Some((_, ready)) = waiting.remove(&Key { near, to }) {
            return Some(ready);
        }
        // Two connections from one port to two destinations become one pair of ends behind the redirection; the kernel then gives
        // the later one another source port. Destination and source address still match.
        let key = waiting
            .iter()
            .filter(|(key, _)| key.to == to && key.near.ip() == near.ip())
            .min_by_key(|(_, (since, _))| *since)
            .map(|(key, _)| *key)?;
        waiting.remove(&key).map(|(_, ready)| ready)
    }

    /// Drops what has waited too long.
    pub(super) fn sweep(&self) {
        let stale: Vec<_> = self.lock().extract_if(|_, (since, _)| since.elapsed() > PREPARED).collect();
        for (_, (_, ready)) in stale {
            if let Some(log) = ready.log {
                log.failed("the program gave up before the connection stood");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Ready)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(connection: u64) -> Ready {
        Ready { far: FarEnd::Resolver, log: None, connection }
    }

    #[test]
    fn a_connection_finds_its_far_end_also_with_a_changed_source_port() {
        let prepared = Prepared::default();
        let (near, one, two): (SocketAddr, SocketAddr, SocketAddr) =
            ("10.0.0.5:4000".parse().unwrap(), "1.1.1.1:80".parse().unwrap(), "2.2.2.2:80".parse().unwrap());
        prepared.insert(near, one, ready(1));
        prepared.insert(near, two, ready(2));
        assert_eq!(prepared.take(near, two).unwrap().connection, 2);
        assert!(prepared.take(near, two).is_none());
        assert!(prepared.take("10.0.0.6:4001".parse().unwrap(), one).is_none());
        assert_eq!(prepared.take("10.0.0.5:4001".parse().unwrap(), one).unwrap().connection, 1);
    }
}
