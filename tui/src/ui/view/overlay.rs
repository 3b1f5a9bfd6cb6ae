//! What lies over the screen: prompts at the foot, boxes in the middle.

use ratatui::layout::{Position, Rect};

use super::{palette, pen::Pen, pick, texts};
use crate::ui::{
    layout,
    model::{
        Model,
        edit::LineEdit,
        overlay::{Chooser, Confirm, ExportForm, Overlay, Purpose},
    },
    text,
    tone::{TextLine, Tone},
};

pub(super) fn draw(model: &Model, pen: &mut Pen<'_>) -> Option<Position> {
    match model.overlay.as_ref()? {
        Overlay::Help { search, searching, scroll } => {
            let inner = text_box(model, pen, texts::TITLE_HELP, &texts::help(model, &search.text()), *scroll);
            let shown = *searching || !search.is_empty();
            let line = TextLine::new(Tone::Key, "/").with(Tone::Plain, search.text());
            if shown {
                pen.line(inner.x, inner.bottom(), inner.width, &line);
            }
            searching.then(|| Position::new(inner.x + 1 + text::cells(search.cursor()), inner.bottom()))
        }
        Overlay::Text { kind, scroll } => {
            let (title, lines) = texts::text(model, *kind);
            text_box(model, pen, title, &lines, *scroll);
            None
        }
        Overlay::Palette { edit, chosen } => palette::draw(model, pen, edit, *chosen),
        Overlay::Filter { edit, error, .. } => {
            let cursor = prompt(model, pen, "filter ", edit);
            let y = model.rows.saturating_sub(2);
            if let Some(error) = error {
                let text = edit.text();
                let before = text.get(..error.at.start).map_or(0, text::width);
                let wrong = text.get(error.at.clone()).map_or(0, text::width).max(1);
                let x = text::cells(before + 7);
                pen.tint(
                    Rect { x, y: model.rows.saturating_sub(1), width: text::cells(wrong), height: 1 },
                    Tone::Alarm,
                );
                foot_line(model, pen, y, &TextLine::new(Tone::Bad, &error.reason));
            } else {
                let help = "~m method ~u url ~c status ~lat >200ms ~e failed ~marked  & | ! ( )  tab completes  F1 all";
                foot_line(model, pen, y, &TextLine::new(Tone::Dim, help));
            }
            cursor
        }
        Overlay::Search { edit } => prompt(model, pen, "search ", edit),
        Overlay::Comment { edit, .. } => prompt(model, pen, "comment ", edit),
        Overlay::Path { edit, purpose } => {
            let label = match purpose {
                Purpose::Export(ExportForm::Har) => "write HAR to ",
                Purpose::Export(ExportForm::Jsonl) => "write JSON lines to ",
                Purpose::Export(ExportForm::Curl) => "write script to ",
                Purpose::Body { .. } => "write body to ",
                Purpose::Record => "record to ",
            };
            prompt(model, pen, label, edit)
        }
        Overlay::Pick(pick) => pick::draw(model, pen, pick),
        Overlay::Chooser(chooser) => {
            draw_chooser(model, pen, chooser);
            None
        }
        Overlay::Confirm(confirm) => {
            draw_confirm(model, pen, confirm);
            None
        }
    }
}

/// How far the text of the overlay can be scrolled.
pub(crate) fn last_scroll(model: &Model) -> usize {
    let lines = match &model.overlay {
        Some(Overlay::Help { search, .. }) => texts::help(model, &search.text()).len(),
        Some(Overlay::Text { kind, .. }) => texts::text(model, *kind).1.len(),
        _ => 0,
    };
    lines.saturating_sub(usize::from(text_area(model, lines).height.saturating_sub(2)))
}

/// The box of a text of so many lines. The help keeps its size while one searches in it.
fn text_area(model: &Model, lines: usize) -> Rect {
    let most = model.rows.saturating_sub(4);
    let is_help = matches!(model.overlay, Some(Overlay::Help { .. }));
    layout::middle(model, 100, if is_help { most } else { most.min(text::cells(lines) + 2) })
}

/// An empty box with a title; returns what is inside of it.
pub(super) fn frame(pen: &mut Pen<'_>, area: Rect, title: &TextLine) -> Rect {
    pen.clear(area);
    pen.fill(Rect { height: 1, ..area }, Tone::Border, "─");
    pen.fill(Rect { y: area.bottom() - 1, height: 1, ..area }, Tone::Border, "─");
    pen.fill(Rect { width: 1, ..area }, Tone::Border, "│");
    pen.fill(Rect { x: area.right() - 1, width: 1, ..area }, Tone::Border, "│");
    let corners = [
        (area.x, area.y, "┌"),
        (area.right() - 1, area.y, "┐"),
        (area.x, area.bottom() - 1, "└"),
        (area.right() - 1, area.bottom() - 1, "┘"),
    ];
    for (x, y, corner) in corners {
        pen.put(x, y, 1, Tone::Border, corner);
    }
    if area.width > 6 {
        let end = pen.line(area.x + 3, area.y, area.width - 6, title);
        pen.put(area.x + 2, area.y, 1, Tone::Plain, " ");
        pen.put(end, area.y, 1, Tone::Plain, " ");
    }
    let (width, height) = (area.width.saturating_sub(4), area.height.saturating_sub(2));
    Rect { x: area.x + 2, y: area.y + 1, width, height }
}

fn text_box(model: &Model, pen: &mut Pen<'_>, title: &str, lines: &[TextLine], scroll: usize) -> Rect {
    let area = text_area(model, lines.len());
    let inner = frame(pen, area, &TextLine::new(Tone::Title, title));
    let height = usize::from(inner.height);
    for (line, y) in lines.iter().skip(scroll).take(height).zip(inner.y..) {
        pen.line(inner.x, y, inner.width, line);
    }
    if lines.len() > height {
        let last = (scroll + height).min(lines.len());
        let text = format!(" {last}/{}  j k scroll, q closes ", lines.len());
        pen.put_right(inner.x, inner.bottom(), inner.width, Tone::Dim, &text);
    }
    inner
}

/// A line to type in, at the foot of the screen.
fn prompt(model: &Model, pen: &mut Pen<'_>, label: &str, edit: &LineEdit) -> Option<Position> {
    let y = model.rows.saturating_sub(1);
    pen.clear(Rect { x: 0, y, width: model.columns, height: 1 });
    let x = pen.put(0, y, model.columns, Tone::Key, label);
    let columns = model.columns.saturating_sub(x + 1);
    let skip = edit.cursor().saturating_sub(usize::from(columns));
    let shown: String = edit.text().chars().skip(skip).collect();
    pen.put(x, y, columns + 1, Tone::Plain, &shown);
    Some(Position::new(x + text::cells(edit.cursor() - skip), y))
}

fn foot_line(model: &Model, pen: &mut Pen<'_>, y: u16, line: &TextLine) {
    pen.clear(Rect { x: 0, y, width: model.columns, height: 1 });
    pen.line(1, y, model.columns.saturating_sub(1), line);
}

fn draw_chooser(model: &Model, pen: &mut Pen<'_>, chooser: &Chooser) {
    let widest = chooser.items.iter().map(|item| text::width(&item.label)).max().unwrap_or(0);
    let columns = text::cells(widest.max(text::width(&chooser.title)) + 10);
    let area = layout::middle(model, columns, text::cells(chooser.items.len()) + 2);
    let inner = frame(pen, area, &TextLine::new(Tone::Title, &chooser.title));
    for ((at, item), y) in chooser.items.iter().enumerate().zip(inner.y..inner.bottom()) {
        let line =
            TextLine::new(Tone::Key, format!(" {} ", item.key)).with(Tone::Plain, format!(" {}", item.label));
        pen.line(inner.x, y, inner.width, &line);
        if at == chooser.at {
            pen.tint(Rect { y, height: 1, ..inner }, Tone::Selected);
        }
    }
}

fn draw_confirm(model: &Model, pen: &mut Pen<'_>, confirm: &Confirm) {
    let text = TextLine::new(Tone::Plain, &confirm.text).words(54);
    let area = layout::middle(model, 60, text::cells(text.len()) + 4);
    let inner = frame(pen, area, &TextLine::new(Tone::Warn, &confirm.title));
    for (line, y) in text.iter().zip(inner.y..inner.bottom()) {
        pen.line(inner.x, y, inner.width, line);
    }
    let y = inner.bottom() - 1;
    let (no, yes) =
        if confirm.on_yes { (Tone::Plain, Tone::Selected) } else { (Tone::Selected, Tone::Plain) };
    let x = pen.put(inner.x, y, inner.width, no, " Cancel ") + 2;
    let x = pen.put(x, y, inner.right().saturating_sub(x), yes, &format!(" {} ", confirm.yes)) + 3;
    pen.put(x, y, inner.right().saturating_sub(x), Tone::Dim, "⇥ chooses, ⏎ answers");
}
