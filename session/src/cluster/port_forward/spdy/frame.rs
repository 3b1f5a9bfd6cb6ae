//! Frames of SPDY/3.1, as far as a port-forward needs them (chromium.org, "SPDY Protocol - Draft 3.1", section 2.2 and 2.6).

use std::io;

use bytes::{Buf, BufMut, BytesMut};

/// Bit of a head's first word: a control frame.
const CONTROL: u32 = 1 << 31;
/// The first word of a control frame of version 3, without its type.
const VERSION_3: u32 = CONTROL | 3 << 16;
/// A flag: the sender will say no more on this stream.
const FIN: u32 = 1;
/// The bits of a head's second word that are the length.
const LENGTH: u32 = 0x00ff_ffff;

const SYN_STREAM: u32 = 1;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const GOAWAY: u32 = 7;

/// Head of a zlib stream with a preset dictionary, and which one: Adler-32 of that of the draft (RFC 1950, section 2.2).
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block: all before it can be read, zlib's `Z_SYNC_FLUSH`.
const ZLIB_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// What a frame is, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data {
        stream: u32,
        fin: bool,
    },
    /// A stream was ended by force; its payload begins with the stream.
    Reset,
    /// A question whether anybody is there; its payload is an identifier.
    Ping,
    /// No more streams.
    GoAway,
    /// Of no interest here: what it says of streams is known, and there are no windows.
    Other,
}

/// Takes the head of a frame, its kind and the length of its payload; `None`: it is not there as a whole.
pub(super) fn head(input: &mut BytesMut) -> Option<(Kind, usize)> {
    const HEAD: usize = 8;
    if input.len() < HEAD {
        return None;
    }
    let (first, second) = (input.get_u32(), input.get_u32());
    let kind = match first & CONTROL {
        0 => Kind::Data { stream: first, fin: second >> 24 & FIN != 0 },
        _ => match first & 0xffff {
            RST_STREAM => Kind::Reset,
            PING => Kind::Ping,
            GOAWAY => Kind::GoAway,
            _ => Kind::Other,
        },
    };
    Some((kind, (second & LENGTH) as usize))
}

/// The head of a data frame.
pub(super) fn put_data_head(output: &mut BytesMut, stream: u32, length: usize) {
    output.put_u32(stream);
    output.put_u32(size(length) & LENGTH);
}

/// The answer to a ping, which repeats it.
pub(super) fn put_pong(output: &mut BytesMut, id: u32) {
    output.put_u32(VERSION_3 | PING);
    output.put_u32(4);
    output.put_u32(id);
}

/// The compressor of the headers that one side sends. It stores them as they are, which is zlib as well (RFC 1951, section 3.2.4).
#[derive(Debug, Default)]
pub(super) struct Headers {
    begun: bool,
}

impl Headers {
    /// The frame that opens a stream; `fin`: nothing will be said on it from here.
    ///
    /// # Errors
    /// When the headers are longer than a block can be.
    pub(super) fn put_open(
        &mut self,
        output: &mut BytesMut,
        stream: u32,
        fin: bool,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        let mut block = BytesMut::new();
        block.put_u32(size(headers.len()));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(size(text.len()));
            block.put_slice(text.as_bytes());
        }
        let stored = u16::try_from(block.len()).map_err(io::Error::other)?;
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        // No stream that this one belongs to, no priority, no slot for a certificate.
        payload.put_slice(&[0; 6]);
        if !std::mem::replace(&mut self.begun, true) {
            payload.put_slice(&ZLIB_HEAD);
        }
        payload.put_u8(0);
        payload.put_u16_le(stored);
        payload.put_u16_le(!stored);
        payload.put_slice(&block);
        payload.put_slice(&ZLIB_FLUSH);
        output.put_u32(VERSION_3 | SYN_STREAM);
        output.put_u32(u32::from(fin) << 24 | size(payload.len()));
        output.put_slice(&payload);
        Ok(())
    }
}

fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those that a zlib of another language inflated to the headers, with the dictionary of the draft.
    #[test]
    fn streams_are_opened_with_headers_in_one_zlib_stream() {
        let (mut output, mut headers) = (BytesMut::new(), Headers::default());
        headers.put_open(&mut output, 1, true, &[("a", "bc")]).unwrap();
        headers.put_open(&mut output, 3, false, &[("d", "")]).unwrap();
        let first = b"\x80\x03\0\x01\x01\0\0\x29\0\0\0\x01\0\0\0\0\0\0\
            \x78\xbb\xe3\xc6\xa7\xc2\0\x0f\0\xf0\xff\0\0\0\x01\0\0\0\x01a\0\0\0\x02bc\0\0\0\xff\xff";
        let second = b"\x80\x03\0\x01\0\0\0\x21\0\0\0\x03\0\0\0\0\0\0\
            \0\x0d\0\xf2\xff\0\0\0\x01\0\0\0\x01d\0\0\0\0\0\0\0\xff\xff";
        assert_eq!(output, [&first[..], second].concat());
        let long = "x".repeat(1 << 16);
        assert!(headers.put_open(&mut output, 5, false, &[("long", &long)]).is_err());
    }

    #[test]
    fn a_frame_is_known_by_its_head() {
        for (bytes, kind, length) in [
            (b"\0\0\0\x03\x01\0\x01\x02", Kind::Data { stream: 3, fin: true }, 258),
            (b"\0\0\0\x01\0\xff\xff\xff", Kind::Data { stream: 1, fin: false }, 0xff_ffff),
            (b"\x80\x03\0\x02\0\0\0\x08", Kind::Other, 8),
            (b"\x80\x03\0\x03\0\0\0\x08", Kind::Reset, 8),
            (b"\x80\x03\0\x06\0\0\0\x04", Kind::Ping, 4),
            (b"\x80\x03\0\x07\0\0\0\x08", Kind::GoAway, 8),
        ] {
            let mut part = BytesMut::from(&bytes[..7]);
            assert_eq!((head(&mut part), part.len()), (None, 7));
            assert_eq!(head(&mut BytesMut::from(&bytes[..])), Some((kind, length)));
        }
        let mut sent = BytesMut::new();
        put_data_head(&mut sent, 3, 258);
        put_pong(&mut sent, 2);
        assert_eq!(sent, b"\0\0\0\x03\0\0\x01\x02\x80\x03\0\x06\0\0\0\x04\0\0\0\x02"[..]);
    }
}
