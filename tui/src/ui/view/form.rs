//! The launch form: a line per field, the equal command line, and recent launches.

use ratatui::layout::{Position, Rect};

use super::{foot, header, pen::Pen};
use crate::ui::{
    layout,
    model::{Model, form::Field, targets::TargetRow},
    text,
    tone::{TextLine, Tone},
};

/// Rows of the equal command line, with its title.
const COMMAND_ROWS: u16 = 3;
/// Columns of the names of fields.
const LABEL: u16 = 14;

pub(super) fn draw(model: &Model, pen: &mut Pen<'_>) -> Option<Position> {
    let areas = layout::home(model);
    header::draw(model, pen, areas.header);
    foot::draw(model, pen, areas.foot);
    foot::hints(model, pen, areas.hints);
    let form = &model.form;
    let area = areas.main;
    let title = TextLine::new(Tone::Focus, "Run in the context of ").with(Tone::Strong, &form.target);
    let row = model.targets.row(&form.target, form.cluster.as_ref()).filter(|row| row.cluster.is_some());
    let title = match row {
        Some(row) => title.with(Tone::Plain, format!(" in {}", row.place)),
        None => title,
    };
    let protected = |row: &TargetRow| {
        model.options.is_protected(&row.place) || model.options.is_protected(&row.reference)
    };
    let title = if row.is_some_and(protected) {
        title.with(Tone::Plain, "  ").with(Tone::Alarm, " PROTECTED ")
    } else {
        title
    };
    pen.rule(area, Tone::Border, &title);
    let mut cursor = None;
    let (fields, first) = layout::form_fields(model);
    for (field, y) in form.fields().skip(first).zip(fields.y..fields.bottom()) {
        let row = Rect { y, height: 1, ..fields };
        let here = draw_field(model, pen, row, field);
        cursor = cursor.or(here);
    }
    let below = fields.y + text::cells(form.fields().count());
    // Above the fields: below them there may be no room.
    let (tone, said) = match &form.error {
        Some((_, reason)) => (Tone::Bad, format!("✗ {reason}")),
        None if form.starting => (Tone::Warn, "starting …".to_owned()),
        None => (Tone::Plain, String::new()),
    };
    pen.put(area.x + LABEL + 3, area.y + 1, area.width.saturating_sub(LABEL + 3), tone, &said);
    let left = area.bottom().saturating_sub(below + 1);
    let mut side = areas.side;
    if left >= COMMAND_ROWS {
        equal_command(model, pen, Rect { y: below + 1, height: left, ..area });
    } else {
        // Without room below the fields it stands above the recent launches.
        let rows = COMMAND_ROWS.min(side.height);
        equal_command(model, pen, Rect { height: rows, ..side });
        side = Rect { y: side.y + rows, height: side.height - rows, ..side };
    }
    recent(model, pen, side);
    cursor
}

fn draw_field(model: &Model, pen: &mut Pen<'_>, row: Rect, field: Field) -> Option<Position> {
    let form = &model.form;
    let here = form.field == field;
    let wrong = form.error.as_ref().is_some_and(|(wrong, _)| *wrong == field);
    let tone = if wrong {
        Tone::Bad
    } else if here {
        Tone::Strong
    } else {
        Tone::Dim
    };
    if here {
        pen.put(row.x, row.y, 1, Tone::Focus, "▌");
    }
    pen.put_right(row.x + 1, row.y, LABEL, tone, field.label());
    let x = row.x + LABEL + 3;
    let columns = row.width.saturating_sub(LABEL + 4);
    let Some(edit) = form.text(field) else {
        let (choices, at) = form.choices(field);
        let choice = choices.get(at).copied().unwrap_or_default();
        let (left, right) = if here { ("‹ ", " ›") } else { ("", "") };
        pen.put(x, row.y, columns, Tone::Plain, &format!("{left}{choice}{right}"));
        return None;
    };
    if edit.is_empty() {
        pen.put(x, row.y, columns, Tone::Dim, field.empty());
    }
    // A text longer than the field shows the part around the cursor.
    let skip = edit.cursor().saturating_sub(usize::from(columns).saturating_sub(1));
    let shown: String = edit.text().chars().skip(skip).collect();
    pen.put(x, row.y, columns, Tone::Plain, &shown);
    here.then(|| Position::new(x + text::cells(edit.cursor() - skip), row.y))
}

fn equal_command(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    if area.height < 2 {
        return;
    }
    pen.rule(
        area,
        Tone::Border,
        &TextLine::new(Tone::Plain, "The same as a command line").with(Tone::Dim, "  ctrl-y copies"),
    );
    let Ok(request) = model.form.request() else { return };
    let line = TextLine::new(Tone::Text, request.equal_command());
    for (line, y) in
        line.wrapped(usize::from(area.width.saturating_sub(2))).iter().zip(area.y + 1..area.bottom())
    {
        pen.line(area.x + 1, y, area.width.saturating_sub(1), line);
    }
}

fn recent(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    if area.height == 0 {
        return;
    }
    pen.rule(
        area,
        Tone::Border,
        &TextLine::new(Tone::Plain, "Recent launches").with(Tone::Dim, "  ctrl-r fills in"),
    );
    let form = &model.form;
    for ((at, launch), y) in form.recent().enumerate().zip(area.y + 1..area.bottom()) {
        let tone = if form.recent_at() == Some(at) { Tone::Selected } else { Tone::Plain };
        let line =
            TextLine::new(tone, text::shell(&launch.command)).with(Tone::Dim, format!("  {}", launch.target));
        pen.line(area.x + 1, y, area.width.saturating_sub(1), &line);
    }
}
