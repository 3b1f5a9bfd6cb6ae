//! Where things stand. Shared by the views, which draw there, and by `update`, which needs page sizes and places of the mouse.
//!
//! Breakpoints: from 110 columns on the details stand beside the list, below that under it; below 60 columns rows have
//! two lines; below 20 rows there is no strip, below 14 no hints.

use ratatui::layout::Rect;

use super::{
    limits,
    model::{Model, Screen, details::Shown, session::Tab},
    text,
};

/// Places of the session screen. What does not fit has no height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionAreas {
    pub(crate) header: Rect,
    pub(crate) status: Rect,
    pub(crate) tabs: Rect,
    /// The list with its title line and column heads, or another tab's content.
    pub(crate) main: Rect,
    /// Lines of each row of the list.
    pub(crate) row_lines: u16,
    /// Title line of the details.
    pub(crate) details_title: Rect,
    pub(crate) details: Rect,
    /// Line between list and details when they stand side by side.
    pub(crate) divider: Rect,
    pub(crate) strip: Rect,
    pub(crate) foot: Rect,
    pub(crate) hints: Rect,
}

/// Places of the screens of targets, sessions and the launch form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HomeAreas {
    pub(crate) header: Rect,
    /// Title line, column heads and rows.
    pub(crate) main: Rect,
    pub(crate) side: Rect,
    pub(crate) foot: Rect,
    pub(crate) hints: Rect,
}

/// Rows below the list on a screen that is not wide.
const SIDE_ROWS: u16 = 8;
/// From this width on details stand beside the list.
const SPLIT_COLUMNS: u16 = 110;
/// Below this width a row takes two lines.
const TWO_LINES: u16 = 60;
/// From this height on the strip has graphs.
const TALL_ROWS: u16 = 34;

impl SessionAreas {
    /// Lines above the first row: the title, and the heads of the columns where rows have one line.
    pub(crate) fn head_lines(&self) -> u16 {
        if self.row_lines > 1 { 1 } else { 2 }
    }

    /// Rows of the list without its title and column heads.
    pub(crate) fn list_rows(&self) -> u16 {
        self.main.height.saturating_sub(self.head_lines()) / self.row_lines.max(1)
    }

    /// The row of the list at this place of the screen.
    pub(crate) fn list_row(&self, column: u16, row: u16) -> Option<u16> {
        let line = self
            .main
            .contains((column, row).into())
            .then(|| row.checked_sub(self.main.y + self.head_lines()));
        line.flatten().map(|line| line / self.row_lines.max(1))
    }
}

impl HomeAreas {
    pub(crate) fn list_rows(&self) -> u16 {
        self.main.height.saturating_sub(2)
    }

    pub(crate) fn list_row(&self, column: u16, row: u16) -> Option<u16> {
        self.main.contains((column, row).into()).then(|| row.checked_sub(self.main.y + 2)).flatten()
    }
}

/// Whether anything useful fits.
pub(crate) fn fits(model: &Model) -> bool {
    model.columns >= limits::MIN_COLUMNS && model.rows >= limits::MIN_ROWS
}

fn hint_rows(model: &Model) -> u16 {
    match model.rows {
        _ if !model.options.hints => 0,
        24.. => 2,
        14..24 => 1,
        _ => 0,
    }
}

/// Takes rows from the top of what is left, as far as there are any.
struct Cut {
    left: Rect,
}

impl Cut {
    fn top(&mut self, rows: u16) -> Rect {
        let rows = rows.min(self.left.height);
        let taken = Rect { height: rows, ..self.left };
        self.left.y += rows;
        self.left.height -= rows;
        taken
    }

    fn bottom(&mut self, rows: u16) -> Rect {
        let rows = rows.min(self.left.height);
        self.left.height -= rows;
        Rect { y: self.left.bottom(), height: rows, ..self.left }
    }
}

/// The session screen.
pub(crate) fn session(model: &Model) -> SessionAreas {
    let mut cut = Cut { left: Rect::new(0, 0, model.columns, model.rows) };
    let row_lines = if model.columns < TWO_LINES { 2 } else { 1 };
    let mut areas =
        SessionAreas { header: cut.top(1), status: cut.top(1), row_lines, ..SessionAreas::default() };
    areas.tabs = cut.top(u16::from(model.rows >= 10));
    areas.hints = cut.bottom(hint_rows(model));
    areas.foot = cut.bottom(1);
    let Some(session) = model.session.as_ref().filter(|_| model.screen() == Screen::Session) else {
        areas.main = cut.left;
        return areas;
    };
    let is_list = session.stream().is_some();
    let full = is_list && session.details.shown == Shown::Full;
    if !full && session.tab != Tab::Process && session.tab != Tab::Latency {
        areas.strip = cut.bottom(match model.rows {
            TALL_ROWS.. => 6,
            20..TALL_ROWS => 2,
            _ => 0,
        });
    }
    let body = cut.left;
    match session.details.shown {
        _ if !is_list => areas.main = body,
        Shown::Full => {
            areas.details_title = cut.top(1);
            areas.details = cut.left;
        }
        Shown::Beside if model.columns >= SPLIT_COLUMNS => {
            let right = body.width * 2 / 5;
            areas.main = Rect { width: body.width - right - 1, ..body };
            areas.divider = Rect { x: areas.main.right(), width: 1, ..body };
            let details = Rect { x: areas.main.right() + 1, width: right, ..body };
            areas.details_title = Rect { height: details.height.min(1), ..details };
            areas.details = Rect {
                y: details.y + areas.details_title.height,
                height: details.height.saturating_sub(1),
                ..details
            };
        }
        Shown::Beside if body.height >= 12 => {
            let below = cut.bottom((body.height / 3).clamp(4, 12));
            areas.details_title = Rect { height: 1, ..below };
            areas.details = Rect { y: below.y + 1, height: below.height - 1, ..below };
            areas.main = cut.left;
        }
        Shown::Beside | Shown::Hidden => areas.main = body,
    }
    areas
}

/// The screens of targets, sessions and the launch form.
pub(crate) fn home(model: &Model) -> HomeAreas {
    let mut cut = Cut { left: Rect::new(0, 0, model.columns, model.rows) };
    let mut areas = HomeAreas { header: cut.top(1), ..HomeAreas::default() };
    areas.hints = cut.bottom(hint_rows(model));
    areas.foot = cut.bottom(1);
    if model.columns >= SPLIT_COLUMNS {
        let side = cut.left.width * 2 / 5;
        areas.side = Rect { x: cut.left.right() - side, width: side, ..cut.left };
        areas.main = Rect { width: cut.left.width - side - 1, ..cut.left };
    } else {
        areas.side = cut.bottom(if model.rows < 24 {
            0
        } else if model.screen() == Screen::Launch {
            (cut.left.height - FORM_HEAD)
                .saturating_sub(text::cells(model.form.fields().count()))
                .min(SIDE_ROWS)
        } else {
            SIDE_ROWS
        });
        areas.main = cut.left;
    }
    areas
}

/// Rows of the launch form above its fields: the title and what is wrong.
const FORM_HEAD: u16 = 2;

/// Where the fields of the launch form stand, and which is the first: where not all have room, the one that the keys go to is seen.
pub(crate) fn form_fields(model: &Model) -> (Rect, usize) {
    let main = home(model).main;
    let area = Rect { y: main.y + FORM_HEAD, height: main.height.saturating_sub(FORM_HEAD), ..main };
    let here = model.form.fields().position(|field| field == model.form.field).unwrap_or(0);
    (area, (here + 1).saturating_sub(usize::from(area.height)))
}

/// A box of at most this size in the middle of the screen.
pub(crate) fn middle(model: &Model, columns: u16, rows: u16) -> Rect {
    let columns = columns.min(model.columns.saturating_sub(2)).max(1);
    let rows = rows.min(model.rows.saturating_sub(2)).max(1);
    Rect::new(model.columns.saturating_sub(columns) / 2, model.rows.saturating_sub(rows) / 2, columns, rows)
}
