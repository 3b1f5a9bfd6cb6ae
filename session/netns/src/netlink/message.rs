//! The bytes of netlink: building messages, and walking over messages and attributes that came. Pure.

use std::io;

use super::{DONE, ERROR, NetlinkError};
use crate::bytes::{array, index, ne16, ne32};

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The attribute holds attributes (NLA_F_NESTED).
const NESTED: u16 = 0x8000;
/// The attribute's number without the two flag bits (NLA_TYPE_MASK).
const KIND: u16 = 0x3fff;

/// A message that is being built. Lengths and the sequence number are filled in when it is sent.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
    flags: u16,
}

impl Message {
    /// A message of this kind with the fixed header of its family. `flags` beside those that the exchange sets.
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend([0; 8]);
        let mut message = Self { bytes, flags };
        message.raw(header);
        message
    }

    /// Attributes without a message around them, to be put into one with [`Message::append`].
    #[must_use]
    pub fn content() -> Self {
        Self { bytes: Vec::new(), flags: 0 }
    }

    /// Adds the attributes of [`Message::content`].
    pub fn append(&mut self, content: &Self) -> &mut Self {
        self.raw(&content.bytes)
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.nested(kind, false, |message| {
            message.bytes.extend(data);
        })
    }

    /// Adds a text with its final zero.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.nested(kind, false, |message| {
            message.bytes.extend(text.as_bytes());
            message.bytes.push(0);
        })
    }

    /// Adds a 32-bit number in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a 32-bit number in the machine's byte order.
    pub fn ne32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute whose content `fill` adds.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested(kind, true, fill)
    }

    /// Adds bytes as they are, padded to the alignment of netlink.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// The finished bytes.
    #[must_use]
    pub(super) fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        // No message of ours is near 4 GiB; the kernel refuses a wrong length.
        let len = u32::try_from(self.bytes.len()).unwrap_or(0);
        put(&mut self.bytes, 0, &len.to_ne_bytes());
        put(&mut self.bytes, 6, &(self.flags | flags).to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        self.bytes
    }

    /// The finished bytes of a message whose answer nobody waits for.
    #[must_use]
    pub(crate) fn finish_unanswered(self) -> Vec<u8> {
        self.finish(super::REQUEST, 0)
    }

    fn nested(&mut self, kind: u16, nested: bool, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        let kind = if nested { kind | NESTED } else { kind };
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        // The same holds for 64 KiB of one attribute.
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(0);
        put(&mut self.bytes, start, &len.to_ne_bytes());
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Writes over bytes that are there already.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

/// A message that came; `payload` begins with the fixed header of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<P = Vec<u8>> {
    /// Kind.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// Number of the request.
    pub sequence: u32,
    /// What follows the netlink header.
    pub payload: P,
}

impl Reply<&[u8]> {
    /// `Some` for an error message: what the kernel says about the request.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Result<(), NetlinkError>> {
        if self.kind != ERROR && self.kind != DONE {
            return None;
        }
        Some(match array(self.payload, 0).map(i32::from_ne_bytes) {
            Some(code) if code < 0 => Err(NetlinkError::Kernel(io::Error::from_raw_os_error(-code))),
            Some(_) => Ok(()),
            None if self.kind == DONE => Ok(()),
            None => Err(NetlinkError::Malformed),
        })
    }

    /// The same with bytes of its own.
    #[must_use]
    pub fn to_owned(&self) -> Reply {
        Reply { kind: self.kind, flags: self.flags, sequence: self.sequence, payload: self.payload.to_vec() }
    }
}

impl<P: AsRef<[u8]>> Reply<P> {
    /// The attributes that follow a fixed header of `header` bytes.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes::new(self.payload.as_ref().get(header.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Walks over the messages of one datagram; stops at the first that is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Reply<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = index(ne32(self.rest, 0)?);
        let reply = Reply {
            kind: ne16(self.rest, 4)?,
            flags: ne16(self.rest, 6)?,
            sequence: ne32(self.rest, 8)?,
            payload: self.rest.get(HEADER..len)?,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(reply)
    }
}

/// Walks over attributes: number without flag bits, and content. Stops at the first that is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Content of the first attribute of this kind.
    #[must_use]
    pub fn value(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, content)| content)
    }

    /// The attributes within the first attribute of this kind.
    #[must_use]
    pub fn inside(self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self::new)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(ne16(self.rest, 0)?);
        let kind = ne16(self.rest, 2)? & KIND;
        let content = self.rest.get(ATTRIBUTE_HEADER..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_kernel_s_own_tools() {
        // `queue` as a target of nft_compat, number 7, as iptables-nft sends it.
        let mut message = Message::new(0, 0, &[]);
        message.text(1, "target").nest(2, |data| {
            data.text(1, "NFQUEUE").be32(2, 3).attribute(3, &[7, 0, 1, 0, 0, 0, 0, 0]);
        });
        let bytes = message.finish(0, 0);
        let expected = [
            [0x0b, 0, 1, 0, 0x74, 0x61, 0x72, 0x67],
            [0x65, 0x74, 0, 0, 0x24, 0, 2, 0x80],
            [0x0c, 0, 1, 0, 0x4e, 0x46, 0x51, 0x55],
            [0x45, 0x55, 0x45, 0, 8, 0, 2, 0],
            [0, 0, 0, 3, 0x0c, 0, 3, 0],
            [7, 0, 1, 0, 0, 0, 0, 0],
        ];
        assert_eq!(&bytes[HEADER..], expected.as_flattened());
    }

    #[test]
    fn what_is_built_is_read_back() {
        let mut message = Message::new(9, 0x400, &[1, 2, 3]);
        message.be32(5, 77).nest(6, |inner| {
            inner.text(1, "abc");
        });
        let bytes = message.finish(1, 42);
        let reply = Messages::new(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.flags, reply.sequence), (9, 0x401, 42));
        let attributes = reply.attributes(3);
        assert_eq!(attributes.value(5), Some(&77_u32.to_be_bytes()[..]));
        assert_eq!(attributes.inside(6).unwrap().value(1), Some(&b"abc\0"[..]));
        assert_eq!(attributes.count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for reply in Messages::new(&bytes) {
                prop_assert!(reply.attributes(4).count() <= bytes.len());
                drop(reply.acknowledged());
            }
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len());
        }
    }
}
