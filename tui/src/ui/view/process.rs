//! The process tab: the screen of the command's terminal, and what is known about the command.

use ratatui::{
    layout::{Position, Rect},
    style::{Color, Modifier, Style},
};

use super::pen::Pen;
use crate::ui::{
    model::{details::exit_text, session::Session},
    tone::{TextLine, Tone},
};

pub(super) fn draw(session: &Session, pen: &mut Pen<'_>, area: Rect) -> Option<Position> {
    let info = &session.info;
    let mut title = TextLine::new(Tone::Focus, session.command_title());
    if info.command_pid > 0 {
        title = title.with(Tone::Dim, format!("  pid {}", info.command_pid));
    }
    title = match &info.exit {
        Some(exit) => title.with(Tone::Warn, format!("  {}", exit_text(exit))),
        None => title,
    };
    if session.process.typing {
        title = title.with(Tone::Plain, "  ").with(Tone::Badge, " TYPING, ctrl-] leaves ");
    } else if session.process.back() > 0 {
        title = title
            .with(Tone::Plain, "  ")
            .with(Tone::Badge, format!(" {} lines back, G to the end ", session.process.back()));
    }
    pen.rule(area, Tone::Border, &title);
    let inner = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    if session.process.bytes() == 0 {
        let why = if info.has_terminal || session.is_recording() {
            "the command has written nothing yet"
        } else {
            "the command writes to the terminal that it was started from"
        };
        pen.put(inner.x + 2, inner.y + 1, inner.width.saturating_sub(2), Tone::Dim, why);
        return None;
    }
    let screen = session.process.screen();
    let (rows, columns) = screen.size();
    for row in 0..rows.min(inner.height) {
        for column in 0..columns.min(inner.width) {
            let Some(cell) = screen.cell(row, column) else { continue };
            if cell.is_wide_continuation() {
                continue;
            }
            let symbol = if cell.has_contents() { cell.contents() } else { " " };
            let style = if pen.has_colours() { style(cell) } else { plain_style(cell) };
            pen.cell(inner.x + column, inner.y + row, symbol, style);
        }
    }
    let (row, column) = screen.cursor_position();
    let seen = session.process.typing && !screen.hide_cursor() && row < inner.height && column < inner.width;
    seen.then(|| Position::new(inner.x + column, inner.y + row))
}

fn style(cell: &vt100::Cell) -> Style {
    plain_style(cell).fg(color(cell.fgcolor())).bg(color(cell.bgcolor()))
}

fn plain_style(cell: &vt100::Cell) -> Style {
    let mut style = Style::new();
    let looks = [
        (cell.bold(), Modifier::BOLD),
        (cell.dim(), Modifier::DIM),
        (cell.italic(), Modifier::ITALIC),
        (cell.underline(), Modifier::UNDERLINED),
        (cell.inverse(), Modifier::REVERSED),
    ];
    for (_, look) in looks.into_iter().filter(|(on, _)| *on) {
        style = style.add_modifier(look);
    }
    style
}

fn color(color: vt100::Color) -> Color {
    match color {
        vt100::Color::Default => Color::Reset,
        vt100::Color::Idx(index) => Color::Indexed(index),
        vt100::Color::Rgb(red, green, blue) => Color::Rgb(red, green, blue),
    }
}
