//! The screens of targets and of sessions: a list, and what is known about the chosen row.

use mirrord_protocol::session::v1::{Kind, SessionInfo};
use ratatui::layout::{Position, Rect};

use super::{foot, header, pen::Pen};
use crate::ui::{
    layout,
    model::{
        Model,
        details::{exit_text, mode_name},
        targets::TargetRow,
    },
    text,
    tone::{TextLine, Tone},
};

/// A column: head, width (0: what is left), right-aligned.
type Heads<const N: usize> = [(&'static str, u16, bool); N];

pub(super) fn targets(model: &Model, pen: &mut Pen<'_>) -> Option<Position> {
    let areas = frame(model, pen);
    let targets = &model.targets;
    let shown = targets.rows().len();
    let mut title = TextLine::new(Tone::Focus, "Targets ");
    title = if shown == targets.all() {
        title.with(Tone::Plain, shown.to_string())
    } else {
        title
            .with(Tone::Plain, format!("{shown}/{}", targets.all()))
            .with(Tone::Dim, format!("  / {}", targets.filter()))
    };
    pen.rule(areas.main, Tone::Border, &place(model, title));
    let wide = areas.main.width >= 76;
    let everywhere = model.targets.all_namespaces();
    let heads: Heads<7> = [
        ("NAME", 0, false),
        ("NAMESPACE", if everywhere { 14 } else { 0 }, false),
        ("READY", if areas.main.width >= 60 { 5 } else { 0 }, false),
        ("STATUS", 10, false),
        ("PORTS", if wide { 14 } else { 0 }, false),
        ("AGE", 5, true),
        ("SESSION", 8, false),
    ];
    let cells = |row: &TargetRow| {
        let session = model.sessions.on(row).next().map_or("", |session| session.id.as_str());
        let age = (model.now_ms - row.started_ms) / 1_000;
        let age = if row.started_ms > 0 { text::age(u64::try_from(age).unwrap_or(0)) } else { String::new() };
        let ports: Vec<_> = row.ports.iter().map(u16::to_string).collect();
        let name = if row.unfit.is_empty() { Tone::Plain } else { Tone::Dim };
        // A process is found by its name, not by its number.
        let called =
            if row.kind == "pid" { format!("{} {}", row.reference, row.name) } else { row.reference.clone() };
        [
            (name, called),
            (Tone::Dim, row.namespace().to_owned()),
            (Tone::Plain, row.ready.clone()),
            (row.tone, row.status.clone()),
            (Tone::Dim, ports.join(" ")),
            (Tone::Dim, age),
            (Tone::Good, session.to_owned()),
        ]
    };
    let window = (model.targets.list.top(), model.targets.list.row());
    table(pen, areas.main, &heads, targets.rows(), window, cells);
    if shown == 0 {
        no_targets(model, pen, areas.main);
    }
    let lines = targets.selected().map(|row| target_lines(model, row)).unwrap_or_default();
    side(pen, areas.side, "Details", &lines);
    None
}

/// Where targets of a cluster are looked for, behind the title.
fn place(model: &Model, title: TextLine) -> TextLine {
    let Some(place) = model.targets.place() else { return title };
    let text = place.text();
    let title = if model.options.is_protected(&text) {
        title.with(Tone::Plain, "  ").with(Tone::Alarm, " PROTECTED ")
    } else {
        title
    };
    let title = title.with(Tone::Dim, "  ").with(Tone::Plain, text);
    if place.answered { title } else { title.with(Tone::Dim, " asking the cluster …") }
}

fn no_targets(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    let lines: &[&str] = if !model.targets.known {
        &["looking for targets …"]
    } else if model.targets.all() > 0 {
        &["no target passes the filter; esc shows all"]
    } else {
        &[
            "no target on this machine yet",
            "mirrord-tui demo                      starts a small shop and a session",
            "mirrord-tui local start NAME -- CMD   makes a local pod of any command",
        ]
    };
    for (line, y) in lines.iter().zip(area.y + 3..area.bottom()) {
        pen.put(area.x + 3, y, area.width.saturating_sub(4), Tone::Dim, line);
    }
    let failures = model.targets.failures();
    for ((source, reason), y) in failures.zip(area.y + 7..area.bottom()) {
        pen.put(area.x + 3, y, area.width.saturating_sub(4), Tone::Warn, &format!("{source}: {reason}"));
    }
}

fn target_lines(model: &Model, row: &TargetRow) -> Vec<TextLine> {
    let mut lines = vec![TextLine::new(Tone::Strong, &row.reference)];
    if model.options.is_protected(&row.reference) || model.options.is_protected(&row.place) {
        lines.push(TextLine::new(Tone::Alarm, " PROTECTED "));
    }
    let mut pair = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(TextLine::pair(name, value));
        }
    };
    pair("place", &row.place);
    pair("status", &row.status);
    pair("ports", &row.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" "));
    pair("command", &row.command);
    pair("restarts", &if row.restarts > 0 { row.restarts.to_string() } else { String::new() });
    for (name, value) in &row.facts {
        pair(name, value);
    }
    if row.cluster.is_some() {
        lines.push(TextLine::new(
            Tone::Warn,
            "it serves others: stealing takes their traffic away, and asks first",
        ));
    }
    if !row.unfit.is_empty() {
        lines.push(TextLine::new(Tone::Warn, format!("cannot be a target: {}", row.unfit)));
    }
    for session in model.sessions.on(row) {
        lines.push(
            TextLine::new(Tone::Good, format!("session {}", session.id)).with(Tone::Dim, "  ⏎ opens it"),
        );
    }
    lines
}

pub(super) fn sessions(model: &Model, pen: &mut Pen<'_>) -> Option<Position> {
    let areas = frame(model, pen);
    let sessions = &model.sessions;
    pen.rule(
        areas.main,
        Tone::Border,
        &TextLine::new(Tone::Focus, format!("Sessions {}", sessions.rows().len())),
    );
    let wide = areas.main.width >= 76;
    let heads: Heads<7> = [
        ("ID", 6, false),
        ("TARGET", 0, false),
        ("STATE", 10, false),
        ("PORTS", if wide { 16 } else { 0 }, false),
        ("REQ", 6, true),
        ("ERR", if wide { 5 } else { 0 }, true),
        ("UP", 5, true),
    ];
    let cells = |row: &SessionInfo| {
        let total = row
            .totals
            .as_ref()
            .and_then(|totals| totals.kinds.iter().find(|total| total.kind() == Kind::Request));
        let (count, errors) = total.map_or((0, 0), |total| (total.count, total.errors));
        let up = u64::try_from((model.now_ms - row.started_ms) / 1_000).unwrap_or(0);
        let ports: Vec<_> =
            row.ports.iter().map(|port| format!("{} {}", port.remote, mode_name(port.mode()))).collect();
        [
            (Tone::Strong, row.id.clone()),
            (Tone::Plain, row.target.clone()),
            (Tone::Plain, state_name(row)),
            (Tone::Mirror, ports.join(" ")),
            (Tone::Plain, text::count(count)),
            (if errors > 0 { Tone::Bad } else { Tone::Dim }, text::count(errors)),
            (Tone::Dim, text::age(up)),
        ]
    };
    let window = (sessions.list.top(), sessions.list.row());
    table(pen, areas.main, &heads, sessions.rows(), window, cells);
    if sessions.rows().is_empty() {
        let line = if sessions.known {
            "no session runs; choose a target and press L"
        } else {
            "looking for sessions …"
        };
        pen.put(areas.main.x + 3, areas.main.y + 3, areas.main.width.saturating_sub(4), Tone::Dim, line);
    }
    let lines = sessions.selected().map(session_lines).unwrap_or_default();
    side(pen, areas.side, "Details", &lines);
    None
}

fn state_name(row: &SessionInfo) -> String {
    format!("{:?}", row.state()).to_lowercase()
}

fn session_lines(row: &SessionInfo) -> Vec<TextLine> {
    let command: Vec<_> = row.command.iter().map(|part| text::one_line(part)).collect();
    let mut lines = vec![
        TextLine::new(Tone::Strong, format!("{} on {}", row.id, row.target)),
        TextLine::pair("command", text::shell(&command)),
        TextLine::pair("pid", format!("{} (host {})", row.command_pid, row.host_pid)),
        TextLine::pair("layer", format!("{} {}", row.attachment, row.attachment_reason)),
    ];
    if !row.place.is_empty() {
        lines.push(TextLine::pair("place", &row.place));
    }
    for pod in &row.pods {
        lines.push(TextLine::pair("pod", pod));
    }
    for port in &row.ports {
        let waiting = if port.waiting.is_empty() { String::new() } else { format!(", {}", port.waiting) };
        lines.push(TextLine::pair(
            "port",
            format!(
                "{}→{} {}, {} requests{waiting}",
                port.remote,
                port.local,
                mode_name(port.mode()),
                port.requests
            ),
        ));
    }
    for listener in row.listeners.iter().filter(|listener| listener.published_port > 0) {
        lines.push(TextLine::pair("published", format!("127.0.0.1:{}", listener.published_port)));
    }
    if let Some(exit) = &row.exit {
        lines.push(TextLine::pair("ended", exit_text(exit)));
    }
    if !row.equal_command.is_empty() {
        lines.push(TextLine::pair("again with", &row.equal_command));
    }
    lines
}

/// Header, foot and hints.
fn frame(model: &Model, pen: &mut Pen<'_>) -> layout::HomeAreas {
    let areas = layout::home(model);
    header::draw(model, pen, areas.header);
    foot::draw(model, pen, areas.foot);
    foot::hints(model, pen, areas.hints);
    areas
}

/// Rows that are seen; `window` is the first one and the chosen one.
fn table<T, const N: usize>(
    pen: &mut Pen<'_>,
    area: Rect,
    heads: &Heads<N>,
    rows: &[T],
    window: (usize, usize),
    cells: impl Fn(&T) -> [(Tone, String); N],
) {
    // A column of width 0 that is not the first is one that does not fit here.
    let shown =
        |at: usize, width: u16| width > 0 || (at < 2 && heads.get(at).is_some_and(|head| is_rest(head.0)));
    let fixed: u16 = heads.iter().map(|head| if head.1 > 0 { head.1 + 1 } else { 0 }).sum();
    let rest = area.width.saturating_sub(fixed + 3);
    let mut put = |y: u16, at: usize, x: &mut u16, tone: Tone, text: &str| {
        let Some((_, width, right)) = heads.get(at).filter(|head| shown(at, head.1)) else { return };
        let width = if *width == 0 { rest } else { *width };
        if *right {
            pen.put_right(*x, y, width, tone, text);
        } else {
            pen.put(*x, y, width, tone, text);
        }
        *x += width + 1;
    };
    let mut x = area.x + 2;
    for (at, head) in heads.iter().enumerate() {
        put(area.y + 1, at, &mut x, Tone::Dim, head.0);
    }
    let (top, chosen) = window;
    let seen = rows.iter().enumerate().skip(top).take(usize::from(area.height.saturating_sub(2)));
    let seen: Vec<_> = seen.collect();
    for ((_, row), y) in seen.iter().zip(area.y + 2..) {
        let mut x = area.x + 2;
        for (at, (tone, text)) in cells(row).iter().enumerate() {
            put(y, at, &mut x, *tone, text);
        }
    }
    for ((at, _), y) in seen.iter().zip(area.y + 2..) {
        if *at == chosen {
            pen.put(area.x, y, 1, Tone::Focus, "▌");
            pen.tint(
                Rect { x: area.x + 1, y, width: area.width.saturating_sub(1), height: 1 },
                Tone::Selected,
            );
        }
    }
}

/// The columns that take what is left.
fn is_rest(head: &str) -> bool {
    matches!(head, "NAME" | "TARGET")
}

fn side(pen: &mut Pen<'_>, area: Rect, title: &str, lines: &[TextLine]) {
    if area.height == 0 {
        return;
    }
    pen.rule(area, Tone::Border, &TextLine::new(Tone::Plain, title));
    let columns = area.width.saturating_sub(2);
    let wrapped = lines.iter().flat_map(|line| line.wrapped(usize::from(columns)));
    for (line, y) in wrapped.zip(area.y + 1..area.bottom()) {
        pen.line(area.x + 1, y, columns, &line);
    }
}
