//! A session for tests: fixed times, fixed numbers, all kinds of events.

use mirrord_protocol::session::v1::{
    self as wire, Address, AgentLink, Body, Direction, Event, EventBatch, Header, Kind, KindTotal, Mode,
    Port, Request, SessionInfo, State, Totals, agent_link::LinkState, event::Detail,
};

use super::{
    config::Options,
    model::{
        Model, Screen,
        latency::{STEPS, Series, step},
    },
    update::{HostMsg, Msg, attach, update},
};

/// 2024-02-29 14:02:11 UTC.
pub(crate) const NOW_MS: i64 = 1_709_215_331_000;

/// A model with a session that has seen something of everything.
pub(crate) fn model(columns: u16, rows: u16) -> Model {
    let mut model = Model::new(Options::default(), Screen::Targets);
    (model.columns, model.rows, model.now_ms) = (columns, rows, NOW_MS);
    drop(attach(&mut model, "k7m2p"));
    say(&mut model, HostMsg::Connected);
    say(&mut model, HostMsg::Info(Box::new(info(Mode::Mirror))));
    let events = (1..=40).map(event).collect();
    say(&mut model, HostMsg::Events(EventBatch { events, dropped: 0, last_seq: 40 }));
    say(
        &mut model,
        HostMsg::Histograms(vec![whole(Kind::Request, ""), whole(Kind::Request, "GET /items/{n}")]),
    );
    say(&mut model, HostMsg::Output("> listening on :80\r\n> POST /api/orders 500 340ms\r\n".into()));
    model
}

pub(crate) fn say(model: &mut Model, said: HostMsg) {
    let generation = model.generation;
    drop(update(model, Msg::Host { generation, said }));
}

pub(crate) fn info(mode: Mode) -> SessionInfo {
    let port = Port {
        remote: 80,
        local: 8080,
        mode: mode.into(),
        local_listens: true,
        target_listens: true,
        packets: 812,
        syns: 37,
        delivered: 37,
        requests: 28,
        responses: 28,
        ..Port::default()
    };
    SessionInfo {
        id: "k7m2p".to_owned(),
        state: State::Running.into(),
        target: "local/shop-orders".to_owned(),
        command: ["node", "server.js"].map(Into::into).to_vec(),
        started_ms: NOW_MS - 90_000,
        command_pid: 4121,
        ports: vec![port],
        agent: Some(AgentLink { state: LinkState::Up.into(), rtt_us: 240, ..AgentLink::default() }),
        attachment: "syscall".to_owned(),
        totals: Some(Totals {
            kinds: vec![KindTotal { kind: Kind::Request.into(), count: 28, errors: 4, bytes: 9_000 }],
            ..Totals::default()
        }),
        has_terminal: true,
        equal_command: "mirrord-tui exec -t local/shop-orders -p 80:8080 -- node server.js".to_owned(),
        ..SessionInfo::default()
    }
}

/// Most are requests; each fifth is something else.
pub(crate) fn event(seq: u64) -> Event {
    let second = i64::try_from(seq).unwrap();
    let base = Event {
        seq,
        time_ns: (NOW_MS - 40_000 + second * 990) * 1_000_000,
        pid: 4121,
        tid: 4121,
        comm: "node".into(),
        latency_ns: seq * 7_919_000 % 400_000_000 + 800_000,
        bytes: seq * 523 % 20_000,
        ..Event::default()
    };
    match seq % 5 {
        0 if seq.is_multiple_of(2) => file(base),
        0 => dns(base),
        4 if seq.is_multiple_of(3) => connection(base),
        _ => request(base),
    }
}

fn request(event: Event) -> Event {
    let seq = event.seq;
    let (method, path) = match seq % 3 {
        0 => ("POST", "/api/orders".to_owned()),
        1 => ("GET", format!("/items/{seq}?page=2")),
        _ => ("DELETE", format!("/cart/{seq}")),
    };
    let header = |name: &str, value: &str, redacted| Header {
        name: name.to_owned(),
        value: value.as_bytes().to_vec().into(),
        redacted,
    };
    let body = |text: &str| Body {
        data: text.as_bytes().to_vec().into(),
        size: text.len() as u64,
        truncated: false,
    };
    let request = Request {
        direction: Direction::Incoming.into(),
        mode: Mode::Mirror.into(),
        port: 80,
        peer: Some(Address { ip: vec![10, 244, 0, 7].into(), port: 50_000 }),
        method: method.to_owned(),
        path: path.clone(),
        host: "shop-orders".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: vec![header("host", "shop-orders", false), header("authorization", "", true)],
        body: (method == "POST").then(|| body(r#"{"sku":"A-113","qty":2,"coupon":null}"#)),
        status: if seq.is_multiple_of(7) { 500 } else { 200 },
        response_headers: vec![header("content-type", "application/json", false)],
        response_body: Some(body(r#"{"error":"db timeout","trace":"4bf92f"}"#)),
        route: format!("{method} {path}"),
    };
    let subject = format!("{method} {path}");
    Event { kind: Kind::Request.into(), subject, detail: Some(Detail::Request(request)), ..event }
}

fn file(event: Event) -> Event {
    let path = "/etc/shop/orders.toml";
    let file =
        wire::File { operation: "open".to_owned(), path: path.into(), size: 212, ..wire::File::default() };
    Event { kind: Kind::File.into(), subject: path.to_owned(), detail: Some(Detail::File(file)), ..event }
}

fn dns(event: Event) -> Event {
    let dns = wire::Dns {
        question: "shop-catalog".to_owned(),
        record: "A".to_owned(),
        answers: vec!["10.244.0.3".to_owned()],
        rcode: "NOERROR".to_owned(),
        server: "10.244.0.1".to_owned(),
    };
    Event { kind: Kind::Dns.into(), subject: dns.question.clone(), detail: Some(Detail::Dns(dns)), ..event }
}

fn connection(event: Event) -> Event {
    let connection = wire::Connection {
        direction: Direction::Outgoing.into(),
        stage: wire::connection::Stage::Closed.into(),
        peer: Some(Address { ip: vec![10, 244, 0, 3].into(), port: 80 }),
        transport: "tcp".to_owned(),
        name: "shop-catalog".to_owned(),
        bytes_in: 2_300,
        bytes_out: 512,
        duration_ns: 12_000_000,
        ..wire::Connection::default()
    };
    let detail = Some(Detail::ConnectionDetail(connection));
    Event { kind: Kind::Connection.into(), subject: "shop-catalog:80".to_owned(), detail, ..event }
}

fn whole(kind: Kind, key: &str) -> Series {
    let mut steps = vec![0; STEPS];
    for (ns, count) in
        [(900_000, 40), (3_100_000, 300), (12_000_000, 120), (88_000_000, 9), (5_000_000_000, 1)]
    {
        steps[step(ns)] = count;
    }
    Series {
        kind,
        key: key.to_owned(),
        count: 470,
        errors: 4,
        p50: 3_100_000,
        p90: 41_000_000,
        p99: 88_000_000,
        p999: 212_000_000,
        max: 5_000_000_000,
        steps,
        outliers: vec![7],
    }
}
