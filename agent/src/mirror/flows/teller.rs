//! From pieces of one direction to items for the client, and the numbers of a port.
//!
//! What finds no room in the queue is added up and told as one gap as soon as there is room again.

use mirrord_protocol::agent::v1::{MirrorClosed, MirrorGap, mirror_item::Kind};

use crate::mirror::{queue::Producer, reassembly::Piece};

/// Numbers of one port since it was first mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) packets: u64,
    /// Payload of both directions, repeated segments included.
    pub(crate) bytes: u64,
    pub(crate) syns: u64,
    /// Connections that are followed now.
    pub(crate) open: u64,
    pub(crate) gaps: u64,
    pub(crate) gap_bytes: u64,
}

/// Turns pieces of one direction into items.
pub(super) struct Teller<'a> {
    pub(super) id: u64,
    pub(super) time_ns: u64,
    pub(super) from_server: bool,
    pub(super) counters: &'a mut Counters,
    pub(super) out: &'a mut Producer,
}

impl Teller<'_> {
    pub(super) fn tell(&mut self, untold: &mut u64, piece: Piece<'_>) {
        match piece {
            Piece::Data(data) => {
                if *untold > 0 && self.out.has_room(data.len()) {
                    self.tell_gap(untold);
                }
                if *untold > 0 || !self.out.data(self.id, self.time_ns, self.from_server, data) {
                    self.lose(untold, u64::try_from(data.len()).unwrap_or(u64::MAX));
                }
            }
            Piece::Gap(bytes) => {
                self.lose(untold, bytes);
                if self.out.has_room(0) {
                    self.tell_gap(untold);
                }
            }
            Piece::Unknown => {
                self.tell_gap(untold);
                self.counters.gaps += 1;
                let gap = MirrorGap { from_server: self.from_server, bytes: 0, unknown_length: true };
                self.out.control(self.id, self.time_ns, Kind::Gap(gap));
            }
            Piece::End => {
                self.tell_gap(untold);
                let closed = MirrorClosed { reset: false, from_server: self.from_server };
                self.out.control(self.id, self.time_ns, Kind::Closed(closed));
            }
        }
    }

    fn lose(&mut self, untold: &mut u64, bytes: u64) {
        if *untold == 0 {
            self.counters.gaps += 1;
        }
        self.counters.gap_bytes += bytes;
        *untold += bytes;
    }

    pub(super) fn tell_gap(&mut self, untold: &mut u64) {
        let gap = MirrorGap { from_server: self.from_server, bytes: *untold, unknown_length: false };
        if *untold > 0 && self.out.control(self.id, self.time_ns, Kind::Gap(gap)) {
            *untold = 0;
        }
    }
}
