//! The `:` prompt: what was typed with the ghost of its completion, and the commands that fit, best at the bottom.

use ratatui::layout::{Position, Rect};

use super::{overlay::frame, pen::Pen};
use crate::ui::{
    model::{Model, edit::LineEdit},
    text,
    tone::{TextLine, Tone},
    update::suggestions,
};

/// Commands shown at once.
const ROWS: u16 = 10;

pub(super) fn draw(model: &Model, pen: &mut Pen<'_>, edit: &LineEdit, chosen: usize) -> Option<Position> {
    let found = suggestions(&edit.text());
    let rows = ROWS.min(model.rows.saturating_sub(5)).min(text::cells(found.len()).max(1));
    let columns = model.columns.min(84);
    let top = model.rows.saturating_sub(rows + 4);
    let area = Rect { x: 0, y: top, width: columns, height: rows + 3 };
    let inner = frame(pen, area, &TextLine::new(Tone::Title, "Commands"));
    let first = (chosen + 1).saturating_sub(usize::from(rows));
    for ((at, suggestion), y) in found.iter().enumerate().skip(first).zip(inner.y..inner.y + rows) {
        let name = format!("{} {}", suggestion.name, suggestion.argument);
        pen.put(inner.x, y, 30.min(inner.width), Tone::Strong, &name);
        pen.put(inner.x + 31, y, inner.width.saturating_sub(31), Tone::Dim, suggestion.help);
        if at == chosen {
            pen.tint(Rect { y, height: 1, ..inner }, Tone::Selected);
        }
    }
    let y = inner.bottom() - 1;
    let typed = edit.text();
    pen.put(inner.x, y, 1, Tone::Key, ":");
    let x = pen.put(inner.x + 1, y, inner.width.saturating_sub(1), Tone::Plain, &typed);
    let ghost = model
        .palette_history
        .beginning_with(&typed)
        .filter(|_| !typed.is_empty())
        .or_else(|| found.get(chosen).map(|best| best.name))
        .and_then(|line| line.strip_prefix(typed.as_str()));
    if let Some(ghost) = ghost.filter(|_| edit.at_end() && !typed.is_empty()) {
        pen.put(x, y, inner.right().saturating_sub(x), Tone::Dim, ghost);
    }
    Some(Position::new(inner.x + 1 + text::cells(edit.cursor()), y))
}
