//! Which events a reader of text mode sees: what arrived and what left, and not each step below it.

use std::collections::{HashSet, VecDeque};

use mirrord_protocol::session::v1::{Connection, Direction, Event, connection::Stage, event::Detail};

use super::text;

/// Connections whose requests were shown; of the oldest the closing line is shown as well when more are open at once.
const REMEMBERED: usize = 4096;

/// State of a listing.
#[derive(Debug)]
pub(crate) struct Listing {
    verbose: bool,
    with_requests: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Listing {
    /// `verbose`: everything.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, with_requests: HashSet::new(), order: VecDeque::new() }
    }

    /// The line of an event, if it is to be shown.
    pub(crate) fn line(&mut self, event: &Event) -> Option<String> {
        if let Some(Detail::Request(_)) = &event.detail {
            self.remember(event.connection);
        }
        (self.verbose || self.shown(event)).then(|| text::line(event)).flatten()
    }

    fn shown(&self, event: &Event) -> bool {
        match &event.detail {
            Some(Detail::File(_) | Detail::Process(_)) => false,
            Some(Detail::ConnectionDetail(connection)) => self.connection_shown(event, connection),
            _ => true,
        }
    }

    /// Below requests only what went wrong; of others the beginning when they leave, the end when they came.
    fn connection_shown(&self, event: &Event, connection: &Connection) -> bool {
        let wrong = !event.error.is_empty() || connection.gaps > 0;
        match connection.stage() {
            Stage::Failed => true,
            Stage::Open => connection.direction() == Direction::Outgoing,
            Stage::Closed if self.with_requests.contains(&event.connection) => wrong,
            Stage::Closed => connection.direction() != Direction::Outgoing || wrong,
            Stage::Unspecified => false,
        }
    }

    fn remember(&mut self, connection: u64) {
        if self.with_requests.insert(connection) {
            self.order.push_back(connection);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.with_requests.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::session::v1::Request;

    use super::*;

    fn closed(connection: u64) -> Event {
        let detail = Connection {
            direction: Direction::Incoming.into(),
            stage: Stage::Closed.into(),
            ..Connection::default()
        };
        Event { connection, detail: Some(Detail::ConnectionDetail(detail)), ..Event::default() }
    }

    #[test]
    fn a_connection_is_shown_when_its_requests_are_not() {
        let mut listing = Listing::new(false);
        let request =
            Event { connection: 7, detail: Some(Detail::Request(Request::default())), ..Event::default() };
        assert!(listing.line(&request).is_some());
        assert!(listing.line(&closed(7)).is_none());
        assert!(listing.line(&closed(8)).is_some());
        assert!(Listing { verbose: true, ..listing }.line(&closed(7)).is_some());
    }
}
