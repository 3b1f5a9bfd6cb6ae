//! The resolver's messages: known names in all forms, unknown ones, and bytes that are no query.

use proptest::prelude::*;

use super::*;

struct Pods;

impl Zone for Pods {
    fn by_name(&self, name: &str) -> Option<Host> {
        let many = (1..=40).collect();
        match name {
            "web" => Some(Host {
                ip: [10, 244, 0, 2].into(),
                ipv6: "fd00:244::2".parse().ok(),
                ports: vec![80, 443],
            }),
            "old" => Some(Host { ip: [10, 244, 0, 3].into(), ipv6: None, ports: many }),
            _ => None,
        }
    }

    fn by_address(&self, address: IpAddr) -> Option<String> {
        let known = ["10.244.0.2".parse().unwrap(), "fd00:244::2".parse::<IpAddr>().unwrap()];
        known.contains(&address).then(|| "web".to_owned())
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len().try_into().unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// Response code, number of answers, and the bytes behind the question.
fn ask(name: &str, kind: u16) -> (u8, u16, Vec<u8>) {
    let query = query(name, kind);
    let answer = answer(&query, &Pods, Transport::Tcp).unwrap();
    assert_eq!(&answer[..2], &query[..2], "the id comes back");
    assert_eq!(&answer[12..query.len()], &query[12..], "the question comes back as it was");
    (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]), answer[query.len()..].to_vec())
}

#[test]
fn addresses_are_found_by_every_form_of_the_name() {
    for name in [
        "web",
        "WEB",
        "web.local",
        "web.local.svc",
        "web.local.svc.cluster.local",
        "web.local.svc.cluster.local.",
    ] {
        let (code, answers, records) = ask(name, A);
        assert_eq!((code, answers), (0, 1), "{name}");
        assert_eq!(records, [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &[10, 244, 0, 2]].concat());
        let (code, answers, records) = ask(name, AAAA);
        assert_eq!((code, answers, records.len()), (0, 1, 28), "{name}");
    }
}

#[test]
fn unknown_names_do_not_exist_and_missing_kinds_are_no_error() {
    for name in ["", "db", "web.remote", "web.svc", "a.web", "web.local.svc.cluster.local.lan", "example.com"]
    {
        assert_eq!(ask(name, A).0, NAME_ERROR, "{name}");
    }
    assert_eq!((ask("old", AAAA).0, ask("old", AAAA).1), (0, 0));
    assert_eq!((ask("web", 15).0, ask("web", 15).1), (0, 0), "MX");
}

#[test]
fn addresses_have_names() {
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.0.d.f.ip6.arpa";
    for name in ["2.0.244.10.in-addr.arpa", v6] {
        let (code, answers, records) = ask(name, PTR);
        assert_eq!((code, answers), (0, 1), "{name}");
        assert!(records.ends_with(b"\x03web\x05local\x03svc\x07cluster\x05local\x00"));
    }
    assert_eq!(ask("9.0.244.10.in-addr.arpa", PTR).0, NAME_ERROR);
    assert_eq!(ask("x.0.244.10.in-addr.arpa", PTR).0, NAME_ERROR);
}

#[test]
fn services_are_the_published_ports() {
    assert_eq!(ask("_http._tcp.web.local.svc.cluster.local", SRV).1, 2);
    assert_eq!(ask("web", SRV).1, 2);
    let (code, answers, records) = ask("_443._tcp.web", SRV);
    assert_eq!((code, answers), (0, 1));
    assert_eq!(&records[12..18], [0, 0, 0, 100, 1, 187]);
    assert_eq!((ask("_81._tcp.web", SRV).0, ask("_81._tcp.web", SRV).1), (0, 0));
    assert_eq!(ask("_http._tcp.db", SRV).0, NAME_ERROR);
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_and_says_so() {
    let query = query("old", SRV);
    let cut = answer(&query, &Pods, Transport::Udp).unwrap();
    assert_eq!((cut[2] & 2, cut[7], cut.len()), (2, 0, query.len()));
    let whole = answer(&query, &Pods, Transport::Tcp).unwrap();
    assert_eq!((whole[2] & 2, whole[7]), (0, 40));
}

#[test]
fn what_is_no_query_is_refused_or_ignored() {
    let good = query("web", A);
    let mut reply = good.clone();
    reply[2] |= 0x80;
    assert_eq!(answer(&reply, &Pods, Transport::Udp), None);
    assert_eq!(answer(&good[..11], &Pods, Transport::Udp), None);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(answer(&two, &Pods, Transport::Udp).unwrap()[3] & 15, FORMAT_ERROR);
    let mut notify = good.clone();
    notify[2] = 4 << 3;
    assert_eq!(answer(&notify, &Pods, Transport::Udp).unwrap()[3] & 15, NOT_IMPLEMENTED);
    let mut pointer = good[..12].to_vec();
    pointer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(answer(&pointer, &Pods, Transport::Udp).unwrap()[3] & 15, FORMAT_ERROR);
}

proptest! {
    #[test]
    fn any_bytes_get_a_short_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Some(answer) = answer(&bytes, &Pods, Transport::Udp) {
            prop_assert!(answer.len() >= HEADER && answer.len() <= DATAGRAM);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            prop_assert_eq!(answer[2] & 0x80, 0x80);
        }
    }

    #[test]
    fn a_changed_query_never_breaks_the_answer(at in 0_usize..40, value: u8, kind: u16, cut in 0_usize..60) {
        let mut bytes = query("_http._tcp.web.local.svc.cluster.local", kind);
        bytes[at] = value;
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Some(answer) = answer(&bytes, &Pods, Transport::Tcp) {
            prop_assert!(answer.len() >= HEADER);
            let records = u16::from_be_bytes([answer[6], answer[7]]);
            prop_assert!(records <= 4);
        }
    }

    #[test]
    fn every_legal_name_is_echoed(labels in proptest::collection::vec("[a-zA-Z0-9_-]{1,20}", 0..8), kind: u16) {
        let query = query(&labels.join("."), kind);
        let answer = answer(&query, &Pods, Transport::Udp).unwrap();
        prop_assert_eq!(&answer[12..query.len()], &query[12..]);
    }
}
