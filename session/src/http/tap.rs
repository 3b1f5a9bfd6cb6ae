//! The tap of one connection: two parsers and the requests between them.
//!
//! A request event is emitted as pending when its head is complete and changed when its response is. A connection that turns
//! out not to be HTTP costs nothing any more. After bytes that a capture lost, reading begins again with the next request.

use std::net::SocketAddr;

use mirrord_protocol::session::v1 as wire;

use super::{
    HttpTaps,
    exchange::{Context, Exchanges},
    parser::{Parser, Side},
};

/// Reader of one connection.
#[derive(Debug)]
pub struct HttpTap {
    requests: Parser,
    responses: Parser,
    exchanges: Exchanges,
}

impl HttpTaps {
    /// A tap for a new connection. `mid_stream`: it was open before the capture began.
    #[must_use]
    pub fn tap(
        &self,
        direction: wire::Direction,
        mode: wire::Mode,
        port: u16,
        peer: SocketAddr,
        connection: u64,
        mid_stream: bool,
    ) -> HttpTap {
        let context = Context { direction, mode, port, peer, connection };
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

impl HttpTap {
    /// The next bytes that the client sent.
    pub fn client(&mut self, time_ns: u64, bytes: &[u8]) {
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

    /// The next bytes that the server sent.
    pub fn server(&mut self, time_ns: u64, bytes: &[u8]) {
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

    /// Bytes of one direction are missing here; `None`: nothing more of this direction follows.
    pub fn gap(&mut self, time_ns: u64, from_server: bool, bytes: Option<u64>) {
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

    /// The connection is over.
    pub fn closed(&mut self, time_ns: u64, reset: bool) {
        if !reset {
            self.responses.close(&mut self.exchanges.responses(time_ns));
        }
        let reset = if reset { "reset" } else { "closed" };
        self.end(time_ns, &format!("the connection was {reset} before the response was complete"));
    }

    fn end(&mut self, time_ns: u64, why: &str) {
        self.exchanges.fail(time_ns, why);
        self.requests.tunnel();
        self.responses.tunnel();
    }
}
