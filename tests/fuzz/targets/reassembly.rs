//! One direction of a captured TCP connection: any segments and acknowledgements. Nothing is delivered after the end, and what is
//! held back is counted right.
#![no_main]
#![expect(dead_code, reason = "the agent's module is taken whole; the agent is a program and cannot be depended on")]

#[path = "../../../agent/src/mirror/reassembly.rs"]
mod reassembly;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use reassembly::{Direction, Piece, Segment};

#[derive(Arbitrary, Debug)]
enum Step<'data> {
    /// Relative to the last sequence number, so that segments meet.
    Segment { ahead: i16, syn: bool, fin: bool, payload: &'data [u8], cut: u8 },
    Far { seq: u32, payload: &'data [u8] },
    Acknowledged { ahead: i16 },
    GiveUp,
    Settle,
}

fuzz_target!(|input: (Option<u32>, Vec<Step<'_>>)| {
    let (opened, steps) = input;
    let mut direction = opened.map_or_else(Direction::default, Direction::opened);
    let mut seq = opened.unwrap_or_default();
    let mut ends = 0_u32;
    for step in steps {
        let mut take = |piece: Piece<'_>| {
            assert_eq!(ends, 0, "{piece:?} after the end");
            match piece {
                Piece::Data(data) => assert!(!data.is_empty(), "an empty piece"),
                Piece::Gap(bytes) => assert!(bytes > 0, "an empty gap"),
                Piece::End => ends += 1,
            }
        };
        match step {
            Step::Segment { ahead, syn, fin, payload, cut } => {
                seq = seq.wrapping_add_signed(ahead.into());
                let payload_len = payload.len() + usize::from(cut);
                direction.segment(&Segment { seq, syn, fin, payload, payload_len }, &mut take);
            }
            Step::Far { seq, payload } => {
                let segment = Segment { seq, syn: false, fin: false, payload, payload_len: payload.len() };
                direction.segment(&segment, &mut take);
            }
            Step::Acknowledged { ahead } => {
                direction.acknowledged(seq.wrapping_add_signed(ahead.into()), &mut take);
            }
            Step::GiveUp => direction.give_up(&mut take),
            Step::Settle => direction.settle(&mut take),
        }
        assert_eq!(direction.ended(), ends > 0);
    }
});
