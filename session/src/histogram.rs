//! Latency histograms of a session: one per kind of event, and one per key (route, host, question, operation) within it.
//!
//! HdrHistogram, nanoseconds, 1 us to 60 s: three digits per kind, two per key. Owned by the event store, which feeds it once
//! per event. The number of keys is bounded; what comes later is counted under [`OTHER`].

use std::collections::{HashMap, VecDeque};

use hdrhistogram::{
    Histogram,
    serialization::{Serializer, V2Serializer},
};
use mirrord_protocol::session::v1 as wire;

use crate::limits::{HISTOGRAM_KEYS, HISTOGRAM_MAX_NS, HISTOGRAM_MIN_NS, HISTOGRAM_OUTLIERS};

/// Key of everything that came after the number of keys was reached.
pub const OTHER: &str = "other";

/// How many records may pass before the threshold of outliers is computed again: computing walks the whole histogram.
const OUTLIER_REFRESH: u64 = 256;

/// All histograms of a session.
#[derive(Clone, Debug, Default)]
pub struct Histograms {
    kinds: HashMap<i32, KindHistogram>,
}

#[derive(Clone, Debug)]
struct KindHistogram {
    whole: Series,
    keys: HashMap<String, Series>,
}

/// One histogram and what belongs to it.
#[derive(Clone, Debug)]
struct Series {
    latencies: Histogram<u32>,
    count: u64,
    errors: u64,
    outliers: VecDeque<u64>,
    /// From here on a latency counts as slow.
    slow_ns: u64,
}

impl Histograms {
    /// Counts an event, with its latency when that is known.
    pub fn record(&mut self, event: &wire::Event) {
        self.with(event, |series| series.record(event));
    }

    /// Counts that an event ended with an error.
    pub fn error(&mut self, event: &wire::Event) {
        self.with(event, |series| series.errors += 1);
    }

    /// Applies `change` to the histogram of the event's kind and to the one of its key.
    fn with(&mut self, event: &wire::Event, change: impl Fn(&mut Series)) {
        let Some(key) = Key::of(event) else { return };
        let kind = self
            .kinds
            .entry(event.kind)
            .or_insert_with(|| KindHistogram { whole: Series::new(3), keys: HashMap::new() });
        change(&mut kind.whole);
        let keys = &mut kind.keys;
        let key =
            if keys.contains_key(key.text()) || keys.len() < HISTOGRAM_KEYS { key.text() } else { OTHER };
        match keys.get_mut(key) {
            Some(series) => change(series),
            None => change(keys.entry(key.to_owned()).or_insert_with(|| Series::new(2))),
        }
    }

    /// All histograms of the given kinds (none: all) for the wire: of each kind the whole first, then the keys by count.
    #[must_use]
    pub fn encode(&self, kinds: &[wire::Kind]) -> Vec<wire::Histogram> {
        let wanted = |kind: i32| kinds.is_empty() || kinds.iter().any(|wanted| i32::from(*wanted) == kind);
        let mut found: Vec<_> = self.kinds.iter().filter(|(kind, _)| wanted(**kind)).collect();
        found.sort_by_key(|(kind, _)| **kind);
        let mut all = Vec::new();
        for (kind, histogram) in found {
            all.push(histogram.whole.encode(*kind, ""));
            let mut keys: Vec<_> = histogram.keys.iter().collect();
            keys.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.cmp(b)));
            all.extend(keys.into_iter().map(|(key, series)| series.encode(*kind, key)));
        }
        all
    }
}

impl Series {
    fn new(digits: u8) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "constant bounds: the lowest is over 0, the highest over twice the lowest, digits under 6"
        )]
        let latencies = Histogram::new_with_bounds(HISTOGRAM_MIN_NS, HISTOGRAM_MAX_NS, digits)
            .expect("the bounds of limits.rs are valid");
        Self { latencies, count: 0, errors: 0, outliers: VecDeque::new(), slow_ns: 0 }
    }

    fn record(&mut self, event: &wire::Event) {
        self.count += 1;
        if event.latency_ns == 0 {
            return;
        }
        self.latencies.saturating_record(event.latency_ns);
        if event.latency_ns >= self.slow_ns {
            if self.outliers.len() == HISTOGRAM_OUTLIERS {
                self.outliers.pop_front();
            }
            self.outliers.push_back(event.seq);
            // Until the quantile means something, only a new longest one is slow.
            self.slow_ns = self.slow_ns.max(event.latency_ns);
        }
        if self.count.is_multiple_of(OUTLIER_REFRESH) {
            self.slow_ns = self.latencies.value_at_quantile(0.99);
        }
    }

    fn encode(&self, kind: i32, key: &str) -> wire::Histogram {
        let mut hdr = Vec::new();
        if let Err(error) = V2Serializer::new().serialize(&self.latencies, &mut hdr) {
            tracing::error!(%error, key, "a histogram could not be encoded");
            hdr.clear();
        }
        let known = !self.latencies.is_empty();
        let at = |quantile| if known { self.latencies.value_at_quantile(quantile) } else { 0 };
        wire::Histogram {
            kind,
            key: key.to_owned(),
            count: self.count,
            errors: self.errors,
            min_ns: if known { self.latencies.min() } else { 0 },
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.latencies.max(),
            mean_ns: if known { self.latencies.mean() } else { 0.0 },
            hdr: hdr.into(),
            outliers: self.outliers.iter().copied().collect(),
        }
    }
}

/// What an event is grouped by within its kind.
enum Key<'a> {
    Text(&'a str),
    Made(String),
}

impl<'a> Key<'a> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Made(text) => text,
        }
    }

    /// `None`: events of this kind have no latency.
    fn of(event: &'a wire::Event) -> Option<Self> {
        use wire::event::Detail;
        Some(match event.detail.as_ref()? {
            Detail::Request(request) => Self::Text(&request.route),
            Detail::ConnectionDetail(connection) if connection.direction() == wire::Direction::Incoming => {
                Self::Made(format!("port {}", connection.port))
            }
            Detail::ConnectionDetail(connection) if connection.name.is_empty() => Self::Text(&event.subject),
            Detail::ConnectionDetail(connection) => Self::Made(format!(
                "{}:{}",
                connection.name,
                connection.peer.as_ref().map_or(0, |peer| peer.port)
            )),
            Detail::Dns(dns) => Self::Text(&dns.question),
            Detail::File(file) => Self::Text(&file.operation),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use hdrhistogram::serialization::Deserializer;
    use proptest::prelude::*;

    use super::*;

    fn file(operation: &str, latency_ns: u64, seq: u64) -> wire::Event {
        wire::Event {
            seq,
            latency_ns,
            kind: wire::Kind::File.into(),
            detail: Some(wire::event::Detail::File(wire::File {
                operation: operation.to_owned(),
                ..wire::File::default()
            })),
            ..wire::Event::default()
        }
    }

    #[test]
    fn keys_are_bounded_and_the_rest_is_counted_together() {
        let mut histograms = Histograms::default();
        for n in 0..300 {
            histograms.record(&file(&format!("op{n}"), 5_000, n));
        }
        let all = histograms.encode(&[wire::Kind::File]);
        assert_eq!(all.len(), 1 + HISTOGRAM_KEYS + 1);
        assert_eq!(all[0].count, 300);
        assert_eq!(all[1].key, OTHER);
        assert_eq!(all[1].count, 300 - HISTOGRAM_KEYS as u64);
        assert!(histograms.encode(&[wire::Kind::Dns]).is_empty());
    }

    #[test]
    fn the_encoding_is_hdrhistogram_v2() {
        let mut histograms = Histograms::default();
        histograms.record(&file("open", 1_500_000, 1));
        histograms.record(&file("open", 0, 2));
        let [whole, open] = &histograms.encode(&[])[..] else { panic!("one kind, one key") };
        assert_eq!((whole.count, open.count), (2, 2));
        let back: Histogram<u64> = Deserializer::new().deserialize(&mut Cursor::new(&whole.hdr)).unwrap();
        assert_eq!(back.len(), 1);
        assert_eq!(back.value_at_quantile(0.5), whole.p50_ns);
    }

    #[test]
    fn slow_events_are_remembered() {
        let mut histograms = Histograms::default();
        for seq in 0..1000 {
            histograms.record(&file("open", 10_000, seq));
        }
        histograms.record(&file("open", 2_000_000_000, 1000));
        assert_eq!(histograms.encode(&[])[0].outliers.last(), Some(&1000));
    }

    proptest! {
        /// The quantiles are those of the values, within the digits kept.
        #[test]
        fn quantiles_are_those_of_the_values(mut values in prop::collection::vec(1_000u64..HISTOGRAM_MAX_NS, 1..200)) {
            let mut histograms = Histograms::default();
            for (value, seq) in values.iter().zip(1..) {
                histograms.record(&file("open", *value, seq));
            }
            values.sort_unstable();
            let whole = &histograms.encode(&[])[0];
            let median = values[(values.len() - 1) / 2];
            prop_assert!(whole.p50_ns.abs_diff(median) <= median / 500 + 1_000);
            prop_assert!(whole.max_ns.abs_diff(*values.last().unwrap()) <= values.last().unwrap() / 500 + 1_000);
        }
    }
}
