//! What choosers, questions and typed commands set off, and the questions before what cannot be taken back.

use mirrord_protocol::session::v1::Mode;

use super::{Effect, copy, notice};
use crate::ui::model::{
    Model,
    details::mode_name,
    edit::LineEdit,
    notices::Level,
    overlay::{Choice, Chooser, Command, Confirm, ExportForm, Overlay, Purpose},
    stream::Sort,
};

pub(super) fn run(model: &mut Model, command: Command) -> Vec<Effect> {
    model.dirty = true;
    match command {
        Command::ChooseMode(port) => choose_mode(model, port),
        Command::SetMode { port, mode: Mode::Steal } => {
            // Others may have come since the last look.
            return guarded(model, vec![Effect::LookForOthers { port, mode: Mode::Steal }]);
        }
        Command::SetMode { port, mode } | Command::SetModeSure { port, mode } => {
            return set_mode(model, port, mode);
        }
        Command::LaunchSure => return start(model),
        Command::Sort(by) => {
            if let Some(session) = &mut model.session {
                session.with_stream(|stream, _| {
                    let reverse = stream.sort.by == by && !stream.sort.reverse;
                    stream.set_sort(Sort { by, reverse });
                });
            }
        }
        Command::Copy(what) => return copy::copy(model, what),
        Command::Export(form) => {
            let id = model.session.as_ref().map(|session| session.info.id.clone()).unwrap_or_default();
            let id = if id.is_empty() { "session".to_owned() } else { id };
            let ending = match form {
                ExportForm::Har => "har",
                ExportForm::Jsonl => "jsonl",
                ExportForm::Curl => "sh",
            };
            let edit = LineEdit::new(&format!("{id}.{ending}"));
            model.overlay = Some(Overlay::Path { edit, purpose: Purpose::Export(form) });
        }
        Command::Resend(seq) => return guarded(model, vec![Effect::Resend { seq, edited: None }]),
        Command::ResendEdited(seq, draft) => {
            return guarded(model, vec![Effect::Resend { seq, edited: Some(draft) }]);
        }
        Command::Pause => return pause(model),
        Command::Restart => return guarded(model, vec![Effect::Restart]),
        Command::Stop(id) => return guarded(model, vec![Effect::Stop { id }]),
        Command::Clear => {
            if let Some(session) = &mut model.session {
                session.clear();
            }
        }
        Command::Leave => model.quit = true,
        Command::Quit => {
            model.quit = true;
            let id = model.session.as_ref().map(|session| session.info.id.clone());
            return id.filter(|id| !id.is_empty()).map(|id| Effect::Stop { id }).into_iter().collect();
        }
    }
    Vec::new()
}

/// Effects that change something outside, unless that is switched off.
fn guarded(model: &mut Model, effects: Vec<Effect>) -> Vec<Effect> {
    if model.options.read_only {
        notice(model, Level::Error, "read-only is set: nothing outside of this window is changed");
        return Vec::new();
    }
    effects
}

/// Why something done to the session's target concerns others.
fn concerns_others(model: &Model) -> Option<String> {
    let info = &model.session.as_ref()?.info;
    let others = model.sessions.with(&info.target, &info.place).filter(|row| row.id != info.id);
    let others: Vec<_> = others.map(|row| row.id.as_str()).collect();
    why_others(model, &info.target, &info.place, &others, &info.sharing)
}

/// The same of a target that has no session of this window yet.
fn form_concerns_others(model: &Model) -> Option<String> {
    let form = &model.form;
    let row = model.targets.row(&form.target, form.cluster.as_ref())?;
    let others: Vec<_> = model.sessions.on(row).map(|row| row.id.as_str()).collect();
    let place = if row.cluster.is_some() { row.place.as_str() } else { "" };
    why_others(model, &row.reference, place, &others, &[])
}

fn why_others(
    model: &Model,
    target: &str,
    place: &str,
    others: &[&str],
    sharing: &[String],
) -> Option<String> {
    if model.options.is_protected(target) || model.options.is_protected(place) {
        return Some(format!("{target} is PROTECTED by your settings."));
    }
    if !others.is_empty() {
        let ids = others.join(", ");
        return Some(format!("{target} is also used by your session(s) {ids}."));
    }
    // What is in a cluster is there for others.
    (!place.is_empty()).then(|| {
        let known = if sharing.is_empty() { String::new() } else { format!(": {}", sharing.join("; ")) };
        format!("{target} in {place} serves others{known}.")
    })
}

// ---- mode

pub(super) fn ask_mode(model: &mut Model) {
    let Some(session) = &model.session else { return };
    let ports: Vec<_> =
        session.info.ports.iter().map(|port| (port.remote, port.local, port.mode())).collect();
    match ports.as_slice() {
        [] => notice(model, Level::Info, "no port is subscribed yet: the command listens on none"),
        [(port, ..)] => choose_mode(model, *port),
        several => {
            let item = |(at, (remote, local, mode)): (usize, &(u32, u32, Mode))| {
                let key = u32::try_from(at + 1).ok().and_then(|at| char::from_digit(at, 10)).unwrap_or(' ');
                Choice::new(
                    key,
                    format!("{remote}→{local}  {}", mode_name(*mode)),
                    Command::ChooseMode(*remote),
                )
            };
            let items = several.iter().enumerate().map(item).collect();
            model.overlay = Some(Chooser::offer("Mode of which port?", items));
        }
    }
}

fn choose_mode(model: &mut Model, port: u32) {
    let item = |key, label: &str, mode| Choice::new(key, label, Command::SetMode { port, mode });
    let items = vec![
        item('m', "mirror: the local process gets a copy", Mode::Mirror),
        item('s', "steal: the local process takes over", Mode::Steal),
        item('o', "off: neither", Mode::Off),
    ];
    model.overlay = Some(Chooser::offer(format!("Port {port}: new connections are ..."), items));
}

/// The sessions are known now: steals, or asks.
pub(super) fn steal_unless_shared(model: &mut Model, port: u32, mode: Mode) -> Vec<Effect> {
    let Some(why) = concerns_others(model) else { return set_mode(model, port, mode) };
    let text = format!("{why} While port {port} is stolen, the target does not see its traffic.");
    let command = Command::SetModeSure { port, mode };
    model.overlay = Some(Confirm::ask("Steal?", text, "Steal", command));
    Vec::new()
}

fn set_mode(model: &mut Model, port: u32, mode: Mode) -> Vec<Effect> {
    let now = model.now_ms;
    let effects = guarded(model, vec![Effect::SetMode { port, mode }]);
    let Some(session) = &mut model.session else { return Vec::new() };
    if session.is_recording() {
        notice(model, Level::Info, "a recording has no ports to switch");
        return Vec::new();
    }
    if !effects.is_empty() {
        session.switching.insert(port, (mode, now));
    }
    effects
}

pub(super) fn ask_pause(model: &mut Model) {
    let Some(session) = model.session.as_ref().filter(|session| session.lives()) else {
        notice(model, Level::Info, "there is nothing to pause");
        return;
    };
    if session.info.ports.iter().all(|port| port.mode() == Mode::Off) {
        notice(
            model,
            Level::Info,
            "no port is mirrored or stolen; :resume brings back what was before :pause",
        );
        return;
    }
    let text =
        "All ports are switched off: the target serves alone, and nothing is copied or taken until :resume.";
    model.overlay = Some(Confirm::ask("Pause?", text, "Pause", Command::Pause));
}

fn pause(model: &mut Model) -> Vec<Effect> {
    let Some(session) = &mut model.session else { return Vec::new() };
    let ports = session.info.ports.iter().filter(|port| port.mode() != Mode::Off);
    let ports: Vec<_> = ports.map(|port| (port.remote, port.mode())).collect();
    session.paused.extend(ports.iter().copied());
    ports.into_iter().flat_map(|(port, _)| set_mode(model, port, Mode::Off)).collect()
}

/// Ports that were paused get the mode that they had; a steal that concerns others is asked about as ever.
pub(super) fn resume(model: &mut Model) -> Vec<Effect> {
    let paused =
        model.session.as_mut().map(|session| std::mem::take(&mut session.paused)).unwrap_or_default();
    if paused.is_empty() {
        notice(model, Level::Info, "nothing was paused here");
    }
    paused.into_iter().flat_map(|(port, mode)| run(model, Command::SetMode { port, mode })).collect()
}

// ---- questions

pub(super) fn ask_quit(model: &mut Model) {
    let live =
        model.session.as_ref().filter(|session| session.lives()).map(|session| session.info.id.clone());
    match live {
        Some(_) if model.owned => {
            let text = "The session and everything that was started for it end with this window.";
            model.overlay = Some(Confirm::ask("Leave?", text, "Leave", Command::Quit));
        }
        Some(id) => {
            let items = vec![
                Choice::new(
                    'l',
                    format!("leave; session {id} goes on, `mirrord-tui attach {id}` comes back"),
                    Command::Leave,
                ),
                Choice::new('s', "stop the session and leave", Command::Quit),
            ];
            model.overlay = Some(Chooser::offer("The session is running", items));
        }
        None => model.quit = true,
    }
}

pub(super) fn ask_stop(model: &mut Model, id: &str) {
    let is_recording = model.session.as_ref().is_some_and(|session| session.is_recording());
    if is_recording && model.screen() == crate::ui::model::Screen::Session {
        notice(model, Level::Info, "this is a recording; there is nothing to end");
        return;
    }
    let text = format!(
        "The command of session {id} ends, and everything that was changed at the target is taken back."
    );
    model.overlay = Some(Confirm::ask("End the session?", text, "End it", Command::Stop(id.to_owned())));
}

pub(super) fn ask_restart(model: &mut Model) {
    if model.session.as_ref().is_some_and(|session| session.is_recording()) {
        notice(model, Level::Info, "this is a recording; there is no command");
        return;
    }
    let text = "The session ends, and an equal one begins: the command, its target and its settings are the same, the lists begin anew. W keeps \
                them before.";
    model.overlay = Some(Confirm::ask("Start the command again?", text, "Restart", Command::Restart));
}

// ---- launch

pub(super) fn launch(model: &mut Model) -> Vec<Effect> {
    let steals = model.form.request().is_ok_and(|request| request.steal);
    if let Some(why) = form_concerns_others(model).filter(|_| steals && !model.form.starting) {
        let text = format!("{why} While its ports are stolen, the target does not see their traffic.");
        model.overlay = Some(Confirm::ask("Steal?", text, "Steal", Command::LaunchSure));
        return Vec::new();
    }
    start(model)
}

/// Starts what the form asks for.
fn start(model: &mut Model) -> Vec<Effect> {
    if model.form.starting {
        return Vec::new();
    }
    match model.form.request() {
        Err((field, reason)) => {
            model.form.field = field;
            model.form.error = Some((field, reason));
            Vec::new()
        }
        Ok(mut request) => {
            model.form.remember(request.clone());
            let recent = model.form.recent().cloned().collect();
            request.terminal = super::pane_size(model);
            let effects = guarded(model, vec![Effect::Launch(Box::new(request)), Effect::SaveRecent(recent)]);
            model.form.starting = !effects.is_empty();
            effects
        }
    }
}

pub(super) fn copy_launch(model: &mut Model) -> Vec<Effect> {
    match model.form.request() {
        Ok(request) => {
            vec![Effect::Copy { what: "the command line".to_owned(), text: request.equal_command() }]
        }
        Err((field, reason)) => {
            model.form.error = Some((field, reason));
            Vec::new()
        }
    }
}
