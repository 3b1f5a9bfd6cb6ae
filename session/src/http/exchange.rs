//! The requests of a connection that wait for their response, and what becomes of them.

use std::collections::VecDeque;

use mirrord_protocol::session::v1 as wire;

use super::{
    Counts,
    body::Body,
    parser::{Follows, Head, Sink},
    route::route,
};
use crate::{events::Events, limits::HTTP_PIPELINED, network::TapContext, redact};

/// Requests in the order in which they came, which is that of the responses.
#[derive(Debug)]
pub(super) struct Exchanges {
    events: Events,
    counts: Counts,
    context: TapContext,
    waiting: VecDeque<Exchange>,
    /// When the first byte of the request came whose head is not complete.
    started_ns: Option<u64>,
    /// The connection carries something else from now on.
    tunnel: bool,
}

#[derive(Debug)]
struct Exchange {
    seq: u64,
    started_ns: u64,
    method: Method,
    body: Body,
    body_ended: bool,
    response: Option<Response>,
}

/// Methods that change how a response is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    Other,
}

#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<wire::Header>,
    body: Body,
}

impl Exchanges {
    pub(super) fn new(events: Events, counts: Counts, context: TapContext) -> Self {
        Self { events, counts, context, waiting: VecDeque::new(), started_ns: None, tunnel: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn tunnel(&self) -> bool {
        self.tunnel
    }

    /// Notes when a request begins. `inside`: whether one had begun before these bytes.
    pub(super) fn before_bytes(&mut self, inside: bool, time_ns: u64) {
        if !inside {
            self.started_ns = Some(time_ns);
        }
    }

    /// The same for a request that began within the bytes.
    pub(super) fn after_bytes(&mut self, inside: bool, time_ns: u64) {
        if inside && self.started_ns.is_none() {
            self.started_ns = Some(time_ns);
        }
    }

    /// All that wait end with this error.
    pub(super) fn fail(&mut self, time_ns: u64, why: &str) {
        while let Some(exchange) = self.waiting.pop_front() {
            self.finish(exchange, time_ns, why);
        }
    }

    pub(super) fn requests(&mut self, time_ns: u64) -> RequestSink<'_> {
        RequestSink { exchanges: self, time_ns }
    }

    pub(super) fn responses(&mut self, time_ns: u64) -> ResponseSink<'_> {
        ResponseSink { exchanges: self, time_ns, interim: false }
    }

    fn emit(&self, head: &Head<'_>, started_ns: u64) -> u64 {
        let path = redact::target(head.target).into_owned();
        let host =
            head.header("host").map(|host| String::from_utf8_lossy(host).into_owned()).unwrap_or_default();
        let upgrade = head.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
        let protocol = if upgrade { "websocket".to_owned() } else { format!("HTTP/1.{}", head.minor) };
        let TapContext { direction, mode, port, peer, connection, owner, ref pod, .. } = self.context;
        let ip = match peer.ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut event = wire::Event {
            time_ns: i64::try_from(started_ns).unwrap_or(0),
            kind: wire::Kind::Request.into(),
            subject: format!("{} {path}", head.method),
            connection,
            pending: true,
            pod: pod.as_deref().unwrap_or_default().to_owned(),
            detail: Some(wire::event::Detail::Request(wire::Request {
                direction: direction.into(),
                mode: mode.into(),
                port: port.into(),
                peer: Some(wire::Address { ip: ip.into(), port: peer.port().into() }),
                method: head.method.to_owned(),
                route: route(head.method, &path),
                path,
                host,
                protocol,
                headers: headers(head),
                ..wire::Request::default()
            })),
            ..wire::Event::default()
        };
        owner.mark(&mut event);
        self.events.emit(event)
    }

    /// Writes down how a request ended; `error` is empty when a whole response came.
    fn finish(&self, exchange: Exchange, time_ns: u64, error: &str) {
        let Exchange { seq, started_ns, body, response, .. } = exchange;
        if error.is_empty() && self.context.direction == wire::Direction::Incoming {
            self.counts.response(self.context.port);
        }
        let (status, response_headers, response_body) = match response {
            Some(Response { status, headers, body }) => (status, headers, body),
            None => (0, Vec::new(), Body::default()),
        };
        self.events.update(seq, |event| {
            event.pending = false;
            event.latency_ns = time_ns.saturating_sub(started_ns).max(1);
            event.bytes = body.size().saturating_add(response_body.size());
            event.error = match (error, status) {
                ("", 500..) => format!("HTTP {status}"),
                _ => error.to_owned(),
            };
            if let Some(wire::event::Detail::Request(request)) = &mut event.detail {
                request.status = status.into();
                request.body = body.finish();
                request.response_headers = response_headers;
                request.response_body = response_body.finish();
            }
        });
    }
}

/// Takes what the client sent.
pub(super) struct RequestSink<'a> {
    exchanges: &'a mut Exchanges,
    time_ns: u64,
}

impl RequestSink<'_> {
    /// The request whose body is coming.
    fn last(&mut self) -> Option<&mut Exchange> {
        self.exchanges.waiting.back_mut().filter(|exchange| !exchange.body_ended)
    }
}

impl Sink for RequestSink<'_> {
    fn head(&mut self, head: &Head<'_>) -> Follows {
        if self.exchanges.waiting.len() >= HTTP_PIPELINED {
            self.exchanges.tunnel = true;
            return Follows::Tunnel;
        }
        let started_ns = self.exchanges.started_ns.take().unwrap_or(self.time_ns);
        let seq = self.exchanges.emit(head, started_ns);
        if self.exchanges.context.direction == wire::Direction::Incoming {
            self.exchanges.counts.request(self.exchanges.context.port);
        }
        let method = match head.method {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        let (body, body_ended) = (Body::default(), false);
        self.exchanges.waiting.push_back(Exchange {
            seq,
            started_ns,
            method,
            body,
            body_ended,
            response: None,
        });
        Follows::Framed
    }

    fn body(&mut self, bytes: &[u8]) {
        if let Some(exchange) = self.last() {
            exchange.body.push(bytes);
        }
    }

    fn lost(&mut self, bytes: u64) {
        if let Some(exchange) = self.last() {
            exchange.body.skip(bytes);
        }
    }

    fn end(&mut self) {
        self.exchanges.started_ns = None;
        if let Some(exchange) = self.last() {
            exchange.body_ended = true;
        }
    }
}

/// Takes what the server sent.
pub(super) struct ResponseSink<'a> {
    exchanges: &'a mut Exchanges,
    time_ns: u64,
    /// The head was one of those that come before the real one (1xx).
    interim: bool,
}

impl ResponseSink<'_> {
    fn body_of_first(&mut self) -> Option<&mut Body> {
        self.exchanges.waiting.front_mut()?.response.as_mut().map(|response| &mut response.body)
    }
}

impl Sink for ResponseSink<'_> {
    fn head(&mut self, head: &Head<'_>) -> Follows {
        let Some(exchange) = self.exchanges.waiting.front_mut() else {
            // Nobody asked: whatever this is, it cannot be told which request it belongs to.
            self.exchanges.tunnel = true;
            return Follows::Tunnel;
        };
        self.interim = matches!(head.status, 100 | 102..=199);
        if self.interim {
            return Follows::Nothing;
        }
        exchange.response =
            Some(Response { status: head.status, headers: headers(head), body: Body::default() });
        match (exchange.method, head.status) {
            (_, 101) | (Method::Connect, 200..=299) => {
                self.exchanges.tunnel = true;
                if let Some(exchange) = self.exchanges.waiting.pop_front() {
                    self.exchanges.finish(exchange, self.time_ns, "");
                }
                Follows::Tunnel
            }
            (Method::Head, _) | (_, 204 | 304) => Follows::Nothing,
            _ => Follows::Framed,
        }
    }

    fn body(&mut self, bytes: &[u8]) {
        if let Some(body) = self.body_of_first() {
            body.push(bytes);
        }
    }

    fn lost(&mut self, bytes: u64) {
        if let Some(body) = self.body_of_first() {
            body.skip(bytes);
        }
    }

    fn end(&mut self) {
        if !std::mem::take(&mut self.interim)
            && let Some(exchange) = self.exchanges.waiting.pop_front()
        {
            self.exchanges.finish(exchange, self.time_ns, "");
        }
    }
}

/// Headers for the wire, secrets taken out.
fn headers(head: &Head<'_>) -> Vec<wire::Header> {
    let shown = |header: &httparse::Header<'_>| {
        let (value, redacted) = redact::header(header.name, header.value);
        wire::Header { name: header.name.to_owned(), value: value.into_owned().into(), redacted }
    };
    head.headers.iter().map(shown).collect()
}
