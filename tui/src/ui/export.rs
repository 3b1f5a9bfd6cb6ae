//! Requests in the forms of other programs. Pure: events in, text out.

pub(crate) mod curl;
pub(crate) mod har;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use mirrord_protocol::session::v1::{Direction, Event, Kind, Request, event::Detail};

use super::{
    model::{
        graph::has_failed,
        latency::{STEPS, Series, step},
    },
    text,
};

/// The URL of a request. Where no host is known, the peer's or the target's port on this machine stands in its place.
pub(crate) fn url(request: &Request) -> String {
    if request.path.contains("://") {
        return request.path.clone();
    }
    let host = if !request.host.is_empty() {
        request.host.clone()
    } else if request.direction() == Direction::Outgoing {
        request.peer.as_ref().map(text::address).unwrap_or_default()
    } else {
        format!("localhost:{}", request.port)
    };
    format!("http://{host}{}", request.path)
}

/// Range of latencies, nanoseconds: as the host of a live session has it.
const SHORTEST_NS: u64 = 1_000;
const LONGEST_NS: u64 = 60_000_000_000;

/// Latencies of recorded events: what the host of a live session counts.
pub(crate) fn latencies(events: &[Event]) -> Vec<Series> {
    let mut all: BTreeMap<(i32, String), (Series, Histogram<u64>)> = BTreeMap::new();
    for event in events {
        for key in [Some(String::new()), key(event)].into_iter().flatten() {
            // Two digits are what is drawn; a histogram that cannot be made is left out.
            let Ok(empty) = Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, 2) else { return Vec::new() };
            let (series, values) = all.entry((event.kind, key.clone())).or_insert_with(|| {
                let series = Series { kind: event.kind(), key, steps: vec![0; STEPS], ..Series::default() };
                (series, empty)
            });
            series.count += 1;
            series.errors += u64::from(has_failed(event));
            if event.latency_ns > 0 {
                values.saturating_record(event.latency_ns);
                if let Some(count) = series.steps.get_mut(step(event.latency_ns)) {
                    *count += 1;
                }
            }
        }
    }
    let finish = |(mut series, values): (Series, Histogram<u64>)| {
        series.p50 = values.value_at_quantile(0.5);
        series.p90 = values.value_at_quantile(0.9);
        series.p99 = values.value_at_quantile(0.99);
        series.p999 = values.value_at_quantile(0.999);
        series.max = values.max();
        series
    };
    all.into_values().map(finish).collect()
}

/// What an event's latency is counted under.
fn key(event: &Event) -> Option<String> {
    let key = match &event.detail {
        Some(Detail::Request(request)) => request.route.clone(),
        Some(Detail::Dns(dns)) => dns.question.clone(),
        Some(Detail::File(file)) => file.operation.clone(),
        Some(Detail::ConnectionDetail(connection)) => connection.name.clone(),
        _ => return None,
    };
    (!key.is_empty() && event.kind() != Kind::Unspecified).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_latencies_have_their_percentiles() {
        let event =
            |ms: u64| Event { kind: Kind::Request.into(), latency_ns: ms * 1_000_000, ..Event::default() };
        let events: Vec<_> = (1..=100).map(event).collect();
        let all = latencies(&events);
        let whole = &all[0];
        assert_eq!((whole.count, whole.steps.iter().sum::<u64>()), (100, 100));
        assert!(whole.p50.abs_diff(50_000_000) < 1_000_000 && whole.p99.abs_diff(99_000_000) < 1_500_000);
    }
}
