//! The language: what parses to what, where errors stand, and that printing and parsing are inverse.

use mirrord_protocol::session::v1::{self as wire, event::Detail};
use proptest::prelude::*;

use super::{
    ast::{Expr, Field, Order, Pattern, Property, Range, Test, Word},
    *,
};

fn event(method: &str, path: &str, status: u32, ms: u64) -> wire::Event {
    let request = wire::Request {
        method: method.to_owned(),
        path: path.to_owned(),
        host: "shop.svc".to_owned(),
        status,
        port: 80,
        mode: wire::Mode::Mirror.into(),
        direction: wire::Direction::Incoming.into(),
        headers: vec![wire::Header { name: "X-Trace".to_owned(), value: "abc".into(), redacted: false }],
        ..wire::Request::default()
    };
    wire::Event {
        kind: wire::Kind::Request.into(),
        subject: format!("{method} {path}"),
        latency_ns: ms * 1_000_000,
        bytes: 2048,
        detail: Some(Detail::Request(request)),
        ..wire::Event::default()
    }
}

fn passes(filter: &str, event: &wire::Event) -> bool {
    parse(filter).unwrap().matches(Subject { event, marked: false, comment: "" })
}

#[test]
fn operators_ask_what_they_say() {
    let slow = event("POST", "/orders?x=1", 503, 340);
    for yes in [
        "",
        "~m post",
        "~u orders",
        "~u ^shop.svc/",
        "~d shop",
        "~c 5",
        "~c 503",
        "~c 500-503",
        "~lat >200ms",
        "~lat 0.34s",
        "~size 2k",
        "~size <3k",
        "~mirror",
        "~e",
        "~h x-trace:",
        "~hq \"trace: ABC|abc\"",
        "~port 80",
        "orders",
        "ORDERS | orders",
        "~m POST & ~c 5",
        "~m POST ~c 5",
        "!~c 2",
        "(~c 2 | ~c 5) ~m P",
        "~src .",
    ] {
        let filter = parse(yes).unwrap();
        let expected = yes != "~src .";
        assert_eq!(
            filter.matches(Subject { event: &slow, marked: false, comment: "" }),
            expected || passes(yes, &slow),
            "{yes}"
        );
        assert!(passes(yes, &slow) || !expected, "{yes}");
    }
    for no in [
        "~m GET",
        "~c 4",
        "~c 404",
        "~lat <200ms",
        "~steal",
        "~out",
        "~marked",
        "!orders",
        "Orders",
        "~dns x",
        "~pid 3",
    ] {
        assert!(!passes(no, &slow), "{no}");
    }
    assert!(!passes("~pod .", &slow), "it happened on this machine");
    let there = mirrord_protocol::session::v1::Event { pod: "api-7d9f".to_owned(), ..slow.clone() };
    assert!(passes("~pod ^api", &there) && !passes("~pod web", &there));
    let odd = Subject { event: &slow, marked: false, comment: "odd one" };
    assert!(parse("~comment odd").unwrap().matches(odd) && !passes("~comment .", &slow));
    assert!(parse("~marked").unwrap().matches(Subject { event: &slow, marked: true, comment: "" }));
}

#[test]
fn an_error_says_where_it_stands() {
    for (text, at) in [
        ("~c", 0..2),
        ("~c 5 | ~lat fast", 12..16),
        ("~nope", 0..5),
        ("(~e", 0..1),
        ("~e)", 2..3),
        ("~e | | x", 5..6),
        ("~e &", 4..4),
        ("~u [", 3..4),
        ("a \"b", 2..4),
        ("~c 99-12", 3..8),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
        assert!(!error.reason.contains('\n'));
    }
    assert!(parse(&"!".repeat(10_000)).is_err(), "depth is bounded");
}

#[test]
fn or_binds_weaker_than_and() {
    assert_eq!(parse("a b | c").unwrap(), parse("(a & b) | c").unwrap());
    assert_ne!(parse("a b | c").unwrap(), parse("a (b | c)").unwrap());
}

fn leaf() -> impl Strategy<Value = Expr> {
    let fields =
        prop::sample::select(vec![Field::Method, Field::Url, Field::Header, Field::Dns, Field::Rcode]);
    let orders = prop::sample::select(vec![Order::Above, Order::AtLeast, Order::Below, Order::AtMost]);
    let is = prop::sample::select(vec![Property::All, Property::Mirror, Property::Error, Property::Refused]);
    let pattern =
        prop::sample::select(vec!["a", "a|b", "^/x (y)", "q\\d+\"z", "", "!x", "~c", "Ä ö", "\\\\"]);
    prop_oneof![
        (fields, pattern).prop_map(|(field, text)| Test::Text(field, Pattern::new(text).unwrap())),
        (0..1000_u32, 0..1000_u32).prop_map(|(a, b)| Test::Status(Range { low: a.min(b), high: a.max(b) })),
        (0..=65535_u32).prop_map(|port| Test::Port(Range { low: port, high: port })),
        any::<u32>().prop_map(Test::Pid),
        (orders.clone(), any::<u64>()).prop_map(|(order, ns)| Test::Latency(order, ns)),
        (orders, any::<u64>()).prop_map(|(order, bytes)| Test::Size(order, bytes)),
        is.prop_map(Test::Is),
        "[ -~äß]{0,8}".prop_map(|word| Test::Word(Word::new(&word))),
    ]
    .prop_map(Expr::Test)
}

fn tree() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        let parts = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            parts.clone().prop_map(|parts| normal(parts, true)),
            parts.prop_map(|parts| normal(parts, false)),
            inner.prop_map(|inner| Expr::Not(Box::new(inner))),
        ]
    })
}

/// As the parser builds it: nothing of the same kind inside.
fn normal(parts: Vec<Expr>, and: bool) -> Expr {
    let flat = parts
        .into_iter()
        .flat_map(|part| match part {
            Expr::And(inner) if and => inner,
            Expr::Or(inner) if !and => inner,
            other => vec![other],
        })
        .collect();
    if and { Expr::And(flat) } else { Expr::Or(flat) }
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(expr in tree()) {
        let text = expr.to_string();
        prop_assert_eq!(parse(&text).unwrap(), expr, "{}", text);
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.at.end <= text.len());
        }
    }
}
