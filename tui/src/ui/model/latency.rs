//! Latency histograms as the host sends them, made coarse enough to draw, and their change over time.

use std::collections::{HashMap, VecDeque};

use mirrord_protocol::session::v1::Kind;

use crate::ui::limits::GRAPH_SECONDS;

/// Steps of a histogram: four to each doubling, from half a microsecond to over a minute.
pub(crate) const STEPS: usize = 28 * 4;
/// Power of two of the first step, nanoseconds.
const FIRST: u32 = 9;

/// The histogram of a kind, or of one of its routes, hosts, questions or operations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    pub(crate) kind: Kind,
    /// Empty: the whole kind.
    pub(crate) key: String,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    /// How many latencies fell into each step.
    pub(crate) steps: Vec<u64>,
    /// Numbers of slow events.
    pub(crate) outliers: Vec<u64>,
}

/// The kinds that have latencies, in the order in which they are shown.
pub(crate) const KINDS: [Kind; 4] = [Kind::Request, Kind::Connection, Kind::Dns, Kind::File];

/// All histograms of a session and what part of them is shown.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    series: Vec<Series>,
    pub(crate) kind: usize,
    /// 0: the whole kind; else the key in this row.
    pub(crate) row: usize,
    /// Span of the histogram: so many doublings from the top are left out; `None`: from the values.
    pub(crate) doublings: Option<usize>,
    heat: HashMap<i32, VecDeque<Vec<u64>>>,
    before: HashMap<i32, Vec<u64>>,
}

impl Latency {
    /// Takes new histograms; what has been added to each kind since the last ones becomes a column of its heat row.
    pub(crate) fn set(&mut self, series: Vec<Series>) {
        for whole in series.iter().filter(|series| series.key.is_empty()) {
            let kind = i32::from(whole.kind);
            let before = self.before.insert(kind, whole.steps.clone());
            let column: Vec<u64> = match &before {
                None => vec![0; whole.steps.len()],
                Some(before) => {
                    let pairs = whole.steps.iter().zip(before.iter().chain(std::iter::repeat(&0)));
                    pairs.map(|(now, before)| now.saturating_sub(*before)).collect()
                }
            };
            let heat = self.heat.entry(kind).or_default();
            heat.push_back(column);
            if heat.len() > GRAPH_SECONDS {
                heat.pop_front();
            }
        }
        self.series = series;
    }

    pub(crate) fn kind(&self) -> Kind {
        KINDS.get(self.kind).copied().unwrap_or(Kind::Request)
    }

    /// The whole of a kind.
    pub(crate) fn whole(&self, kind: Kind) -> Option<&Series> {
        self.series.iter().find(|series| series.kind == kind && series.key.is_empty())
    }

    /// Rows of the table: the whole first, then the keys as the host has ordered them.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Series> {
        let kind = self.kind();
        self.series.iter().filter(move |series| series.kind == kind)
    }

    /// The series in the chosen row.
    pub(crate) fn chosen(&self) -> Option<&Series> {
        self.rows().nth(self.row).or_else(|| self.rows().next())
    }

    pub(crate) fn go_down(&mut self) {
        self.row = (self.row + 1).min(self.rows().count().saturating_sub(1));
    }

    pub(crate) fn go_up(&mut self) {
        self.row = self.row.saturating_sub(1);
    }

    pub(crate) fn next_kind(&mut self) {
        self.kind = (self.kind + 1) % KINDS.len();
        self.row = 0;
    }

    /// Columns of the heat row of the shown kind, oldest first.
    pub(crate) fn heat(&self) -> impl DoubleEndedIterator<Item = &Vec<u64>> {
        self.heat.get(&i32::from(self.kind())).into_iter().flatten()
    }

    /// The steps to draw: from the first to the last that has a value, or as the user has chosen.
    pub(crate) fn span(&self, steps: &[u64]) -> std::ops::Range<usize> {
        let first = steps.iter().position(|count| *count > 0).unwrap_or(0);
        let last = steps.iter().rposition(|count| *count > 0).map_or(first + 1, |last| last + 1);
        match self.doublings {
            None => first..last.max(first + 8).min(STEPS),
            Some(doublings) => first.min(STEPS - 4)..(first + 4 * doublings.max(1)).min(STEPS),
        }
    }

    /// Shows fewer or more doublings.
    pub(crate) fn scale(&mut self, shorter: bool) {
        let steps = self.chosen().map(|series| series.steps.clone()).unwrap_or_default();
        let now = self.doublings.unwrap_or_else(|| self.span(&steps).len().div_ceil(4));
        self.doublings = Some(if shorter { now.saturating_sub(1).max(1) } else { (now + 1).min(STEPS / 4) });
    }
}

/// The step of a latency.
pub(crate) fn step(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST);
    let power = ns.ilog2();
    let quarter = (ns >> (power - 2)) & 3;
    let step = (power - FIRST) * 4 + u32::try_from(quarter).unwrap_or(0);
    usize::try_from(step).unwrap_or(0).min(STEPS - 1)
}

/// The shortest latency of a step, nanoseconds.
pub(crate) fn step_ns(step: usize) -> u64 {
    let quarter = u64::try_from(step % 4).unwrap_or(0);
    let power = u32::try_from(step / 4).unwrap_or(0) + FIRST;
    (4 + quarter) << (power.min(60) - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(counts: &[(u64, u64)]) -> Series {
        let mut steps = vec![0; STEPS];
        for (ns, count) in counts {
            steps[step(*ns)] += count;
        }
        Series { kind: Kind::Request, steps, ..Series::default() }
    }

    #[test]
    fn a_step_begins_where_it_says() {
        for step_index in 0..STEPS - 1 {
            assert_eq!(step(step_ns(step_index)), step_index);
            assert_eq!(step(step_ns(step_index + 1) - 1), step_index);
        }
        assert_eq!((step(0), step(u64::MAX)), (0, STEPS - 1));
    }

    #[test]
    fn the_heat_row_shows_what_came_since() {
        let mut latency = Latency::default();
        latency.set(vec![whole(&[(1_000_000, 5)])]);
        latency.set(vec![whole(&[(1_000_000, 7), (900_000_000, 1)])]);
        let last = latency.heat().next_back().unwrap();
        assert_eq!((last[step(1_000_000)], last[step(900_000_000)], last.iter().sum::<u64>()), (2, 1, 3));
        let span = latency.span(&latency.chosen().unwrap().steps);
        assert_eq!((span.start, span.end), (step(1_000_000), step(900_000_000) + 1));
        latency.scale(true);
        assert!(latency.span(&latency.chosen().unwrap().steps).len() < span.len());
    }
}
