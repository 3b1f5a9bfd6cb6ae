//! Texts of overlays: help, messages, settings, and why nothing arrives.

use mirrord_protocol::session::v1::{Mode, Port};

use crate::ui::{
    filter::OPERATORS,
    keys::{BINDINGS, Context},
    model::{Model, details::mode_name, notices::Level, overlay::TextKind, session::Session},
    text,
    tone::{TextLine, Tone},
};

pub(super) const TITLE_HELP: &str = "Help";

/// The key table and the filter operators; with a search only what has it.
pub(super) fn help(model: &Model, search: &str) -> Vec<TextLine> {
    let wanted = search.to_lowercase();
    let fits = |line: &TextLine| wanted.is_empty() || line.plain().to_lowercase().contains(&wanted);
    let contexts = [
        Context::Global,
        Context::List,
        Context::Home,
        Context::Session,
        Context::Stream,
        Context::Details,
        Context::Latency,
        Context::Process,
        Context::Replay,
    ];
    let mut lines = Vec::new();
    let mut section = |title: &str, rows: Vec<TextLine>| {
        let rows: Vec<_> = rows.into_iter().filter(fits).collect();
        if !rows.is_empty() {
            lines.push(TextLine::new(Tone::Title, title));
            lines.extend(rows);
            lines.push(TextLine::default());
        }
    };
    for context in contexts {
        let own = BINDINGS.iter().filter(|binding| binding.context == context);
        let rows = own.map(|binding| {
            let keys = model.options.keys.keys(binding.action).join(" ");
            let keys = if keys.is_empty() { ":".to_owned() + binding.name } else { keys };
            TextLine::new(Tone::Key, format!("  {keys:<24} ")).with(Tone::Plain, binding.help)
        });
        section(context.title(), rows.collect());
    }
    let operators = OPERATORS.iter().map(|operator| {
        let left = format!("~{} {}", operator.name, operator.argument);
        TextLine::new(Tone::Key, format!("  {left:<24} ")).with(Tone::Plain, operator.help)
    });
    let signs = [
        ("word", "part of the row; a capital letter in it makes case matter"),
        ("a b,  a & b", "both"),
        ("a | b", "one of them"),
        ("!a", "not"),
        ("( )  \"a b\"", "groups; quotes keep spaces and signs together"),
    ];
    let signs = signs
        .iter()
        .map(|(left, help)| TextLine::new(Tone::Key, format!("  {left:<24} ")).with(Tone::Plain, *help));
    section("Filter", operators.chain(signs).collect());
    lines
}

pub(super) fn text(model: &Model, kind: TextKind) -> (&'static str, Vec<TextLine>) {
    match kind {
        TextKind::Messages => ("Messages", messages(model)),
        TextKind::Settings => ("Settings in force", settings(model)),
        TextKind::Arrives => ("The way of a request", arrives(model)),
    }
}

fn messages(model: &Model) -> Vec<TextLine> {
    let lines: Vec<_> = model
        .notices
        .all()
        .rev()
        .map(|notice| {
            let (tone, sign) = match notice.level {
                Level::Info => (Tone::Plain, " "),
                Level::Done => (Tone::Good, "✓"),
                Level::Error => (Tone::Bad, "✗"),
            };
            let time = text::time_of_day(notice.at_ms * 1_000_000, model.options.utc_offset);
            TextLine::new(Tone::Dim, time).with(tone, format!(" {sign} {}", notice.text))
        })
        .collect();
    if lines.is_empty() { vec![TextLine::new(Tone::Dim, "no message yet")] } else { lines }
}

fn settings(model: &Model) -> Vec<TextLine> {
    let mut lines = vec![TextLine::new(Tone::Title, "This program")];
    lines.extend(model.options.origins.iter().map(|origin| {
        TextLine::new(Tone::Name, format!("  {:<16}", origin.name))
            .with(Tone::Plain, format!("{:<28} ", origin.value))
            .with(Tone::Dim, &origin.from)
    }));
    lines.extend(
        model.options.warnings.iter().map(|warning| TextLine::new(Tone::Warn, format!("  {warning}"))),
    );
    let Some(session) = &model.session else { return lines };
    lines.push(TextLine::default());
    lines.push(TextLine::new(Tone::Title, format!("Session {}", session.info.id)));
    lines.push(TextLine::pair(
        "  attachment",
        format!("{} {}", session.info.attachment, session.info.attachment_reason),
    ));
    lines.push(TextLine::pair("  again with", &session.info.equal_command));
    for listener in &session.info.listeners {
        let address = listener.address.as_ref().map(text::address).unwrap_or_default();
        let published = match listener.published_port {
            0 => format!("not published: {}", listener.unpublished_reason),
            port => format!("published on 127.0.0.1:{port}"),
        };
        lines.push(TextLine::pair("  listens on", format!("{address}, {published}")));
    }
    for pod in &session.info.pods {
        lines.push(TextLine::pair("  pod", pod));
    }
    if !session.info.config_json.is_empty() {
        let body = mirrord_protocol::session::v1::Body {
            data: session.info.config_json.clone().into_bytes().into(),
            size: u64::try_from(session.info.config_json.len()).unwrap_or(0),
            truncated: false,
        };
        let (_, json) =
            crate::ui::model::body::lines(&body, "application/json", crate::ui::model::body::BodyView::Fit);
        lines.push(TextLine::new(Tone::Title, "Configuration of the session"));
        lines.extend(json);
    }
    lines
}

/// A station between the target and the local process.
struct Station {
    name: String,
    /// What it has counted.
    counted: String,
    works: bool,
    /// What to do when it is the first that does not work.
    advice: String,
}

/// Station by station; the first one where the flow stops is named in words.
fn arrives(model: &Model) -> Vec<TextLine> {
    let Some(session) = &model.session else { return Vec::new() };
    let mut lines = Vec::new();
    if session.info.ports.is_empty() {
        lines.push(TextLine::new(Tone::Warn, "No port is subscribed: the command listens on none yet."));
        lines.push(TextLine::new(
            Tone::Plain,
            "Start a server in the command, or name ports with -p when you launch it.",
        ));
    }
    for port in &session.info.ports {
        lines.push(TextLine::new(
            Tone::Title,
            format!(
                "Port {} → {} of {}, {}",
                port.remote,
                port.local,
                session.info.target,
                mode_name(port.mode())
            ),
        ));
        let stations = stations(session, port);
        let stop = stations.iter().position(|station| !station.works);
        for (at, station) in stations.iter().enumerate() {
            let (tone, sign) = match stop {
                Some(stop) if at == stop => (Tone::Bad, "✗"),
                Some(stop) if at > stop => (Tone::Dim, "·"),
                _ => (Tone::Good, "✓"),
            };
            let line = TextLine::new(tone, format!("  {sign} {:<34}", station.name));
            lines.push(line.with(if tone == Tone::Dim { Tone::Dim } else { Tone::Plain }, &station.counted));
        }
        match stop.and_then(|stop| stations.get(stop)) {
            Some(station) => {
                let diagnosis = if port.diagnosis.is_empty() { &station.advice } else { &port.diagnosis };
                lines.push(TextLine::new(Tone::Warn, format!("    the flow stops here: {diagnosis}")));
                if !port.diagnosis.is_empty() && *diagnosis != station.advice {
                    lines.push(TextLine::new(Tone::Plain, format!("    {}", station.advice)));
                }
            }
            None => lines.push(TextLine::new(Tone::Good, "    everything arrives")),
        }
        lines.push(TextLine::default());
    }
    lines
}

fn stations(session: &Session, port: &Port) -> Vec<Station> {
    let station = |name: &str, counted: String, works: bool, advice: &str| Station {
        name: name.to_owned(),
        counted,
        works,
        advice: advice.to_owned(),
    };
    let steal = port.mode() == Mode::Steal;
    let agent = session.info.agent.as_ref();
    let up =
        agent.is_some_and(|agent| agent.state() == mirrord_protocol::session::v1::agent_link::LinkState::Up);
    let taken = if steal { port.redirected } else { port.packets };
    let mut stations = vec![
        station(
            "the agent answers",
            agent.map(|agent| text::latency(agent.rtt_us * 1_000)).unwrap_or_default(),
            up,
            "wait for the link, or end the session and start it again",
        ),
        station(
            &format!("the port is subscribed as {}", mode_name(port.mode())),
            port.waiting.clone(),
            port.mode() != Mode::Off && port.mode() != Mode::Unspecified && port.waiting.is_empty(),
            if port.waiting.is_empty() { "M switches it to mirror or steal" } else { &port.waiting },
        ),
        station(
            "the target listens",
            if port.target_listens { "yes".to_owned() } else { "no".to_owned() },
            port.target_listens || steal,
            "nothing listens on this port in the target: is it the right one? Services often map ports",
        ),
        station(
            "packets reach the target",
            format!("{} packets, {} connections begun", text::count(port.packets), text::count(port.syns)),
            port.packets > 0 || port.redirected > 0,
            "nobody calls this port: send a request to it",
        ),
    ];
    stations.push(station(
        if steal { "connections are redirected" } else { "the capture sees them" },
        format!("{}, {} gaps", text::count(taken), text::count(port.gaps)),
        taken > 0,
        "connections that were open before stay where they began: make new ones",
    ));
    stations.push(station(
        "the local process listens",
        if port.local_listens { format!("on {}", port.local) } else { format!("not on {}", port.local) },
        port.local_listens,
        "the command does not listen on the local port: wait, or give -p REMOTE:LOCAL with its port",
    ));
    stations.push(station(
        "connections are delivered",
        format!("{} delivered, {} refused", text::count(port.delivered), text::count(port.refused)),
        port.delivered > 0,
        "the local process refused them, or none began since the port was subscribed",
    ));
    stations.push(station(
        "requests are read",
        format!("{} requests, {} responses", text::count(port.requests), text::count(port.responses)),
        port.requests > 0,
        "the bytes are not HTTP/1: see the connections tab for them",
    ));
    stations
}
