//! The tap of one connection: two parsers and the requests between them.
//!
//! A request event is emitted as pending when its head is complete and changed when its response is. A connection that turns
//! out not to be HTTP costs nothing any more. After bytes that a capture lost, reading begins again with the next request.

use std::sync::Arc;

use super::{
    HttpTaps,
    exchange::Exchanges,
    parser::{Parser, Side},
};
use crate::network::{Tap, TapContext, TapFactory};

/// Reader of one connection.
#[derive(Debug)]
pub struct HttpTap {
    requests: Parser,
    responses: Parser,
    exchanges: Exchanges,
}

impl HttpTaps {
    /// What [`crate::network::NetworkSpec::tap`] wants.
    #[must_use]
    pub fn factory(&self) -> TapFactory {
        let taps = self.clone();
        Arc::new(move |context| Some(Box::new(taps.tap(context))))
    }

    /// A tap for a new connection.
    #[must_use]
    pub fn tap(&self, context: TapContext) -> HttpTap {
        let mid_stream = context.mid_stream;
        let exchanges = Exchanges::new(self.events.clone(), self.counts.clone(), context);
        let mut tap = HttpTap {
            requests: Parser::new(Side::Request),
            responses: Parser::new(Side::Response),
            exchanges,
        };
        if mid_stream {
            tap.requests.seek();
            tap.responses.seek();
        }
        tap
    }
}

impl Tap for HttpTap {
    fn client(&mut self, time_ns: u64, bytes: &[u8]) {
        if self.requests.raw() {
            return;
        }
        self.exchanges.before_bytes(self.requests.inside(), time_ns);
        self.requests.feed(bytes, &mut self.exchanges.requests(time_ns));
        self.exchanges.after_bytes(self.requests.inside(), time_ns);
        if self.exchanges.tunnel() {
            self.end(time_ns, "more requests were sent ahead than are followed");
        }
    }

    fn server(&mut self, time_ns: u64, bytes: &[u8]) {
        if self.responses.raw()
            || self.exchanges.is_empty() && (self.requests.raw() || self.responses.seeking())
        {
            return;
        }
        self.responses.feed(bytes, &mut self.exchanges.responses(time_ns));
        if self.responses.raw() {
            let broken = self.responses.broken();
            self.end(
                time_ns,
                if broken { "the answer is not HTTP" } else { "the connection became a tunnel" },
            );
        }
    }

    fn gap(&mut self, time_ns: u64, from_server: bool, bytes: Option<u64>) {
        if self.requests.raw() && self.responses.raw() {
            return;
        }
        let Some(bytes) = bytes else {
            return self.end(time_ns, "the rest of the connection was not captured");
        };
        let whole = if from_server {
            self.responses.lost(bytes, &mut self.exchanges.responses(time_ns))
        } else {
            self.requests.lost(bytes, &mut self.exchanges.requests(time_ns))
        };
        if !whole {
            self.exchanges.fail(time_ns, "a part of the connection was not captured");
            self.requests.seek();
            self.responses.seek();
        }
    }

    fn closed(&mut self, time_ns: u64, reset: bool) {
        if !reset {
            self.responses.close(&mut self.exchanges.responses(time_ns));
        }
        let reset = if reset { "reset" } else { "closed" };
        self.end(time_ns, &format!("the connection was {reset} before the response was complete"));
    }
}

impl HttpTap {
    fn end(&mut self, time_ns: u64, why: &str) {
        self.exchanges.fail(time_ns, why);
        self.requests.tunnel();
        self.responses.tunnel();
    }
}
