//! What a message does to the model, and what shall be done outside because of it. Pure: no clock, no I/O, no terminal.
//!
//! `input` takes keys and the mouse to whatever has them; `actions` does what a key of the table means; `overlays` are prompts,
//! choosers and questions; `commands` is what those set off; `palette` reads typed commands; `places` chooses cluster and namespace;
//! `host` takes what hosts say.

mod actions;
mod commands;
mod copy;
mod host;
mod input;
mod overlays;
mod palette;
mod places;
mod resend;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use crossterm::event::{KeyEvent, MouseEvent};
use mirrord_protocol::session::v1::{Event, EventBatch, Mode, Port, SessionInfo};

use super::model::{
    Model, Screen,
    draft::Draft,
    form::LaunchRequest,
    latency::Series,
    notices::Level,
    overlay::ExportForm,
    pick::PlaceKind,
    session::{Link, Session, Source},
    targets::{Look, Place, TargetRow},
};
pub(crate) use palette::suggestions;

/// What has happened.
#[derive(Debug)]
pub(crate) enum Msg {
    Key(KeyEvent),
    Paste(String),
    Mouse(MouseEvent),
    Resize(u16, u16),
    /// Milliseconds since the epoch.
    Clock(i64),
    Targets {
        source: &'static str,
        found: Result<Vec<TargetRow>, String>,
    },
    /// Where the targets of the cluster are looked for; `None` without a cluster.
    Place(Option<Place>),
    /// The result of [`Effect::AskPlaces`].
    Places(PlaceKind, Result<Vec<String>, String>),
    Sessions(Vec<SessionInfo>),
    /// The result of [`Effect::LookForOthers`].
    Others {
        port: u32,
        mode: Mode,
        rows: Vec<SessionInfo>,
    },
    /// Launches of earlier runs.
    Recent(Vec<LaunchRequest>),
    /// The result of [`Effect::Launch`]: the id of the session, or why there is none.
    Launched(Result<String, String>),
    /// The session that is attached, or was.
    Host {
        generation: u64,
        said: HostMsg,
    },
    /// The result of [`Effect::Restart`]: the id of the session that follows, or why there is none.
    Restarted(Result<String, String>),
    /// The result of [`Effect::Edit`]: the text before and after, or why there was no editor.
    Edited {
        seq: u64,
        before: String,
        after: Result<String, String>,
    },
    Notice(Level, String),
}

/// What the connection to a session host delivers.
#[derive(Debug)]
pub(crate) enum HostMsg {
    Connected,
    Info(Box<SessionInfo>),
    Events(EventBatch),
    Histograms(Vec<Series>),
    /// The command's terminal has been opened; all of its output follows.
    TerminalOpened,
    /// Output of the command in its terminal.
    Output(Bytes),
    /// The result of [`Effect::SetMode`].
    ModeSet {
        port: u32,
        mode: Mode,
        result: Result<Option<Port>, String>,
    },
    Retrying {
        attempt: u32,
        reason: String,
    },
    /// The result of [`Effect::Fetch`].
    Whole(Box<Event>),
    /// The host has ended, in order or not; nothing more will come.
    Gone {
        reason: String,
    },
    /// A recording has been read to its end.
    Loaded,
}

/// What shall be done outside. The last group is done by whoever owns the terminal, the rest beside it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Attach {
        generation: u64,
        id: String,
    },
    Open {
        generation: u64,
        path: String,
    },
    /// Look for targets and sessions.
    Listing(bool),
    /// Look for targets there from now on.
    LookAt(Look),
    AskPlaces(PlaceKind),
    /// Which sessions there are, before a port is stolen.
    LookForOthers {
        port: u32,
        mode: Mode,
    },
    SetMode {
        port: u32,
        mode: Mode,
    },
    Stop {
        id: String,
    },
    /// Asks for an event with its bodies, which lists come without.
    Fetch {
        seq: u64,
    },
    Restart,
    /// As it was, or as the user has edited it.
    Resend {
        seq: u64,
        edited: Option<Box<Draft>>,
    },
    /// `None`: stop.
    Record {
        path: Option<String>,
    },
    Type(Vec<u8>),
    TerminalSize(u16, u16),
    Launch(Box<LaunchRequest>),
    SaveRecent(Vec<LaunchRequest>),
    Write {
        path: String,
        data: Bytes,
    },
    Export {
        form: ExportForm,
        events: Vec<Event>,
        path: String,
    },

    Copy {
        what: String,
        text: String,
    },
    /// The user's editor gets the terminal; the result is [`Msg::Edited`].
    Edit {
        seq: u64,
        text: String,
    },
    Suspend,
    Redraw,
    Mouse(bool),
}

/// Applies a message.
pub(crate) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    let effects = apply(model, msg);
    model.visit();
    effects
}

fn apply(model: &mut Model, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Key(key) => input::key(model, key),
        Msg::Paste(text) => input::paste(model, &text),
        Msg::Mouse(event) => input::mouse(model, event),
        Msg::Resize(columns, rows) => {
            (model.columns, model.rows) = (columns, rows);
            model.dirty = true;
            process_size(model)
        }
        Msg::Clock(now_ms) => {
            // Asked before and after: what has just become too old must go from the screen.
            let before = model.shows_time();
            model.now_ms = now_ms;
            model.dirty |= before || model.shows_time();
            host::give_up_switches(model);
            Vec::new()
        }
        Msg::Targets { source, found } => {
            let changed = model.targets.set(source, found);
            model.dirty |= changed && model.screen() != Screen::Session;
            Vec::new()
        }
        Msg::Place(place) => {
            model.dirty |= model.targets.set_place(place) && model.screen() != Screen::Session;
            Vec::new()
        }
        Msg::Places(kind, names) => {
            places::known(model, kind, names);
            Vec::new()
        }
        Msg::Others { port, mode, rows } => {
            model.sessions.set(rows);
            model.dirty = true;
            commands::steal_unless_shared(model, port, mode)
        }
        Msg::Sessions(rows) => {
            let changed = model.sessions.set(rows);
            model.dirty |= changed;
            Vec::new()
        }
        Msg::Recent(recent) => {
            model.form.set_recent(recent);
            Vec::new()
        }
        Msg::Launched(result) => host::launched(model, result),
        Msg::Restarted(result) => host::restarted(model, result),
        Msg::Edited { seq, before, after } => resend::edited(model, seq, &before, after),
        Msg::Host { generation, said } if generation == model.generation => host::said(model, said),
        Msg::Host { .. } => Vec::new(),
        Msg::Notice(level, text) => {
            notice(model, level, text);
            Vec::new()
        }
    }
}

/// Shows a session from its beginning.
pub(crate) fn attach(model: &mut Model, id: &str) -> Vec<Effect> {
    let same = Source::Live { id: id.to_owned() };
    let open = model.session.as_ref().is_some_and(|session| {
        session.source == same && matches!(session.link, Link::Up | Link::Connecting | Link::Retrying { .. })
    });
    model.show(Screen::Session);
    model.dirty = true;
    if open {
        return Vec::new();
    }
    model.generation += 1;
    model.session = Some(Box::new(Session::new(same, model.options.bounds, model.options.utc_offset)));
    let mut effects = vec![Effect::Attach { generation: model.generation, id: id.to_owned() }];
    effects.extend(process_size(model));
    effects
}

/// Shows a recording.
pub(crate) fn open(model: &mut Model, path: &str) -> Vec<Effect> {
    model.generation += 1;
    let source = Source::Recording { path: path.to_owned(), loading: true };
    model.session = Some(Box::new(Session::new(source, model.options.bounds, model.options.utc_offset)));
    model.show(Screen::Session);
    model.dirty = true;
    vec![Effect::Open { generation: model.generation, path: path.to_owned() }]
}

fn notice(model: &mut Model, level: Level, text: impl Into<String>) {
    model.notices.add(level, text, model.now_ms);
    model.dirty = true;
}

/// Gives the command's terminal the size of the pane.
fn process_size(model: &mut Model) -> Vec<Effect> {
    let (columns, rows) = pane_size(model);
    let Some(session) = &mut model.session else { return Vec::new() };
    let changed = session.process.resize(columns, rows);
    if changed && session.info.has_terminal { vec![Effect::TerminalSize(columns, rows)] } else { Vec::new() }
}

/// The size that the pane of the process tab has, or would have.
fn pane_size(model: &Model) -> (u16, u16) {
    let hints = super::layout::home(model).hints.height;
    (model.columns, model.rows.saturating_sub(5 + hints))
}
