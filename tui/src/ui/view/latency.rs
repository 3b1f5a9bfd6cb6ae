//! The latency tab: percentiles per kind and key, the histogram of the chosen one, and its change over time.
//!
//! ```text
//! ─ Latency  [request] connection dns file ────────────
//!   KEY               COUNT  ERR   p50   p90   p99   max
//! ▌ all                1204    3  3.1ms  41ms  88ms  5.0s
//!   GET /items/{n}      ...
//! ─ Histogram: all ─────────────────────────────────────
//!  ▂▇█▅▃▂▁▁ ▁
//! ─ Over time, now at the right ────────────────────────
//! ```

use ratatui::layout::Rect;

use super::{pen::Pen, strip};
use crate::ui::{
    model::{
        details::kind_name,
        latency::{KINDS, Series, step, step_ns},
        session::Session,
    },
    text,
    tone::{TextLine, Tone},
};

/// Shades of the heat row.
const SHADES: [&str; 5] = [" ", "░", "▒", "▓", "█"];

pub(super) fn draw(session: &Session, pen: &mut Pen<'_>, area: Rect) {
    let latency = &session.latency;
    let mut title = TextLine::new(Tone::Focus, "Latency ");
    for kind in KINDS {
        let chosen = kind == latency.kind();
        title = title.with(if chosen { Tone::Selected } else { Tone::Dim }, format!(" {} ", kind_name(kind)));
    }
    pen.rule(area, Tone::Border, &title);
    if latency.rows().next().is_none() {
        pen.put(
            area.x + 3,
            area.y + 2,
            area.width.saturating_sub(3),
            Tone::Dim,
            "no latency of this kind yet; tab shows the next kind",
        );
        return;
    }
    let heat_rows = if area.height >= 30 {
        10
    } else if area.height >= 18 {
        5
    } else {
        0
    };
    let graph_rows = if area.height >= 24 {
        8
    } else if area.height >= 14 {
        5
    } else {
        0
    };
    let table = Rect { height: area.height.saturating_sub(heat_rows + graph_rows), ..area };
    rows(session, pen, table);
    histogram(session, pen, Rect { y: table.bottom(), height: graph_rows, ..area });
    heat(session, pen, Rect { y: table.bottom() + graph_rows, height: heat_rows, ..area });
}

fn rows(session: &Session, pen: &mut Pen<'_>, area: Rect) {
    const HEADS: [&str; 7] = ["COUNT", "ERR", "p50", "p90", "p99", "p99.9", "max"];
    const WIDTH: u16 = 8;
    let numbers = WIDTH * 7;
    // Narrow screens keep the first numbers, which matter most.
    let key = area.width.saturating_sub(numbers + 3).max(16);
    pen.put(area.x + 2, area.y + 1, key, Tone::Dim, "KEY");
    let column = |at: u16| area.x + 2 + key + at * WIDTH;
    let fits = |at: u16| column(at) + WIDTH <= area.right();
    for (head, at) in HEADS.iter().zip(0..) {
        if fits(at) {
            pen.put_right(column(at), area.y + 1, WIDTH - 1, Tone::Dim, head);
        }
    }
    let height = usize::from(area.height.saturating_sub(2));
    let top = (session.latency.row + 1).saturating_sub(height);
    let shown = session.latency.rows().enumerate().skip(top).take(height);
    for ((row, series), y) in shown.zip(area.y + 2..) {
        let name = if series.key.is_empty() { "all" } else { &series.key };
        let tone = if series.key.is_empty() { Tone::Strong } else { Tone::Plain };
        pen.put(area.x + 2, y, key.saturating_sub(1), tone, name);
        for ((tone, text), at) in cells(series).into_iter().zip(0..) {
            if fits(at) {
                pen.put_right(column(at), y, WIDTH - 1, tone, &text);
            }
        }
        if row == session.latency.row {
            pen.put(area.x, y, 1, Tone::Focus, "▌");
            pen.tint(Rect { x: area.x + 1, y, width: area.width - 1, height: 1 }, Tone::Selected);
        }
    }
}

fn cells(series: &Series) -> [(Tone, String); 7] {
    let errors = if series.errors > 0 { Tone::Bad } else { Tone::Dim };
    [
        (Tone::Plain, text::count(series.count)),
        (errors, text::count(series.errors)),
        (Tone::Plain, text::latency(series.p50)),
        (Tone::Plain, text::latency(series.p90)),
        (Tone::Plain, text::latency(series.p99)),
        (Tone::Plain, text::latency(series.p999)),
        (Tone::Plain, text::latency(series.max)),
    ]
}

fn histogram(session: &Session, pen: &mut Pen<'_>, area: Rect) {
    let Some(series) = session.latency.chosen().filter(|_| area.height > 2) else { return };
    let name = if series.key.is_empty() { "all" } else { &series.key };
    let slow = series.outliers.len();
    let title = TextLine::new(Tone::Plain, format!("Histogram: {name}"))
        .with(Tone::Dim, format!("  n {}  {slow} slow, ⏎ lists them", text::count(series.count)));
    pen.rule(area, Tone::Border, &title);
    let span = session.latency.span(&series.steps);
    let steps = series.steps.get(span.clone()).unwrap_or_default();
    let inner =
        Rect { x: area.x + 2, y: area.y + 1, width: area.width.saturating_sub(4), height: area.height - 2 };
    // Where there is room the labels of percentiles have a row of their own.
    let bars =
        if inner.height > 3 { Rect { y: inner.y + 1, height: inner.height - 1, ..inner } } else { inner };
    strip::bars(pen, bars, steps, Tone::Mirror);
    let wide = (inner.width / text::cells(steps.len()).max(1)).clamp(1, 3);
    // A label each four steps: a doubling.
    for (at, column) in span.zip(0_u16..) {
        if column % 8 == 0 {
            let x = inner.x + column * wide;
            pen.put(
                x,
                area.bottom() - 1,
                inner.right().saturating_sub(x).min(7),
                Tone::Dim,
                &text::latency(step_ns(at)),
            );
        }
    }
    let mut free_from = inner.x;
    for (name, ns) in [("p50", series.p50), ("p99", series.p99)] {
        let at = step(ns);
        let start = session.latency.span(&series.steps).start;
        if let Some(column) = at.checked_sub(start) {
            let x = inner.x + text::cells(column) * wide;
            // Two that would touch: the first stays.
            if x + 3 < inner.right() && x >= free_from {
                pen.put(x, area.y + 1, 3, Tone::Note, name);
                free_from = x + 4;
            }
        }
    }
}

/// Each column is a second, each row some steps: how the latencies of a kind have moved.
fn heat(session: &Session, pen: &mut Pen<'_>, area: Rect) {
    if area.height < 3 {
        return;
    }
    let title = TextLine::new(
        Tone::Plain,
        format!("{}: a column per second, now at the right", kind_name(session.latency.kind())),
    );
    pen.rule(area, Tone::Border, &title);
    const LABEL: u16 = 7;
    let rows = usize::from(area.height - 1);
    let columns = usize::from(area.width.saturating_sub(LABEL + 2));
    let newest: Vec<&Vec<u64>> = session.latency.heat().rev().take(columns).collect();
    let Some(whole) = session.latency.whole(session.latency.kind()) else { return };
    let span = session.latency.span(&whole.steps);
    let per_row = span.len().div_ceil(rows).max(1);
    let sum = |column: &Vec<u64>, row: usize| -> u64 {
        let from = span.start + row * per_row;
        column.get(from..(from + per_row).min(column.len())).unwrap_or_default().iter().sum()
    };
    let most =
        newest.iter().flat_map(|column| (0..rows).map(|row| sum(column, row))).max().unwrap_or(0).max(1);
    for row in 0..rows {
        let y = area.bottom() - 1 - text::cells(row);
        pen.put_right(area.x, y, LABEL, Tone::Dim, &text::latency(step_ns(span.start + row * per_row)));
        for (column, back) in newest.iter().zip(0_u16..) {
            let value = sum(column, row);
            let shade = usize::try_from((value * 4).div_ceil(most)).unwrap_or(4).min(4);
            let x = area.right() - 2 - back;
            pen.put(x, y, 1, Tone::Mirror, SHADES.get(shade).copied().unwrap_or("█"));
        }
    }
}
