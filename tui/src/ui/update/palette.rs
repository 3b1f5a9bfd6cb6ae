//! The `:` prompt: every command of the key table by name, and some with arguments.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use mirrord_protocol::session::v1::Mode;

use super::{Effect, commands, copy, notice, places};
use crate::ui::{
    fuzzy,
    keys::{Action, BINDINGS},
    model::{
        Model, Screen,
        notices::Level,
        overlay::{Command, ExportForm, Overlay, Purpose},
        pick::PlaceKind,
        stream::SortBy,
        targets::Look,
    },
    theme::ThemeName,
};

/// A line of the palette.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suggestion {
    pub(crate) name: &'static str,
    /// What follows the name; empty: nothing.
    pub(crate) argument: &'static str,
    pub(crate) help: &'static str,
    action: Option<Action>,
}

const WITH_ARGUMENT: [(&str, &str, &str); 11] = [
    ("attach", "ID", "show a session"),
    ("open", "FILE", "show a recording"),
    ("filter", "EXPRESSION", "filter the list"),
    ("set-mode", "PORT mirror|steal|off", "switch a port"),
    ("sort", "time|latency|size|status|name", "order the list"),
    ("export", "har|jsonl|curl FILE", "write the rows of the list"),
    ("record", "FILE", "write all events to a file"),
    ("theme", "terminal|light|mono", "colours"),
    ("launch", "TARGET", "run a command in the context of a target"),
    ("namespace", "NAME|all", "targets of another namespace of the cluster"),
    ("context", "NAME", "targets of another cluster of the kubeconfig"),
];

/// Short names that people know from elsewhere.
const ALIASES: [(&str, &str); 11] = [
    ("q", "quit"),
    ("ns", "namespace"),
    ("ctx", "context"),
    ("s", "sessions"),
    ("t", "targets"),
    ("po", "targets"),
    ("pods", "targets"),
    ("h", "help"),
    ("w", "record"),
    ("f", "filter"),
    ("log", "messages"),
];

/// What fits what was typed, best first.
pub(crate) fn suggestions(text: &str) -> Vec<Suggestion> {
    let typed = text.split_whitespace().next().unwrap_or_default();
    let with_argument =
        WITH_ARGUMENT.iter().map(|(name, argument, help)| Suggestion { name, argument, help, action: None });
    let named = |name: &str| WITH_ARGUMENT.iter().any(|(known, ..)| *known == name);
    let plain = BINDINGS.iter().filter(|binding| !named(binding.name)).map(|binding| Suggestion {
        name: binding.name,
        argument: "",
        help: binding.help,
        action: Some(binding.action),
    });
    let alias = ALIASES.iter().find(|(short, _)| *short == typed).map(|(_, long)| *long);
    let mut scored: Vec<_> = with_argument
        .chain(plain)
        .filter_map(|suggestion| {
            let bonus = if suggestion.name == typed || alias == Some(suggestion.name) { 1_000 } else { 0 };
            let by_name = fuzzy::score(typed, suggestion.name).map(|score| score * 2 + 20);
            // Words of the explanation find a command, too, but only whole ones.
            let by_help = || (typed.len() > 2 && suggestion.help.contains(typed)).then_some(0);
            let begins = if suggestion.name.starts_with(typed) { 100 } else { 0 };
            Some((
                by_name.or_else(by_help).or_else(|| (bonus > 0).then_some(0))? + bonus + begins,
                suggestion,
            ))
        })
        .collect();
    scored.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.name.cmp(y.name)));
    scored.into_iter().map(|(_, suggestion)| suggestion).collect()
}

pub(super) fn key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Overlay::Palette { edit, chosen }) = &mut model.overlay else { return Vec::new() };
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let found = suggestions(&edit.text());
    match key.code {
        KeyCode::Enter => {
            let typed = edit.text();
            let suggestion = found.get(*chosen).cloned();
            model.overlay = None;
            return enter(model, &typed, suggestion);
        }
        KeyCode::Tab => {
            if let Some(suggestion) = found.get(*chosen) {
                let space = if suggestion.argument.is_empty() { "" } else { " " };
                edit.set(&format!("{}{space}", suggestion.name));
                *chosen = 0;
            }
        }
        KeyCode::Down => *chosen = (*chosen + 1).min(found.len().saturating_sub(1)),
        KeyCode::Up if *chosen > 0 => *chosen -= 1,
        KeyCode::Up => {
            if let Some(line) = model.palette_history.older() {
                edit.set(line);
            }
        }
        KeyCode::Char('n') if ctrl => *chosen = (*chosen + 1).min(found.len().saturating_sub(1)),
        KeyCode::Char('p') if ctrl => *chosen = chosen.saturating_sub(1),
        KeyCode::Right if edit.at_end() => {
            if let Some(line) = model.palette_history.beginning_with(&edit.text()) {
                edit.set(line);
            }
        }
        KeyCode::Backspace if edit.is_empty() => model.overlay = None,
        _ => {
            if edit.key(key) {
                *chosen = 0;
            }
        }
    }
    Vec::new()
}

fn enter(model: &mut Model, typed: &str, suggestion: Option<Suggestion>) -> Vec<Effect> {
    let typed = typed.trim();
    let (first, argument) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let Some(suggestion) = suggestion else {
        notice(model, Level::Error, format!("there is no command `{first}`; `?` lists them"));
        return Vec::new();
    };
    model.palette_history.push(format!("{} {argument}", suggestion.name).trim());
    match suggestion.action {
        Some(action) => super::actions::act(model, action),
        None => with_argument(model, suggestion.name, suggestion.argument, argument.trim()),
    }
}

fn with_argument(model: &mut Model, name: &str, expected: &str, argument: &str) -> Vec<Effect> {
    let mut words = argument.split_whitespace();
    let first = words.next().unwrap_or_default();
    let rest: Vec<_> = words.collect();
    let done = match name {
        "attach" if !first.is_empty() => Some(super::attach(model, first)),
        "open" if !argument.is_empty() => Some(super::open(model, argument)),
        "filter" => return set_filter(model, argument),
        "set-mode" => port_and_mode(first, &rest).map(|command| commands::run(model, command)),
        "sort" => SortBy::ALL
            .into_iter()
            .find(|by| by.name() == first)
            .map(|by| commands::run(model, Command::Sort(by))),
        "export" => export(model, first, &rest.join(" ")),
        "record" if argument.is_empty() => Some(super::actions::act(model, Action::Record)),
        "record" => Some(copy::path_given(model, argument, &Purpose::Record)),
        "theme" if argument.is_empty() => Some(super::actions::act(model, Action::Theme)),
        "theme" => {
            let known = [ThemeName::Terminal, ThemeName::Light, ThemeName::Mono];
            known.into_iter().find(|theme| theme.name() == first).map(|theme| {
                model.options.theme = theme;
                Vec::new()
            })
        }
        "launch" if !first.is_empty() => {
            let cwd = model.options.cwd.clone();
            let cluster = model.targets.by_reference(first).and_then(|row| row.cluster.clone());
            model.form.open(first, cluster, &cwd);
            model.show(Screen::Launch);
            Some(Vec::new())
        }
        "launch" => Some(super::actions::act(model, Action::Launch)),
        "namespace" if first == "all" => Some(places::look(model, Look::AllNamespaces)),
        "namespace" if first.is_empty() => Some(places::ask(model, PlaceKind::Namespace)),
        "namespace" => Some(places::named(model, PlaceKind::Namespace, first)),
        "context" if first.is_empty() => Some(places::ask(model, PlaceKind::Context)),
        "context" => Some(places::named(model, PlaceKind::Context, first)),
        _ => None,
    };
    done.unwrap_or_else(|| {
        notice(model, Level::Error, format!("write: {name} {expected}"));
        Vec::new()
    })
}

fn set_filter(model: &mut Model, text: &str) -> Vec<Effect> {
    if model.screen() != Screen::Session {
        model.targets.set_filter(text);
        return Vec::new();
    }
    let result = model
        .session
        .as_mut()
        .and_then(|session| session.with_stream(|stream, store| stream.set_filter(text, store)));
    if let Some(Err(error)) = result {
        notice(model, Level::Error, format!("filter: {error}"));
    }
    Vec::new()
}

fn port_and_mode(port: &str, rest: &[&str]) -> Option<Command> {
    let mode = match rest {
        ["mirror"] => Mode::Mirror,
        ["steal"] => Mode::Steal,
        ["off"] => Mode::Off,
        _ => return None,
    };
    Some(Command::SetMode { port: port.parse().ok()?, mode })
}

fn export(model: &mut Model, form: &str, path: &str) -> Option<Vec<Effect>> {
    let form = match form {
        "har" => ExportForm::Har,
        "jsonl" => ExportForm::Jsonl,
        "curl" => ExportForm::Curl,
        _ => return None,
    };
    Some(if path.is_empty() {
        commands::run(model, Command::Export(form))
    } else {
        copy::path_given(model, path, &Purpose::Export(form))
    })
}
