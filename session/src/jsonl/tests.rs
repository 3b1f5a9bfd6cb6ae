//! The format does not change by accident, and nothing is lost in it.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn whole_request() -> wire::Event {
    wire::Event {
        seq: 7,
        time_ns: 1_700_000_000_000_000_001,
        kind: wire::Kind::Request.into(),
        subject: "GET /items/42".to_owned(),
        latency_ns: 1_000_000,
        bytes: 4,
        connection: 3,
        decision: Some(wire::Decision { r#where: wire::Where::Remote.into(), rule: "default".to_owned() }),
        detail: Some(wire::event::Detail::Request(wire::Request {
            direction: wire::Direction::Incoming.into(),
            mode: wire::Mode::Steal.into(),
            port: 80,
            peer: Some(wire::Address { ip: Bytes::from_static(&[10, 1, 0, 7]), port: 40_001 }),
            method: "GET".to_owned(),
            path: "/items/42".to_owned(),
            host: "shop".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            route: "GET /items/{n}".to_owned(),
            status: 200,
            headers: vec![wire::Header { name: "Cookie".to_owned(), redacted: true, ..Default::default() }],
            response_body: Some(wire::Body {
                data: Bytes::from_static(b"\xff\x00hi"),
                size: 9,
                truncated: true,
            }),
            ..wire::Request::default()
        })),
        ..wire::Event::default()
    }
}

#[test]
fn the_format_is_stable() {
    let line = concat!(
        r#"{"seq":7,"time_ns":1700000000000000001,"kind":"request","subject":"GET /items/42","latency_ns":1000000,"bytes":4,"#,
        r#""connection_id":3,"decision":{"where":"remote","rule":"default"},"request":{"direction":"incoming","mode":"steal","#,
        r#""port":80,"peer":"10.1.0.7:40001","method":"GET","path":"/items/42","host":"shop","protocol":"HTTP/1.1","#,
        r#""route":"GET /items/{n}","status":200,"headers":[{"name":"Cookie","redacted":true}],"#,
        r#""response_body":{"size":9,"truncated":true,"data":{"base64":"/wBoaQ=="}}}}"#
    );
    assert_eq!(encode(&whole_request()), line);
    assert_eq!(decode(line).unwrap(), Line::Event(Box::new(whole_request())));
    assert_eq!(encode_gap(12), r#"{"gap":12}"#);
    assert_eq!(decode(&encode_gap(12)).unwrap(), Line::Gap(12));
    let header = Header { recording: VERSION, session: "a1".to_owned(), ..Header::default() };
    assert_eq!(decode(&encode_header(&header)).unwrap(), Line::Header(header));
}

#[test]
fn what_a_later_version_adds_is_skipped_and_what_it_changes_is_refused() {
    let line = r#"{"seq":1,"kind":"connection","new":1,"connection_id":5,"dns":{"question":"a.","new":[1]}}"#;
    assert!(matches!(decode(line).unwrap(), Line::Event(event) if event.connection == 5));
    let line = r#"{"seq":1,"kind":"port","port":{"to":"split"}}"#;
    assert!(matches!(decode(line).unwrap(), Line::Event(_)));
    assert!(matches!(decode(r#"{"recording":2}"#), Err(DecodeError::Version { found: 2 })));
    assert!(matches!(decode(r#"{"kind":"disk"}"#), Err(DecodeError::Kind(kind)) if kind == "disk"));
    assert!(matches!(decode("{"), Err(DecodeError::Json(_))));
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        ".{0,8}".prop_map(Bytes::from),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from)
    ]
}

fn address() -> impl Strategy<Value = Option<wire::Address>> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Bytes::copy_from_slice(&ip)),
        any::<[u8; 16]>().prop_map(|ip| Bytes::copy_from_slice(&ip)),
        Just(Bytes::new())
    ];
    prop::option::of((ip, 0..=65_535u32).prop_map(|(ip, port)| wire::Address { ip, port }))
}

fn detail() -> impl Strategy<Value = wire::event::Detail> {
    use wire::event::Detail;
    let exit = prop::option::of((any::<i32>(), any::<u32>(), ".{0,4}"))
        .prop_map(|exit| exit.map(|(code, signal, error)| wire::Exit { code, signal, error }));
    prop_oneof![
        (0..4i32, 0..4i32, 0..4i32, address(), address(), any::<(u64, u64, bool)>(), ".{0,4}").prop_map(
            |(direction, stage, mode, peer, local, (bytes_in, duration_ns, reset), name)| {
                Detail::ConnectionDetail(wire::Connection {
                    direction,
                    stage,
                    mode,
                    peer,
                    local,
                    bytes_in,
                    duration_ns,
                    reset,
                    name,
                    ..Default::default()
                })
            }
        ),
        (".{0,4}", prop::collection::vec(".{0,4}", 0..3)).prop_map(|(question, answers)| {
            Detail::Dns(wire::Dns { question, answers, ..wire::Dns::default() })
        }),
        (".{0,4}", bytes(), any::<u64>()).prop_map(|(operation, path, size)| {
            Detail::File(wire::File { operation, path, size, ..wire::File::default() })
        }),
        (0..5i32, any::<u32>(), prop::collection::vec(bytes(), 0..3), exit).prop_map(
            |(stage, parent, arguments, exit)| Detail::Process(wire::ProcessEvent {
                stage,
                parent,
                arguments,
                exit
            })
        ),
        (any::<(u32, u32)>(), 0..4i32, 0..4i32, ".{0,4}").prop_map(|((remote, local), from, to, text)| {
            Detail::Port(wire::PortEvent { remote, local, from, to, text })
        }),
        (".{0,4}", prop::option::of((0..4i32, any::<(u64, u32, i64)>()))).prop_map(|(text, link)| {
            let link = link.map(|(state, (rtt_us, attempt, next_attempt_ms))| wire::AgentLink {
                state,
                rtt_us,
                attempt,
                next_attempt_ms,
                detail: String::new(),
            });
            Detail::Agent(wire::AgentEvent { text, link })
        }),
        (".{0,4}", ".{0,4}").prop_map(|(text, hint)| Detail::Warning(wire::Warning { text, hint })),
        (any::<bool>(), bytes()).prop_map(|(stderr, data)| Detail::Output(wire::Output { stderr, data })),
        (bytes(), any::<u64>(), any::<bool>(), address()).prop_map(|(data, size, truncated, peer)| {
            let body = Some(wire::Body { data, size, truncated });
            Detail::Request(wire::Request { body, peer, ..wire::Request::default() })
        }),
    ]
}

prop_compose! {
    fn event()(
        seq in any::<u64>(), time_ns in any::<i64>(), kind in 0..10i32, subject in ".{0,8}", error in ".{0,4}",
        pending in any::<bool>(), numbers in any::<(u64, u64, u64, u32, u32)>(), comm in bytes(),
        decision in prop::option::of((0..4i32, ".{0,4}")), detail in prop::option::of(detail()), pod in ".{0,4}",
    ) -> wire::Event {
        let (monotonic_ns, latency_ns, connection, pid, tid) = numbers;
        let decision = decision.map(|(place, rule)| wire::Decision { r#where: place, rule });
        wire::Event { seq, time_ns, monotonic_ns, pid, tid, comm, kind, subject, decision, error, bytes: 3, latency_ns, connection, pending, pod, detail }
    }
}

proptest! {
    #[test]
    fn every_event_survives(event in event()) {
        let line = encode(&event);
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(decode(&line).unwrap(), Line::Event(Box::new(event)));
    }
}
