//! What the taps make of connections: a table of conversations, and the law that packet boundaries do not matter.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    events::Taken,
    limits::{BODY_BYTES, HTTP_HEAD_BYTES},
    network::{Owner, Tap, TapContext},
    redact,
};
use mirrord_protocol::session::v1 as wire;

/// Bytes of one side, at a time in milliseconds.
#[derive(Clone, Debug)]
enum Say {
    Client(u64, Vec<u8>),
    Server(u64, Vec<u8>),
    Gap(bool, u64),
    Close(u64, bool),
}

fn client(at: u64, text: &str) -> Say {
    Say::Client(at, text.as_bytes().to_vec())
}

fn server(at: u64, text: &str) -> Say {
    Say::Server(at, text.as_bytes().to_vec())
}

const CLOSE: Say = Say::Close(1_000, false);

fn play_with(mid_stream: bool, says: &[Say]) -> (Vec<wire::Event>, HttpCount) {
    let events = Events::new();
    let taps = HttpTaps::new(events.clone());
    let peer = SocketAddr::from(([10, 1, 0, 7], 40_001));
    let mut tap = taps.tap(TapContext {
        direction: wire::Direction::Incoming,
        mode: wire::Mode::Steal,
        port: 80,
        peer,
        connection: 9,
        owner: Owner::default(),
        pod: None,
        mid_stream,
    });
    let ns = |ms: &u64| 1_000_000_000 + ms * 1_000_000;
    for say in says {
        match say {
            Say::Client(at, bytes) => tap.client(ns(at), bytes),
            Say::Server(at, bytes) => tap.server(ns(at), bytes),
            Say::Gap(from_server, bytes) => tap.gap(ns(&0), *from_server, Some(*bytes)),
            Say::Close(at, reset) => tap.closed(ns(at), *reset),
        }
    }
    let seen = match events.subscribe(0, &[]).take(usize::MAX) {
        Taken::Some(batch) => {
            batch.events.iter().map(|event| wire::Event { monotonic_ns: 0, ..(**event).clone() }).collect()
        }
        Taken::Nothing | Taken::Closed => Vec::new(),
    };
    (seen, taps.count(80))
}

fn play(says: &[Say]) -> Vec<wire::Event> {
    play_with(false, says).0
}

fn request(event: &wire::Event) -> &wire::Request {
    match event.detail.as_ref() {
        Some(wire::event::Detail::Request(request)) => request,
        other => panic!("a request event, not {other:?}"),
    }
}

/// `METHOD path status request-body/response-body error` of each event.
fn lines(events: &[wire::Event]) -> Vec<String> {
    let text = |body: &Option<wire::Body>| {
        body.as_ref().map_or_else(|| "-".to_owned(), |body| String::from_utf8_lossy(&body.data).into_owned())
    };
    let line = |event: &wire::Event| {
        let request = request(event);
        let bodies = format!("{}/{}", text(&request.body), text(&request.response_body));
        let pending = if event.pending { " pending" } else { "" };
        let line = format!("{} {} {bodies} {}{pending}", event.subject, request.status, event.error);
        line.split_whitespace().collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    events.iter().map(line).collect()
}

#[test]
fn conversations() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let get = "GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
    for (name, says, wanted) in [
        ("length", vec![client(0, get), server(5, ok), CLOSE], vec!["GET /a 200 -/hi"]),
        ("pending", vec![client(0, get)], vec!["GET /a 0 -/- pending"]),
        (
            "keep-alive",
            vec![
                client(0, get),
                server(5, ok),
                client(9, "POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
                server(10, ok),
            ],
            vec!["GET /a 200 -/hi", "POST /b 200 abc/hi"],
        ),
        (
            "pipelined",
            vec![
                client(0, &format!("{get}{get}")),
                server(5, &format!("{ok}HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
            ],
            vec!["GET /a 200 -/hi", "GET /a 404 -/-"],
        ),
        (
            "chunked both ways",
            vec![
                client(0, "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
                server(
                    1,
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2;x=y\r\nde\r\n1\nf\n0\r\nTrailer: x\r\n\r\n",
                ),
                client(2, get),
            ],
            vec!["PUT /c 200 abc/def", "GET /a 0 -/- pending"],
        ),
        (
            "until close",
            vec![client(0, get), server(1, "HTTP/1.0 200 OK\r\n\r\nall of it"), CLOSE],
            vec!["GET /a 200 -/all of it"],
        ),
        (
            "no bodies",
            vec![
                client(0, "HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
                server(
                    1,
                    "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                ),
            ],
            vec!["HEAD /a 200 -/-", "GET /b 304 -/-"],
        ),
        (
            "continue",
            vec![
                client(0, "POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
                server(1, "HTTP/1.1 100 Continue\r\n\r\n"),
                client(2, "x"),
                server(3, ok),
            ],
            vec!["POST /a 200 x/hi"],
        ),
        (
            "upgrade",
            vec![
                client(0, "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
                server(1, "HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\x02"),
                client(2, get),
            ],
            vec!["GET /ws 101 -/-"],
        ),
        (
            "reset",
            vec![client(0, get), Say::Close(3, true)],
            vec!["GET /a 0 -/- the connection was reset before the response was complete"],
        ),
        (
            "cut short",
            vec![client(0, get), server(1, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), CLOSE],
            vec!["GET /a 200 -/abc the connection was closed before the response was complete"],
        ),
        (
            "server error",
            vec![client(0, get), server(1, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")],
            vec!["GET /a 503 -/- HTTP 503"],
        ),
        (
            "answer is not HTTP",
            vec![client(0, get), server(1, "SSH-2.0-x\r\n")],
            vec!["GET /a 0 -/- the answer is not HTTP"],
        ),
        ("TLS", vec![client(0, "\x16\x03\x01\x02"), server(1, "\x16\x03"), client(2, get)], vec![]),
        ("server speaks first", vec![server(0, "220 mail ESMTP\r\n"), client(1, get), CLOSE], vec![]),
        ("HTTP/2", vec![client(0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), CLOSE], vec![]),
        (
            "two lengths",
            vec![client(0, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), CLOSE],
            vec!["POST / 0 -/- the connection was closed before the response was complete"],
        ),
        (
            "query",
            vec![client(0, "GET /a?token=x&b=1 HTTP/1.1\r\n\r\n")],
            vec!["GET /a?token=‹redacted›&b=1 0 -/- pending"],
        ),
    ] {
        assert_eq!(lines(&play(&says)), wanted, "{name}");
    }
}

#[test]
fn facts_of_a_request() {
    let (events, count) = play_with(
        false,
        &[
            client(0, "GET /items/42 HTTP/1.1\r\nHo"),
            client(7, "st: shop\r\nAuthorization: Bearer abc\r\n\r\n"),
            server(20, "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nh"),
            server(30, "i"),
        ],
    );
    let [event] = &events[..] else { panic!("one event") };
    assert_eq!((event.time_ns, event.latency_ns, event.bytes), (1_000_000_000, 30_000_000, 2));
    assert_eq!((event.connection, count), (9, HttpCount { requests: 1, responses: 1 }));
    let request = request(event);
    assert_eq!((request.route.as_str(), request.host.as_str()), ("GET /items/{n}", "shop"));
    assert_eq!(request.protocol, "HTTP/1.1");
    let hidden = |headers: &[wire::Header], name: &str| {
        let header = headers.iter().find(|header| header.name == name).unwrap();
        header.redacted && header.value.is_empty()
    };
    assert!(hidden(&request.headers, "Authorization") && hidden(&request.response_headers, "Set-Cookie"));
}

#[test]
fn a_huge_body_is_counted_and_not_kept() {
    let piece = vec![b'x'; 256 << 10];
    let events = Events::new();
    let taps = HttpTaps::new(events.clone());
    let peer = SocketAddr::from(([10, 1, 0, 7], 1));
    let mut tap = taps.tap(TapContext {
        direction: wire::Direction::Outgoing,
        mode: wire::Mode::Unspecified,
        port: 80,
        peer,
        connection: 1,
        owner: Owner::default(),
        pod: None,
        mid_stream: false,
    });
    tap.client(1, b"GET / HTTP/1.1\r\n\r\n");
    tap.server(2, b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    for _ in 0..(1 << 30) / piece.len() {
        tap.server(3, &piece);
    }
    let event = events.event(1).unwrap();
    let body = request(&event).response_body.clone().unwrap();
    assert!(!event.pending && body.truncated);
    assert_eq!((body.size, body.data.len()), (1 << 30, BODY_BYTES));
}

#[test]
fn heads_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HTTP_HEAD_BYTES));
    assert!(play(&[client(0, &long)]).is_empty());
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    assert!(play(&[client(0, &many)]).is_empty());
}

#[test]
fn reading_goes_on_after_a_gap() {
    let post = "POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nab";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    // Inside of a body: only its content is missing.
    let inside = [client(0, post), Say::Gap(false, 4), client(1, "ghij"), server(2, ok)];
    let events = play(&inside);
    assert_eq!(lines(&events), ["POST /a 200 ab/-"]);
    assert!(request(&events[0]).body.as_ref().is_some_and(|body| body.size == 10 && body.truncated));
    // Over its end: the next request is found again.
    let over = [
        client(0, post),
        Say::Gap(false, 40),
        client(1, "junk"),
        client(2, "GET /b HTTP/1.1\r\n\r\n"),
        server(3, ok),
    ];
    assert_eq!(
        lines(&play(&over)),
        ["POST /a 0 ab/- a part of the connection was not captured", "GET /b 200 -/-"]
    );
    let (events, _) = play_with(
        true,
        &[server(0, "rest\r\n"), client(1, "ody"), client(2, "GET /c HTTP/1.1\r\n\r\n"), server(3, ok)],
    );
    assert_eq!(lines(&events), ["GET /c 200 -/-"]);
}

/// A request and its response, as text.
fn exchange() -> impl Strategy<Value = (String, String)> {
    let body = prop_oneof![Just(String::new()), "[a-z\r\n]{1,40}"];
    let request = (
        prop_oneof![Just("GET"), Just("POST"), Just("HEAD")],
        "/[a-z0-9/]{0,12}",
        body.clone(),
        any::<bool>(),
    );
    let response = (prop_oneof![Just(200u16), Just(204), Just(500)], body, any::<bool>());
    (request, response).prop_map(|((method, path, body, chunked), (status, answer, answer_chunked))| {
        let answer =
            if method == "HEAD" || status == 204 { String::new() } else { framed(&answer, answer_chunked) };
        let answer = if answer.is_empty() { "\r\n".to_owned() } else { answer };
        (
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{}", framed(&body, chunked)),
            format!("HTTP/1.1 {status} X\r\nServer: b\r\n{answer}"),
        )
    })
}

/// The headers that frame a body, the empty line, and the body.
fn framed(body: &str, chunked: bool) -> String {
    if !chunked {
        return format!("Content-Length: {}\r\n\r\n{body}", body.len());
    }
    let (a, b) = body.split_at(body.len() / 2);
    let chunk =
        |part: &str| if part.is_empty() { String::new() } else { format!("{:x}\r\n{part}\r\n", part.len()) };
    format!("Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(a), chunk(b))
}

fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    /// However the bytes are cut into pieces, the events are the same.
    #[test]
    fn packet_boundaries_do_not_matter(
        exchanges in prop::collection::vec(exchange(), 1..6),
        junk in prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..30)],
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut requests = Vec::new();
        let mut responses = Vec::new();
        for (request, response) in &exchanges {
            requests.extend_from_slice(request.as_bytes());
            responses.extend_from_slice(response.as_bytes());
        }
        responses.extend_from_slice(&junk);
        let whole = play(&[Say::Client(0, requests.clone()), Say::Server(0, responses.clone()), CLOSE]);
        prop_assert_eq!(whole.len(), exchanges.len());
        prop_assert!(whole.iter().all(|event| request(event).status != 0));
        let mut pieces: Vec<_> = cut(&requests, &cuts).into_iter().map(|piece| Say::Client(0, piece)).collect();
        pieces.extend(cut(&responses, &cuts).into_iter().map(|piece| Say::Server(0, piece)));
        pieces.push(CLOSE);
        prop_assert_eq!(play(&pieces), whole);
    }

    /// Nothing that is sent makes a tap fail, and secrets do not come through.
    #[test]
    fn anything_may_be_sent(
        says in prop::collection::vec(
            prop_oneof![
                "(GET|POST|[A-Z]{0,3}) /[a-z?=&]{0,9} HTTP/1.[01]\r\n(Content-Length: [0-9]{0,20}\r\n|Transfer-Encoding: chunked\r\n|a:b\r\n){0,3}\r\n"
                    .prop_map(|text| client(0, &text)),
                "HTTP/1.1 [0-9]{0,4} ?[a-z]{0,4}\r\n(Content-Length: [0-9]{0,20}\r\n|Transfer-Encoding: chunked\r\n){0,2}\r\n"
                    .prop_map(|text| server(0, &text)),
                "[0-9a-f]{0,20}\r?\n".prop_map(|text| server(0, &text)),
                prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Say::Client(0, bytes)),
                prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Say::Server(0, bytes)),
                (any::<bool>(), 0..100u64).prop_map(|(from_server, bytes)| Say::Gap(from_server, bytes)),
                any::<bool>().prop_map(|reset| Say::Close(0, reset)),
            ],
            0..20,
        ),
        mid_stream in any::<bool>(),
    ) {
        let (events, _) = play_with(mid_stream, &says);
        for event in &events {
            prop_assert!(request(event).headers.iter().all(|header| !redact::is_secret_name(&header.name) || header.redacted));
        }
        if matches!(says.last(), Some(Say::Close(..))) {
            prop_assert!(events.iter().all(|event| !event.pending));
        }
    }
}
