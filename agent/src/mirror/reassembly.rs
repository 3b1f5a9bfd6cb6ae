//! One direction of a TCP connection, put together again from captured segments. Pure: no clock, no I/O.
//!
//! Capture sees what the receiver saw, but may miss packets, and what it missed nobody sends again: the receiver had it. So a hole
//! is waited for only until the receiver acknowledges bytes behind it, or until too much lies behind it. Then it becomes a gap of
//! exact size, and the stream goes on.
//!
//! ```text
//!            position                     acknowledged
//! delivered ----|   hole   |### pending ###|  hole  |## pending ##|
//!               '-> a gap as soon as the receiver acknowledges behind it
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

/// No window is larger (RFC 7323 section 2.3): what lies further away belongs to another connection.
const WINDOW: i64 = 1 << 30;

/// A captured segment of this direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// Sequence number of the first payload byte (of the SYN, when that is set).
    pub(crate) seq: u32,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    /// As far as it was captured.
    pub(crate) payload: &'a [u8],
    /// Length of the payload on the wire.
    pub(crate) payload_len: usize,
}

/// A piece of the stream, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    /// So many bytes are lost.
    Gap(u64),
    /// Bytes may be lost, and nobody knows how many.
    Unknown,
    /// The sender has ended the stream; nothing follows.
    End,
}

/// State of one direction.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// Sequence number of the byte at `position`; `None` before the first segment.
    next: Option<u32>,
    /// Bytes delivered or lost so far.
    position: u64,
    /// Data behind a hole, by its position; pieces do not overlap.
    pending: BTreeMap<u64, Bytes>,
    pending_bytes: usize,
    /// Position of the FIN, once it was seen.
    end: Option<u64>,
    /// The receiver has acknowledged one thing more than was seen: the FIN, or one lost byte.
    doubt: bool,
    ended: bool,
}

impl Direction {
    /// The direction begins with this SYN.
    pub(crate) fn opened(isn: u32) -> Self {
        Self { next: Some(isn.wrapping_add(1)), ..Self::default() }
    }

    /// Whether the stream has ended.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes that lie behind a hole.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Takes a segment of this direction in.
    pub(crate) fn segment(&mut self, segment: &Segment<'_>, mut out: impl FnMut(Piece<'_>)) {
        if self.ended {
            return;
        }
        let first = segment.seq.wrapping_add(u32::from(segment.syn));
        if self.next.is_none() {
            // Joining in the middle: an empty segment may be a keep-alive, whose number is one too low.
            if segment.payload.is_empty() && !segment.fin {
                return;
            }
            self.next = Some(first);
        }
        let Some(start) = self.offset(first) else { return };
        if segment.fin
            && let Some(end) = start.checked_add_unsigned(to_u64(segment.payload_len))
            && let Ok(end) = u64::try_from(end)
            && end >= self.position
        {
            self.end.get_or_insert(end);
        }
        if !segment.payload.is_empty() {
            self.data(start, segment.payload, &mut out);
        }
        self.finish(&mut out);
    }

    /// The receiver has acknowledged everything before `ack`: holes before it will not be filled any more.
    pub(crate) fn acknowledged(&mut self, ack: u32, mut out: impl FnMut(Piece<'_>)) {
        let Some(Ok(mut target)) = self.offset(ack).map(u64::try_from) else { return };
        if let Some(end) = self.end {
            target = target.min(end);
        }
        while self.position < target && !self.ended {
            if self.end.is_none() && self.pending.is_empty() && target - self.position == 1 {
                self.doubt = true;
                return;
            }
            let reach = self.pending.first_key_value().map_or(target, |(at, _)| target.min(*at));
            self.skip_to(reach, &mut out);
        }
        self.finish(&mut out);
    }

    /// Gives the first hole up, because too much lies behind it.
    pub(crate) fn give_up(&mut self, mut out: impl FnMut(Piece<'_>)) {
        if let Some((&at, _)) = self.pending.first_key_value() {
            self.skip_to(at, &mut out);
            self.finish(&mut out);
        }
    }

    /// The other direction has ended: if this one's FIN may have been lost, it was.
    pub(crate) fn settle(&mut self, mut out: impl FnMut(Piece<'_>)) {
        if self.doubt && !self.ended {
            self.end = Some(self.position);
            self.finish(&mut out);
        }
    }

    /// The connection is gone without a word about this direction's end.
    pub(crate) fn abandon(&mut self, mut out: impl FnMut(Piece<'_>)) {
        self.settle(&mut out);
        if !self.ended {
            out(Piece::Unknown);
            self.end = Some(self.position);
            self.finish(&mut out);
        }
    }

    /// Position of a sequence number; negative when it was passed before we joined, `None` when it makes no sense.
    fn offset(&self, seq: u32) -> Option<i64> {
        let distance = i64::from(seq.wrapping_sub(self.next?).cast_signed());
        let position = i64::try_from(self.position).ok()?;
        (distance.abs() <= WINDOW).then_some(position + distance)
    }

    fn data(&mut self, start: i64, payload: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        let position = i64::try_from(self.position).unwrap_or(i64::MAX);
        let old = usize::try_from(position.saturating_sub(start)).unwrap_or(0);
        let Some(new) = payload.get(old..).filter(|new| !new.is_empty()) else { return };
        let Ok(start) = u64::try_from(start.max(position)) else { return };
        if start == self.position {
            self.deliver(new, out);
            self.drain(out);
        } else {
            self.keep(start, new);
        }
    }

    /// Keeps what fills holes between pieces that are there; of bytes that come twice the first ones count.
    fn keep(&mut self, mut start: u64, mut data: &[u8]) {
        if let Some((&at, before)) = self.pending.range(..=start).next_back() {
            let covered = (at + to_u64(before.len())).saturating_sub(start);
            data = usize::try_from(covered).ok().and_then(|covered| data.get(covered..)).unwrap_or_default();
            start += covered;
        }
        while !data.is_empty() {
            let next = self.pending.range(start..).next().map(|(&at, piece)| (at, piece.len()));
            let room = next.and_then(|(at, _)| usize::try_from(at - start).ok()).unwrap_or(usize::MAX);
            let (piece, rest) = data.split_at_checked(room).unwrap_or((data, &[]));
            if !piece.is_empty() {
                self.pending_bytes += piece.len();
                self.pending.insert(start, Bytes::copy_from_slice(piece));
            }
            let Some((at, length)) = next else { return };
            start = at + to_u64(length);
            data = rest.get(length..).unwrap_or_default();
        }
    }

    fn deliver(&mut self, data: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        // Nothing comes after the FIN, whatever a broken sender says.
        let room = self.end.map_or(u64::MAX, |end| end - self.position);
        let data = usize::try_from(room).ok().and_then(|room| data.get(..room)).unwrap_or(data);
        if !data.is_empty() {
            out(Piece::Data(data));
            self.advance(to_u64(data.len()));
        }
    }

    /// Delivers pending pieces that have no hole before them any more.
    fn drain(&mut self, out: &mut impl FnMut(Piece<'_>)) {
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() <= self.position
        {
            let (at, piece) = entry.remove_entry();
            self.pending_bytes -= piece.len();
            let old = usize::try_from(self.position - at).unwrap_or(usize::MAX);
            if let Some(new) = piece.get(old..) {
                self.deliver(new, out);
            }
        }
    }

    fn skip_to(&mut self, position: u64, out: &mut impl FnMut(Piece<'_>)) {
        let lost = position.min(self.end.unwrap_or(u64::MAX)).saturating_sub(self.position);
        if lost > 0 {
            out(Piece::Gap(lost));
            self.advance(lost);
        }
        self.drain(out);
    }

    fn finish(&mut self, out: &mut impl FnMut(Piece<'_>)) {
        if !self.ended && self.end.is_some_and(|end| end <= self.position) {
            self.ended = true;
            self.pending.clear();
            self.pending_bytes = 0;
            out(Piece::End);
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.position += bytes;
        self.doubt = false;
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are the count modulo 2^32")]
        let step = bytes as u32;
        self.next = self.next.map(|next| next.wrapping_add(step));
    }
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
