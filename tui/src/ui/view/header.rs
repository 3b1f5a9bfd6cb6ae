//! The two lines on top: where one is and how the session is; ports with their modes, rates and percentiles.

use mirrord_protocol::session::v1::{Kind, Mode, Port, State, agent_link::LinkState};
use ratatui::layout::Rect;

use super::pen::Pen;
use crate::ui::{
    model::{
        Model, Screen,
        details::exit_text,
        session::{Link, RATE_SECONDS, Session, Source},
        stream::SortBy,
    },
    text,
    tone::{TextLine, Tone},
};

/// Below this width the first line names the present screen only.
const NARROW: u16 = 60;

/// Crumbs on the left, link and state on the right.
pub(super) fn draw(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    let right = right_side(model);
    let right_columns = text::cells(text::width(&right.plain())).min(area.width);
    // A narrow line has room for where one is, not for the way there.
    let narrow = area.width < NARROW;
    let mut line = TextLine::new(Tone::Title, if narrow { "" } else { " mirrord-tui" });
    let skipped = if narrow { model.crumbs().len().saturating_sub(1) } else { 0 };
    for screen in model.crumbs().iter().skip(skipped) {
        line = line.with(Tone::Dim, if narrow { " " } else { "  › " });
        line = match (screen, &model.session) {
            (Screen::Targets, _) => line.with(Tone::Plain, "targets"),
            (Screen::Sessions, _) => line.with(Tone::Plain, "sessions"),
            (Screen::Launch, _) => line.with(Tone::Plain, "launch"),
            (Screen::Session, None) => line.with(Tone::Plain, "session"),
            (Screen::Session, Some(session)) => crumb(model, session, line),
        };
    }
    pen.line(area.x, area.y, area.width.saturating_sub(right_columns + 1), &line);
    pen.line(area.right() - right_columns, area.y, right_columns, &right);
}

fn crumb(model: &Model, session: &Session, line: TextLine) -> TextLine {
    let target = &session.info.target;
    match &session.source {
        Source::Recording { path, loading } => {
            let line = line.with(Tone::Badge, "REPLAY").with(Tone::Strong, format!(" {path}"));
            if *loading { line.with(Tone::Dim, " loading …") } else { line }
        }
        Source::Live { id } => {
            let place = session.info.place.as_str();
            let protected = model.options.is_protected(target) || model.options.is_protected(place);
            let line =
                if protected { line.with(Tone::Alarm, "PROTECTED").with(Tone::Plain, " ") } else { line };
            let line =
                if place.is_empty() { line } else { line.with(Tone::Plain, place).with(Tone::Dim, " › ") };
            line.with(Tone::Strong, target).with(Tone::Dim, " › ").with(Tone::Plain, id)
        }
    }
}

fn right_side(model: &Model) -> TextLine {
    let Some(session) = model.session.as_ref().filter(|_| model.screen() == Screen::Session) else {
        let sessions = model.sessions.rows().len();
        return TextLine::new(
            Tone::Dim,
            if sessions == 1 { "1 session ".to_owned() } else { format!("{sessions} sessions ") },
        );
    };
    let line = match &session.link {
        Link::Connecting => TextLine::new(Tone::Warn, "connecting … "),
        Link::Retrying { attempt, since_ms, .. } => {
            let stale = (model.now_ms - since_ms).max(0) / 1_000;
            TextLine::new(Tone::Badge, format!(" stale {stale} s, attempt {attempt} "))
        }
        Link::Gone { .. } if session.is_recording() => TextLine::default(),
        Link::Gone { .. } => TextLine::new(Tone::Dim, "host gone "),
        Link::Up => agent(session),
    };
    let line = line.with(Tone::Dim, " ");
    state(session, line).with(Tone::Plain, " ")
}

fn agent(session: &Session) -> TextLine {
    let Some(agent) = &session.info.agent else { return TextLine::default() };
    match agent.state() {
        LinkState::Up => TextLine::new(Tone::Good, "agent ●")
            .with(Tone::Dim, format!(" {}", text::latency(agent.rtt_us * 1_000))),
        LinkState::Retrying => TextLine::new(Tone::Badge, format!(" agent retrying {} ", agent.attempt)),
        LinkState::Lost => TextLine::new(Tone::Alarm, " agent LOST "),
        LinkState::Unspecified => TextLine::default(),
    }
}

fn state(session: &Session, line: TextLine) -> TextLine {
    let info = &session.info;
    let detail =
        if info.detail.is_empty() { String::new() } else { format!(": {}", text::fit(&info.detail, 30)) };
    match info.state() {
        State::Unspecified => line,
        State::Connecting => line.with(Tone::Warn, format!("connecting{detail}")),
        State::Launching => line.with(Tone::Warn, "launching"),
        State::Running => match &info.exit {
            Some(exit) => line.with(Tone::Warn, format!("command ended, {}", exit_text(exit))),
            None => line.with(Tone::Good, "running"),
        },
        State::Draining => line.with(Tone::Warn, "draining"),
        State::Ended => {
            let exit = info.exit.as_ref().map(exit_text).unwrap_or_default();
            line.with(Tone::Strong, format!("ENDED {exit}"))
        }
        State::Failed => line.with(Tone::Alarm, " FAILED "),
    }
}

/// Ports, filter, follow; rates on the right.
pub(super) fn status(model: &Model, session: &Session, pen: &mut Pen<'_>, area: Rect) {
    let right = numbers(model, session, area.width);
    let right_columns = text::cells(text::width(&right.plain())).min(area.width);
    let left_columns = area.width.saturating_sub(right_columns + 1);
    let mut line = TextLine::new(Tone::Plain, " ");
    for port in &session.info.ports {
        line = port_badge(session, port, line).with(Tone::Plain, "  ");
    }
    if session.info.ports.is_empty() && !session.is_recording() {
        line = line.with(Tone::Dim, "no port yet  ");
    }
    if let Some(at_ns) = session.at_ns {
        let at = text::time_of_day(at_ns, session.utc_offset());
        line = line.with(Tone::Badge, format!(" AT {at} ")).with(Tone::Plain, "  ");
    }
    line = stream_state(session, line);
    pen.line(area.x, area.y, left_columns, &line);
    pen.line(area.right() - right_columns, area.y, right_columns, &right);
}

fn port_badge(session: &Session, port: &Port, line: TextLine) -> TextLine {
    let name = |mode| match mode {
        Mode::Mirror => (Tone::Mirror, "MIRROR"),
        Mode::Steal => (Tone::Steal, "STEAL"),
        Mode::Off => (Tone::Dim, "OFF"),
        Mode::Unspecified => (Tone::Dim, "…"),
    };
    let (tone, text) = name(port.mode());
    let line = line.with(tone, format!("[{text}"));
    let line = match session.switching_to(port) {
        Some(to) => line.with(Tone::Warn, format!(" ⇄ {} …", name(to).1)),
        None => line,
    };
    let line = line.with(tone, "]");
    let ports = if port.remote == port.local {
        port.remote.to_string()
    } else {
        format!("{}→{}", port.remote, port.local)
    };
    let line = line.with(Tone::Plain, format!(" {ports}"));
    if port.waiting.is_empty() { line } else { line.with(Tone::Warn, format!(" ({})", port.waiting)) }
}

fn stream_state(session: &Session, mut line: TextLine) -> TextLine {
    let Some(stream) = session.stream() else { return line };
    let filter = stream.filter();
    if !filter.text.is_empty() {
        let (tone, off) = if filter.off { (Tone::Dim, " (off)") } else { (Tone::Strong, "") };
        line = line.with(Tone::Dim, "flt: ").with(tone, &filter.text).with(Tone::Dim, format!("{off}  "));
    }
    if stream.sort.by != SortBy::Time || stream.sort.reverse {
        let arrow = if stream.sort.reverse { "↑" } else { "↓" };
        line = line.with(Tone::Dim, format!("{arrow}{}  ", stream.sort.by.name()));
    }
    if session.at_ns.is_some() {
        return line;
    }
    if stream.frozen() {
        line = line.with(Tone::Badge, " FROZEN ");
    } else if stream.follow() {
        line = line.with(Tone::Good, "FOLLOW");
    }
    if stream.unseen() > 0 {
        line = line
            .with(Tone::Warn, format!(" +{} new", text::count(u64::try_from(stream.unseen()).unwrap_or(0))));
    }
    line
}

fn numbers(model: &Model, session: &Session, columns: u16) -> TextLine {
    let rates = session.graph.rates(Kind::Request, model.now_ms, RATE_SECONDS);
    // The last ten seconds: long enough to be calm, short enough to follow.
    let last: u64 = rates.iter().rev().take(10).sum();
    let mut line = TextLine::new(Tone::Plain, format!("{}.{}/s", last / 10, last % 10));
    let totals = session.info.totals.as_ref();
    let request = totals.and_then(|totals| totals.kinds.iter().find(|total| total.kind() == Kind::Request));
    if let Some(total) = request.filter(|total| total.count > 0) {
        let permille = total.errors.saturating_mul(1_000) / total.count;
        let tone = if total.errors > 0 { Tone::Bad } else { Tone::Dim };
        line = line.with(tone, format!("  err {}.{}%", permille / 10, permille % 10));
    }
    if let Some(whole) = session.latency.whole(Kind::Request).filter(|whole| whole.count > 0) {
        if columns >= 100 {
            line = line.with(Tone::Dim, "  p50 ").with(Tone::Plain, text::latency(whole.p50));
        }
        line = line.with(Tone::Dim, "  p99 ").with(Tone::Plain, text::latency(whole.p99));
    }
    let dropped = session.dropped;
    let tone = if dropped > 0 { Tone::Alarm } else { Tone::Dim };
    let word = if columns >= 100 || dropped > 0 { "dropped" } else { "drop" };
    line.with(Tone::Plain, "  ").with(tone, format!("{word} {}", text::count(dropped))).with(Tone::Plain, " ")
}
