//! The parser against hand-made messages and against noise.

use proptest::prelude::*;

use super::*;

/// Header with the counts, then the sections.
fn message(id: u16, flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags].into_iter().chain(counts) {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(rest);
    bytes
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut rest = labels(name);
    rest.extend_from_slice(&kind.to_be_bytes());
    rest.extend_from_slice(&[0, 1]);
    message(7, 0x0100, [1, 0, 0, 0], &rest)
}

fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    bytes.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn questions_are_read_in_lower_case_without_the_last_dot() {
    let asked = question(&query("Api.Example.COM", TYPE_AAAA)).unwrap();
    assert_eq!((asked.id, asked.name.as_str(), asked.kind), (7, "api.example.com", TYPE_AAAA));
    assert_eq!(question(&query("", 2)).unwrap().name, ".");
    assert_eq!(question(&message(1, 0, [0; 4], &[])), Err(DnsMessageError::NoQuestion));
    assert_eq!(question(&query("a", 1)[..14]), Err(DnsMessageError::Short));
}

#[test]
fn answers_are_read_with_compression() {
    let mut bytes = query("db.example", TYPE_A);
    bytes[2] = 0x81;
    bytes[7] = 5;
    bytes.extend(record(5, &[3, b'w', b'w', b'w', 0xc0, 15]));
    bytes.extend(record(TYPE_A, &[10, 0, 0, 9]));
    bytes.extend(record(TYPE_AAAA, &Ipv6Addr::LOCALHOST.octets()));
    bytes.extend(record(33, &[0, 1, 0, 2, 0x1f, 0x90, 0xc0, 12]));
    bytes.extend(record(16, b"\x02hi\x01!"));
    let read = reply(&bytes).unwrap();
    assert_eq!(read.answers, ["CNAME www.example", "10.0.0.9", "::1", "SRV 1 2 8080 db.example", "TXT hi!"]);
    assert_eq!(read.addresses, [IpAddr::from([10, 0, 0, 9]), Ipv6Addr::LOCALHOST.into()]);
    assert_eq!((read.rcode, read.truncated), (0, false));
}

#[test]
fn circles_and_forward_pointers_are_refused() {
    for target in [12_u8, 14, 200] {
        let bytes = message(1, 0, [1, 0, 0, 0], &[0xc0, target, 0, 1, 0, 1]);
        assert_eq!(question(&bytes), Err(DnsMessageError::Name), "{target}");
    }
    // Two names that point at each other.
    let bytes = message(1, 0, [2, 0, 0, 0], &[1, b'a', 0xc0, 18, 0, 1, 1, b'b', 0xc0, 12, 0, 1]);
    assert!(question(&bytes).is_err());
}

#[test]
fn failures_repeat_id_and_question() {
    let asked = query("a.b", 1);
    let failed = failure(&asked, SERVFAIL).unwrap();
    assert_eq!(question(&failed).unwrap(), question(&asked).unwrap());
    assert_eq!(reply(&failed).unwrap().rcode, SERVFAIL);
    let cut = truncated(&asked).unwrap();
    assert!(reply(&cut).unwrap().truncated);
    assert_eq!(failed[2] & 0x81, 0x81);
}

#[test]
fn the_udp_size_comes_from_edns() {
    let mut asked = query("a.b", 1);
    assert_eq!(udp_payload(&asked), UDP_PLAIN);
    asked[11] = 1;
    asked.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(udp_payload(&asked), 4096);
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop(question(&bytes));
        drop(reply(&bytes));
        drop(failure(&bytes, 2));
        drop(truncated(&bytes));
        prop_assert!(udp_payload(&bytes) >= UDP_PLAIN);
    }

    #[test]
    fn damaged_messages_never_panic(
        name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,4}", at in 0_usize..80, byte in any::<u8>(), data in prop::collection::vec(any::<u8>(), 0..40), kind in any::<u16>()
    ) {
        let mut bytes = query(&name, 1);
        bytes[7] = 1;
        bytes.extend(record(kind, &data));
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        if let Ok(read) = reply(&bytes) {
            prop_assert!(read.answers.len() <= DNS_ANSWERS);
        }
        drop(failure(&bytes, 3));
    }

    #[test]
    fn names_come_back_as_they_went(name in "[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,20}){0,6}", kind in any::<u16>()) {
        let read = question(&query(&name, kind)).unwrap();
        prop_assert_eq!(read.name, name);
        prop_assert_eq!(read.kind, kind);
    }
}
