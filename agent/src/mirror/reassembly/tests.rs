//! Reassembly against a reference stream: whatever order, repetition, overlap and loss the capture shows, the pieces are the stream,
//! with gaps exactly where nothing was seen before its acknowledgement.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Data(Vec<u8>),
    Gap(u64),
    Unknown,
    End,
}

#[derive(Default)]
struct Sink(Vec<Seen>);

impl Sink {
    fn take(&mut self) -> impl FnMut(Piece<'_>) {
        |piece| {
            self.0.push(match piece {
                Piece::Data(data) => Seen::Data(data.to_vec()),
                Piece::Gap(bytes) => Seen::Gap(bytes),
                Piece::Unknown => Seen::Unknown,
                Piece::End => Seen::End,
            });
        }
    }
}

fn segment(seq: u32, payload: &[u8]) -> Segment<'_> {
    Segment { seq, syn: false, fin: false, payload, payload_len: payload.len() }
}

fn fin(seq: u32) -> Segment<'static> {
    Segment { fin: true, ..segment(seq, b"") }
}

fn data(bytes: &[u8]) -> Seen {
    Seen::Data(bytes.to_vec())
}

#[test]
fn order_is_restored_across_the_wrap() {
    let mut direction = Direction::opened(u32::MAX - 3);
    let mut seen = Sink::default();
    direction.segment(&segment(2, b"cdef"), seen.take());
    assert!(seen.0.is_empty() && direction.pending_bytes() == 4);
    direction.segment(&segment(u32::MAX - 2, b"Xab12"), seen.take());
    direction.segment(&segment(0, b"zzcdefgh"), seen.take());
    direction.segment(&fin(8), seen.take());
    assert_eq!(seen.0, [data(b"Xab12"), data(b"cdef"), data(b"gh"), Seen::End]);
    assert!(direction.ended() && direction.pending_bytes() == 0);
}

#[test]
fn an_acknowledged_hole_is_a_gap() {
    let mut direction = Direction::opened(99);
    let mut seen = Sink::default();
    direction.segment(&segment(110, b"later"), seen.take());
    direction.acknowledged(100, seen.take());
    assert!(seen.0.is_empty(), "nothing of it is acknowledged yet");
    direction.acknowledged(115, seen.take());
    direction.acknowledged(125, seen.take());
    direction.segment(&segment(125, b"!"), seen.take());
    assert_eq!(seen.0, [Seen::Gap(10), data(b"later"), Seen::Gap(10), data(b"!")]);
}

#[test]
fn a_lost_fin_is_not_a_lost_byte() {
    let mut direction = Direction::opened(0);
    let mut seen = Sink::default();
    direction.segment(&segment(1, b"bye"), seen.take());
    direction.acknowledged(5, seen.take());
    assert_eq!(seen.0, [data(b"bye")]);
    direction.settle(seen.take());
    assert_eq!(seen.0.last(), Some(&Seen::End));

    let mut direction = Direction::opened(0);
    let mut seen = Sink::default();
    direction.segment(&segment(1, b"bye"), seen.take());
    direction.acknowledged(5, seen.take());
    direction.segment(&segment(5, b"more"), seen.take());
    direction.acknowledged(9, seen.take());
    assert_eq!(seen.0, [data(b"bye"), Seen::Gap(1), data(b"more")]);
}

#[test]
fn an_abandoned_direction_ends() {
    let mut direction = Direction::opened(0);
    let mut seen = Sink::default();
    direction.segment(&segment(1, b"a"), seen.take());
    direction.segment(&segment(5, b"behind a hole"), seen.take());
    direction.abandon(seen.take());
    direction.abandon(seen.take());
    assert_eq!(seen.0, [data(b"a"), Seen::Unknown, Seen::End]);
    assert_eq!(direction.pending_bytes(), 0);
}

#[test]
fn a_cut_off_packet_leaves_a_gap() {
    let mut direction = Direction::opened(0);
    let mut seen = Sink::default();
    let cut = Segment { payload_len: 10, ..segment(1, b"abcd") };
    direction.segment(&cut, seen.take());
    direction.segment(&segment(11, b"x"), seen.take());
    direction.acknowledged(12, seen.take());
    assert_eq!(seen.0, [data(b"abcd"), Seen::Gap(6), data(b"x")]);
}

#[test]
fn joining_in_the_middle_starts_with_data() {
    let mut direction = Direction::default();
    let mut seen = Sink::default();
    direction.acknowledged(70, seen.take());
    direction.segment(&segment(99, b""), seen.take());
    direction.segment(&segment(100, b"ab"), seen.take());
    direction.segment(&segment(98, b"old"), seen.take());
    assert_eq!(seen.0, [data(b"ab")]);
}

#[test]
fn nonsense_is_ignored() {
    let mut direction = Direction::opened(1000);
    let mut seen = Sink::default();
    direction.segment(&segment(1001 + (1 << 31), b"far"), seen.take());
    direction.acknowledged(1001 + (1 << 31), seen.take());
    direction.segment(&fin(1001), seen.take());
    direction.segment(&segment(1001, b"after the end"), seen.take());
    assert_eq!(seen.0, [Seen::End]);
}

/// What the capture sees of a sender, in order.
#[derive(Clone, Debug)]
enum Step {
    /// Bytes `from..to` of the stream.
    Send { from: usize, to: usize },
    /// The receiver acknowledges everything before this.
    Ack(usize),
}

/// A stream, and steps that show it in pieces: moved within a window, repeated, overlapping, with some missing. Before each
/// acknowledgement everything that it covers has been sent, though not all of it was captured.
fn traffic(loss: bool) -> impl Strategy<Value = (Vec<u8>, u32, Vec<Step>)> {
    let pieces = vec((1..2000_usize, 0..8_usize, any::<prop::sample::Index>(), 0..100_u8), 1..60);
    (pieces, any::<u32>(), any::<u64>()).prop_map(move |(pieces, isn, seed)| {
        let mut steps = Vec::new();
        let mut window: Vec<Step> = Vec::new();
        let (mut sent, mut random) = (0, seed);
        for (length, overlap, index, dice) in pieces {
            let from = sent - (overlap * 7).min(sent);
            sent += length;
            window.insert(index.index(window.len() + 1), Step::Send { from, to: sent });
            if dice < 20 {
                window.push(Step::Send { from: sent.saturating_sub(length * 2), to: sent });
            }
            if dice >= 70 {
                for step in window.drain(..) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if !loss || (random >> 33) % 5 != 0 {
                        steps.push(step);
                    }
                }
                steps.push(Step::Ack(sent));
            }
        }
        steps.append(&mut window);
        steps.push(Step::Ack(sent));
        let stream = (0..sent).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
        (stream, isn, steps)
    })
}

fn seq(isn: u32, at: usize) -> u32 {
    isn.wrapping_add(1).wrapping_add(u32::try_from(at).unwrap())
}

fn replay(stream: &[u8], isn: u32, steps: &[Step]) -> Vec<Seen> {
    let mut direction = Direction::opened(isn);
    let mut seen = Sink::default();
    for step in steps {
        match step {
            Step::Send { from, to } => {
                direction.segment(&segment(seq(isn, *from), &stream[*from..*to]), seen.take());
            }
            Step::Ack(at) => direction.acknowledged(seq(isn, *at), seen.take()),
        }
    }
    // The FIN repeats nothing, but says how long the stream is.
    direction.segment(&fin(seq(isn, stream.len())), seen.take());
    direction.acknowledged(seq(isn, stream.len() + 1), seen.take());
    assert_eq!(direction.pending_bytes(), 0);
    seen.0
}

/// Bytes that were shown before the acknowledgement that covers them, and bytes that were shown at all.
fn shown(length: usize, steps: &[Step]) -> (Vec<bool>, Vec<bool>) {
    let (mut shown, mut ever, mut acknowledged) = (vec![false; length], vec![false; length], 0);
    for step in steps {
        match step {
            Step::Send { from, to } => {
                shown[(*from).max(acknowledged).min(*to)..*to].fill(true);
                ever[*from..*to].fill(true);
            }
            Step::Ack(at) => acknowledged = acknowledged.max(*at),
        }
    }
    (shown, ever)
}

proptest! {
    #[test]
    fn without_loss_the_stream_comes_whole((stream, isn, steps) in traffic(false)) {
        let seen = replay(&stream, isn, &steps);
        let mut whole = Vec::new();
        for piece in &seen {
            match piece {
                Seen::Data(bytes) => whole.extend_from_slice(bytes),
                Seen::Gap(bytes) => prop_assert!(false, "a gap of {bytes}"),
                Seen::Unknown | Seen::End => {}
            }
        }
        prop_assert_eq!(whole, stream);
        prop_assert_eq!(seen.last(), Some(&Seen::End));
    }

    #[test]
    fn with_loss_exactly_the_lost_bytes_are_gaps((stream, isn, steps) in traffic(true)) {
        let (in_time, ever) = shown(stream.len(), &steps);
        let (mut at, mut ends) = (0, 0);
        for piece in replay(&stream, isn, &steps) {
            match piece {
                Seen::Data(bytes) => {
                    prop_assert_eq!(&bytes[..], &stream[at..at + bytes.len()]);
                    // A single byte at the end is waited for: it may be the FIN.
                    prop_assert!(ever[at..at + bytes.len()].iter().all(|shown| *shown), "not shown, yet delivered");
                    at += bytes.len();
                }
                Seen::Gap(bytes) => {
                    let bytes = usize::try_from(bytes).unwrap();
                    prop_assert!(!in_time[at..at + bytes].iter().any(|shown| *shown), "shown, yet lost at {}", at);
                    at += bytes;
                }
                Seen::Unknown => prop_assert!(false, "the end was seen"),
                Seen::End => ends += 1,
            }
        }
        prop_assert_eq!((at, ends), (stream.len(), 1));
    }

    #[test]
    fn any_bytes_do_no_harm(steps in vec((any::<u32>(), any::<u32>(), 0..64_usize, any::<[bool; 3]>()), 0..200)) {
        let mut direction = Direction::default();
        let payload = [0; 64];
        for (seq, ack, length, [syn, fin, give_up]) in steps {
            let payload = &payload[..length];
            direction.segment(&Segment { seq: seq % 5000, syn, fin, payload, payload_len: length }, |_| {});
            direction.acknowledged(ack % 5000, |_| {});
            if give_up {
                direction.give_up(|_| {});
            }
            prop_assert_eq!(direction.pending_bytes(), direction.pending.values().map(Bytes::len).sum::<usize>());
        }
    }
}
