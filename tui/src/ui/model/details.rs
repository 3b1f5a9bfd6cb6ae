//! The pane that shows one event whole: its text, what part of it is seen, and the search in it.

use mirrord_protocol::session::v1::{
    Body, Connection, Direction, Event, Header, Kind, Mode, Request, Where, event::Detail,
};

use super::body::{self, BodyView};
use crate::ui::{
    text,
    tone::{TextLine, Tone},
};

/// The pane.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(crate) shown: Shown,
    pub(crate) section: Section,
    pub(crate) body_view: BodyView,
    /// Long lines are cut, and not continued below.
    pub(crate) cut: bool,
    pub(crate) search: String,
    scroll: usize,
    height: usize,
    lines: Vec<TextLine>,
    made_for: Option<MadeFor>,
}

/// How much room the pane takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shown {
    Hidden,
    #[default]
    Beside,
    Full,
}

/// Part of the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Section {
    #[default]
    Whole,
    Request,
    Response,
    Timing,
}

impl Section {
    pub(crate) const ALL: [Self; 4] = [Self::Whole, Self::Request, Self::Response, Self::Timing];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Whole => "Whole",
            Self::Request => "Request",
            Self::Response => "Response",
            Self::Timing => "Timing",
        }
    }

    pub(crate) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|section| *section == self).unwrap_or(0);
        Self::ALL.get(at + 1).copied().unwrap_or_default()
    }
}

/// What the lines were made from; they are made again when it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MadeFor {
    seq: u64,
    latency_ns: u64,
    pending: bool,
    /// Bytes of the bodies that are here.
    held: usize,
    bytes: u64,
    section: Section,
    body_view: BodyView,
    wrap: bool,
    columns: u16,
    utc_offset: i32,
    /// Length and contents of the comment, as a number.
    comment: u64,
}

impl Details {
    /// Makes the lines for this event and this room, unless they are there.
    pub(crate) fn prepare(
        &mut self,
        event: Option<&Event>,
        comment: &str,
        columns: u16,
        rows: u16,
        utc_offset: i32,
    ) {
        self.height = usize::from(rows).max(1);
        let made_for = event.map(|event| MadeFor {
            seq: event.seq,
            latency_ns: event.latency_ns,
            pending: event.pending,
            held: held(event),
            bytes: event.bytes,
            section: self.section,
            body_view: self.body_view,
            wrap: !self.cut,
            columns,
            utc_offset,
            comment: number(comment),
        });
        if self.made_for != made_for {
            let same_event =
                self.made_for.map(|made| (made.seq, made.section)) == event.map(|e| (e.seq, self.section));
            if !same_event {
                self.scroll = 0;
            }
            self.made_for = made_for;
            let mut lines = event
                .map(|event| document(event, self.section, self.body_view, utc_offset))
                .unwrap_or_default();
            if !comment.is_empty() && event.is_some() {
                lines.insert(0, TextLine::new(Tone::Warn, "; ").with(Tone::Strong, comment));
            }
            self.lines = if self.cut {
                lines
            } else {
                lines.iter().flat_map(|line| line.wrapped(usize::from(columns))).collect()
            };
        }
        self.scroll = self.scroll.min(self.lines.len().saturating_sub(self.height));
    }

    /// Lines that are seen.
    pub(crate) fn visible(&self) -> impl Iterator<Item = &TextLine> {
        self.lines.iter().skip(self.scroll).take(self.height)
    }

    /// First line seen, lines in all.
    pub(crate) fn position(&self) -> (usize, usize) {
        (self.scroll, self.lines.len())
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn scroll_to(&mut self, line: usize) {
        self.scroll = line.min(self.lines.len().saturating_sub(self.height));
    }

    pub(crate) fn scroll_down(&mut self, lines: usize) {
        self.scroll_to(self.scroll.saturating_add(lines));
    }

    pub(crate) fn scroll_up(&mut self, lines: usize) {
        self.scroll = self.scroll.saturating_sub(lines);
    }

    /// Goes to the next line that has the searched text, around the end; false when there is none.
    pub(crate) fn find(&mut self, forward: bool) -> bool {
        let wanted = self.search.to_lowercase();
        let hit = |line: &TextLine| line.plain().to_lowercase().contains(&wanted);
        let hits: Vec<usize> =
            self.lines.iter().enumerate().filter(|(_, line)| hit(line)).map(|(at, _)| at).collect();
        let next = if forward {
            hits.iter().find(|at| **at > self.scroll).or_else(|| hits.first())
        } else {
            hits.iter().rev().find(|at| **at < self.scroll).or_else(|| hits.last())
        };
        match next {
            Some(at) if !wanted.is_empty() => {
                // Near the end the line is on screen already; asking for more would not move.
                self.scroll_to(*at);
                true
            }
            _ => false,
        }
    }
}

/// Another number for another text.
fn number(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn held(event: &Event) -> usize {
    match &event.detail {
        Some(Detail::Request(request)) => {
            request.body.iter().chain(&request.response_body).map(|body| body.data.len()).sum()
        }
        _ => 0,
    }
}

/// One line that says what an event is: title of the pane, line form of copying.
pub(crate) fn title(event: &Event) -> String {
    let latency = text::latency(event.latency_ns);
    let end = match &event.detail {
        Some(Detail::Request(request)) if request.status > 0 => format!(" {}", request.status),
        _ if event.pending => " …".to_owned(),
        _ if event.error.is_empty() => String::new(),
        _ => format!(" {}", event.error),
    };
    let what = match &event.detail {
        Some(Detail::Request(request)) => format!("{} {}", request.method, request.path),
        Some(Detail::Dns(dns)) => format!("{} {}", dns.record, dns.question),
        Some(Detail::File(file)) => format!("{} {}", file.operation, String::from_utf8_lossy(&file.path)),
        _ => event.subject.clone(),
    };
    let space = if latency.is_empty() { "" } else { " " };
    format!("{what}{end}{space}{latency}")
}

fn document(event: &Event, section: Section, view: BodyView, utc_offset: i32) -> Vec<TextLine> {
    let timing = || timing(event, utc_offset);
    match (&event.detail, section) {
        (_, Section::Timing) => timing(),
        (Some(Detail::Request(request)), section) => {
            let mut lines = Vec::new();
            if section != Section::Response {
                lines.extend(request_lines(request, view));
            }
            if section != Section::Request {
                if section == Section::Whole {
                    lines.push(TextLine::default());
                }
                lines.extend(response_lines(event, request, view));
            }
            if section == Section::Whole {
                lines.push(TextLine::default());
                lines.extend(timing());
            }
            lines
        }
        (Some(Detail::ConnectionDetail(connection)), _) => {
            connection_lines(connection).chain(timing()).collect()
        }
        (Some(Detail::Dns(dns)), _) => {
            let mut lines = vec![
                TextLine::pair("question", &dns.question),
                TextLine::pair("record", &dns.record),
                TextLine::pair("result", if dns.rcode.is_empty() { "…" } else { &dns.rcode }),
                TextLine::pair("server", &dns.server),
                TextLine::new(Tone::Title, format!("── Answers {} ──", dns.answers.len())),
            ];
            lines.extend(dns.answers.iter().map(|answer| TextLine::new(Tone::Text, answer)));
            lines.extend(timing());
            lines
        }
        (Some(Detail::File(file)), _) => {
            let mut lines = vec![
                TextLine::pair("operation", &file.operation),
                TextLine::pair("path", String::from_utf8_lossy(&file.path)),
                TextLine::pair("flags", &file.flags),
                TextLine::pair("size", text::size(file.size)),
                TextLine::pair("result", if file.errno.is_empty() { "ok" } else { &file.errno }),
            ];
            lines.extend(timing());
            lines
        }
        (detail, _) => other_lines(event, detail.as_ref()).into_iter().chain(timing()).collect(),
    }
}

fn request_lines(request: &Request, view: BodyView) -> Vec<TextLine> {
    let mut lines = vec![
        TextLine::new(method_tone(&request.method), &request.method)
            .with(Tone::Strong, format!(" {}", request.path))
            .with(Tone::Dim, format!(" {}", request.protocol)),
    ];
    lines.extend(request.headers.iter().map(header));
    lines.extend(body_lines(request.body.as_ref(), &request.headers, view));
    lines
}

fn response_lines(event: &Event, request: &Request, view: BodyView) -> Vec<TextLine> {
    let size = request.response_body.as_ref().map_or(0, |body| body.size);
    let head = if request.status > 0 {
        TextLine::new(Tone::Title, "── Response ")
            .with(status_tone(request.status), request.status.to_string())
            .with(Tone::Title, format!(" · {} · {} ──", text::latency(event.latency_ns), text::size(size)))
    } else if event.error.is_empty() {
        TextLine::new(Tone::Dim, "── no response yet ──")
    } else {
        TextLine::new(Tone::Bad, format!("── no response: {} ──", event.error))
    };
    let mut lines = vec![head];
    lines.extend(request.response_headers.iter().map(header));
    lines.extend(body_lines(request.response_body.as_ref(), &request.response_headers, view));
    lines
}

fn header(header: &Header) -> TextLine {
    let value = text::one_line(&header.value);
    let line = TextLine::new(Tone::Name, format!("{}: ", header.name));
    match (header.redacted, value.is_empty()) {
        // Taken out by the host; what is left of it may be shown.
        (true, true) => line.with(Tone::Dim, "‹redacted›"),
        _ => line.with(Tone::Plain, value),
    }
}

fn body_lines(body: Option<&Body>, headers: &[Header], view: BodyView) -> Vec<TextLine> {
    let Some(body) = body.filter(|body| body.size > 0 || !body.data.is_empty()) else { return Vec::new() };
    let content_type = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-type"))
        .map(|header| String::from_utf8_lossy(&header.value).to_ascii_lowercase())
        .unwrap_or_default();
    let (form, lines) = body::lines(body, &content_type, view);
    let head = TextLine::new(Tone::Dim, format!("── {} · {} ──", text::size(body.size), form.name()));
    std::iter::once(head).chain(lines).collect()
}

fn connection_lines(connection: &Connection) -> impl Iterator<Item = TextLine> {
    let address = |address: &Option<_>| address.as_ref().map(text::address).unwrap_or_default();
    let direction = match connection.direction() {
        Direction::Incoming => format!("incoming, {}", mode_name(connection.mode())),
        Direction::Outgoing => "outgoing".to_owned(),
        Direction::Local => "inside the session".to_owned(),
        Direction::Unspecified => String::new(),
    };
    let mut lines = vec![
        TextLine::pair("direction", direction),
        TextLine::pair("transport", &connection.transport),
        TextLine::pair("peer", address(&connection.peer)),
        TextLine::pair("local", address(&connection.local)),
        TextLine::pair("name", &connection.name),
        TextLine::pair("received", text::size(connection.bytes_in)),
        TextLine::pair("sent", text::size(connection.bytes_out)),
        TextLine::pair("open for", text::latency(connection.duration_ns)),
    ];
    if connection.gaps > 0 {
        let gaps = format!("{} with {} bytes", connection.gaps, connection.gap_bytes);
        lines.push(TextLine::new(Tone::Name, "gaps: ").with(Tone::Bad, gaps));
    }
    if connection.reset {
        lines.push(TextLine::new(Tone::Bad, "ended by a reset"));
    }
    lines.into_iter()
}

fn other_lines(event: &Event, detail: Option<&Detail>) -> Vec<TextLine> {
    let mut lines = vec![TextLine::new(Tone::Strong, text::one_line(event.subject.as_bytes()))];
    match detail {
        Some(Detail::Warning(warning)) => {
            lines = vec![TextLine::new(Tone::Warn, &warning.text)];
            if !warning.hint.is_empty() {
                lines.push(TextLine::pair("what to do", &warning.hint));
            }
        }
        Some(Detail::Process(process)) => {
            let arguments: Vec<_> = process.arguments.iter().map(|part| text::one_line(part)).collect();
            lines.push(TextLine::pair("arguments", text::shell(&arguments)));
            lines.push(TextLine::pair("parent", process.parent.to_string()));
            if let Some(exit) = &process.exit {
                lines.push(TextLine::pair("exit", exit_text(exit)));
            }
        }
        Some(Detail::Port(port)) => {
            lines.push(TextLine::pair("port", format!("{}→{}", port.remote, port.local)));
            lines.push(TextLine::pair(
                "mode",
                format!("{} → {}", mode_name(port.from()), mode_name(port.to())),
            ));
            lines.push(TextLine::new(Tone::Plain, &port.text));
        }
        Some(Detail::Agent(agent)) => lines.push(TextLine::new(Tone::Plain, &agent.text)),
        Some(Detail::Output(output)) => {
            lines.extend(
                String::from_utf8_lossy(&output.data).lines().map(|line| TextLine::new(Tone::Plain, line)),
            );
        }
        _ => {}
    }
    lines
}

fn timing(event: &Event, utc_offset: i32) -> Vec<TextLine> {
    let comm = String::from_utf8_lossy(&event.comm);
    let place = event.decision.as_ref().map_or("", |decision| match decision.r#where() {
        Where::Local => "local",
        Where::Remote => "remote",
        Where::Refused => "refused",
        Where::Unspecified => "",
    });
    let rule = event.decision.as_ref().map_or("", |decision| decision.rule.as_str());
    let mut lines =
        vec![TextLine::new(Tone::Dim, format!("── #{} {} ──", event.seq, kind_name(event.kind())))];
    let mut pair = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(TextLine::pair(name, value));
        }
    };
    pair("began", text::time_of_day(event.time_ns, utc_offset));
    pair("took", if event.pending { "not ended yet".to_owned() } else { text::latency(event.latency_ns) });
    pair(
        "process",
        if event.pid > 0 { format!("{comm} pid {} tid {}", event.pid, event.tid) } else { String::new() },
    );
    pair("decision", if place.is_empty() { String::new() } else { format!("{place}, rule: {rule}") });
    pair("pod", event.pod.clone());
    pair("connection", if event.connection > 0 { event.connection.to_string() } else { String::new() });
    if let Some(Detail::Request(request)) = &event.detail {
        pair("peer", request.peer.as_ref().map(text::address).unwrap_or_default());
        pair("handled by", handled_by(request).to_owned());
        pair("counted under", request.route.clone());
    }
    if !event.error.is_empty() {
        lines.push(TextLine::new(Tone::Name, "error: ").with(Tone::Bad, &event.error));
    }
    lines
}

fn handled_by(request: &Request) -> &'static str {
    match (request.direction(), request.mode()) {
        (Direction::Outgoing, _) => "the target's network",
        (_, Mode::Steal) => "the local process; the target did not see it",
        (_, Mode::Mirror) => "the target; the local process got a copy, its answer was dropped",
        _ => "",
    }
}

/// Name of a kind of event.
pub(crate) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "event",
        Kind::Request => "request",
        Kind::Connection => "connection",
        Kind::Dns => "dns",
        Kind::File => "file",
        Kind::Process => "process",
        Kind::Port => "port",
        Kind::Agent => "agent",
        Kind::Warning => "warning",
        Kind::Output => "output",
    }
}

/// Name of a mode.
pub(crate) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Mirror => "mirror",
        Mode::Steal => "steal",
        Mode::Off => "off",
        Mode::Unspecified => "?",
    }
}

/// How a process ended.
pub(crate) fn exit_text(exit: &mirrord_protocol::session::v1::Exit) -> String {
    match (exit.signal, exit.error.is_empty()) {
        (_, false) => exit.error.clone(),
        (0, true) => format!("exit code {}", exit.code),
        (signal, true) => format!("signal {signal}"),
    }
}

/// Colour of a method.
pub(crate) fn method_tone(method: &str) -> Tone {
    match method {
        "GET" | "HEAD" => Tone::Get,
        "POST" => Tone::Post,
        "PUT" | "PATCH" => Tone::Put,
        "DELETE" => Tone::Delete,
        _ => Tone::Strong,
    }
}

/// Colour of a status.
pub(crate) const fn status_tone(status: u32) -> Tone {
    match status {
        0 => Tone::Dim,
        1..300 => Tone::Good,
        300..400 => Tone::Note,
        400..500 => Tone::Warn,
        _ => Tone::Bad,
    }
}
