//! What text mode says at the end: counts, errors and latencies, per kind and per key. Pure text from what the host answers.

use mirrord_protocol::session::v1 as wire;

/// Keys shown per kind: a summary is read at one glance, the rest is in the UI and in recordings.
const KEYS: usize = 5;
/// Longest key that is shown whole.
const KEY_CHARS: usize = 48;

/// The summary, one or more lines without a line end behind the last one.
#[must_use]
pub fn text(info: &wire::SessionInfo, histograms: &wire::HistogramsReply) -> String {
    let mut text = String::new();
    let kinds = info.totals.as_ref().map_or(&[][..], |totals| &totals.kinds);
    let counted: Vec<String> = kinds.iter().filter_map(count).collect();
    let counted = if counted.is_empty() { "nothing happened".to_owned() } else { counted.join(", ") };
    text.push_str(&format!("session {} with {}: {counted}", info.id, info.target));
    for port in &info.ports {
        // What was asked for: a command that ends has closed its port a moment before, and then nothing is stolen any more.
        let asked = if port.wanted() == wire::Mode::Unspecified { port.mode() } else { port.wanted() };
        let mode = match asked {
            wire::Mode::Mirror => "mirrored",
            wire::Mode::Steal => "stolen",
            wire::Mode::Off | wire::Mode::Unspecified => "off",
        };
        text.push_str(&format!(
            "\nport {} {mode}: {} connections delivered, {} refused, {} requests",
            port.remote, port.delivered, port.refused, port.requests
        ));
        if port.gaps > 0 {
            text.push_str(&format!(", {} lost in {} gaps", bytes(port.gap_bytes), port.gaps));
        }
    }
    let shown = histograms.histograms.iter().filter(|histogram| histogram.count > 0 && histogram.max_ns > 0);
    let mut left = 0;
    let mut header = false;
    for histogram in shown {
        if histogram.key.is_empty() {
            left = KEYS;
        } else if left == 0 {
            continue;
        } else {
            left -= 1;
        }
        if !header {
            text.push_str(&format!(
                "\n{:<50} {:>8} {:>6} {:>9} {:>9} {:>9}",
                "latency", "count", "errors", "p50", "p90", "p99"
            ));
            header = true;
        }
        let name = if histogram.key.is_empty() {
            kind(histogram.kind()).1.to_owned()
        } else {
            format!("  {}", cut(&histogram.key))
        };
        text.push_str(&format!(
            "\n{name:<50} {:>8} {:>6} {:>9} {:>9} {:>9}",
            histogram.count,
            histogram.errors,
            duration(histogram.p50_ns),
            duration(histogram.p90_ns),
            duration(histogram.p99_ns)
        ));
    }
    if let Some(totals) = &info.totals
        && totals.evicted > 0
    {
        text.push_str(&format!(
            "\n{} older events left the memory of the session; the counts hold all of them",
            totals.evicted
        ));
    }
    if !info.recording.is_empty() {
        text.push_str(&format!("\nrecorded to {}", info.recording));
    }
    text
}

/// `3 requests (1 failed)`; `None` for kinds that are not worth a word.
fn count(total: &wire::KindTotal) -> Option<String> {
    let (one, many) = kind(total.kind());
    if matches!(total.kind(), wire::Kind::Output | wire::Kind::Unspecified | wire::Kind::Agent)
        || total.count == 0
    {
        return None;
    }
    let name = if total.count == 1 { one } else { many };
    let failed = if total.errors > 0 { format!(" ({} failed)", total.errors) } else { String::new() };
    Some(format!("{} {name}{failed}", total.count))
}

fn kind(kind: wire::Kind) -> (&'static str, &'static str) {
    match kind {
        wire::Kind::Request => ("request", "requests"),
        wire::Kind::Connection => ("connection", "connections"),
        wire::Kind::Dns => ("lookup", "lookups"),
        wire::Kind::File => ("file operation", "file operations"),
        wire::Kind::Process => ("process event", "process events"),
        wire::Kind::Port => ("port event", "port events"),
        wire::Kind::Agent => ("agent event", "agent events"),
        wire::Kind::Warning => ("warning", "warnings"),
        wire::Kind::Output => ("output", "outputs"),
        wire::Kind::Unspecified => ("event", "events"),
    }
}

fn cut(key: &str) -> String {
    match key.char_indices().nth(KEY_CHARS) {
        Some((end, _)) => format!("{}…", key.get(..end).unwrap_or_default()),
        None => key.to_owned(),
    }
}

/// A duration with three digits at most: `850 ns`, `3.14 ms`, `12.0 s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    scaled(ns, 1_000, &["ns", "us", "ms", "s"])
}

/// A number of bytes: `512 B`, `1.50 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, 1_024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Divides by `step` until it fits; the last unit takes what is left.
fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    let mut divisor = 1;
    let mut unit = units.first().copied().unwrap_or_default();
    for next in units.iter().skip(1) {
        if value / divisor < step {
            break;
        }
        divisor *= step;
        unit = next;
    }
    let whole = value / divisor;
    if divisor == 1 {
        return format!("{whole} {unit}");
    }
    let hundredths = value % divisor * 100 / divisor;
    match whole {
        0..=9 => format!("{whole}.{hundredths:02} {unit}"),
        10..=99 => format!("{whole}.{} {unit}", hundredths / 10),
        _ => format!("{whole} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (ns, wanted) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (3_140_000, "3.14 ms"),
            (12_040_000_000, "12.0 s"),
            (400_000, "400 us"),
            (7_200_000_000_000, "7200 s"),
        ] {
            assert_eq!(duration(ns), wanted);
        }
        assert_eq!((bytes(512), bytes(1_572_864)), ("512 B".to_owned(), "1.50 MiB".to_owned()));
    }

    #[test]
    fn a_session_on_a_few_lines() {
        let total =
            |kind: wire::Kind, count, errors| wire::KindTotal { kind: kind.into(), count, errors, bytes: 0 };
        let info = wire::SessionInfo {
            id: "a1".to_owned(),
            target: "local/shop".to_owned(),
            totals: Some(wire::Totals {
                kinds: vec![
                    total(wire::Kind::Request, 12, 1),
                    total(wire::Kind::Dns, 1, 0),
                    total(wire::Kind::Output, 9, 0),
                ],
                ..wire::Totals::default()
            }),
            ports: vec![wire::Port {
                remote: 80,
                mode: wire::Mode::Steal.into(),
                delivered: 4,
                requests: 12,
                ..wire::Port::default()
            }],
            ..wire::SessionInfo::default()
        };
        let series = |key: &str| wire::Histogram {
            kind: wire::Kind::Request.into(),
            key: key.to_owned(),
            count: 12,
            errors: 1,
            p50_ns: 3_140_000,
            p90_ns: 20_000_000,
            p99_ns: 212_000_000,
            max_ns: 1,
            ..wire::Histogram::default()
        };
        let mut histograms = vec![series(""), series("GET /items/{n}")];
        histograms.extend((0..9).map(|n| series(&format!("GET /{n}"))));
        let text = text(&info, &wire::HistogramsReply { histograms });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "session a1 with local/shop: 12 requests (1 failed), 1 lookup");
        assert_eq!(lines[1], "port 80 stolen: 4 connections delivered, 0 refused, 12 requests");
        assert_eq!(
            lines[3].split_whitespace().collect::<Vec<_>>(),
            ["requests", "12", "1", "3.14", "ms", "20.0", "ms", "212", "ms"]
        );
        assert_eq!(lines.len(), 3 + 1 + KEYS);
        let nothing = super::text(&wire::SessionInfo::default(), &wire::HistogramsReply::default());
        assert!(nothing.ends_with("nothing happened"));
    }
}
