//! What session hosts, and the starter of sessions, say.

use super::{Effect, HostMsg, attach, notice, process_size};
use crate::ui::{
    limits,
    model::{
        Model, Screen,
        details::mode_name,
        notices::Level,
        session::{Link, Source},
    },
};
use mirrord_protocol::session::v1::{Mode, Port, State};

pub(super) fn said(model: &mut Model, said: HostMsg) -> Vec<Effect> {
    let now = model.now_ms;
    let visible = model.screen() == Screen::Session;
    let Some(session) = &mut model.session else { return Vec::new() };
    model.dirty |= visible;
    match said {
        HostMsg::Connected => session.reconnected(),
        HostMsg::Info(info) => {
            let had_terminal = session.info.has_terminal;
            let failed = info.state() == State::Failed && session.info.state() != State::Failed;
            let words = [info.detail.clone(), info.hint.clone()];
            session.set_info(*info, now);
            let has_terminal = session.info.has_terminal;
            if failed {
                let text = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("; ");
                notice(model, Level::Error, text);
            }
            if has_terminal && !had_terminal {
                process_size(model);
                let size = model.session.as_ref().map_or((80, 24), |session| session.process.size());
                return vec![Effect::TerminalSize(size.0, size.1)];
            }
        }
        HostMsg::Whole(event) => session.whole(*event),
        HostMsg::Events(batch) => session.batch(batch),
        HostMsg::Histograms(series) => session.latency.set(series),
        HostMsg::TerminalOpened => {
            session.process.reopen();
            let (columns, rows) = session.process.size();
            return vec![Effect::TerminalSize(columns, rows)];
        }
        HostMsg::Output(data) => session.process.output(&data),
        HostMsg::ModeSet { port, mode, result } => mode_set(model, port, mode, result),
        HostMsg::Retrying { attempt, reason } => {
            let since_ms = match &session.link {
                Link::Retrying { since_ms, .. } => *since_ms,
                _ => now,
            };
            session.link = Link::Retrying { attempt, reason, since_ms };
        }
        HostMsg::Gone { reason } => {
            session.link = Link::Gone { reason };
            session.process.typing = false;
        }
        HostMsg::Loaded => {
            if let Source::Recording { loading, .. } = &mut session.source {
                *loading = false;
            }
            session.link = Link::Gone { reason: String::new() };
        }
    }
    Vec::new()
}

fn mode_set(model: &mut Model, port: u32, mode: Mode, result: Result<Option<Port>, String>) {
    let now = model.now_ms;
    let Some(session) = &mut model.session else { return };
    let since = session.switching.remove(&port).map_or(now, |(_, since)| since);
    match result {
        Ok(answer) => {
            let waiting = answer.as_ref().map(|port| port.waiting.clone()).unwrap_or_default();
            if let Some(answer) = answer
                && let Some(known) = session.info.ports.iter_mut().find(|known| known.remote == port)
            {
                *known = answer;
            }
            let name = mode_name(mode).to_uppercase();
            let text = if waiting.is_empty() {
                format!("port {port} switched to {name} ({} ms)", (now - since).max(0))
            } else {
                format!("port {port} will be {name}: {waiting}")
            };
            notice(model, Level::Done, text);
        }
        Err(reason) => notice(model, Level::Error, format!("port {port} did not change: {reason}")),
    }
}

/// A switch that nobody answers is not shown as pending for ever.
pub(super) fn give_up_switches(model: &mut Model) {
    let now = model.now_ms;
    let Some(session) = &mut model.session else { return };
    let before = session.switching.len();
    session.switching.retain(|_, (_, since)| now - *since <= limits::SWITCH_MS);
    if session.switching.len() < before {
        notice(model, Level::Error, "the port did not change: no answer from the session host");
    }
}

/// The session has ended, and an equal one runs.
pub(super) fn restarted(model: &mut Model, result: Result<String, String>) -> Vec<Effect> {
    model.dirty = true;
    match result {
        Ok(id) => {
            notice(model, Level::Done, format!("started again as session {id}"));
            let tab = model.session.as_ref().map(|session| session.tab).unwrap_or_default();
            let effects = attach(model, &id);
            if let Some(session) = &mut model.session {
                session.tab = tab;
            }
            effects
        }
        Err(reason) => {
            notice(model, Level::Error, format!("the command was not started again: {reason}"));
            Vec::new()
        }
    }
}

pub(super) fn launched(model: &mut Model, result: Result<String, String>) -> Vec<Effect> {
    model.form.starting = false;
    model.dirty = true;
    match result {
        Ok(id) => {
            if model.screen() == Screen::Launch {
                model.pop();
            }
            attach(model, &id)
        }
        Err(reason) => {
            notice(model, Level::Error, reason);
            Vec::new()
        }
    }
}
