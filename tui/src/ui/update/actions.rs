//! What each key of the table does.

use super::{Effect, commands, copy, notice, places, resend};
use crate::ui::{
    keys::Action,
    layout,
    model::{
        Model, Screen,
        details::Shown,
        edit::LineEdit,
        list::List,
        notices::Level,
        overlay::{Choice, Chooser, Command, Confirm, CopyWhat, ExportForm, Overlay, Purpose, TextKind},
        pick::PlaceKind,
        session::{Session, Tab},
        stream::{Move, Sort, SortBy},
        targets::Look,
    },
};

/// Far enough to be at an end.
const FAR: usize = usize::MAX / 2;

pub(super) fn act(model: &mut Model, action: Action) -> Vec<Effect> {
    model.dirty = true;
    match action {
        Action::Help => {
            model.overlay = Some(Overlay::Help { search: LineEdit::default(), searching: false, scroll: 0 })
        }
        Action::Palette => model.overlay = Some(Overlay::Palette { edit: LineEdit::default(), chosen: 0 }),
        Action::Back => back(model),
        Action::Quit => commands::ask_quit(model),
        Action::Suspend => return vec![Effect::Suspend],
        Action::Redraw => return vec![Effect::Redraw],
        Action::Previous | Action::Next if model.travel(action == Action::Previous) => {}
        Action::LastPlace if model.last_place() => {}
        Action::Previous | Action::Next | Action::LastPlace => {
            notice(model, Level::Info, "there is nothing more that way");
        }
        Action::Targets => model.show(Screen::Targets),
        Action::Sessions => {
            if let Some(session) = &model.session {
                model.sessions.list.select(&session.info.id);
            }
            model.show(Screen::Sessions);
        }
        Action::Messages => text_overlay(model, TextKind::Messages),
        Action::Settings => text_overlay(model, TextKind::Settings),
        Action::Mouse => {
            model.options.mouse = !model.options.mouse;
            let state = if model.options.mouse { "on" } else { "off; the terminal selects text" };
            notice(model, Level::Info, format!("mouse {state}"));
            return vec![Effect::Mouse(model.options.mouse)];
        }
        Action::Hints => {
            model.options.hints = !model.options.hints;
            return super::process_size(model);
        }
        Action::Theme => {
            model.options.theme = model.options.theme.next();
            let name = model.options.theme.name();
            notice(model, Level::Info, format!("theme {name}"));
        }
        action => match model.screen() {
            Screen::Targets | Screen::Sessions => return home(model, action),
            Screen::Session => return session(model, action),
            Screen::Launch => {}
        },
    }
    Vec::new()
}

fn text_overlay(model: &mut Model, kind: TextKind) {
    model.overlay = Some(Overlay::Text { kind, scroll: 0 });
}

/// One step back: message, details, search, filter, screen, program.
fn back(model: &mut Model) {
    let now = model.now_ms;
    if model.notices.toast(now).is_some_and(|notice| notice.level == Level::Error) {
        model.notices.dismiss(now);
        return;
    }
    if model.screen() == Screen::Session
        && let Some(session) = &mut model.session
        && session_back(session)
    {
        return;
    }
    if model.screen() == Screen::Targets && !model.targets.filter().is_empty() {
        model.targets.set_filter("");
        return;
    }
    if !model.pop() {
        commands::ask_quit(model);
    }
}

fn session_back(session: &mut Session) -> bool {
    if session.details.shown == Shown::Full {
        session.details.shown = Shown::Beside;
        session.in_details = false;
        return true;
    }
    if session.details_have_keys() {
        session.in_details = false;
        return true;
    }
    if !session.details.search.is_empty() {
        session.details.search.clear();
        return true;
    }
    if session.filter().is_some_and(|filter| !filter.text.is_empty()) {
        session.with_stream(|stream, store| stream.set_filter("", store).is_ok());
        return true;
    }
    false
}

// ---- targets and sessions

fn home(model: &mut Model, action: Action) -> Vec<Effect> {
    let targets = model.screen() == Screen::Targets;
    let list = if targets { &mut model.targets.list } else { &mut model.sessions.list };
    if let Some(to) = row_move(action, list.height()) {
        go(list, to);
        return Vec::new();
    }
    match action {
        Action::Open if targets => return open_target(model, false),
        Action::Launch if targets => return open_target(model, true),
        Action::Open => {
            if let Some(id) = model.sessions.selected().map(|row| row.id.clone()) {
                return super::attach(model, &id);
            }
        }
        Action::CopyName => {
            let name = if targets {
                model.targets.selected().map(|row| row.reference.clone())
            } else {
                model.sessions.selected().map(|row| row.id.clone())
            };
            return name.map(|name| Effect::Copy { what: name.clone(), text: name }).into_iter().collect();
        }
        Action::StopRow => {
            let id = if targets {
                let row = model.targets.selected();
                row.and_then(|row| model.sessions.on(row).next()).map(|row| row.id.clone())
            } else {
                model.sessions.selected().map(|row| row.id.clone())
            };
            match id {
                Some(id) => commands::ask_stop(model, &id),
                None => notice(model, Level::Info, "there is no session to end here"),
            }
        }
        Action::Namespace => return places::ask(model, PlaceKind::Namespace),
        Action::ClusterContext => return places::ask(model, PlaceKind::Context),
        Action::AllNamespaces => return places::look(model, Look::AllNamespaces),
        Action::Filter if targets => {
            let before = model.targets.filter().to_owned();
            model.overlay = Some(Overlay::Filter { edit: LineEdit::new(&before), error: None, before });
        }
        Action::FilterToggle if targets => model.targets.toggle_filter(),
        _ => {}
    }
    Vec::new()
}

fn go(list: &mut List, to: Move) {
    let row = list.row();
    list.go(match to {
        Move::Up(rows) => row.saturating_sub(rows),
        Move::Down(rows) => row.saturating_add(rows),
        Move::Top => 0,
        Move::Bottom => FAR,
    });
}

/// Enter opens the session of a target when there is one; `L` always begins a new one.
fn open_target(model: &mut Model, always_new: bool) -> Vec<Effect> {
    let Some(row) = model.targets.selected().cloned() else { return Vec::new() };
    let running = model.sessions.on(&row).next().map(|session| session.id.clone());
    if let Some(id) = running.filter(|_| !always_new) {
        return super::attach(model, &id);
    }
    if !row.unfit.is_empty() {
        notice(model, Level::Error, format!("{} cannot be a target: {}", row.reference, row.unfit));
        return Vec::new();
    }
    let cwd = model.options.cwd.clone();
    model.form.open(&row.reference, row.cluster, &cwd);
    model.show(Screen::Launch);
    Vec::new()
}

fn row_move(action: Action, page: usize) -> Option<Move> {
    let page = page.max(1);
    Some(match action {
        Action::Down => Move::Down(1),
        Action::Up => Move::Up(1),
        Action::PageDown => Move::Down(page),
        Action::PageUp => Move::Up(page),
        Action::HalfDown => Move::Down(page.div_ceil(2)),
        Action::HalfUp => Move::Up(page.div_ceil(2)),
        Action::Top => Move::Top,
        Action::Bottom => Move::Bottom,
        _ => return None,
    })
}

// ---- session

fn session(model: &mut Model, action: Action) -> Vec<Effect> {
    let page = usize::from(layout::session(model).list_rows());
    let Some(session) = &mut model.session else { return Vec::new() };
    if let Some(to) = row_move(action, page) {
        session.with_stream(|stream, _| stream.go(to));
        return Vec::new();
    }
    if details(session, action) || tab(session, action) || view(session, action) || latency(session, action) {
        return Vec::new();
    }
    match action {
        Action::Search => {
            model.overlay = Some(Overlay::Search { edit: LineEdit::new(&session.details.search) });
        }
        Action::SearchNext | Action::SearchPrevious if session.details.find(action == Action::SearchNext) => {
        }
        Action::SearchNext | Action::SearchPrevious => {
            let text = format!("`{}` is not in the text", session.details.search);
            notice(model, Level::Info, text);
        }
        Action::Filter => {
            let before = session.filter().map(|filter| filter.text.clone()).unwrap_or_default();
            model.overlay = Some(Overlay::Filter { edit: LineEdit::new(&before), error: None, before });
        }
        Action::Sort => model.overlay = Some(sort_chooser()),
        Action::Mark if session.toggle_mark() => {}
        Action::Mark => notice(model, Level::Info, "no more rows can be marked"),
        Action::SlowRows => slow_rows(model),
        Action::CopyMenu => model.overlay = Some(copy_chooser()),
        Action::CopyCurl => return copy::copy(model, CopyWhat::Curl),
        Action::Export => model.overlay = Some(export_chooser(session)),
        Action::SaveBody => return copy::ask_save_body(model),
        Action::Clear => {
            let text = "All rows that this window holds leave it. The session host keeps its own.";
            model.overlay = Some(Confirm::ask("Empty the lists?", text, "Empty", Command::Clear));
        }
        Action::Resend => return resend::ask(model),
        Action::EditResend => return resend::edit(model),
        Action::Comment => comment(model),
        Action::Pause => commands::ask_pause(model),
        Action::Resume => return commands::resume(model),
        Action::Mode => commands::ask_mode(model),
        Action::Arrives => text_overlay(model, TextKind::Arrives),
        Action::Record => return record(model),
        Action::Restart => commands::ask_restart(model),
        Action::Stop => {
            let id = session.info.id.clone();
            commands::ask_stop(model, &id);
        }
        Action::CopyCommand => {
            let text = session.info.equal_command.clone();
            return vec![Effect::Copy { what: "the command line".to_owned(), text }];
        }
        Action::Type => return type_into(model),
        Action::ScrubBack | Action::ScrubForward | Action::ScrubEnd => scrub(session, action),
        _ => {}
    }
    Vec::new()
}

fn details(session: &mut Session, action: Action) -> bool {
    let details = &mut session.details;
    let page = details.height().max(1);
    match action {
        Action::ScrollDown => details.scroll_down(1),
        Action::ScrollUp => details.scroll_up(1),
        Action::ScrollPageDown => details.scroll_down(page),
        Action::ScrollPageUp => details.scroll_up(page),
        Action::ScrollHalfDown => details.scroll_down(page.div_ceil(2)),
        Action::ScrollHalfUp => details.scroll_up(page.div_ceil(2)),
        Action::ScrollTop => details.scroll_to(0),
        Action::ScrollBottom => details.scroll_to(FAR),
        Action::Section => details.section = details.section.next(),
        Action::BodyView => details.body_view = details.body_view.next(),
        Action::Wrap => details.cut = !details.cut,
        Action::OlderRow => drop(session.with_stream(|stream, _| stream.go(Move::Up(1)))),
        Action::NewerRow => drop(session.with_stream(|stream, _| stream.go(Move::Down(1)))),
        _ => return false,
    }
    true
}

fn tab(session: &mut Session, action: Action) -> bool {
    session.tab = match action {
        Action::Tab1 => Tab::Traffic,
        Action::Tab2 => Tab::Conns,
        Action::Tab3 => Tab::Files,
        Action::Tab4 => Tab::Dns,
        Action::Tab5 => Tab::Latency,
        Action::Tab6 => Tab::Process,
        Action::Tab7 => Tab::Events,
        Action::NextTab => session.tab.neighbour(true),
        Action::PreviousTab => session.tab.neighbour(false),
        _ => return false,
    };
    session.in_details = false;
    true
}

/// What changes only how the list is seen.
fn view(session: &mut Session, action: Action) -> bool {
    let last = session.store().last_seq();
    match action {
        Action::Open => {
            session.details.shown = Shown::Full;
            // What is read must not be replaced by the next row that comes.
            session.with_stream(|stream, _| stream.set_follow(false));
        }
        Action::Zoom => {
            session.details.shown =
                if session.details.shown == Shown::Full { Shown::Beside } else { Shown::Full };
        }
        Action::Peek => {
            session.details.shown =
                if session.details.shown == Shown::Hidden { Shown::Beside } else { Shown::Hidden };
        }
        Action::NextPane => {
            session.in_details = !session.in_details && session.details.shown != Shown::Hidden;
        }
        Action::Freeze => drop(session.with_stream(|stream, _| stream.toggle_freeze(last))),
        Action::Follow => {
            session.with_stream(|stream, _| {
                let follow = !stream.follow();
                stream.set_follow(follow);
            });
        }
        Action::Reverse => {
            session.with_stream(|stream, _| {
                let sort = stream.sort;
                stream.set_sort(Sort { reverse: !sort.reverse, ..sort });
            });
        }
        Action::FilterToggle => drop(session.with_stream(|stream, store| stream.toggle_filter(store))),
        Action::UnmarkAll => session.unmark_all(),
        Action::Wide => {
            session.wide = !session.wide;
            // More columns need the room of the details.
            session.details.shown = if session.wide { Shown::Hidden } else { Shown::Beside };
        }
        Action::TimeForm => session.time_form = session.time_form.next(),
        Action::OutputUp => session.process.scroll(true),
        Action::OutputDown => session.process.scroll(false),
        Action::OutputEnd => session.process.show_end(),
        _ => return false,
    }
    true
}

fn latency(session: &mut Session, action: Action) -> bool {
    let latency = &mut session.latency;
    match action {
        Action::KindNext => latency.next_kind(),
        Action::KeyDown => latency.go_down(),
        Action::KeyUp => latency.go_up(),
        Action::ScaleUp => latency.scale(true),
        Action::ScaleDown => latency.scale(false),
        Action::ScaleAuto => latency.doublings = None,
        _ => return false,
    }
    true
}

/// Shows the list of the shown kind with a filter for what is slower than its p99.
fn slow_rows(model: &mut Model) {
    let Some(session) = &mut model.session else { return };
    let Some((kind, p99)) = session.latency.chosen().map(|series| (series.kind, series.p99)) else { return };
    if let Some(tab) = Tab::ALL.into_iter().find(|tab| tab.kinds().contains(&kind)) {
        session.tab = tab;
    }
    let filter = format!("~lat >={}ns", p99.max(1));
    session.with_stream(|stream, store| stream.set_filter(&filter, store).is_ok());
}

fn type_into(model: &mut Model) -> Vec<Effect> {
    let Some(session) = &mut model.session else { return Vec::new() };
    if session.info.has_terminal && session.lives() {
        session.process.typing = true;
        session.process.show_end();
    } else {
        let why = if session.lives() {
            "the command uses the terminal that it was started from; type there"
        } else {
            "the command has ended"
        };
        notice(model, Level::Info, why);
    }
    Vec::new()
}

/// Asks for a comment to the chosen row; the one that it has can be changed.
fn comment(model: &mut Model) {
    let chosen = model.session.as_ref().and_then(|session| {
        let seq = session.selected()?.seq;
        Some((seq, session.store().comment(seq).unwrap_or_default().to_owned()))
    });
    match chosen {
        Some((seq, text)) => model.overlay = Some(Overlay::Comment { edit: LineEdit::new(&text), seq }),
        None => notice(model, Level::Info, "no row is chosen"),
    }
}

fn record(model: &mut Model) -> Vec<Effect> {
    let Some(session) = &model.session else { return Vec::new() };
    if session.is_recording() {
        notice(model, Level::Info, "this is a recording already");
        return Vec::new();
    }
    if !session.info.recording.is_empty() {
        return vec![Effect::Record { path: None }];
    }
    let name = format!("{}.jsonl", if session.info.id.is_empty() { "session" } else { &session.info.id });
    model.overlay = Some(Overlay::Path { edit: LineEdit::new(&name), purpose: Purpose::Record });
    Vec::new()
}

/// A second back or forward in a recording.
fn scrub(session: &mut Session, action: Action) {
    const SECOND: i64 = 1_000_000_000;
    let Some((first, last)) = session.time_span() else { return };
    let at = session.at_ns.unwrap_or(last);
    let at = match action {
        Action::ScrubBack => Some((at - SECOND).max(first)),
        Action::ScrubForward => Some(at + SECOND).filter(|at| *at < last),
        _ => None,
    };
    session.scrub(at);
}

// ---- choosers

fn sort_chooser() -> Overlay {
    let items = SortBy::ALL.map(|by| {
        let key = by.name().chars().next().unwrap_or('?');
        Choice::new(key, by.name(), Command::Sort(by))
    });
    // "status", "size" and "name" begin as they are called; two begin with s.
    let mut items = items.to_vec();
    if let Some(status) = items.iter_mut().find(|item| item.label == SortBy::Status.name()) {
        status.key = 'c';
    }
    Chooser::offer("Order by", items)
}

fn copy_chooser() -> Overlay {
    let item = |key, label: &str, what| Choice::new(key, label, Command::Copy(what));
    let items = vec![
        item('c', "curl command", CopyWhat::Curl),
        item('u', "URL", CopyWhat::Url),
        item('b', "body of the response", CopyWhat::Body),
        item('q', "body of the request", CopyWhat::RequestBody),
        item('h', "headers", CopyWhat::Headers),
        item('j', "event as JSON", CopyWhat::Json),
        item('l', "line", CopyWhat::Line),
    ];
    Chooser::offer("Copy", items)
}

fn export_chooser(session: &Session) -> Overlay {
    let rows = session.stream().map_or(0, |stream| stream.len());
    let item = |key, label: &str, form| Choice::new(key, label, Command::Export(form));
    let items = vec![
        item('h', "HAR, for browsers and proxies", ExportForm::Har),
        item('j', "JSON lines; `mirrord-tui open` reads them", ExportForm::Jsonl),
        item('c', "script of curl commands", ExportForm::Curl),
    ];
    Chooser::offer(format!("Export {rows} rows as"), items)
}
