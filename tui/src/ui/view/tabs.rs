//! The line of tabs, with what each holds.

use std::ops::Range;

use mirrord_protocol::session::v1::Kind;
use ratatui::layout::Rect;

use super::pen::Pen;
use crate::ui::{
    model::session::{Session, Tab},
    text,
    tone::Tone,
};

/// Between two tabs.
const GAP: &str = " │ ";

/// Each tab and the columns that it takes; the mouse asks, too.
pub(crate) fn spans(session: &Session, narrow: bool) -> Vec<(Tab, Range<u16>)> {
    let mut at = 1;
    let mut spans = Vec::new();
    for tab in Tab::ALL {
        let end = at + text::cells(text::width(&label(session, tab, narrow)));
        spans.push((tab, at..end));
        at = end + text::cells(text::width(GAP));
    }
    spans
}

pub(super) fn draw(session: &Session, pen: &mut Pen<'_>, area: Rect, narrow: bool) {
    if area.height == 0 {
        return;
    }
    for (tab, span) in spans(session, narrow) {
        let left = area.width.saturating_sub(span.start);
        let tone = if tab == session.tab { Tone::Selected } else { Tone::Plain };
        pen.put(span.start, area.y, left, tone, &label(session, tab, narrow));
        if tab != Tab::Events {
            pen.put(span.end, area.y, area.width.saturating_sub(span.end), Tone::Border, GAP);
        }
    }
}

fn label(session: &Session, tab: Tab, narrow: bool) -> String {
    let (long, short) = tab.title();
    let number = Tab::ALL.iter().position(|known| *known == tab).unwrap_or(0) + 1;
    let content = match tab {
        Tab::Latency => String::new(),
        Tab::Process => {
            if session.info.command_pid > 0 && session.info.exit.is_none() { "●" } else { "○" }.to_owned()
        }
        _ => content(session, tab),
    };
    let space = if content.is_empty() { "" } else { " " };
    if narrow {
        format!("{number}{short}{space}{content}")
    } else {
        format!("{number} {long}{space}{content}")
    }
}

/// Exact numbers of the host where they are known, else the rows held.
fn content(session: &Session, tab: Tab) -> String {
    let totals = session.info.totals.as_ref();
    let of = |kind: Kind| totals.and_then(|totals| totals.kinds.iter().find(|total| total.kind() == kind));
    let rows = session.stream_of(tab).map_or(0, |stream| u64::try_from(stream.matched()).unwrap_or(0));
    let exact: u64 = tab.kinds().iter().filter_map(|kind| of(*kind)).map(|total| total.count).sum();
    let count = text::count(exact.max(rows));
    let warned = tab == Tab::Events && of(Kind::Warning).is_some_and(|total| total.count > 0);
    if warned { format!("{count}!") } else { count }
}
