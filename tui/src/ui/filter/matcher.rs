//! Asks one event whether it is what a filter wants.

use std::borrow::Cow;

use mirrord_protocol::session::v1::{self as wire, Direction, Event, Mode, Where, event::Detail};

use super::ast::{Expr, Field, Order, Property, Test, Word};
use crate::ui::text::address;

/// An event together with what only the viewer knows about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) event: &'a Event,
    pub(crate) marked: bool,
    /// What the user has written to it.
    pub(crate) comment: &'a str,
}

impl Expr {
    /// Whether the event is what the filter wants.
    pub(crate) fn matches(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.matches(subject)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(subject)),
            Self::Not(inner) => !inner.matches(subject),
            Self::Test(test) => test.matches(subject),
        }
    }

    /// Whether everything passes: no need to ask.
    pub(crate) fn is_all(&self) -> bool {
        matches!(self, Self::Test(Test::Is(Property::All)))
    }
}

impl Test {
    fn matches(&self, subject: Subject<'_>) -> bool {
        let event = subject.event;
        match self {
            Self::Text(Field::Comment, pattern) => {
                !subject.comment.is_empty() && pattern.is_match(subject.comment)
            }
            Self::Text(field, pattern) => texts(*field, event).any(|text| pattern.is_match(&text)),
            Self::Status(range) => request(event).is_some_and(|request| {
                (range.low..=range.high).contains(&request.status) && request.status > 0
            }),
            Self::Port(range) => ports(event).any(|port| (range.low..=range.high).contains(&port)),
            Self::Pid(pid) => event.pid == *pid,
            Self::Latency(order, ns) => event.latency_ns > 0 && compare(*order, event.latency_ns, *ns),
            Self::Size(order, bytes) => compare(*order, event.bytes, *bytes),
            Self::Is(property) => is(*property, subject),
            Self::Word(word) => row_has(word, event),
        }
    }
}

fn compare(order: Order, found: u64, wanted: u64) -> bool {
    match order {
        Order::Above => found > wanted,
        Order::AtLeast => found >= wanted,
        Order::Below => found < wanted,
        Order::AtMost => found <= wanted,
    }
}

fn is(property: Property, subject: Subject<'_>) -> bool {
    let event = subject.event;
    let decided = |place| event.decision.as_ref().is_some_and(|decision| decision.r#where() == place);
    match property {
        Property::All => true,
        Property::Mirror => mode(event) == Some(Mode::Mirror),
        Property::Steal => mode(event) == Some(Mode::Steal),
        Property::Outgoing => direction(event) == Some(Direction::Outgoing),
        Property::Error => {
            !event.error.is_empty() || request(event).is_some_and(|request| request.status >= 500)
        }
        Property::Pending => event.pending,
        Property::Marked => subject.marked,
        Property::Replay => event.decision.as_ref().is_some_and(|decision| decision.rule == "replay"),
        Property::Remote => decided(Where::Remote),
        Property::Local => decided(Where::Local),
        Property::Refused => decided(Where::Refused),
    }
}

fn request(event: &Event) -> Option<&wire::Request> {
    match &event.detail {
        Some(Detail::Request(request)) => Some(request),
        _ => None,
    }
}

/// What an event says about its direction.
pub(crate) fn direction(event: &Event) -> Option<Direction> {
    match &event.detail {
        Some(Detail::Request(request)) => Some(request.direction()),
        Some(Detail::ConnectionDetail(connection)) => Some(connection.direction()),
        _ => None,
    }
}

/// Mirror or steal, for what comes in.
pub(crate) fn mode(event: &Event) -> Option<Mode> {
    let (direction, mode) = match &event.detail {
        Some(Detail::Request(request)) => (request.direction(), request.mode()),
        Some(Detail::ConnectionDetail(connection)) => (connection.direction(), connection.mode()),
        _ => return None,
    };
    (direction != Direction::Outgoing).then_some(mode)
}

fn ports(event: &Event) -> impl Iterator<Item = u32> {
    let (own, peer) = match &event.detail {
        Some(Detail::Request(request)) => (Some(request.port), request.peer.as_ref()),
        Some(Detail::ConnectionDetail(connection)) => (Some(connection.port), connection.peer.as_ref()),
        Some(Detail::Port(port)) => (Some(port.remote), None),
        _ => (None, None),
    };
    own.into_iter().chain(peer.map(|peer| peer.port)).filter(|port| *port > 0)
}

/// The texts that a field stands for. A request's header is `name: value`.
fn texts(field: Field, event: &Event) -> Box<dyn Iterator<Item = Cow<'_, str>> + '_> {
    let one = |text: Cow<'_, str>| -> Option<String> { (!text.is_empty()).then(|| text.into_owned()) };
    if field == Field::Command {
        return Box::new(std::iter::once(String::from_utf8_lossy(&event.comm)));
    }
    if field == Field::Pod {
        return Box::new(one(event.pod.as_str().into()).map(Cow::Owned).into_iter());
    }
    match &event.detail {
        Some(Detail::Request(request)) => request_texts(field, request),
        Some(Detail::ConnectionDetail(connection)) => {
            let incoming = connection.direction() == Direction::Incoming;
            let peer = || connection.peer.as_ref().map(address).unwrap_or_default();
            let own = || connection.local.as_ref().map(address).unwrap_or_default();
            let text = match field {
                Field::Host => connection.name.as_str().into(),
                Field::Source => if incoming { peer() } else { own() }.into(),
                Field::Destination => if incoming { own() } else { peer() }.into(),
                _ => Cow::Borrowed(""),
            };
            Box::new(one(text).map(Cow::Owned).into_iter())
        }
        Some(Detail::Dns(dns)) => match field {
            Field::Dns => Box::new(
                std::iter::once(dns.question.as_str())
                    .chain(dns.answers.iter().map(String::as_str))
                    .map(Cow::Borrowed),
            ),
            Field::Host => Box::new(std::iter::once(Cow::Borrowed(dns.question.as_str()))),
            Field::Rcode => Box::new(std::iter::once(Cow::Borrowed(dns.rcode.as_str()))),
            Field::Destination => Box::new(std::iter::once(Cow::Borrowed(dns.server.as_str()))),
            _ => Box::new(std::iter::empty()),
        },
        Some(Detail::File(file)) => match field {
            Field::File => Box::new(std::iter::once(String::from_utf8_lossy(&file.path))),
            Field::Operation => Box::new(std::iter::once(Cow::Borrowed(file.operation.as_str()))),
            _ => Box::new(std::iter::empty()),
        },
        _ => Box::new(std::iter::empty()),
    }
}

fn request_texts(field: Field, request: &wire::Request) -> Box<dyn Iterator<Item = Cow<'_, str>> + '_> {
    let headers = |headers: &'_ [wire::Header]| -> Vec<Cow<'static, str>> {
        let line =
            |header: &wire::Header| format!("{}: {}", header.name, String::from_utf8_lossy(&header.value));
        headers.iter().map(line).map(Cow::Owned).collect()
    };
    let body = |body: &'_ Option<wire::Body>| -> Vec<Cow<'static, str>> {
        body.iter().map(|body| Cow::Owned(String::from_utf8_lossy(&body.data).into_owned())).collect()
    };
    let peer = || request.peer.as_ref().map(address).unwrap_or_default();
    let outgoing = request.direction() == Direction::Outgoing;
    let own = || format!(":{}", request.port);
    let texts: Vec<Cow<'_, str>> = match field {
        Field::Method => vec![request.method.as_str().into()],
        Field::Url => vec![request.path.as_str().into(), format!("{}{}", request.host, request.path).into()],
        Field::Host => vec![request.host.as_str().into()],
        Field::RequestHeader => headers(&request.headers),
        Field::ResponseHeader => headers(&request.response_headers),
        Field::Header => [headers(&request.headers), headers(&request.response_headers)].concat(),
        Field::RequestBody => body(&request.body),
        Field::ResponseBody => body(&request.response_body),
        Field::Body => [body(&request.body), body(&request.response_body)].concat(),
        Field::ContentType => {
            let all = request.headers.iter().chain(&request.response_headers);
            all.filter(|header| header.name.eq_ignore_ascii_case("content-type"))
                .map(|header| String::from_utf8_lossy(&header.value))
                .collect()
        }
        Field::Source => vec![if outgoing { own() } else { peer() }.into()],
        Field::Destination => vec![if outgoing { peer() } else { own() }.into()],
        Field::File
        | Field::Operation
        | Field::Dns
        | Field::Rcode
        | Field::Command
        | Field::Pod
        | Field::Comment => Vec::new(),
    };
    Box::new(texts.into_iter())
}

/// Whether a word stands in what the row of a list shows.
fn row_has(word: &Word, event: &Event) -> bool {
    if word.is_in(&event.subject) || word.is_in(&event.error) {
        return true;
    }
    if std::str::from_utf8(&event.comm).is_ok_and(|comm| word.is_in(comm)) {
        return true;
    }
    match &event.detail {
        Some(Detail::Request(request)) => {
            word.is_in(&request.method)
                || word.is_in(&request.path)
                || word.is_in(&request.host)
                || (request.status > 0 && word.is_in(&request.status.to_string()))
                || request.peer.as_ref().is_some_and(|peer| word.is_in(&address(peer)))
        }
        Some(Detail::ConnectionDetail(connection)) => {
            word.is_in(&connection.name)
                || connection.peer.as_ref().is_some_and(|peer| word.is_in(&address(peer)))
        }
        Some(Detail::Dns(dns)) => {
            word.is_in(&dns.question)
                || word.is_in(&dns.rcode)
                || dns.answers.iter().any(|answer| word.is_in(answer))
        }
        Some(Detail::File(file)) => {
            word.is_in(&file.operation) || std::str::from_utf8(&file.path).is_ok_and(|path| word.is_in(path))
        }
        _ => false,
    }
}
