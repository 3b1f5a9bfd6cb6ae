//! DNS messages read from bytes (RFC 1035, RFC 3596, RFC 9460): the question, the answers as text, the addresses. Pure: no panic
//! and no unbounded work on any input. Messages are passed on as they came; only a reply to a failure is written here.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;
use thiserror::Error;

use crate::limits::DNS_ANSWERS;

/// Bytes of the header, RFC 1035 section 4.1.1.
const HEADER: usize = 12;
/// Longest name in text form, RFC 1035 section 2.3.4.
const NAME: usize = 255;
/// A message that UDP carries without EDNS, RFC 1035 section 4.2.1.
pub(crate) const UDP_PLAIN: usize = 512;
/// SERVFAIL.
pub(crate) const SERVFAIL: u8 = 2;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;

/// Why bytes are no DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DnsMessageError {
    /// Shorter than its own counts say.
    #[error("the DNS message is cut off")]
    Short,
    /// A name is too long, points forward or in a circle.
    #[error("a name of the DNS message is malformed")]
    Name,
    /// No question.
    #[error("the DNS message asks nothing")]
    NoQuestion,
}

/// The first question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Id of the message.
    pub id: u16,
    /// Lower case, no trailing dot; the root is `.`.
    pub name: String,
    /// Type number.
    pub kind: u16,
    /// Offset behind the question.
    end: usize,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reply {
    /// Response code, the upper bits of EDNS left out.
    pub rcode: u8,
    /// The reply did not fit.
    pub truncated: bool,
    /// Records of the answer section as text, at most [`DNS_ANSWERS`].
    pub answers: Vec<String>,
    /// Addresses among them.
    pub addresses: Vec<IpAddr>,
    /// The first name that an address has.
    pub pointer: Option<String>,
}

/// Reads the first question.
///
/// # Errors
/// [`DnsMessageError`].
pub fn question(message: &[u8]) -> Result<Question, DnsMessageError> {
    let mut reader = Reader { message, at: 0 };
    let id = reader.u16()?;
    reader.at = 4;
    if reader.u16()? == 0 {
        return Err(DnsMessageError::NoQuestion);
    }
    reader.at = HEADER;
    let name = reader.name()?;
    let kind = reader.u16()?;
    reader.u16()?;
    Ok(Question { id, name, kind, end: reader.at })
}

/// Reads a reply. A malformed answer section gives what was readable before.
///
/// # Errors
/// [`DnsMessageError`] when the header or the question cannot be read.
pub fn reply(message: &[u8]) -> Result<Reply, DnsMessageError> {
    let mut reader = Reader { message, at: 2 };
    let flags = reader.u16()?;
    let questions = reader.u16()?;
    let answers = reader.u16()?;
    reader.at = HEADER;
    if message.len() < HEADER {
        return Err(DnsMessageError::Short);
    }
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let mut reply =
        Reply { rcode: flags.to_be_bytes()[1] & 0x0f, truncated: flags & 0x0200 != 0, ..Reply::default() };
    for _ in 0..usize::from(answers).min(DNS_ANSWERS) {
        if reader.answer(&mut reply).is_err() {
            break;
        }
    }
    Ok(reply)
}

/// A reply to `query` that carries nothing but a response code.
///
/// # Errors
/// [`DnsMessageError`] when the query cannot be read; it then gets no reply.
pub fn failure(query: &[u8], rcode: u8) -> Result<Bytes, DnsMessageError> {
    empty(query, question(query)?.end, rcode, false)
}

/// A reply to `query` that says "ask over TCP".
///
/// # Errors
/// [`DnsMessageError`] when the query cannot be read.
pub fn truncated(query: &[u8]) -> Result<Bytes, DnsMessageError> {
    empty(query, question(query)?.end, 0, true)
}

/// How large a UDP reply the asker takes: what its EDNS record says (RFC 6891), else 512 bytes.
#[must_use]
pub fn udp_payload(query: &[u8]) -> usize {
    let find = || {
        let mut reader = Reader { message: query, at: 4 };
        let questions = reader.u16()?;
        let mut records = 0_u32;
        for _ in 0..3 {
            records += u32::from(reader.u16()?);
        }
        for _ in 0..questions {
            reader.name()?;
            reader.skip(4)?;
        }
        for _ in 0..records {
            reader.name()?;
            let kind = reader.u16()?;
            let class = reader.u16()?;
            if kind == TYPE_OPT {
                return Ok(usize::from(class).max(UDP_PLAIN));
            }
            reader.skip(4)?;
            let length = reader.u16()?;
            reader.skip(length.into())?;
        }
        Err(DnsMessageError::NoQuestion)
    };
    find().unwrap_or(UDP_PLAIN)
}

/// Name of a record type.
#[must_use]
pub fn kind_name(kind: u16) -> String {
    let name = match kind {
        TYPE_A => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        TYPE_PTR => "PTR",
        15 => "MX",
        16 => "TXT",
        TYPE_AAAA => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        257 => "CAA",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

/// Name of a response code.
#[must_use]
pub fn rcode_name(rcode: u8) -> String {
    let name = match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        SERVFAIL => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => return format!("RCODE{other}"),
    };
    name.to_owned()
}

/// Header with the query's id and flags, its question, nothing else.
fn empty(query: &[u8], end: usize, rcode: u8, truncated: bool) -> Result<Bytes, DnsMessageError> {
    let question = query.get(HEADER..end).ok_or(DnsMessageError::Short)?;
    let [id_high, id_low, flags, ..] = *query else { return Err(DnsMessageError::Short) };
    // QR is set, opcode and RD are repeated, RA is set: a stub resolver expects a recursive server.
    let high = 0x80 | (flags & 0x79) | if truncated { 0x02 } else { 0 };
    let low = 0x80 | (rcode & 0x0f);
    let mut reply = Vec::with_capacity(end);
    reply.extend_from_slice(&[id_high, id_low, high, low, 0, 1, 0, 0, 0, 0, 0, 0]);
    reply.extend_from_slice(question);
    Ok(reply.into())
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DnsMessageError> {
        let end = self.at.checked_add(count).ok_or(DnsMessageError::Short)?;
        let bytes = self.message.get(self.at..end).ok_or(DnsMessageError::Short)?;
        self.at = end;
        Ok(bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), DnsMessageError> {
        self.take(count).map(drop)
    }

    fn u8(&mut self) -> Result<u8, DnsMessageError> {
        self.take(1)?.first().copied().ok_or(DnsMessageError::Short)
    }

    fn u16(&mut self) -> Result<u16, DnsMessageError> {
        let bytes = self.take(2)?;
        <[u8; 2]>::try_from(bytes).map(u16::from_be_bytes).map_err(|_| DnsMessageError::Short)
    }

    /// A name, compressed or not. A pointer must point before the name that it is in, which also rules circles out.
    fn name(&mut self) -> Result<String, DnsMessageError> {
        let mut name = String::new();
        let mut labels = Self { message: self.message, at: self.at };
        let mut behind = None;
        let mut lowest = self.at;
        loop {
            let length = labels.u8()?;
            match length & 0xc0 {
                0 if length == 0 => break,
                0 => {
                    if !name.is_empty() {
                        name.push('.');
                    }
                    push_label(&mut name, labels.take(length.into())?);
                    if name.len() > NAME * 4 {
                        return Err(DnsMessageError::Name);
                    }
                }
                0xc0 => {
                    let low = labels.u8()?;
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    behind.get_or_insert(labels.at);
                    if target >= lowest {
                        return Err(DnsMessageError::Name);
                    }
                    lowest = target;
                    labels.at = target;
                }
                _ => return Err(DnsMessageError::Name),
            }
        }
        self.at = behind.unwrap_or(labels.at);
        if name.is_empty() {
            name.push('.');
        }
        Ok(name)
    }

    fn answer(&mut self, reply: &mut Reply) -> Result<(), DnsMessageError> {
        self.name()?;
        let kind = self.u16()?;
        self.skip(6)?;
        let length = usize::from(self.u16()?);
        let start = self.at;
        let data = self.take(length)?;
        // Names in the data may point anywhere before, so they are read in the whole message.
        let mut inner = Self { message: self.message.get(..self.at).unwrap_or_default(), at: start };
        let text = match kind {
            TYPE_A => {
                let ip = <[u8; 4]>::try_from(data).map(Ipv4Addr::from).map_err(|_| DnsMessageError::Short)?;
                reply.addresses.push(ip.into());
                ip.to_string()
            }
            TYPE_AAAA => {
                let ip =
                    <[u8; 16]>::try_from(data).map(Ipv6Addr::from).map_err(|_| DnsMessageError::Short)?;
                reply.addresses.push(ip.into());
                ip.to_string()
            }
            TYPE_PTR => {
                let name = inner.name()?;
                let text = format!("PTR {name}");
                reply.pointer.get_or_insert(name);
                text
            }
            2 | 5 => format!("{} {}", kind_name(kind), inner.name()?),
            15 => format!("MX {} {}", inner.u16()?, inner.name()?),
            33 => {
                let (priority, weight, port) = (inner.u16()?, inner.u16()?, inner.u16()?);
                format!("SRV {priority} {weight} {port} {}", inner.name()?)
            }
            16 => {
                let mut text = "TXT ".to_owned();
                while inner.at < start + length {
                    let part = usize::from(inner.u8()?);
                    push_label(&mut text, inner.take(part)?);
                }
                text
            }
            other => format!("{} ({length} bytes)", kind_name(other)),
        };
        reply.answers.push(text);
        Ok(())
    }
}

/// Appends printable ASCII in lower case; all else as `\ddd` (RFC 1035 section 5.1).
fn push_label(name: &mut String, label: &[u8]) {
    for &byte in label {
        match byte {
            b'.' | b'\\' => {
                name.push('\\');
                name.push(byte.into());
            }
            b'!'..=b'~' => name.push(byte.to_ascii_lowercase().into()),
            // Writing to a String cannot fail.
            _ => drop(write!(name, "\\{byte:03}")),
        }
    }
}

#[cfg(test)]
mod tests;
