//! A list of names with a line that narrows it.

use ratatui::layout::{Position, Rect};

use super::{overlay::frame, pen::Pen};
use crate::ui::{
    layout,
    model::{
        Model,
        pick::{Names, Pick, PlaceKind},
    },
    text,
    tone::{TextLine, Tone},
};

/// Names shown at once.
const ROWS: u16 = 14;
/// Room for a sentence.
const MIN_ROWS: u16 = 4;
const COLUMNS: u16 = 60;

pub(super) fn draw(model: &Model, pen: &mut Pen<'_>, pick: &Pick) -> Option<Position> {
    // As high as the whole list wants it: it must not jump while one types.
    let rows = match &pick.names {
        Names::Known(names) => text::cells(names.len()).clamp(MIN_ROWS, ROWS),
        Names::Asked | Names::Failed(_) => MIN_ROWS,
    };
    let area = layout::middle(model, COLUMNS, rows + 4);
    let inner = frame(pen, area, &TextLine::new(Tone::Title, pick.kind.title()));
    let x = pen.put(inner.x, inner.y, inner.width, Tone::Key, "> ");
    pen.put(x, inner.y, inner.right().saturating_sub(x), Tone::Plain, &pick.edit.text());
    let names = pick.shown();
    let rows = usize::from(inner.height.saturating_sub(2));
    let first = (pick.at() + 1).saturating_sub(rows);
    for ((at, name), y) in names.iter().enumerate().skip(first).take(rows).zip(inner.y + 1..) {
        pen.put(inner.x + 2, y, inner.width.saturating_sub(2), Tone::Plain, name);
        if at == pick.at() {
            pen.tint(Rect { y, height: 1, ..inner }, Tone::Selected);
        }
    }
    if let Some(said) = said(pick, names.is_empty()) {
        let lines = said.words(usize::from(inner.width));
        for (line, y) in lines.iter().zip(inner.y + 2..inner.bottom()) {
            pen.line(inner.x, y, inner.width, line);
        }
    }
    let y = inner.bottom().saturating_sub(1);
    let hint = match pick.kind {
        PlaceKind::Namespace => "type to find, ⏎ takes it, esc closes; 0 lists all",
        PlaceKind::Context => "type to find, ⏎ takes it, esc closes",
    };
    pen.put(inner.x, y, inner.width, Tone::Dim, hint);
    Some(Position::new(x + text::cells(pick.edit.cursor()), inner.y))
}

/// What stands where no name does.
fn said(pick: &Pick, none: bool) -> Option<TextLine> {
    match &pick.names {
        Names::Asked => Some(TextLine::new(Tone::Dim, "asking …")),
        Names::Failed(reason) => {
            Some(TextLine::new(Tone::Warn, format!("{reason}; type a name and press ⏎")))
        }
        Names::Known(names) if names.is_empty() => {
            Some(TextLine::new(Tone::Dim, "there is none; type a name and press ⏎"))
        }
        Names::Known(_) if none => {
            Some(TextLine::new(Tone::Dim, "none of the list fits; ⏎ takes what was typed"))
        }
        Names::Known(_) => None,
    }
}
