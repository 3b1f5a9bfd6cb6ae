//! Draws the model. One file per region; each reads `&Model` and writes cells, and builds only rows that are seen.
//!
//! ```text
//! header    where one is, state of the session and of the agent
//! status    ports and their modes, filter, follow or frozen, rates and percentiles
//! tabs      1 Traffic  2 Conns ...
//! list      rows                                      │ details
//! strip     latency, rate, last output of the command
//! foot      messages, or what was lost
//! hints     keys that matter here
//! ```

mod details;
mod foot;
mod form;
mod header;
mod home;
mod latency;
mod list;
pub(crate) mod overlay;
mod palette;
mod pen;
mod pick;
mod process;
mod rows;
mod strip;
pub(crate) mod tabs;
#[cfg(test)]
pub(in crate::ui) mod tests;
mod texts;

use ratatui::{Frame, buffer::Buffer, layout::Position};

use self::pen::Pen;
use super::{
    layout, limits,
    model::{Model, Screen, session::Tab},
    tone::Tone,
};

/// Draws a picture.
pub(crate) fn draw(model: &Model, frame: &mut Frame<'_>) {
    if let Some(cursor) = paint(model, frame.buffer_mut()) {
        frame.set_cursor_position(cursor);
    }
}

/// Fills the cells; says where the cursor stands, if it is seen.
pub(crate) fn paint(model: &Model, buffer: &mut Buffer) -> Option<Position> {
    let area = buffer.area;
    let mut pen = Pen::new(buffer, model.options.theme);
    if !layout::fits(model) {
        let (columns, rows) = (area.width, area.height);
        let text =
            format!("terminal too small {columns}x{rows}, need {}x{}", limits::MIN_COLUMNS, limits::MIN_ROWS);
        pen.put(0, 0, columns, Tone::Plain, &text);
        return None;
    }
    let mut cursor = match model.screen() {
        Screen::Session => session(model, &mut pen),
        Screen::Launch => form::draw(model, &mut pen),
        Screen::Targets => home::targets(model, &mut pen),
        Screen::Sessions => home::sessions(model, &mut pen),
    };
    if model.overlay.is_some() {
        cursor = overlay::draw(model, &mut pen);
    }
    cursor
}

fn session(model: &Model, pen: &mut Pen<'_>) -> Option<Position> {
    let areas = layout::session(model);
    header::draw(model, pen, areas.header);
    foot::draw(model, pen, areas.foot);
    foot::hints(model, pen, areas.hints);
    let Some(session) = &model.session else { return None };
    header::status(model, session, pen, areas.status);
    tabs::draw(session, pen, areas.tabs, model.columns < 100);
    match session.tab {
        Tab::Latency => {
            latency::draw(session, pen, areas.main);
            None
        }
        Tab::Process => process::draw(session, pen, areas.main),
        _ => {
            list::draw(model, session, pen, &areas);
            details::draw(session, pen, &areas);
            strip::draw(model, session, pen, areas.strip);
            None
        }
    }
}
