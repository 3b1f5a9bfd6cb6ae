//! What the rows of each list say: columns by width, and the cells of one event.

use mirrord_protocol::session::v1::{
    Connection, Direction, Event, Mode, Where, connection::Stage, event::Detail,
};

use crate::ui::{
    model::{
        details::{kind_name, method_tone, status_tone},
        latency::Series,
        session::{Tab, TimeForm},
    },
    text,
    tone::Tone,
};

/// A column of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// 0: what is left.
    pub(super) width: u16,
    pub(super) right: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Time,
    Sign,
    Method,
    Path,
    Status,
    Latency,
    Size,
    Peer,
    Flow,
    NamedFlow,
    Partner,
    Stage,
    In,
    Out,
    Operation,
    File,
    Result,
    Process,
    Record,
    Question,
    Answers,
    Kind,
    Text,
    Host,
    ContentType,
    Route,
    Rule,
    Flags,
    Server,
}

/// From this width on all columns are there.
const WIDE: u16 = 150;
/// Least room for the subject of a wide list.
const SUBJECT: u16 = 16;

impl Column {
    /// Whether it is the one that says what the row is about.
    pub(super) const fn is_subject(self) -> bool {
        self.width == 0
    }
}

/// Columns of a row of two lines: the subject has the first one for itself.
pub(super) fn two_lines(tab: Tab) -> (Vec<Column>, Vec<Column>) {
    columns_from(tab, 89, 8).into_iter().partition(|column| column.what == What::Sign || column.is_subject())
}

const fn left(head: &'static str, width: u16, what: What) -> Column {
    Column { head, width, right: false, what }
}

const fn right(head: &'static str, width: u16, what: What) -> Column {
    Column { head, width, right: true, what }
}

/// The columns of a tab in this many columns of the terminal; of a wide list all that leave the subject some room.
pub(super) fn columns(tab: Tab, width: u16, wide: bool) -> Vec<Column> {
    if !wide {
        return columns_from(tab, width, if width >= 90 { 12 } else { 8 });
    }
    let mut columns = columns_from(tab, WIDE, 12);
    let taken = |columns: &[Column]| columns.iter().map(|column| column.width + 1).sum::<u16>();
    while taken(&columns) + SUBJECT > width {
        let Some(last) = columns.iter().rposition(|column| !column.is_subject()) else { break };
        columns.remove(last);
    }
    columns
}

/// Each column is there from a width of its own on.
fn columns_from(tab: Tab, width: u16, time: u16) -> Vec<Column> {
    let mut columns = vec![left("TIME", time, What::Time)];
    let mut add = |from: u16, column: Column| {
        if width >= from {
            columns.push(column);
        }
    };
    match tab {
        Tab::Traffic => {
            add(0, left("K", 1, What::Sign));
            add(0, left("MET", 4, What::Method));
            add(0, left("PATH", 0, What::Path));
            add(0, right("ST", 3, What::Status));
            add(50, right("LAT", 6, What::Latency));
            add(66, right("SIZE", 5, What::Size));
            add(70, left("PEER", 15, What::Peer));
            add(WIDE, left("HOST", 14, What::Host));
            add(WIDE, left("TYPE", 16, What::ContentType));
            add(WIDE, left("ROUTE", 22, What::Route));
        }
        Tab::Conns => {
            add(0, left("K", 1, What::Sign));
            // Without room for a column of names they stand for the addresses.
            add(0, left("FLOW", 0, if width >= 76 { What::Flow } else { What::NamedFlow }));
            add(76, left("NAME", 20, What::Partner));
            add(0, left("STATE", 7, What::Stage));
            add(56, right("IN", 5, What::In));
            add(56, right("OUT", 5, What::Out));
            add(66, right("TIME", 6, What::Latency));
            add(WIDE, left("PROCESS", 12, What::Process));
            add(WIDE, left("DECIDED BY", 18, What::Rule));
        }
        Tab::Files => {
            add(0, left("W", 1, What::Sign));
            add(0, left("OP", 8, What::Operation));
            add(0, left("PATH", 0, What::File));
            add(46, left("RESULT", 8, What::Result));
            add(60, right("SIZE", 5, What::Size));
            add(68, right("LAT", 6, What::Latency));
            add(84, left("PROCESS", 12, What::Process));
            add(WIDE, left("DECIDED BY", 18, What::Rule));
            add(WIDE, left("FLAGS", 16, What::Flags));
        }
        Tab::Dns => {
            add(0, left("W", 1, What::Sign));
            add(50, left("TYPE", 5, What::Record));
            add(0, left("QUESTION", 0, What::Question));
            add(0, left("RESULT", 9, What::Result));
            // The question is what one looks for; the details have the answers.
            add(84, left("ANSWERS", 22, What::Answers));
            add(60, right("LAT", 6, What::Latency));
            add(WIDE, left("SERVER", 15, What::Server));
            add(WIDE, left("PROCESS", 12, What::Process));
            add(WIDE, left("DECIDED BY", 18, What::Rule));
        }
        Tab::Events | Tab::Latency | Tab::Process => {
            add(0, left("KIND", 8, What::Kind));
            add(0, left("WHAT", 0, What::Text));
            add(90, left("PROCESS", 12, What::Process));
        }
    }
    columns
}

/// What a row needs besides its event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub(super) time_form: TimeForm,
    pub(super) now_ms: i64,
    pub(super) utc_offset: i32,
    /// Time of the row above, nanoseconds.
    pub(super) above_ns: Option<i64>,
    /// Latencies of the same kind, to tell what is slow.
    pub(super) whole: Option<&'a Series>,
}

/// The cell of an event in a column.
pub(super) fn cell(column: Column, event: &Event, around: Around<'_>) -> (Tone, String) {
    match (column.what, &event.detail) {
        (What::Time, _) => (Tone::Dim, time(event, around, column.width)),
        (What::Latency, Some(Detail::ConnectionDetail(connection))) => {
            (Tone::Plain, text::latency(connection.duration_ns))
        }
        (What::Latency, _) => latency(event, around.whole),
        (What::Size, _) => (Tone::Plain, text::size(event.bytes)),
        (What::Process, _) => (Tone::Dim, format!("{} {}", String::from_utf8_lossy(&event.comm), event.pid)),
        (What::Result, _) => result(event),
        (What::Kind, _) => kind(event),
        (What::Text, _) => (text_tone(event), text::one_line(event.subject.as_bytes())),
        (What::Sign, _) => sign(event),
        (What::Rule, _) => {
            let rule = event.decision.as_ref().map(|decision| decision.rule.clone());
            (Tone::Dim, rule.unwrap_or_default())
        }
        (what, Some(Detail::Request(request))) => match what {
            What::Method => (method_tone(&request.method), short_method(&request.method)),
            What::Path => (Tone::Plain, path(request)),
            What::Status if request.status > 0 => (status_tone(request.status), request.status.to_string()),
            What::Status if event.error.is_empty() => (Tone::Dim, "…".to_owned()),
            What::Status => (Tone::Bad, "✗".to_owned()),
            What::Peer => (
                Tone::Dim,
                request.peer.as_ref().and_then(text::ip).map(|ip| ip.to_string()).unwrap_or_default(),
            ),
            What::Host => (Tone::Dim, request.host.clone()),
            What::Route => (Tone::Dim, request.route.clone()),
            What::ContentType => {
                let found = request
                    .response_headers
                    .iter()
                    .find(|header| header.name.eq_ignore_ascii_case("content-type"));
                (Tone::Dim, found.map(|header| text::one_line(&header.value)).unwrap_or_default())
            }
            _ => (Tone::Plain, String::new()),
        },
        (What::Flags, Some(Detail::File(file))) => (Tone::Dim, file.flags.clone()),
        (What::Server, Some(Detail::Dns(dns))) => (Tone::Dim, dns.server.clone()),
        (what, Some(Detail::ConnectionDetail(connection))) => connection_cell(what, event, connection),
        (What::Operation, Some(Detail::File(file))) => (Tone::Plain, file.operation.clone()),
        (What::File, Some(Detail::File(file))) => (Tone::Plain, text::one_line(&file.path)),
        (What::Record, Some(Detail::Dns(dns))) => (Tone::Dim, dns.record.clone()),
        (What::Question, Some(Detail::Dns(dns))) => (Tone::Plain, dns.question.clone()),
        (What::Answers, Some(Detail::Dns(dns))) => (Tone::Dim, dns.answers.join(" ")),
        _ => (Tone::Plain, event.subject.clone()),
    }
}

fn time(event: &Event, around: Around<'_>, width: u16) -> String {
    let whole = match around.time_form {
        TimeForm::OfDay => text::time_of_day(event.time_ns, around.utc_offset),
        TimeForm::Age => {
            let seconds = (around.now_ms - event.time_ns / 1_000_000).max(0) / 1_000;
            return text::age(u64::try_from(seconds).unwrap_or(0));
        }
        TimeForm::Distance => {
            let ns = around.above_ns.map_or(0, |above| event.time_ns - above);
            return format!("+{}", text::latency(u64::try_from(ns).unwrap_or(0)));
        }
    };
    whole.chars().take(usize::from(width)).collect()
}

fn latency(event: &Event, whole: Option<&Series>) -> (Tone, String) {
    // Below these no colour: the sign of slow is the number itself.
    const UNREMARKABLE: u64 = 50_000_000;
    let ns = event.latency_ns;
    let slow = whole.filter(|whole| whole.count >= 20 && ns >= UNREMARKABLE);
    let tone = match slow {
        Some(whole) if ns >= whole.p99 => Tone::Bad,
        Some(whole) if ns >= whole.p90 => Tone::Warn,
        _ if ns < UNREMARKABLE => Tone::Dim,
        _ => Tone::Plain,
    };
    if event.pending { (Tone::Dim, "…".to_owned()) } else { (tone, text::latency(ns)) }
}

/// One letter for how an operation was handled.
fn sign(event: &Event) -> (Tone, String) {
    let (tone, sign) = match &event.detail {
        Some(Detail::Request(request)) => flow_sign(request.direction(), request.mode()),
        Some(Detail::ConnectionDetail(connection)) => flow_sign(connection.direction(), connection.mode()),
        _ => match event.decision.as_ref().map(mirrord_protocol::session::v1::Decision::r#where) {
            Some(Where::Remote) => (Tone::Mirror, "r"),
            Some(Where::Local) => (Tone::Dim, "l"),
            Some(Where::Refused) => (Tone::Bad, "✗"),
            _ => (Tone::Dim, "·"),
        },
    };
    (tone, sign.to_owned())
}

fn flow_sign(direction: Direction, mode: Mode) -> (Tone, &'static str) {
    match (direction, mode) {
        (Direction::Outgoing, _) => (Tone::Outgoing, "O"),
        (Direction::Local, _) => (Tone::Dim, "L"),
        (_, Mode::Steal) => (Tone::Steal, "S"),
        (_, Mode::Mirror) => (Tone::Mirror, "M"),
        _ => (Tone::Dim, "·"),
    }
}

/// The method in four columns.
fn short_method(method: &str) -> String {
    match method {
        "DELETE" => "DEL".to_owned(),
        "OPTIONS" => "OPT".to_owned(),
        "PATCH" => "PTCH".to_owned(),
        method => method.chars().take(4).collect(),
    }
}

fn path(request: &mirrord_protocol::session::v1::Request) -> String {
    let host = if request.direction() == Direction::Outgoing { request.host.as_str() } else { "" };
    text::one_line(format!("{host}{}", request.path).as_bytes())
}

fn connection_cell(what: What, event: &Event, connection: &Connection) -> (Tone, String) {
    let address = |address: &Option<_>| address.as_ref().map(text::address).unwrap_or_default();
    match what {
        What::NamedFlow if !connection.name.is_empty() && connection.direction() == Direction::Outgoing => {
            let port = connection.peer.as_ref().map_or(connection.port, |peer| peer.port);
            (Tone::Plain, format!("→ {}:{port}", connection.name))
        }
        What::Flow | What::NamedFlow => {
            let peer = address(&connection.peer);
            let flow = match connection.direction() {
                Direction::Outgoing => format!("→ {peer}"),
                _ => format!("{peer} → :{}", connection.port),
            };
            (Tone::Plain, flow)
        }
        What::Partner => (Tone::Dim, connection.name.clone()),
        What::Stage => match connection.stage() {
            Stage::Open => (Tone::Good, "open".to_owned()),
            Stage::Closed if connection.reset => (Tone::Warn, "reset".to_owned()),
            Stage::Closed => (Tone::Dim, "closed".to_owned()),
            Stage::Failed => (Tone::Bad, "✗ ".to_owned() + &event.error),
            Stage::Unspecified => (Tone::Dim, String::new()),
        },
        What::In => (Tone::Plain, text::size(connection.bytes_in)),
        What::Out => (Tone::Plain, text::size(connection.bytes_out)),
        _ => (Tone::Plain, event.subject.clone()),
    }
}

fn result(event: &Event) -> (Tone, String) {
    let text = match &event.detail {
        Some(Detail::Dns(dns)) if event.error.is_empty() => dns.rcode.as_str(),
        _ => event.error.as_str(),
    };
    match text {
        _ if event.pending => (Tone::Dim, "…".to_owned()),
        "" | "NOERROR" => (Tone::Good, "ok".to_owned()),
        // Programs look for files in many places: a missing one is no failure of anything.
        "ENOENT" => (Tone::Dim, text.to_owned()),
        _ => (Tone::Bad, format!("✗{text}")),
    }
}

fn kind(event: &Event) -> (Tone, String) {
    let tone = match &event.detail {
        Some(Detail::Warning(_)) => Tone::Warn,
        Some(Detail::Agent(_)) => Tone::Note,
        Some(Detail::Port(_)) => Tone::Mirror,
        _ => Tone::Dim,
    };
    (tone, kind_name(event.kind()).to_owned())
}

fn text_tone(event: &Event) -> Tone {
    if matches!(event.detail, Some(Detail::Warning(_))) || !event.error.is_empty() {
        Tone::Warn
    } else {
        Tone::Plain
    }
}
