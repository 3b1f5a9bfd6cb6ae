//! Which cluster and namespace the targets are of: asked with a list, or named.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Effect, notice};
use crate::ui::model::{
    Model, Screen,
    edit::LineEdit,
    notices::Level,
    overlay::Overlay,
    pick::{Names, Pick, PlaceKind},
    targets::Look,
};

/// Asks for one of them. The list opens at once; its names come when the cluster has answered.
pub(super) fn ask(model: &mut Model, kind: PlaceKind) -> Vec<Effect> {
    model.show(Screen::Targets);
    model.overlay = Some(Overlay::Pick(Pick::new(kind)));
    vec![Effect::AskPlaces(kind)]
}

/// The names have come, or cannot.
pub(super) fn known(model: &mut Model, kind: PlaceKind, names: Result<Vec<String>, String>) {
    let Some(Overlay::Pick(pick)) = model.overlay.as_mut().filter(
        |overlay| matches!(overlay, Overlay::Pick(pick) if pick.kind == kind && pick.names == Names::Asked),
    ) else {
        return;
    };
    pick.names = match names {
        Ok(names) => Names::Known(names),
        Err(reason) => Names::Failed(reason),
    };
    model.dirty = true;
}

pub(super) fn key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Overlay::Pick(pick)) = &mut model.overlay else { return Vec::new() };
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Enter => {
            let Some(name) = pick.answer() else { return Vec::new() };
            let kind = pick.kind;
            model.overlay = None;
            return named(model, kind, &name);
        }
        KeyCode::Down | KeyCode::Tab => pick.step(true),
        KeyCode::Up | KeyCode::BackTab => pick.step(false),
        KeyCode::Char('n') if ctrl => pick.step(true),
        KeyCode::Char('p') if ctrl => pick.step(false),
        _ => {
            if LineEdit::key(&mut pick.edit, key) {
                pick.typed();
            }
        }
    }
    Vec::new()
}

pub(super) fn named(model: &mut Model, kind: PlaceKind, name: &str) -> Vec<Effect> {
    look(
        model,
        match kind {
            PlaceKind::Namespace => Look::Namespace(name.to_owned()),
            PlaceKind::Context => Look::Context(name.to_owned()),
        },
    )
}

/// Looks somewhere else from now on.
pub(super) fn look(model: &mut Model, at: Look) -> Vec<Effect> {
    model.show(Screen::Targets);
    let text = match &at {
        Look::Namespace(name) => format!("targets of namespace {name}"),
        Look::AllNamespaces => "targets of all namespaces".to_owned(),
        Look::Context(name) => format!("targets of context {name}"),
    };
    notice(model, Level::Info, text);
    vec![Effect::LookAt(at)]
}
