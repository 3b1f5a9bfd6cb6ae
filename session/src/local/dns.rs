//! DNS messages: what the resolver of the local pods needs and no more (RFC 1035, AAAA of RFC 3596, SRV of RFC 2782).
//!
//! Bytes in, bytes out; who is known by which name is asked through [`Zone`]. Used by `resolver`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where names come from.
pub(super) trait Zone {
    /// The pod of this name: a single label, lower case.
    fn by_name(&self, name: &str) -> Option<Host>;
    /// The name of the pod with this address.
    fn by_address(&self, address: IpAddr) -> Option<String>;
}

/// What is known about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) ip: Ipv4Addr,
    pub(super) ipv6: Option<Ipv6Addr>,
    /// Ports of the pod that are published.
    pub(super) ports: Vec<u16>,
}

/// Names end in this or in a leading part of it: `web`, `web.local`, `web.local.svc`, `web.local.svc.cluster.local`.
const DOMAIN: [&str; 4] = ["local", "svc", "cluster", "local"];

/// The search list of a pod: in its own namespace, in all, in the cluster.
pub(super) const SEARCH: &str = "local.svc.cluster.local svc.cluster.local cluster.local";

/// Seconds that an answer may be kept: none, a pod's address may be another's a moment later.
const TTL: u32 = 0;
/// Bytes of a datagram without EDNS (RFC 1035, 2.3.4).
const DATAGRAM: usize = 512;
const HEADER: usize = 12;
/// A pointer to the question's name (RFC 1035, 4.1.4).
const QUESTION_NAME: [u8; 2] = [0xc0, 12];

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;
const CLASS_IN: u16 = 1;

const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// How the query came: answers to datagrams are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The answer to a query; `None` when it deserves none (too short, or itself an answer).
pub(super) fn answer(query: &[u8], zone: &impl Zone, transport: Transport) -> Option<Vec<u8>> {
    let header: [u8; HEADER] = query.get(..HEADER)?.try_into().ok()?;
    let [id0, id1, flags, _, q0, q1, ..] = header;
    if flags & 0x80 != 0 {
        return None;
    }
    let questions = u16::from_be_bytes([q0, q1]);
    let opcode = flags >> 3 & 0x0f;
    let question = (opcode == 0 && questions == 1).then(|| Question::read(query)).flatten();
    let Some(question) = question else {
        let code = if opcode == 0 { FORMAT_ERROR } else { NOT_IMPLEMENTED };
        return Some(head([id0, id1], flags, code, 0, 0).to_vec());
    };
    let (code, records) = lookup(&question, zone);
    let mut message = head([id0, id1], flags, code, 1, records.len()).to_vec();
    message.extend_from_slice(question.bytes);
    records.iter().for_each(|record| record.write(&mut message));
    if transport == Transport::Udp && message.len() > DATAGRAM {
        // Cut to the question; the TC bit makes the client ask again over TCP.
        message = head([id0, id1], flags | 0x02, code, 1, 0).to_vec();
        message.extend_from_slice(question.bytes);
    }
    Some(message)
}

/// Header of an answer: authoritative, recursion available (pods shall not look further), `flags` gives RD, opcode and TC.
fn head(id: [u8; 2], flags: u8, code: u8, questions: u8, answers: usize) -> [u8; HEADER] {
    let flags = 0x80 | 0x04 | (flags & 0x7b);
    let [a0, a1] = u16::try_from(answers).unwrap_or(0).to_be_bytes();
    let [id0, id1] = id;
    [id0, id1, flags, 0x80 | code, 0, questions, a0, a1, 0, 0, 0, 0]
}

/// The one question of a query.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    /// Lower case.
    labels: Vec<String>,
    kind: u16,
    class: u16,
    /// As it came, to be sent back as it came: some clients check the case of the letters.
    bytes: &'a [u8],
}

impl<'a> Question<'a> {
    fn read(query: &'a [u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // 0xc0 and above are pointers, which a question has no use for. 255 bytes is the longest name.
            if length > 63 || at + length - HEADER > 255 {
                return None;
            }
            let label = query.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let &[k0, k1, c0, c1] = query.get(at..at + 4)? else { return None };
        let bytes = query.get(HEADER..at + 4)?;
        Some(Self { labels, kind: u16::from_be_bytes([k0, k1]), class: u16::from_be_bytes([c0, c1]), bytes })
    }
}

/// One record about the question's name.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(String),
    Srv(u16, String),
}

impl Record {
    fn write(&self, message: &mut Vec<u8>) {
        let (kind, data) = match self {
            Self::A(ip) => (A, ip.octets().to_vec()),
            Self::Aaaa(ip) => (AAAA, ip.octets().to_vec()),
            Self::Ptr(name) => (PTR, full_name(name)),
            // Priority 0, weight 100 as in a cluster.
            Self::Srv(port, name) => {
                (SRV, [&[0, 0, 0, 100], port.to_be_bytes().as_slice(), &full_name(name)].concat())
            }
        };
        message.extend_from_slice(&QUESTION_NAME);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&TTL.to_be_bytes());
        message.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        message.extend_from_slice(&data);
    }
}

/// `web` as `web.local.svc.cluster.local` in wire form.
fn full_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in std::iter::once(name).chain(DOMAIN) {
        // Names were checked to be labels of at most 63 bytes.
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Response code and records. A name that exists without a record of the wanted kind is no error.
fn lookup(question: &Question<'_>, zone: &impl Zone) -> (u8, Vec<Record>) {
    let wants = |kind| question.class == CLASS_IN && (question.kind == kind || question.kind == ANY);
    let labels: Vec<&str> = question.labels.iter().map(String::as_str).collect();
    if let Some(address) = reverse(&labels) {
        return match zone.by_address(address) {
            Some(name) if wants(PTR) => (0, vec![Record::Ptr(name)]),
            Some(_) => (0, Vec::new()),
            None => (NAME_ERROR, Vec::new()),
        };
    }
    let (service, labels) = match labels.as_slice() {
        [service, "_tcp", rest @ ..] if service.starts_with('_') => {
            (Some(service.trim_start_matches('_')), rest)
        }
        all => (None, all),
    };
    let host = labels.split_first().filter(|(_, domain)| DOMAIN.starts_with(domain));
    let Some((name, host)) = host.and_then(|(name, _)| Some((*name, zone.by_name(name)?))) else {
        return (NAME_ERROR, Vec::new());
    };
    let mut records = Vec::new();
    if wants(SRV) {
        // `_8080._tcp.web`: that port. Any other service name: all published ports, since local pods do not name theirs.
        let wanted: Option<u16> = service.and_then(|service| service.parse().ok());
        let ports = host.ports.iter().copied().filter(|&port| wanted.is_none_or(|wanted| wanted == port));
        records.extend(ports.map(|port| Record::Srv(port, name.to_owned())));
    }
    if service.is_none() {
        records.extend(wants(A).then_some(Record::A(host.ip)));
        records.extend(host.ipv6.filter(|_| wants(AAAA)).map(Record::Aaaa));
    }
    (0, records)
}

/// The address that `4.3.2.1.in-addr.arpa` and its IPv6 form ask about.
fn reverse(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [a, b, c, d, "in-addr", "arpa"] => {
            let text = format!("{d}.{c}.{b}.{a}");
            text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let digit = |label: &&str| u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1);
            let bits =
                nibbles.iter().rev().try_fold(0_u128, |bits, label| Some(bits << 4 | digit(label)?))?;
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "dns/tests.rs"]
mod tests;
