//! Packets by hand, and any bytes at all.

use proptest::prelude::*;

use super::*;

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + transport.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip.extend(transport);
    ip
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    ip.extend([next, 64]);
    ip.extend([0; 15].into_iter().chain([1]));
    ip.extend([0; 15].into_iter().chain([2]));
    ip.extend(rest);
    ip
}

fn segment(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 7, 0x60, 0x18, 1, 0, 0, 0, 0, 0];
    bytes.extend([1, 1, 1, 1]);
    bytes.extend(payload);
    bytes
}

#[test]
fn a_segment_over_both_versions() {
    let v4 = ipv4(6, &segment(b"hello"));
    let parsed = parse(&v4).unwrap();
    assert_eq!(parsed.flow.to_string(), "tcp 10.0.0.1:40000 > 10.0.0.2:80");
    let tcp = parsed.tcp.unwrap();
    assert_eq!((tcp.seq, tcp.ack, tcp.window), (9, 7, 256));
    assert_eq!(format!("{:?}", tcp.flags), "P.");
    assert_eq!((parsed.payload, parsed.payload_len), (&b"hello"[..], 5));
    let v6 = ipv6(6, &segment(b"hello"));
    let parsed = parse(&v6).unwrap();
    assert_eq!(parsed.flow.to_string(), "tcp [::1]:40000 > [::2]:80");
    assert_eq!(parsed.payload, b"hello");
}

#[test]
fn padding_is_no_payload_and_a_cut_is_seen() {
    let mut padded = ipv4(6, &segment(b""));
    padded.extend([0; 6]);
    assert_eq!(parse(&padded).unwrap().payload, b"");
    let whole = ipv4(6, &segment(&[7; 500]));
    let parsed = parse(&whole[..128]).unwrap();
    assert_eq!((parsed.payload.len(), parsed.payload_len), (84, 500));
    // Cut within the options: the flow is known all the same.
    assert_eq!(parse(&whole[..42]).unwrap().payload_len, 500);
}

#[test]
fn big_tcp_has_no_length_in_ipv4_and_a_jumbo_option_in_ipv6() {
    let mut v4 = ipv4(6, &segment(&[1; 700]));
    v4[2..4].fill(0);
    assert_eq!(parse(&v4).unwrap().payload_len, 700);
    let mut rest = vec![6, 0, OPTION_JUMBO, 4];
    rest.extend((8 + 24 + 100_000_u32).to_be_bytes());
    rest.extend(segment(&[2; 64]));
    let mut v6 = ipv6(HOP_BY_HOP, &rest);
    v6[4..6].fill(0);
    let parsed = parse(&v6).unwrap();
    assert_eq!((parsed.payload.len(), parsed.payload_len), (64, 100_000));
}

#[test]
fn extension_headers_and_fragments() {
    let mut rest = vec![FRAGMENT, 0, 1, 4, 0, 0, 0, 0];
    rest.extend([17, 0, 0, 1, 0, 0, 0, 5]);
    rest.extend([0x13, 0x88, 0, 53, 0, 10, 0, 0, b'h', b'i']);
    assert_eq!(parse(&ipv6(DESTINATION, &rest)).unwrap().payload, b"hi");
    rest[10..12].copy_from_slice(&[0, 8]);
    assert_eq!(parse(&ipv6(DESTINATION, &rest)), Err(Malformed::Fragment));
    let mut later = ipv4(17, &[0; 8]);
    later[6..8].copy_from_slice(&[0x20, 1]);
    assert_eq!(parse(&later), Err(Malformed::Fragment));
}

#[test]
fn other_protocols_and_lies_are_named() {
    assert_eq!(parse(&[]), Err(Malformed::Short));
    assert_eq!(parse(&[0x55]), Err(Malformed::Version));
    assert_eq!(parse(&ipv4(1, &[8, 0])), Err(Malformed::Transport));
    assert_eq!(parse(&ipv6(50, &[0; 8])), Err(Malformed::Transport));
    assert_eq!(parse(&ipv4(17, &[0, 1, 0, 2, 0, 99, 0, 0])), Err(Malformed::Lengths));
    let mut short_header = ipv4(6, &segment(b""));
    short_header[32] = 0x40;
    assert_eq!(parse(&short_header), Err(Malformed::Lengths));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parsed) = parse(&bytes) {
            prop_assert!(parsed.payload.len() <= parsed.payload_len);
        }
    }

    #[test]
    fn bytes_that_begin_well_give_an_answer(
        version in prop_oneof![Just(0x45_u8), Just(0x60), Just(0x4f)],
        protocol in prop_oneof![Just(6_u8), Just(17), Just(0), Just(43), Just(44), Just(60)],
        mut bytes in proptest::collection::vec(any::<u8>(), 40..200),
    ) {
        bytes[0] = version;
        bytes[if version == 0x60 { 6 } else { 9 }] = protocol;
        if let Ok(parsed) = parse(&bytes) {
            prop_assert!(parsed.payload.len() <= parsed.payload_len);
            prop_assert_eq!(parsed.flow, parsed.flow.reversed().reversed());
        }
    }
}
