//! Writes text with meaning into cells, never outside of the place that it was given.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use crate::ui::{
    text::{cells, fit, width},
    theme::ThemeName,
    tone::{TextLine, Tone},
};

/// Cells and the theme that colours them.
#[derive(Debug)]
pub(super) struct Pen<'a> {
    buffer: &'a mut Buffer,
    theme: ThemeName,
}

impl<'a> Pen<'a> {
    pub(super) fn new(buffer: &'a mut Buffer, theme: ThemeName) -> Self {
        Self { buffer, theme }
    }

    pub(super) fn style(&self, tone: Tone) -> Style {
        self.theme.style(tone)
    }

    /// Text of at most `columns`, cut with `…`; returns the column behind it.
    pub(super) fn put(&mut self, x: u16, y: u16, columns: u16, tone: Tone, text: &str) -> u16 {
        let area = self.buffer.area;
        if y >= area.bottom() || x >= area.right() || columns == 0 || text.is_empty() {
            return x;
        }
        let columns = columns.min(area.right() - x);
        // What is below, e.g. a line with a title on it, must not show through.
        let style = self.style(tone);
        let style = style.remove_modifier(Modifier::all().difference(style.add_modifier));
        let end = if width(text) > usize::from(columns) {
            self.buffer.set_stringn(x, y, fit(text, usize::from(columns)), usize::from(columns), style)
        } else {
            self.buffer.set_stringn(x, y, text, usize::from(columns), style)
        };
        end.0
    }

    /// The same, ending at the right side of `columns`; what does not fit loses its beginning.
    pub(super) fn put_right(&mut self, x: u16, y: u16, columns: u16, tone: Tone, text: &str) {
        let own = cells(width(text)).min(columns);
        self.put(x + columns - own, y, own, tone, text);
    }

    /// A line of pieces; returns the column behind it.
    pub(super) fn line(&mut self, x: u16, y: u16, columns: u16, line: &TextLine) -> u16 {
        let end = x.saturating_add(columns);
        line.0.iter().fold(x, |at, piece| self.put(at, y, end.saturating_sub(at), piece.tone, &piece.text))
    }

    /// A horizontal line with a title in it: `─ title ─────`.
    pub(super) fn rule(&mut self, area: Rect, tone: Tone, title: &TextLine) -> u16 {
        if area.height == 0 {
            return area.x;
        }
        self.fill(Rect { height: 1, ..area }, tone, "─");
        if title.0.is_empty() || area.width < 6 {
            return area.x;
        }
        let end = self.line(area.x + 2, area.y, area.width - 4, title);
        self.put(area.x + 1, area.y, 1, Tone::Plain, " ");
        self.put(end, area.y, 1, Tone::Plain, " ");
        end + 1
    }

    /// The same sign in all cells.
    pub(super) fn fill(&mut self, area: Rect, tone: Tone, sign: &str) {
        let style = self.style(tone);
        let area = area.intersection(self.buffer.area);
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                if let Some(cell) = self.buffer.cell_mut((x, y)) {
                    cell.set_symbol(sign).set_style(style);
                }
            }
        }
    }

    /// Empty cells.
    pub(super) fn clear(&mut self, area: Rect) {
        let area = area.intersection(self.buffer.area);
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                if let Some(cell) = self.buffer.cell_mut((x, y)) {
                    cell.reset();
                }
            }
        }
    }

    /// Adds a look to cells that have text already.
    pub(super) fn tint(&mut self, area: Rect, tone: Tone) {
        let style = self.style(tone);
        self.buffer.set_style(area.intersection(self.buffer.area), style);
    }

    /// One cell with a style of its own: the command's screen.
    pub(super) fn cell(&mut self, x: u16, y: u16, symbol: &str, style: Style) {
        if let Some(cell) = self.buffer.cell_mut((x, y)) {
            cell.set_symbol(symbol).set_style(style);
        }
    }

    /// Whether colours are used at all.
    pub(super) fn has_colours(&self) -> bool {
        self.theme != ThemeName::Mono
    }
}
