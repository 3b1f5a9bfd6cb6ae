//! Takes keys, pasted text and the mouse to whatever has them: an overlay, the command's terminal, the form, or the key table.

use crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::{Effect, actions, commands, overlays};
use crate::ui::{
    keys::{Action, Key},
    layout,
    model::{Model, Screen, overlay::Overlay, process::key_bytes, session::Tab, stream::Move},
};

/// Rows that one step of the wheel moves.
const WHEEL: usize = 3;

pub(super) fn key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    // Terminals that report releases report each key twice.
    if key.kind == KeyEventKind::Release {
        return Vec::new();
    }
    model.dirty = true;
    let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    if !layout::fits(model) {
        // Nothing can be seen, so nothing but leaving is done.
        let leaves = ctrl_c || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
        model.quit |= leaves;
        return Vec::new();
    }
    if model.overlay.is_some() {
        return overlays::key(model, key);
    }
    if let Some(effects) = type_into_command(model, key) {
        return effects;
    }
    if model.screen() == Screen::Launch && !ctrl_c {
        return form_key(model, key);
    }
    match model.options.keys.action(&model.contexts(), Key::from(key)) {
        Some(action) => actions::act(model, action),
        None => Vec::new(),
    }
}

pub(super) fn paste(model: &mut Model, text: &str) -> Vec<Effect> {
    model.dirty = true;
    if let Some(overlay) = &mut model.overlay {
        if let Overlay::Help { search: edit, searching: true, .. }
        | Overlay::Palette { edit, .. }
        | Overlay::Filter { edit, .. }
        | Overlay::Search { edit }
        | Overlay::Comment { edit, .. }
        | Overlay::Path { edit, .. } = overlay
        {
            edit.insert(text);
        }
        if let Overlay::Pick(pick) = overlay {
            pick.edit.insert(text);
            pick.typed();
        }
        return overlays::typed(model);
    }
    if typing(model) {
        return vec![Effect::Type(text.as_bytes().to_vec())];
    }
    if model.screen() == Screen::Launch
        && let Some(edit) = model.form.edit()
    {
        edit.insert(text);
    }
    Vec::new()
}

fn typing(model: &Model) -> bool {
    let session = model.session.as_ref().filter(|_| model.screen() == Screen::Session);
    session.is_some_and(|session| session.tab == Tab::Process && session.process.typing)
}

fn type_into_command(model: &mut Model, key: KeyEvent) -> Option<Vec<Effect>> {
    if !typing(model) {
        return None;
    }
    let session = model.session.as_mut()?;
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    // Terminals send the same byte for ctrl-] and ctrl-5.
    if ctrl && matches!(key.code, KeyCode::Char(']' | '5')) {
        session.process.typing = false;
        return Some(Vec::new());
    }
    session.process.show_end();
    let application = session.process.screen().application_cursor();
    Some(key_bytes(key, application).map(Effect::Type).into_iter().collect())
}

fn form_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let form = &mut model.form;
    form.error = None;
    let is_text = form.edit().is_some();
    match key.code {
        KeyCode::Esc => drop(model.pop()),
        KeyCode::Enter => return commands::launch(model),
        KeyCode::Tab | KeyCode::Down => form.step(true),
        KeyCode::BackTab | KeyCode::Up => form.step(false),
        KeyCode::Char('n') if ctrl => form.step(true),
        KeyCode::Char('p') if ctrl => form.step(false),
        KeyCode::Char('r') if ctrl => form.next_recent(),
        KeyCode::Char('y') if ctrl => return commands::copy_launch(model),
        KeyCode::F(1) => return actions::act(model, Action::Help),
        KeyCode::Char(' ' | 'l') | KeyCode::Right if !is_text => form.choose(true),
        KeyCode::Char('h') | KeyCode::Left if !is_text => form.choose(false),
        _ => {
            if let Some(edit) = form.edit() {
                edit.key(key);
            }
        }
    }
    Vec::new()
}

pub(super) fn mouse(model: &mut Model, event: MouseEvent) -> Vec<Effect> {
    if !model.options.mouse || !layout::fits(model) {
        return Vec::new();
    }
    match event.kind {
        MouseEventKind::ScrollDown => wheel(model, event, true),
        MouseEventKind::ScrollUp => wheel(model, event, false),
        MouseEventKind::Down(MouseButton::Left) => click(model, event),
        _ => Vec::new(),
    }
}

fn wheel(model: &mut Model, event: MouseEvent, down: bool) -> Vec<Effect> {
    model.dirty = true;
    if model.overlay.is_some() {
        overlays::scroll(model, down, WHEEL);
        return Vec::new();
    }
    match model.screen() {
        Screen::Session => {
            let details = layout::session(model).details.contains((event.column, event.row).into());
            let Some(session) = &mut model.session else { return Vec::new() };
            match session.tab {
                Tab::Process => session.process.scroll(!down),
                _ if details && down => session.details.scroll_down(WHEEL),
                _ if details => session.details.scroll_up(WHEEL),
                _ => {
                    let to = if down { Move::Down(WHEEL) } else { Move::Up(WHEEL) };
                    session.with_stream(|stream, _| stream.go(to));
                }
            }
            Vec::new()
        }
        Screen::Launch => {
            model.form.step(down);
            Vec::new()
        }
        Screen::Targets | Screen::Sessions => {
            actions::act(model, if down { Action::Down } else { Action::Up })
        }
    }
}

fn click(model: &mut Model, event: MouseEvent) -> Vec<Effect> {
    let (column, row) = (event.column, event.row);
    model.dirty = true;
    if model.overlay.is_some() {
        return Vec::new();
    }
    match model.screen() {
        Screen::Session => click_session(model, column, row),
        Screen::Targets | Screen::Sessions => {
            let hit = layout::home(model).list_row(column, row).map(usize::from);
            let list = if model.screen() == Screen::Targets {
                &mut model.targets.list
            } else {
                &mut model.sessions.list
            };
            if let Some(at) = hit.map(|hit| hit + list.top()).filter(|at| *at < list.len()) {
                let again = list.row() == at;
                list.go(at);
                if again {
                    return actions::act(model, Action::Open);
                }
            }
            Vec::new()
        }
        Screen::Launch => {
            let (fields, first) = layout::form_fields(model);
            let at = row.checked_sub(fields.y).map(|at| first + usize::from(at));
            if let Some(field) = at.and_then(|at| model.form.fields().nth(at)) {
                if model.form.field == field {
                    model.form.choose(true);
                }
                model.form.field = field;
            }
            Vec::new()
        }
    }
}

fn click_session(model: &mut Model, column: u16, row: u16) -> Vec<Effect> {
    let areas = layout::session(model);
    let narrow = model.columns < 100;
    let Some(session) = &mut model.session else { return Vec::new() };
    if areas.tabs.contains((column, row).into()) {
        let spans = crate::ui::view::tabs::spans(session, narrow);
        if let Some((tab, _)) = spans.iter().find(|(_, span)| span.contains(&column)) {
            session.tab = *tab;
        }
        return Vec::new();
    }
    if areas.details.contains((column, row).into()) || areas.details_title.contains((column, row).into()) {
        session.in_details = true;
        return Vec::new();
    }
    if let Some(hit) = areas.list_row(column, row) {
        session.in_details = false;
        let height = usize::from(areas.list_rows());
        let seq = session.stream().and_then(|stream| stream.window(height).nth(usize::from(hit)));
        if let Some(seq) = seq {
            session.with_stream(|stream, _| stream.select(seq));
        }
    }
    Vec::new()
}
