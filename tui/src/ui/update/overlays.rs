//! Keys of prompts, choosers, questions and texts.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Effect, commands, copy, palette, places};
use crate::ui::{
    filter,
    model::{
        Model, Screen,
        notices::Level,
        overlay::{Chooser, Command, Overlay},
    },
};

/// Rows that page keys move in a text.
const PAGE: usize = 10;

pub(super) fn key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    if key.code == KeyCode::Esc || (ctrl && matches!(key.code, KeyCode::Char('c' | 'g'))) {
        return cancel(model);
    }
    let Some(overlay) = &mut model.overlay else { return Vec::new() };
    match overlay {
        Overlay::Help { searching: true, search, scroll } => {
            if key.code == KeyCode::Enter {
                model.overlay =
                    Some(Overlay::Help { search: std::mem::take(search), searching: false, scroll: 0 });
            } else {
                *scroll = 0;
                search.key(key);
            }
            Vec::new()
        }
        Overlay::Help { .. } | Overlay::Text { .. } => {
            text_key(model, key);
            Vec::new()
        }
        Overlay::Palette { .. } => palette::key(model, key),
        Overlay::Pick(_) => places::key(model, key),
        Overlay::Filter { .. } => filter_key(model, key),
        Overlay::Search { edit } => {
            if key.code == KeyCode::Enter {
                let text = edit.text();
                model.overlay = None;
                if let Some(session) = &mut model.session {
                    session.details.search = text;
                    session.details.find(true);
                }
            } else {
                edit.key(key);
            }
            Vec::new()
        }
        Overlay::Comment { edit, seq } => {
            if key.code == KeyCode::Enter {
                let (seq, text) = (*seq, edit.text());
                model.overlay = None;
                let written = model.session.as_mut().is_none_or(|session| session.set_comment(seq, &text));
                if !written {
                    super::notice(model, Level::Info, "no more rows can have comments");
                }
            } else {
                edit.key(key);
            }
            Vec::new()
        }
        Overlay::Path { edit, purpose } => {
            if key.code == KeyCode::Enter {
                let (path, purpose) = (edit.text(), purpose.clone());
                model.overlay = None;
                return copy::path_given(model, &path, &purpose);
            }
            edit.key(key);
            Vec::new()
        }
        Overlay::Chooser(chooser) => match chosen(chooser, key) {
            Some(command) => {
                model.overlay = None;
                commands::run(model, command)
            }
            None => Vec::new(),
        },
        Overlay::Confirm(confirm) => match key.code {
            KeyCode::Enter if confirm.on_yes => {
                let command = confirm.command.clone();
                model.overlay = None;
                commands::run(model, command)
            }
            KeyCode::Char('y') => {
                // One key must not do it: it moves to the answer, Enter gives it.
                confirm.on_yes = true;
                Vec::new()
            }
            KeyCode::Enter | KeyCode::Char('n' | 'q') => cancel(model),
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right | KeyCode::Char('h' | 'l') => {
                confirm.on_yes = !confirm.on_yes;
                Vec::new()
            }
            _ => Vec::new(),
        },
    }
}

/// Takes the overlay away; a filter that was being typed becomes what it was.
fn cancel(model: &mut Model) -> Vec<Effect> {
    if let Some(Overlay::Filter { before, .. }) = model.overlay.take() {
        apply_filter(model, &before);
    }
    Vec::new()
}

/// Text came into the prompt by another way than a key.
pub(super) fn typed(model: &mut Model) -> Vec<Effect> {
    if matches!(model.overlay, Some(Overlay::Filter { .. })) {
        try_filter(model);
    }
    Vec::new()
}

fn text_key(model: &mut Model, key: KeyEvent) {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q' | '?' | ',') | KeyCode::Enter => model.overlay = None,
        KeyCode::Char('/') => {
            if let Some(Overlay::Help { searching, .. }) = &mut model.overlay {
                *searching = true;
            }
        }
        KeyCode::Char('j') | KeyCode::Down => scroll(model, true, 1),
        KeyCode::Char('k') | KeyCode::Up => scroll(model, false, 1),
        KeyCode::Char('d' | 'f') if ctrl => scroll(model, true, PAGE),
        KeyCode::Char('u' | 'b') if ctrl => scroll(model, false, PAGE),
        KeyCode::PageDown | KeyCode::Char(' ') => scroll(model, true, PAGE),
        KeyCode::PageUp => scroll(model, false, PAGE),
        KeyCode::Home | KeyCode::Char('g') => scroll(model, false, usize::MAX),
        KeyCode::End | KeyCode::Char('G') => scroll(model, true, usize::MAX),
        _ => {}
    }
}

pub(super) fn scroll(model: &mut Model, down: bool, rows: usize) {
    let last = crate::ui::view::overlay::last_scroll(model);
    match &mut model.overlay {
        Some(Overlay::Help { scroll, .. } | Overlay::Text { scroll, .. }) => {
            *scroll = if down { scroll.saturating_add(rows).min(last) } else { scroll.saturating_sub(rows) };
        }
        Some(Overlay::Chooser(chooser)) => {
            let end = chooser.items.len().saturating_sub(1);
            chooser.at = if down { (chooser.at + 1).min(end) } else { chooser.at.saturating_sub(1) };
        }
        Some(Overlay::Pick(pick)) => pick.step(down),
        _ => {}
    }
}

fn chosen(chooser: &mut Chooser, key: KeyEvent) -> Option<Command> {
    let item = |key: char| chooser.items.iter().find(|item| item.key == key).map(|item| item.command.clone());
    match key.code {
        KeyCode::Char(sign) if item(sign).is_some() => item(sign),
        KeyCode::Down | KeyCode::Char('j') | KeyCode::Tab => {
            chooser.at = (chooser.at + 1) % chooser.items.len().max(1);
            None
        }
        KeyCode::Up | KeyCode::Char('k') | KeyCode::BackTab => {
            chooser.at = (chooser.at + chooser.items.len().max(1) - 1) % chooser.items.len().max(1);
            None
        }
        KeyCode::Enter => chooser.items.get(chooser.at).map(|item| item.command.clone()),
        _ => None,
    }
}

// ---- filter

fn filter_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Overlay::Filter { edit, error, .. }) = &mut model.overlay else { return Vec::new() };
    match key.code {
        // A wrong filter stays open, with the place in red.
        KeyCode::Enter if error.is_some() => return Vec::new(),
        KeyCode::Enter => {
            let text = edit.text();
            model.overlay = None;
            model.filter_history.push(&text);
            apply_filter(model, &text);
            return Vec::new();
        }
        KeyCode::Up => {
            if let Some(line) = model.filter_history.older() {
                edit.set(line);
            }
        }
        KeyCode::Down => {
            if let Some(line) = model.filter_history.newer() {
                edit.set(line);
            }
        }
        KeyCode::Tab => {
            if let Some(rest) = completion(&edit.text(), edit.at()) {
                edit.insert(rest);
                edit.insert(" ");
            }
        }
        KeyCode::F(1) => return super::actions::act(model, crate::ui::keys::Action::Help),
        _ => drop(edit.key(key)),
    }
    try_filter(model);
    Vec::new()
}

/// Shows at once what the typed text finds, or where it is wrong.
fn try_filter(model: &mut Model) {
    let on_session = model.screen() == Screen::Session;
    let Some(Overlay::Filter { edit, error, .. }) = &mut model.overlay else { return };
    let text = edit.text();
    if !on_session {
        model.targets.set_filter(&text);
        return;
    }
    *error = filter::parse(&text).err();
    if error.is_none() {
        apply_filter(model, &text);
    }
}

fn apply_filter(model: &mut Model, text: &str) {
    if model.screen() != Screen::Session {
        model.targets.set_filter(text);
    } else if let Some(session) = &mut model.session {
        session.with_stream(|stream, store| stream.set_filter(text, store).is_ok());
    }
}

/// What is missing of the operator before the cursor, when only one fits.
pub(crate) fn completion(text: &str, at: usize) -> Option<&'static str> {
    let before = text.get(..at)?;
    let begun = before.get(before.rfind('~')? + 1..)?;
    if begun.is_empty() || !begun.chars().all(char::is_alphanumeric) {
        return None;
    }
    let mut fits = filter::OPERATORS.iter().filter_map(|operator| operator.name.strip_prefix(begun));
    match (fits.next(), fits.next()) {
        (Some(rest), None) if !rest.is_empty() => Some(rest),
        _ => None,
    }
}
