//! The strip below the list: latencies and rate of what the tab shows, and the last lines of the command's output.

use mirrord_protocol::session::v1::Kind;
use ratatui::layout::Rect;

use super::pen::Pen;
use crate::ui::{
    model::{
        Model,
        latency::Series,
        session::{RATE_SECONDS, Session, Source},
    },
    text,
    tone::{TextLine, Tone},
};

/// Eighths of a cell.
const BARS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
/// A histogram narrower than this says nothing.
const HISTOGRAM_COLUMNS: u16 = 22;

pub(super) fn draw(model: &Model, session: &Session, pen: &mut Pen<'_>, area: Rect) {
    if area.height == 0 {
        return;
    }
    let kind = session.tab.kinds().first().copied().unwrap_or(Kind::Request);
    let whole = session.latency.whole(kind).filter(|whole| whole.count > 0);
    // A recording has no present: its last minute is the one before its end, or before the position in it.
    let now = now_of(model, session);
    let rates = session.graph.rates(kind, now, RATE_SECONDS);
    if area.height < 6 {
        one_line(pen, area, whole, &rates);
        let tail = session.process.tail(1).pop().unwrap_or_default();
        pen.put(area.x + 1, area.y + 1, area.width.saturating_sub(1), Tone::Dim, &tail);
        return;
    }
    let third = area.width / 3;
    let graph = Rect { width: third, ..area };
    let rate = Rect { x: area.x + third + 1, width: third - 1, ..area };
    let output = Rect { x: rate.right() + 1, width: area.right().saturating_sub(rate.right() + 1), ..area };
    latencies(session, pen, graph, whole);
    rate_graph(session, pen, rate, (kind, now), &rates);
    command(session, pen, output);
}

fn now_of(model: &Model, session: &Session) -> i64 {
    match &session.source {
        Source::Live { .. } => model.now_ms,
        Source::Recording { .. } => {
            let end = session.time_span().map_or(0, |(_, last)| last);
            session.at_ns.unwrap_or(end) / 1_000_000 + 1_000
        }
    }
}

fn percentiles(whole: Option<&Series>) -> TextLine {
    let Some(whole) = whole else { return TextLine::new(Tone::Dim, "no latency yet") };
    let mut line = TextLine::default();
    for (name, ns) in [("p50", whole.p50), ("p90", whole.p90), ("p99", whole.p99), ("max", whole.max)] {
        line = line.with(Tone::Dim, format!("{name} ")).with(Tone::Plain, format!("{}  ", text::latency(ns)));
    }
    line
}

fn one_line(pen: &mut Pen<'_>, area: Rect, whole: Option<&Series>, rates: &[u64]) {
    let columns = usize::from(area.width / 4);
    let shown = rates.get(rates.len().saturating_sub(columns)..).unwrap_or(rates);
    let line = percentiles(whole).with(Tone::Dim, "─ rate ").with(Tone::Plain, spark(shown));
    pen.rule(area, Tone::Border, &line);
}

fn latencies(session: &Session, pen: &mut Pen<'_>, area: Rect, whole: Option<&Series>) {
    pen.rule(area, Tone::Border, &TextLine::new(Tone::Plain, "Latency"));
    let inner = area.width.saturating_sub(2);
    pen.line(area.x + 1, area.y + 1, inner, &percentiles(whole));
    let Some(whole) = whole.filter(|_| inner >= HISTOGRAM_COLUMNS) else { return };
    let span = session.latency.span(&whole.steps);
    let steps = whole.steps.get(span.clone()).unwrap_or_default();
    bars(pen, Rect { x: area.x + 1, y: area.y + 2, width: inner, height: 3 }, steps, Tone::Mirror);
    let low = crate::ui::model::latency::step_ns(span.start);
    let high = crate::ui::model::latency::step_ns(span.end);
    pen.put(area.x + 1, area.y + 5, inner, Tone::Dim, &text::latency(low));
    let drawn = text::cells(steps.len() * usize::from(bar_width(steps.len(), inner))).min(inner);
    pen.put_right(area.x + 1, area.y + 5, drawn, Tone::Dim, &text::latency(high));
}

fn rate_graph(session: &Session, pen: &mut Pen<'_>, area: Rect, (kind, now): (Kind, i64), rates: &[u64]) {
    pen.rule(area, Tone::Border, &TextLine::new(Tone::Plain, "Rate, 60 s"));
    let inner = area.width.saturating_sub(2);
    let fits = rates.get(rates.len().saturating_sub(usize::from(inner))..).unwrap_or(rates);
    bars(pen, Rect { x: area.x + 1, y: area.y + 1, width: inner, height: 3 }, fits, Tone::Good);
    let last = rates.last().copied().unwrap_or(0);
    let most = rates.iter().max().copied().unwrap_or(0);
    pen.put(
        area.x + 1,
        area.y + 4,
        inner,
        Tone::Plain,
        &format!("{}/s  max {}/s", text::count(last), text::count(most)),
    );
    let errors = session.graph.errors(kind, now, RATE_SECONDS);
    let failed: u64 = errors.iter().sum();
    let tone = if failed > 0 { Tone::Bad } else { Tone::Dim };
    let fits =
        errors.get(errors.len().saturating_sub(usize::from(inner.saturating_sub(12)))..).unwrap_or(&errors);
    let line = TextLine::new(tone, format!("err {:<5}", text::count(failed)))
        .with(tone, if failed > 0 { spark(fits) } else { String::new() });
    pen.line(area.x + 1, area.y + 5, inner, &line);
}

fn command(session: &Session, pen: &mut Pen<'_>, area: Rect) {
    let title = session.command_title();
    let pid = if session.info.command_pid > 0 {
        format!("  pid {}", session.info.command_pid)
    } else {
        String::new()
    };
    pen.rule(area, Tone::Border, &TextLine::new(Tone::Plain, title).with(Tone::Dim, pid));
    let rows = usize::from(area.height.saturating_sub(1));
    for (line, y) in session.process.tail(rows).iter().zip(area.y + 1..area.bottom()) {
        pen.put(area.x + 1, y, area.width.saturating_sub(1), Tone::Dim, line);
    }
}

/// Values as one line of bars; a value above 0 is always seen.
pub(super) fn spark(values: &[u64]) -> String {
    let most = values.iter().max().copied().unwrap_or(0).max(1);
    values.iter().map(|value| BARS.get(eighths(*value, most, 8)).copied().unwrap_or("█")).collect()
}

fn eighths(value: u64, most: u64, full: u64) -> usize {
    let scaled = u128::from(value) * u128::from(full) / u128::from(most.max(1));
    usize::try_from(scaled.max(u128::from(value > 0))).unwrap_or(0)
}

fn bar_width(values: usize, columns: u16) -> u16 {
    (columns / text::cells(values).max(1)).clamp(1, 3)
}

/// Values as bars of some rows.
pub(super) fn bars(pen: &mut Pen<'_>, area: Rect, values: &[u64], tone: Tone) {
    let most = values.iter().max().copied().unwrap_or(0);
    let wide = bar_width(values.len(), area.width);
    for (value, at) in values.iter().zip(0_u16..) {
        let height = eighths(*value, most, u64::from(area.height) * 8);
        for row in 0..area.height {
            let below = usize::from(area.height - 1 - row) * 8;
            let part = height.saturating_sub(below).min(8);
            let x = area.x.saturating_add(at.saturating_mul(wide));
            if part > 0 && x + wide <= area.right() {
                let bar = BARS.get(part).copied().unwrap_or("█").repeat(usize::from(wide));
                pen.put(x, area.y + row, wide, tone, &bar);
            }
        }
    }
}
