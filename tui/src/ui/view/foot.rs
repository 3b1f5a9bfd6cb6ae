//! The lines at the foot: the latest message, else what this window has lost; and the keys that matter here.

use ratatui::layout::Rect;

use super::pen::Pen;
use crate::ui::{
    keys::{Action, BINDINGS, Context},
    model::{Model, Screen, notices::Level, session::Link},
    text,
    tone::{TextLine, Tone},
};

pub(super) fn draw(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    let line = match model.notices.toast(model.now_ms) {
        Some(notice) => match notice.level {
            Level::Info => TextLine::new(Tone::Plain, format!("  {}", notice.text)),
            Level::Done => TextLine::new(Tone::Good, format!("✓ {}", notice.text)),
            Level::Error => TextLine::new(Tone::Bad, format!("✗ {}", notice.text)).with(Tone::Dim, "  esc"),
        },
        None => quiet(model),
    };
    pen.line(area.x + 1, area.y, area.width.saturating_sub(1), &line);
}

/// What is worth saying when there is no message.
fn quiet(model: &Model) -> TextLine {
    let Some(session) = model.session.as_ref().filter(|_| model.screen() == Screen::Session) else {
        return TextLine::default();
    };
    let mut line = TextLine::default();
    match &session.link {
        Link::Retrying { reason, .. } => line = line.with(Tone::Warn, format!("{reason}  ")),
        Link::Gone { reason } if !reason.is_empty() => line = line.with(Tone::Dim, format!("{reason}  ")),
        _ => {}
    }
    if !session.info.recording.is_empty() {
        line = line.with(Tone::Bad, "● ").with(Tone::Plain, format!("{}  ", session.info.recording));
    }
    if session.store().evicted() > 0 {
        line = line.with(Tone::Dim, format!("evicted {}  ", text::count(session.store().evicted())));
    }
    if session.store().bytes() > 1 << 20 {
        let bytes = u64::try_from(session.store().bytes()).unwrap_or(0);
        line = line.with(Tone::Dim, format!("held {}  ", text::size(bytes)));
    }
    line
}

/// Keys of the present context in the first line, keys that work everywhere in the second.
pub(super) fn hints(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    if area.height == 0 {
        return;
    }
    let contexts = model.contexts();
    let own: Vec<_> = BINDINGS.iter().filter(|binding| contexts.contains(&binding.context)).collect();
    let here = |session: bool| {
        own.iter()
            .filter(move |binding| (binding.context == Context::Session) == session)
            .map(|binding| binding.action)
    };
    let global =
        BINDINGS.iter().filter(|binding| binding.context == Context::Global).map(|binding| binding.action);
    if model.screen() == Screen::Launch {
        let text = "⏎ start  ⇥ next field  ←→ choose  ctrl-r recent  ctrl-y copy the command line  esc back";
        pen.put(area.x + 1, area.y, area.width.saturating_sub(1), Tone::Dim, text);
        return;
    }
    let typing = model.session.as_ref().is_some_and(|session| session.process.typing);
    if model.screen() == Screen::Session && typing {
        let text = "all keys go to the command  ctrl-] leaves";
        pen.put(area.x + 1, area.y, area.width.saturating_sub(1), Tone::Dim, text);
        return;
    }
    if area.height == 1 {
        let all = here(false).take(5).chain(global);
        row(model, pen, area, all);
        return;
    }
    row(model, pen, area, here(false));
    row(model, pen, Rect { y: area.y + 1, ..area }, global.chain(here(true)));
}

fn row(model: &Model, pen: &mut Pen<'_>, area: Rect, actions: impl Iterator<Item = Action>) {
    let mut x = area.x + 1;
    for action in actions {
        let binding = action.binding();
        let keys = model.options.keys.keys(action);
        let Some(key) = keys.first().filter(|_| !binding.hint.is_empty()) else { continue };
        let key = match key.as_str() {
            "enter" => "⏎",
            "tab" => "⇥",
            key => key,
        };
        let columns = text::cells(text::width(key) + text::width(binding.hint) + 3);
        if x + columns > area.right() {
            break;
        }
        x = pen.put(x, area.y, columns, Tone::Key, key) + 1;
        x = pen.put(x, area.y, columns, Tone::Dim, binding.hint) + 2;
    }
}
