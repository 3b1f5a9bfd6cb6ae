//! The pane with one event whole, and the line between it and the list.

use super::pen::Pen;
use crate::ui::{
    layout::SessionAreas,
    model::{
        details::{Section, title},
        session::{Session, Tab},
    },
    tone::{TextLine, Tone},
};

pub(super) fn draw(session: &Session, pen: &mut Pen<'_>, areas: &SessionAreas) {
    let area = areas.details;
    if areas.details_title.height == 0 {
        return;
    }
    pen.fill(areas.divider, Tone::Border, "│");
    if areas.divider.height > 0 {
        pen.put(areas.divider.x, areas.divider.y, 1, Tone::Border, "┬");
    }
    let Some(event) = session.selected() else {
        pen.rule(areas.details_title, Tone::Border, &TextLine::default());
        pen.put(area.x + 1, area.y, area.width.saturating_sub(1), Tone::Dim, "no row is chosen");
        return;
    };
    let tone = if session.details_have_keys() { Tone::Focus } else { Tone::Plain };
    let mut head = TextLine::new(Tone::Dim, format!("#{} ", event.seq)).with(tone, title(event));
    let details = &session.details;
    if session.tab == Tab::Traffic && details.section != Section::Whole {
        head = head.with(Tone::Note, format!(" [{}]", details.section.name()));
    }
    let end = pen.rule(areas.details_title, Tone::Border, &head);
    let (first, lines) = details.position();
    let more = lines > usize::from(area.height);
    if more && areas.details_title.right() > end + 12 {
        let last = (first + usize::from(area.height)).min(lines);
        let text = format!(" {last}/{lines} ");
        pen.put_right(end, areas.details_title.y, areas.details_title.right() - end - 1, Tone::Dim, &text);
    }
    let wanted = details.search.to_lowercase();
    for (line, y) in details.visible().zip(area.y..area.bottom()) {
        pen.line(area.x + 1, y, area.width.saturating_sub(1), line);
        if !wanted.is_empty() && line.plain().to_lowercase().contains(&wanted) {
            pen.put(area.x, y, 1, Tone::Match, "›");
            pen.tint(
                ratatui::layout::Rect { x: area.x + 1, y, width: area.width.saturating_sub(1), height: 1 },
                Tone::Match,
            );
        }
    }
}
