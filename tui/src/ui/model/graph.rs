//! Rates: how many events of each kind happened in each of the last seconds.

use std::collections::VecDeque;

use mirrord_protocol::session::v1::{Event, Kind, Totals, event::Detail};

use crate::ui::limits::GRAPH_SECONDS;

/// Kinds of events, `Kind::Unspecified` included.
const KINDS: usize = 10;

/// A ring of seconds. Rows tell in which second something happened; what rows did not tell, the host's exact totals do.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    seconds: VecDeque<Second>,
    /// Events of each kind that rows have told of.
    rows: [u64; KINDS],
    /// The host's count of each kind when it was last heard, less what rows had told then.
    untold: [u64; KINDS],
    told_once: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    at: i64,
    counts: [u64; KINDS],
    errors: [u64; KINDS],
}

impl Graph {
    /// An event happened; called once for each number.
    pub(crate) fn event(&mut self, event: &Event) {
        let kind = index(event.kind());
        if let Some(rows) = self.rows.get_mut(kind) {
            *rows += 1;
        }
        self.add(event.time_ns.div_euclid(1_000_000_000), kind, 1);
    }

    /// An event has ended in failure.
    pub(crate) fn error(&mut self, event: &Event) {
        let at = event.time_ns.div_euclid(1_000_000_000);
        let kind = index(event.kind());
        if let Some(errors) = self.second(at).and_then(|second| second.errors.get_mut(kind)) {
            *errors += 1;
        }
    }

    /// The host's exact counts: rows that were lost on the way count in the present second.
    pub(crate) fn totals(&mut self, totals: &Totals, now_ms: i64) {
        for total in &totals.kinds {
            let kind = index(total.kind());
            let rows = self.rows.get(kind).copied().unwrap_or(0);
            let untold = total.count.saturating_sub(rows);
            let before = self.untold.get(kind).copied().unwrap_or(0);
            // Rows are always a little behind the totals; only what they never catch up with is added, a message later.
            let lost = if self.told_once { untold.min(before) } else { 0 };
            if let Some(slot) = self.untold.get_mut(kind) {
                *slot = untold - lost;
            }
            if let Some(rows) = self.rows.get_mut(kind) {
                *rows += lost;
            }
            self.add(now_ms.div_euclid(1_000), kind, lost);
        }
        self.told_once = true;
    }

    /// Events per second of a kind for the last `length` seconds, the newest last; the running second is left out.
    pub(crate) fn rates(&self, kind: Kind, now_ms: i64, length: usize) -> Vec<u64> {
        self.series(now_ms, length, |second| second.counts.get(index(kind)).copied().unwrap_or(0))
    }

    /// Failures per second of a kind.
    pub(crate) fn errors(&self, kind: Kind, now_ms: i64, length: usize) -> Vec<u64> {
        self.series(now_ms, length, |second| second.errors.get(index(kind)).copied().unwrap_or(0))
    }

    /// Whether there is anything within the last `length` seconds.
    pub(crate) fn moves(&self, now_ms: i64, length: usize) -> bool {
        let oldest = now_ms.div_euclid(1_000) - i64::try_from(length).unwrap_or(i64::MAX) - 1;
        self.seconds.back().is_some_and(|last| last.at >= oldest)
    }

    fn series(&self, now_ms: i64, length: usize, value: impl Fn(&Second) -> u64) -> Vec<u64> {
        let now = now_ms.div_euclid(1_000);
        let mut series = vec![0; length];
        for second in &self.seconds {
            let back = usize::try_from(now - 1 - second.at).ok();
            if let Some(slot) = back.and_then(|back| series.iter_mut().rev().nth(back)) {
                *slot += value(second);
            }
        }
        series
    }

    fn add(&mut self, at: i64, kind: usize, events: u64) {
        if events == 0 {
            return;
        }
        if let Some(count) = self.second(at).and_then(|second| second.counts.get_mut(kind)) {
            *count += events;
        }
    }

    /// The entry of a second; `None` when it is older than the ring.
    fn second(&mut self, at: i64) -> Option<&mut Second> {
        let place = self.seconds.partition_point(|second| second.at < at);
        if self.seconds.get(place).is_none_or(|second| second.at != at) {
            if place == 0 && self.seconds.len() == GRAPH_SECONDS {
                return None;
            }
            self.seconds.insert(place, Second { at, ..Second::default() });
            if self.seconds.len() > GRAPH_SECONDS {
                self.seconds.pop_front();
                return self.seconds.get_mut(place - 1);
            }
        }
        self.seconds.get_mut(place)
    }
}

/// Whether an event has failed, as the error counters see it.
pub(crate) fn has_failed(event: &Event) -> bool {
    let status = match &event.detail {
        Some(Detail::Request(request)) => request.status,
        _ => 0,
    };
    !event.error.is_empty() || status >= 500
}

fn index(kind: Kind) -> usize {
    usize::try_from(i32::from(kind)).unwrap_or(0).min(KINDS - 1)
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::session::v1::KindTotal;

    use super::*;

    fn at(second: i64) -> Event {
        Event { kind: Kind::File.into(), time_ns: second * 1_000_000_000, ..Event::default() }
    }

    #[test]
    fn seconds_are_counted_and_old_ones_leave() {
        let mut graph = Graph::default();
        [3, 5, 5, 4].iter().for_each(|second| graph.event(&at(*second)));
        assert_eq!(graph.rates(Kind::File, 6_500, 4), [0, 1, 1, 2]);
        assert_eq!(graph.rates(Kind::Dns, 6_500, 2), [0, 0]);
        (10..10 + 2 * i64::try_from(GRAPH_SECONDS).unwrap()).for_each(|second| graph.event(&at(second)));
        assert_eq!(graph.seconds.len(), GRAPH_SECONDS);
        graph.event(&at(1));
        assert_eq!(graph.seconds.len(), GRAPH_SECONDS);
        assert!(graph.moves(250_000, 60) && !graph.moves(500_000, 60));
    }

    #[test]
    fn rows_that_never_came_are_counted_by_the_totals() {
        let mut graph = Graph::default();
        let totals = |count| Totals {
            kinds: vec![KindTotal { kind: Kind::File.into(), count, ..KindTotal::default() }],
            ..Totals::default()
        };
        graph.totals(&totals(0), 1_000);
        graph.event(&at(1));
        graph.totals(&totals(11), 2_000);
        graph.totals(&totals(11), 3_000);
        graph.totals(&totals(11), 4_000);
        let all: u64 = graph.rates(Kind::File, 9_000, 60).iter().sum();
        assert_eq!(all, 11);
    }
}
